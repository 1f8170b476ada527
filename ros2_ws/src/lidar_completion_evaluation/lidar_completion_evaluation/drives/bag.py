"""A rosbag2 (folder, .mcap or .db3) read without ROS. Messages stay serialised (CDR) until they are decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from lidar_completion_evaluation.drives.drive import DriveError

POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
DEFAULT_TOPIC = "/velodyne_points"
TYPES = get_typestore(Stores.ROS2_JAZZY)


class BagError(DriveError):
    """A bag that cannot be read: missing, damaged, or without the topic."""


class Bag:
    """An open bag. `topics` maps each topic to its (message type, number of messages). Raises BagError."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f"{path}: no such bag; expected a rosbag2 folder or an .mcap or .db3 file")
        try:
            self._reader = Reader(self.path)
            self._reader.open()
        except Exception as error:  # rosbags passes on whatever its storage libraries raise
            raise self._damaged(error) from error
        self.topics = {each.topic: (each.msgtype, each.msgcount) for each in self._reader.connections}

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def messages(
        self, topic: str, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """(bag time in ns, CDR) of the messages of one topic with start <= bag time < stop, in order of time."""
        connections = [each for each in self._reader.connections if each.topic == topic]
        if not connections:
            return
        messages = self._reader.messages(connections, start_ns, stop_ns)
        while True:
            try:
                _, time_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:
                raise self._damaged(error) from error
            yield time_ns, bytes(data)

    def find_topic(self, wanted: str | None, types: tuple[str, ...], option: str, default: str = "") -> str:
        """The wanted topic, the default if the bag has it, or the only topic of one of the types.

        option: how the user names a topic, for the BagError.
        """
        found = [name for name, (kind, _) in sorted(self.topics.items()) if kind in types]
        chosen = wanted or (default if default in found else found[0] if len(found) == 1 else "")
        if chosen not in found:
            held = ", ".join(f"{name} ({kind}, {count})" for name, (kind, count) in sorted(self.topics.items()))
            expected = f"the topic {wanted}" if wanted else f"one topic, or {option}"
            raise BagError(
                f"{self.path}: expected {expected} of {' or '.join(types)}; the bag has: {held or 'nothing'}"
            )
        if self.topics[chosen][1] == 0:
            raise BagError(f"{self.path}: topic {chosen} has no messages; record it again")
        return chosen

    def decode(self, topic: str, data: bytes) -> Any:
        """The message as a dataclass of rosbags, with numpy arrays."""
        return TYPES.deserialize_cdr(data, self.topics[topic][0])

    def _damaged(self, error: Exception) -> BagError:
        return BagError(
            f"{self.path}: cannot be read as a rosbag2 ({type(error).__name__}: {error}); "
            "copy it again, or repair it with `ros2 bag reindex`"
        )


class BagSweeps:
    """The PointCloud2 messages of one topic of a bag, as CDR, in order of time; the bag is open while iterating."""

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self.path = Path(path)
        with Bag(path) as bag:
            self.topic = bag.find_topic(topic, (POINT_CLOUD,), "name one with --topic", DEFAULT_TOPIC)
            self.count = bag.topics[self.topic][1]

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yields (bag time in ns, CDR)."""
        with Bag(self.path) as bag:
            yield from bag.messages(self.topic)


def header_stamp_ns(cdr: bytes) -> int:
    """The stamp of a serialised message that starts with a header, without decoding the rest."""
    seconds, nanoseconds = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return seconds * 10**9 + nanoseconds


def cloud_head(cdr: bytes) -> tuple[int, int]:
    """(header stamp in ns, number of points) of a serialised PointCloud2. Raises struct.error if it is truncated."""
    order = "<" if cdr[1] & 1 else ">"
    (frame_length,) = struct.unpack_from(f"{order}I", cdr, 12)
    position = 16 + frame_length
    height, width = struct.unpack_from(f"{order}II", cdr, position + -position % 4)
    return header_stamp_ns(cdr), height * width
