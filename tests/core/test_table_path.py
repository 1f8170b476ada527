"""The GPU's code path in plain operators on the CPU: maps as tables, coarsen_together, one nearest search per batch.

It must reproduce the golden values of the published code.
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lidar_completion.networks import blocks, encoder
from lidar_completion.sparse import kernel_map
from lidar_completion.sparse.convolution import convolve
from lidar_completion.sparse.coordinates import Voxels, coarsen_together, pack, unique_voxels
from lidar_completion.sparse.nearest import nearest_rows, nearest_rows_plain, nearest_rows_together

GOLDEN = Path(__file__).parent / "golden"


def test_golden_values_with_table_maps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(kernel_map, "submanifold_map", kernel_map.submanifold_map_plain)
    monkeypatch.setattr(kernel_map, "child_map", kernel_map.child_map_plain)
    monkeypatch.setattr(
        kernel_map.VoxelPyramid, "build", classmethod(lambda cls, finest: cls(*coarsen_together(finest, 4)))
    )
    monkeypatch.setattr(encoder, "nearest_rows", partial(nearest_rows_together, search=nearest_rows_plain))
    monkeypatch.setattr(blocks, "convolve", partial(convolve, backend="torch"))
    spec = importlib.util.spec_from_file_location("parity_by_tables", Path(__file__).parents[1] / "parity.py")
    assert spec is not None
    assert spec.loader is not None
    parity = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(parity)
    arguments = [str(GOLDEN / "denoiser_quarter_layers.npz"), "--weights", str(GOLDEN / "weights.py")]
    assert parity.main(arguments) == 0, capsys.readouterr().out


def voxels(n: int, extent: int, stride: int, items: int, seed: int) -> Voxels:
    xyz = torch.randint(-extent, extent, (n, 3), generator=torch.Generator().manual_seed(seed)) * stride
    return unique_voxels(pack(xyz, torch.arange(n) % items), stride)[0]


@pytest.mark.parametrize("items", [1, 3, 400])
def test_batched_nearest_search(items: int):
    condition, queries = voxels(60 + 2 * items, 4, 16, items, 0), voxels(400, 3000, 8, items, 1)
    together = nearest_rows_together(queries, condition, nearest_rows_plain)
    assert torch.equal(together, nearest_rows(queries, condition))


def test_item_without_condition_gets_row_minus_one():
    condition, queries = voxels(40, 4, 16, 1, 0), voxels(50, 60, 1, 2, 1)
    rows = nearest_rows_together(queries, condition, nearest_rows_plain)
    second = queries.coordinates[:, 0] == 1
    assert (rows[second] == -1).all()
    assert (rows[~second] >= 0).all()
    with pytest.raises(ValueError, match="no condition voxels"):
        nearest_rows_together(queries, Voxels(condition.keys[:0], 16), nearest_rows_plain)
