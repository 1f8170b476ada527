import numpy as np
import pytest
from browser import CHROMIUM, open_page


@pytest.fixture
def browse(tmp_path):
    """Opens a page in headless Chromium; skipped where there is none."""
    pytest.importorskip("websockets", reason="needs websockets, which viser brings")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return lambda url: open_page(url, tmp_path / "profile")


@pytest.fixture
def clouds():
    """Measured points, completed points, confidence and distance to the truth of a made-up sweep."""
    random = np.random.default_rng(0)
    measured = random.uniform(-20, 20, (500, 3)).astype(np.float32)
    completed = random.uniform(-20, 20, (2000, 3)).astype(np.float32)
    return measured, completed, np.linspace(0, 1, 2000, dtype=np.float32), random.uniform(0, 1, 2000)
