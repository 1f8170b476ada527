import pytest
import torch

from lidar_completion.sparse.coordinates import Voxels, pack, unique_voxels
from lidar_completion.sparse.nearest import nearest_rows, nearest_rows_plain


def voxels(xyz: torch.Tensor, item: torch.Tensor | None = None, stride: int = 1) -> Voxels:
    return unique_voxels(pack(xyz, item), stride)[0]


def by_definition(queries: Voxels, condition: Voxels) -> list[int]:
    """Squared distance, then x, y, z; within the batch item."""
    places = condition.coordinates.tolist()
    rows = []
    for b, *q in queries.coordinates.tolist():
        candidates = (
            (sum((u - v) ** 2 for u, v in zip(q, p, strict=True)), p, row)
            for row, (item, *p) in enumerate(places)
            if item == b
        )
        rows.append(min(candidates)[2])
    return rows


def random_xyz(n: int, extent: int, step: int, seed: int) -> torch.Tensor:
    return torch.randint(-extent, extent, (n, 3), generator=torch.Generator().manual_seed(seed)) * step


@pytest.mark.parametrize(("stride", "extent"), [(1, 40), (4, 20), (16, 4)])
@pytest.mark.parametrize("items", [1, 3])
def test_tables_with_many_ties(stride: int, extent: int, items: int):
    condition = voxels(random_xyz(60, 4, 16, 0), torch.arange(60) % items, 16)
    queries = voxels(random_xyz(300, extent, stride, 1), torch.arange(300) % items, stride)
    assert nearest_rows(queries, condition).tolist() == by_definition(queries, condition)


def test_ties_take_the_smallest_x_then_y_then_z():
    condition = voxels(torch.tensor([[16, 0, 0], [0, 16, 0], [0, 0, 16], [-16, 0, 0], [0, 0, -16]]))
    rows = nearest_rows(voxels(torch.tensor([[0, 0, 0], [0, 8, 8]])), condition)
    assert condition.coordinates[rows][:, 1:].tolist() == [[-16, 0, 0], [0, 0, 16]]


def test_distant_queries_are_exact():
    condition = voxels(random_xyz(50, 6, 16, 0), stride=16)
    queries = voxels(torch.cat([random_xyz(20, 6, 16, 1) + 20_000, random_xyz(20, 6, 16, 2) - 90_000]))
    assert nearest_rows(queries, condition).tolist() == by_definition(queries, condition)


def test_compiled_and_plain_search_agree():
    condition = voxels(random_xyz(1500, 30, 16, 3), stride=16)
    queries = voxels(random_xyz(4000, 500, 1, 4))
    plain = nearest_rows_plain(queries.coordinates[:, 1:], condition.coordinates[:, 1:])
    assert torch.equal(nearest_rows(queries, condition), plain)


def test_one_condition_voxel_and_no_queries():
    single = voxels(torch.tensor([[0, 0, 0]]))
    assert nearest_rows(voxels(random_xyz(9, 5, 1, 0)), single).tolist() == [0] * len(voxels(random_xyz(9, 5, 1, 0)))
    assert len(nearest_rows(voxels(torch.zeros(0, 3, dtype=torch.int64)), single)) == 0
    assert len(nearest_rows(voxels(torch.zeros(0, 3, dtype=torch.int64)), voxels(random_xyz(9, 5, 1, 0)))) == 0


def test_rejects_a_batch_item_without_condition():
    condition = voxels(random_xyz(5, 5, 16, 0), stride=16)
    queries = voxels(random_xyz(8, 5, 1, 0), torch.arange(8) % 2)
    with pytest.raises(ValueError, match="batch item 1 has voxels but no condition"):
        nearest_rows(queries, condition)
