"""The merger of the completions of several LiDARs."""

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from lidar_completion_ros.merge_clouds import CloudMerger, merged


def row(values, stamp_ns=0, frame="base_link", name="x", row_padding=0):
    rows = [bytes(np.float32(values))] if not row_padding else [bytes(np.float32(values)) + b"\xee" * row_padding]
    message = PointCloud2(height=1, width=len(values), point_step=4, row_step=len(rows[0]), data=rows[0])
    message.fields = [PointField(name=name, offset=0, datatype=PointField.FLOAT32, count=1)]
    message.header = Header(frame_id=frame)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


def test_clouds_are_concatenated_without_padding():
    both = merged([row([1, 2], 5, row_padding=3), row([3], 7)])
    assert np.frombuffer(both.data, np.float32).tolist() == [1, 2, 3]
    assert (both.width, both.height, both.row_step) == (3, 1, 12)
    assert both.header.stamp.nanosec == 7


@pytest.mark.parametrize("other", [row([1], frame="rear"), row([1], name="y")])
def test_different_frames_or_layouts_are_refused(other):
    with pytest.raises(ValueError, match=r"target_frame|output_fields"):
        merged([row([1]), other])


@pytest.mark.parametrize("fault", [{"point_step": 0}, {"row_step": 1}, {"width": 9}, {"height": 2}])
def test_truncated_cloud_is_refused(fault):
    broken = row([1, 2])
    for name, value in fault.items():
        setattr(broken, name, value)
    with pytest.raises(ValueError, match="expected as many bytes"):
        merged([row([1]), broken])


def test_only_clouds_with_close_stamps_are_merged(ros, peer):
    merger = CloudMerger()
    peer.executor.add_node(merger)
    got = []
    peer.node.create_subscription(PointCloud2, "merged", got.append, 10)
    sides = [peer.node.create_publisher(PointCloud2, f"{side}/completed", 10) for side in ("front", "rear")]
    peer.until(lambda: all(side.get_subscription_count() for side in sides))
    peer.until(lambda: merger.count_subscribers("merged"))
    sides[0].publish(row([1], 10**9))
    sides[1].publish(row([2], 2 * 10**9))  # a second later: another moment
    sides[0].publish(row([3], 2 * 10**9 + 10**7))
    peer.until(lambda: got)
    assert sorted(np.frombuffer(got[0].data, np.float32).tolist()) == [2, 3]
    assert len(got) == 1
    peer.executor.remove_node(merger)
    merger.destroy_node()
