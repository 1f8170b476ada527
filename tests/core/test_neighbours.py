"""Nearest neighbours within a limited distance."""

import pytest
import torch

from lidar_completion import neighbours_grid
from lidar_completion.neighbours import any_within, nearest_within, nearest_within_plain


@pytest.mark.parametrize("spread_m", [0.5, 5.0, 200.0])
def test_compiled_and_plain_search_agree(spread_m: float):
    generator = torch.Generator().manual_seed(2)
    reference = torch.randn(700, 3, generator=generator) * spread_m
    points = torch.cat([reference[:300] + 0.2 * torch.randn(300, 3, generator=generator), 2 * reference[300:]])
    distance, row = nearest_within(points, reference, 0.9)
    plain, plain_row = nearest_within_plain(points, reference, 0.9)
    torch.testing.assert_close(distance, plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(row, plain_row)
    assert (row[distance < 0.9] >= 0).all()
    for than_m in (0.1, 0.25, 0.9):
        near = nearest_within(points, reference, than_m)[1] >= 0
        assert torch.equal(any_within(points, reference, than_m), near)


@pytest.mark.parametrize(
    "reference", [torch.zeros(0, 3), torch.tensor([[1.0, 2, 3]]), torch.tensor([[0.0, 0, 0], [1e5, 0, 0]])]
)
def test_search_with_hardly_any_reference(reference: torch.Tensor):
    points = torch.tensor([[1.0, 2, 3.5], [0, 0, 0]])
    if len(reference):
        expected = nearest_within_plain(points, reference, 0.9)
        assert [each.tolist() for each in nearest_within(points, reference, 0.9)] == [
            each.tolist() for each in expected
        ]
    else:
        assert nearest_within(points, reference, 0.9)[1].tolist() == [-1, -1]
    assert nearest_within(points[:0], reference, 0.9)[0].tolist() == []


@pytest.mark.parametrize("spread_m", [0.5, 5.0, 200.0])
@pytest.mark.parametrize("few_pairs", [0, 1000])
def test_grid_and_plain_search_agree(spread_m: float, few_pairs: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours_grid, "FEW_PAIRS", few_pairs)
    monkeypatch.setattr(neighbours_grid, "PAIRS", 5000)  # several chunks
    generator = torch.Generator().manual_seed(2)
    reference = (torch.randn(700, 3, generator=generator) * spread_m).round(decimals=1)  # with ties
    points = torch.cat([reference[:300] + 0.2 * torch.randn(300, 3, generator=generator), 2 * reference[300:]])
    points = torch.cat([points, torch.tensor([[1e5, 0, 0], [0, -1e5, 1e5]])])
    for limit_m in (0.1, 0.9):
        distance, row = neighbours_grid.nearest_within(points, reference, limit_m)
        plain, plain_row = nearest_within_plain(points, reference, limit_m)
        torch.testing.assert_close(distance, plain, rtol=1e-5, atol=1e-6)
        assert torch.equal(row < 0, plain_row < 0)
    row = neighbours_grid.nearest_rows(points, reference)
    expected = torch.cdist(points.double(), reference.double()).min(dim=1)
    torch.testing.assert_close((points - reference[row]).norm(dim=1), expected.values.float(), rtol=1e-5, atol=1e-6)
    firsts = (reference[row][:, None] == reference[None]).all(dim=2).int().argmax(dim=1)
    assert torch.equal(row, firsts)  # of equal points the first


def test_grid_search_with_hardly_any_reference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours_grid, "FEW_PAIRS", 0)
    points = torch.tensor([[1.0, 2, 3.5], [0, 0, 0]])
    assert neighbours_grid.nearest_within(points, points[:0], 0.9)[1].tolist() == [-1, -1]
    assert neighbours_grid.nearest_within(points[:0], points, 0.9)[1].tolist() == []
    assert neighbours_grid.nearest_rows(points, points[:1]).tolist() == [0, 0]
