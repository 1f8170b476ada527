"""The sample recording that ships with the project."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_worker import COARSE, SMALL

from lidar_completion_synthetic import simulate_sweep, street


def test_sample_recording_round_trip(tmp_path):
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    from rosbags.typesys import Stores, get_typestore

    from lidar_completion_synthetic import sample

    world = street(3, kind="terraces", **SMALL)
    sweeps = [simulate_sweep(world, world.pose_at(a), COARSE, np.random.default_rng(0)) for a in (0.0, 1.0)]
    sample.write_record(tmp_path / "street", sweeps, [100.0, 100.1])
    store = get_typestore(Stores.ROS2_JAZZY)
    with rosbag2.Reader(tmp_path / "street") as reader:
        messages = [(stamp, store.deserialize_cdr(raw, c.msgtype)) for c, stamp, raw in reader.messages()]
    assert [stamp for stamp, _ in messages] == [100_000_000_000, 100_100_000_000]
    cloud = np.frombuffer(messages[0][1].data.tobytes(), sample.POINT)
    assert messages[0][1].point_step == 22
    assert [f.offset for f in messages[0][1].fields] == [0, 4, 8, 12, 16, 18]
    np.testing.assert_allclose(np.column_stack([cloud[a] for a in "xyz"]), sweeps[0].points, atol=sample.STEP_M)
    np.testing.assert_array_equal(cloud["ring"], sweeps[0].ring)
