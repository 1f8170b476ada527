"""Fuzzing: mutated PointCloud2 messages through the decoder and through the running node.

A malformed message is either refused with a reason or read as an independent, slow reader reads it. The node neither crashes
nor publishes a measured point that is not in the message, and its diagnostics count every refusal.
"""

import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import PointCloud2, PointField

from lidar_completion.completer import SceneCompleter
from lidar_completion.point_clouds import PointCloudError, returns
from lidar_completion_ros.point_cloud_messages import decode

MAX_POINTS = 5_000
FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}  # datatype of a PointField -> struct
SLOW = settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
FAST = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

UINT32 = st.one_of(
    st.integers(0, 70), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
)
WILD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, 1e-45, 1e300, -1e300]
NAMES = st.sampled_from(["x", "y", "z", "intensity", "ring", "time", "X", "", "provenance", "é"])


def field(name, offset, datatype, count=1):
    return PointField(name=name, offset=offset, datatype=datatype, count=count)


@st.composite
def well_formed(draw):
    """A well-formed cloud of a few points in a random layout."""
    names = draw(st.permutations(["x", "y", "z", *draw(st.sets(st.sampled_from(["intensity", "ring", "t"])))]))
    fields, offset = [], draw(st.integers(0, 5))
    for name in names:
        datatype = draw(st.sampled_from([7, 8] if name in "xyz" else sorted(FORMATS)))
        fields.append(field(name, offset, datatype))
        offset += struct.calcsize("=" + FORMATS[datatype]) + draw(st.integers(0, 3))
    height, width = draw(st.sampled_from([(1, 0), (1, 1), (1, 7), (2, 3), (3, 5), (0, 4)]))
    message = PointCloud2(height=height, width=width, fields=fields, is_bigendian=draw(st.booleans()))
    message.point_step = offset + draw(st.integers(0, 4))
    message.row_step = message.point_step * width + draw(st.sampled_from([0, 0, 3]))
    data = bytearray(message.row_step * height)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))  # drawing each value from hypothesis takes minutes
    order = ">" if message.is_bigendian else "<"
    for row in range(height):
        for column in range(width):
            for each in fields:
                value = int(random.integers(100))
                if each.datatype in (7, 8):
                    value = float(random.choice(WILD) if random.random() < 0.2 else random.normal(0, 20))
                if each.datatype == 7 and abs(value) > 3.4e38:
                    value = np.float32(np.copysign(np.inf, value))
                at = row * message.row_step + column * message.point_step + each.offset
                data[at : at + struct.calcsize("=" + FORMATS[each.datatype])] = struct.pack(
                    order + FORMATS[each.datatype], value
                )
    message.data = bytes(data)
    message.header.stamp.sec = draw(st.integers(-(2**31), 2**31 - 1))
    message.header.stamp.nanosec = draw(UINT32)
    return message


def mutations(draw, message):
    """Apply up to three mutations to the message."""
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["size", "field", "fields", "data", "endian"]))
        if kind == "size":
            setattr(message, draw(st.sampled_from(["width", "height", "point_step", "row_step"])), draw(UINT32))
        elif kind == "field" and message.fields:
            chosen = draw(st.sampled_from(list(message.fields)))
            what = draw(st.sampled_from(["offset", "datatype", "count", "name"]))
            values = {"offset": UINT32, "datatype": st.integers(0, 255), "count": UINT32, "name": NAMES}
            setattr(chosen, what, draw(values[what]))
        elif kind == "fields":
            fields = list(message.fields)
            if fields and draw(st.booleans()):
                fields.pop(draw(st.integers(0, len(fields) - 1)))
            else:
                fields.append(field(draw(NAMES), draw(UINT32), draw(st.integers(0, 255))))
            message.fields = fields
        elif kind == "data":
            data = bytes(message.data)
            keep = draw(st.integers(0, len(data)))
            message.data = data[:keep] + draw(st.binary(max_size=9))
        else:
            message.is_bigendian = not message.is_bigendian


@st.composite
def mutated(draw):
    message = draw(well_formed())
    mutations(draw, message)
    return message


def read_slowly(message):
    """x, y, z and intensity point by point with struct: (N, 4) float32, or None if the message is malformed.

    Independent of the decoder. Intensity is NaN if the message has none.
    """
    names = [each.name for each in message.fields]
    if len(set(names)) < len(names) or not {"x", "y", "z"} <= set(names):
        return None
    by_name = {each.name: each for each in message.fields}
    wanted = [by_name[name] for name in ("x", "y", "z", "intensity") if name in by_name]
    for each in wanted:
        allowed = (7, 8) if each.name in "xyz" else FORMATS
        if each.datatype not in allowed or each.count != 1 or message.point_step == 0:
            return None
        if each.offset + struct.calcsize("=" + FORMATS[each.datatype]) > message.point_step:
            return None
    if message.width * message.height > MAX_POINTS or message.row_step < message.width * message.point_step:
        return None
    data = bytes(message.data)
    if len(data) < message.row_step * message.height:
        return None
    order, rows = ">" if message.is_bigendian else "<", []
    for row in range(message.height if message.width else 0):  # four billion rows of no point are no points
        for column in range(message.width):
            at = row * message.row_step + column * message.point_step
            values = [struct.unpack_from(order + FORMATS[each.datatype], data, at + each.offset)[0] for each in wanted]
            rows.append(values + [np.nan] * (4 - len(values)))
    with np.errstate(over="ignore"):
        return np.array(rows, np.float64).reshape(-1, 4).astype(np.float32)


def same_bits(a, b):
    """Equal bit by bit; any NaN equals any other, as float64 has more of them than float32."""
    both_nan = np.isnan(a) & np.isnan(b)
    return a.shape == b.shape and bool(
        ((np.ascontiguousarray(a).view(np.uint32) == b.view(np.uint32)) | both_nan).all()
    )


def check_decoder(message):
    """Check the decoder against `read_slowly`; returns "read" or "refused"."""
    expected = read_slowly(message)
    if expected is None:
        with pytest.raises(PointCloudError) as refusal:
            decode(message, max_points=MAX_POINTS)
        assert 0 < len(refusal.value.fault) < 60
        assert str(refusal.value).startswith(refusal.value.fault)
        return "refused"
    sweep = decode(message, max_points=MAX_POINTS)
    assert sweep.points.dtype == np.float32
    assert same_bits(sweep.points, np.ascontiguousarray(expected[:, :3]))
    if sweep.intensity is not None:
        assert same_bits(sweep.intensity, np.ascontiguousarray(expected[:, 3]))
    return "read"


@FAST
@given(mutated())
def test_mutated_message_is_refused_or_read_correctly(message):
    check_decoder(message)


@pytest.mark.slow
def test_ten_thousand_mutated_messages(record_property):
    ends = Counter()

    @SLOW
    @given(mutated())
    def check(message):
        ends[check_decoder(message)] += 1

    check()
    assert ends.total() >= 10_000
    record_property("messages", dict(ends))


@FAST
@given(well_formed())
def test_well_formed_message_is_read(message):
    assume(message.height * message.width)
    assert read_slowly(message) is not None
    assert len(decode(message, max_points=MAX_POINTS).points) == message.height * message.width
    check_decoder(message)


@pytest.mark.parametrize("value", [1e5, 1e10, 1e20, -1e38, 3.4e38, np.inf, np.nan])
def test_extreme_coordinates_do_not_stop_the_completion(value, tiny_model, street):
    points = street(rings=8, columns=90)
    points.reshape(-1)[np.random.default_rng(0).choice(points.size, points.size // 3, replace=False)] = value
    intensity = np.arange(len(points), dtype=np.float32)
    completion = SceneCompleter.load(tiny_model, device="cpu").complete(points, intensity=intensity)
    finite = points[np.isfinite(points).all(axis=1)]
    assert same_bits(np.ascontiguousarray(completion.points[: len(finite)]), finite)
    assert np.isfinite(completion.points).all()
    assert len(completion.points) > len(finite)


# ---- through the running node ----

RELIABLE = {
    "qos_overrides./velodyne_points.subscription.reliability": "reliable",
    "qos_overrides./velodyne_points.subscription.history": "keep_last",
    "qos_overrides./velodyne_points.subscription.depth": 20,
    "warm_up": "false",
}


def spoiled(sweep, random):
    """The sweep with one random mutation; sizes stay below what a test may allocate."""
    kind = random.integers(12)
    step = int(sweep.point_step)
    if kind == 0:
        sweep.fields = [each for each in sweep.fields if each.name != random.choice(["x", "y", "z", "intensity"])]
    elif kind == 1:
        sweep.fields[random.integers(4)].offset = int(random.choice([0, 1, 3, 13, step, 2**31, 2**32 - 1]))
    elif kind == 2:
        sweep.fields[random.integers(4)].datatype = int(random.integers(256))
    elif kind == 3:
        sweep.fields[random.integers(4)].count = int(random.choice([0, 2, 2**32 - 1]))
    elif kind == 4:
        sweep.point_step = int(random.choice([0, 1, 11, 12, 15, 17, 2**32 - 1]))
    elif kind == 5:
        sweep.row_step = int(random.choice([0, step, sweep.row_step - 1, 2**32 - 1]))
    elif kind == 6:
        sweep.width = int(random.choice([0, 1, sweep.width - 1, sweep.width + 1, 2**32 - 1]))
    elif kind == 7:
        sweep.height = int(random.choice([0, 2, 2**32 - 1]))
    elif kind == 8:
        sweep.is_bigendian = not sweep.is_bigendian
    elif kind == 9:
        sweep.data = bytes(sweep.data)[: random.integers(len(sweep.data))]
    elif kind == 10:
        values = np.frombuffer(bytes(sweep.data), np.float32).copy()
        values[random.integers(len(values), size=len(values) // 2)] = random.choice([np.nan, np.inf, -np.inf, 1e38])
        sweep.data = values.tobytes()
    else:
        sweep.data = random.bytes(len(sweep.data))
    return sweep


def measured_points(completion):
    """(N, 4) float32: x, y, z, intensity of the points labelled as measured, at the offsets of the contract."""
    cloud = np.frombuffer(completion.data, np.uint8).reshape(-1, completion.point_step)
    return cloud[cloud[:, 16] == 0][:, :16].copy().view(np.float32)


def assert_only_measured_points_pass(sweep, completion):
    """The points labelled as measured are the returns of the sweep, bit by bit and in order."""
    expected = read_slowly(sweep)
    assert expected is not None, f"completed a malformed message: {sweep.header}"
    finite = returns(expected[:, :3])
    measured = measured_points(completion)
    assert same_bits(np.ascontiguousarray(measured[:, :3]), np.ascontiguousarray(expected[finite, :3]))
    if "intensity" in [each.name for each in sweep.fields]:
        assert same_bits(np.ascontiguousarray(measured[:, 3]), np.ascontiguousarray(expected[finite, 3]))
    everything = read_slowly_output(completion)
    assert np.isfinite(everything).all()


def read_slowly_output(completion):
    cloud = np.frombuffer(completion.data, np.uint8).reshape(-1, completion.point_step)
    return cloud[:, :12].copy().view(np.float32)


def fuzz_node(count, node_process, peer, tiny_model, street, cloud):
    """Publish `count` mutated sweeps, each after the one before was answered; returns the refusals by fault."""
    random = np.random.default_rng(6)
    plain = street(rings=8, columns=90)
    with node_process(model=tiny_model, diagnostics_period_s=0.05, max_input_points=MAX_POINTS, **RELIABLE) as process:
        peer.until_connected()
        sent = {}
        for number in range(count):
            sweep = spoiled(cloud(plain, stamp_ns=10**18 + number), random)
            sent[number] = sweep
            peer.sweeps.publish(sweep)
            peer.until(lambda number=number: peer.counts.finished > number)
        peer.until(lambda: len(peer.completions) == peer.counts.completed)
        assert process.poll() is None
        for completion in peer.completions:
            assert_only_measured_points_pass(sent[completion.header.stamp.nanosec], completion)
        counts, refused = peer.counts, peer.counts.faults
        assert counts.received == count
        assert counts.dropped == counts.failed == 0
        assert counts.refused == sum(refused.values())
        assert counts.refused + counts.completed == count
        malformed = sum(read_slowly(sweep) is None for sweep in sent.values())
        well_formed = refused.get("nothing to complete", 0) + refused.get("map frame", 0)  # damaged coordinates
        assert counts.refused - well_formed == malformed
        good = cloud(plain, stamp_ns=2 * 10**18)
        assert_only_measured_points_pass(good, peer.complete(good))
        return refused


def test_mutated_sweeps_through_the_node(node_process, peer, tiny_model, street, cloud):
    refused = fuzz_node(25, node_process, peer, tiny_model, street, cloud)
    assert len(refused) >= 4


@pytest.mark.slow
def test_a_thousand_mutated_sweeps_through_the_node(node_process, peer, tiny_model, street, cloud, record_property):
    refused = fuzz_node(1000, node_process, peer, tiny_model, street, cloud)
    assert len(refused) >= 8
    record_property("sweeps", {"completed": 1000 - sum(refused.values()), **refused})
