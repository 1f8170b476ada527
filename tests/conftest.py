"""What every part's tests share: small models made on the spot, and the folder of real data where there is one."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks, save_model
from lidar_completion.networks import Architecture

# A shell that starts the tests in the background ignores SIGINT, and every node started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Modules that tests share; importlib mode adds no paths.
sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

# A DDS domain of this process's own, which nodes that it starts inherit. Test processes side by side (pytest-xdist's gw0,
# gw1, ...) have one parent and count from it: no two get the same.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
os.environ["ROS_DOMAIN_ID"] = str(1 + (os.getppid() + int(WORKER[2:]) if WORKER else os.getpid()) % 100)

import thread_count  # noqa: E402, F401 (needs the path above; records the number before any test)
from tiny_channels import TINY_CHANNELS  # noqa: E402

GOLDEN = Path(__file__).parent / "core" / "golden"
LONG = ("integration", "training")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders with long files first: one that --dist loadfile starts last would leave the other processes idle."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real sweeps and golden numbers; the test is skipped without it."""
    folder = Path(os.environ.get("LIDAR_COMPLETION_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: LIDAR_COMPLETION_SHARED names no folder ({folder})")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, small enough for a sweep in a fraction of a second."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    card = ModelCard(
        name="tiny",
        description="random weights, for tests",
        architecture=Architecture(own_channels=TINY_CHANNELS, voxel_size_m=0.5),
        pipeline=Pipeline(downsample_voxel_m=0.5, replication=2),
    )
    torch.manual_seed(0)
    save_model(folder, card, build_networks(card))
    return folder
