"""The golden figures of the reference, and that the tool which compares with them can fail."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity", Path(__file__).parents[1] / "parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


parity = load_tool()
WEIGHTS = ["--weights", str(GOLDEN / "weights.py")]


@pytest.mark.parametrize("name", ["primitives", "dpm_solver", "denoiser_quarter_layers"])
def test_golden_file(name: str, capsys: pytest.CaptureFixture[str]):
    assert parity.main([str(GOLDEN / f"{name}.npz"), *WEIGHTS]) == 0, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoiser_quarter", "denoiser_full"])
def test_large_golden_file(name: str, shared: Path, capsys: pytest.CaptureFixture[str]):
    assert parity.main([str(shared / "golden" / f"{name}.npz"), *WEIGHTS]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("spoiled", ["k3s1d2_F", "tr_k2s2_2to1_F", "k2s2_C", "tf_sparse_F"])
def test_detects_a_wrong_value(spoiled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arrays = dict(np.load(GOLDEN / "primitives.npz"))
    change = 1 if spoiled.endswith("_C") else 1e-3 * arrays[spoiled].std()
    arrays[spoiled] = arrays[spoiled].copy()
    arrays[spoiled][0] += np.asarray(change, arrays[spoiled].dtype)
    np.savez(tmp_path / "spoiled.npz", **arrays)
    assert parity.main([str(tmp_path / "spoiled.npz"), *WEIGHTS]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_detects_a_wrong_solver_step(tmp_path: Path):
    arrays = dict(np.load(GOLDEN / "dpm_solver.npz"))
    arrays["4.prev"] = arrays["4.prev"] + 1e-3
    np.savez(tmp_path / "spoiled.npz", **arrays)
    assert parity.main([str(tmp_path / "spoiled.npz"), *WEIGHTS]) == 1


def test_rejects_an_unknown_file(tmp_path: Path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"no eps_cond, sp_C or \*.timesteps among its arrays: x"):
        parity.main([str(tmp_path / "other.npz"), *WEIGHTS])


def test_several_scans_in_one_file_are_compared_scan_by_scan(tmp_path: Path):
    """A batch of the golden scene twice must give the golden values twice."""
    arrays = dict(np.load(GOLDEN / "denoiser_quarter_layers.npz"))
    both = {name: np.stack([arrays[name]] * 2) for name in ("scan", "points", "eps_cond", "eps_uncond")}
    np.savez(tmp_path / "two.npz", t=np.repeat(arrays["t"], 2), cr=arrays["cr"], **both)
    assert parity.main([str(tmp_path / "two.npz"), *WEIGHTS]) == 0
