"""Published figures (Distillation-DPO, AAAI 2026, Tables 1 and 2), shown beside measured ones and marked as published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table: CD in metres, JSD (most likely bird's-eye), EMD as published, seconds per scene."""

    name: str
    cd: float
    jsd_bev: float
    emd_as_published: float | None
    seconds: float


SEMANTIC_KITTI = (
    PublishedRow("LMSCNet", 0.641, 0.431, None, 0.31),
    PublishedRow("LODE", 1.029, 0.451, None, 0.58),
    PublishedRow("MID", 0.503, 0.470, None, 4.94),
    PublishedRow("PVD", 1.256, 0.498, None, 145.39),
    PublishedRow("LiDiff 50 steps", 0.434, 0.444, 22.15, 17.75),
    PublishedRow("LiDiff 50 steps, refined", 0.375, 0.416, 23.16, 17.87),
    PublishedRow("Distillation-DPO 8 steps", 0.414, 0.419, 23.29, 3.28),
    PublishedRow("Distillation-DPO 8 steps, refined", 0.354, 0.387, 23.66, 3.38),
)
KITTI_360 = (
    PublishedRow("LMSCNet", 0.979, 0.496, None, 0.29),
    PublishedRow("LODE", 1.565, 0.483, None, 0.55),
    PublishedRow("MID", 0.637, 0.476, None, 4.61),
    PublishedRow("LiDiff 50 steps", 0.564, 0.459, 21.98, 17.01),
    PublishedRow("LiDiff 50 steps, refined", 0.517, 0.446, 22.96, 17.12),
    PublishedRow("Distillation-DPO 8 steps", 0.533, 0.434, 22.99, 2.97),
    PublishedRow("Distillation-DPO 8 steps, refined", 0.497, 0.422, 23.45, 3.09),
)
PUBLISHED: dict[str, tuple[PublishedRow, ...]] = {"semantic-kitti": SEMANTIC_KITTI, "kitti-360": KITTI_360}
