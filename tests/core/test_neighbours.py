"""Nearest neighbours within a limited distance."""

import pytest
import torch

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
