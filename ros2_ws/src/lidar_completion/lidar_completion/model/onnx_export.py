"""Export of the networks as ONNX graphs of standard operators, for any number of points; onnx_network.py runs them.

Kernel maps and nearest tables are inputs. A 3x3x3 convolution multiplies all voxels by the centre's weights. For voxels that have
neighbours (few do on the fine levels at high noise) it also gathers the neighbours into one long row and multiplies that, in a
Scan over blocks of voxels so that the rows stay in the cache. A transposed 2x2x2 convolution multiplies each coarse voxel by all
eight weights and gathers. Nothing is scattered.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from lidar_completion.files import atomic_write
from lidar_completion.model.card import load_card
from lidar_completion.model.onnx_network import BLOCK, INPUTS_VERSION, MANIFEST_NAME
from lidar_completion.model.weights import base_of, load_model
from lidar_completion.networks import STAGE_LEVEL, UnionDenoiser, UnionRefiner, fold_batch_norm
from lidar_completion.networks.union import TIME_CHANNELS

OPSET = 17
WIDE_WEIGHTS = 1024  # weights with at least this many numbers may be stored in float16
CONVENTIONS = {
    "kernel order": "k = ix + 3 iy + 9 iz, offsets -1..1; the centre (13) has no column in the neighbour tables",
    "voxels": "sorted by (x, y, z); coordinate = round half to even of float32(point / voxel size)",
    "features": "(V0, 3) float32: mean xyz of each voxel's points, metres; (V0, 10) if the card has local_features: "
    "offsets of points and of scan from the voxel's centre, log count, scan or not, height, range (VoxelisedCloud.from_points_and_scan); "
    "three more columns with ray_features (ClearSpace.ray_features)",
    "point_row": "(N,) the voxel of each point at level 0",
    "neighbours.L.table": f"(R, 26) neighbours of the voxels of level L that have any, V_L for a missing one; then at least one "
    f"row of V_L alone; R is a multiple of {BLOCK}",
    "neighbours.L.back": "(V_L,) each voxel's row in the table; a row without neighbours if it has none",
    "down.L.table": "(V_L+1, 8) children of each voxel of level L+1 by octant x + 2 y + 4 z; V_L for a missing one",
    "up.L.rows": "(V_L,) 8 * parent + octant",
    "nearest.L": "(V_L,) nearest condition voxel; ties: the smallest (x, y, z)",
    "condition": "(C, c) output of the encoder",
    "estimates": "output of a denoiser or refiner with conditioning 'union', (N, 3 M) or (N, 4 M): offsets in metres from each point "
    "to its M clean estimates, then their logits",
    "t": "(1,) float32 timestep",
    "point_offset": "(N, 3) point minus its voxel's mean (local_features: its centre), in voxels",
}


def export_model(folder: str | Path, half: bool = False) -> list[Path]:
    """Write encoder.onnx, denoiser.onnx (and refiner.onnx) and a manifest to a model folder; returns their paths.

    Networks that belong to the model's base are not exported again.
    half: store large weights in float16, which halves the size; everything is still computed in float32.
    """
    folder = Path(folder)
    card, networks = load_model(folder)
    base = base_of(folder, card)
    shared = () if base is None else load_card(base).networks
    files = []
    for name, network in networks.items():
        if name in shared:
            continue
        model = network_graph(name, fold_batch_norm(network), card.architecture.voxel_size_m, half)
        onnx.save(model, folder / f"{name}.onnx")
        files.append(folder / f"{name}.onnx")
    manifest = {
        "opset": OPSET,
        "inputs_version": INPUTS_VERSION,
        "weights_sha256": card.sha256,
        "conventions": CONVENTIONS,
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    with atomic_write(folder / MANIFEST_NAME) as partial:
        partial.write_text(json.dumps(manifest, indent=2) + "\n")
    return [*files, folder / MANIFEST_NAME]


def network_graph(name: str, network: nn.Module, voxel_size_m: float, half: bool = False) -> onnx.ModelProto:
    """The checked ONNX graph, with inferred shapes, of a network with folded batch norms."""
    graph = _Graph(half)
    kinds = {"encoder": _encoder, "denoiser": _denoiser, "refiner": _refiner}
    output = _union(graph, network) if isinstance(network, UnionDenoiser) else kinds[name](graph, network)
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, graph.inputs, [output], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="lidar_completion",
    )
    helper.set_model_props(model, {**CONVENTIONS, "voxel_size_m": str(voxel_size_m), "network": name})
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


class _Graph:
    """Collects nodes, inputs and weights."""

    def __init__(self, half: bool) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, value: Tensor | np.ndarray) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        name = f"weight_{len(self.weights)}"
        narrow = self.half and array.dtype == np.float32 and array.size >= WIDE_WEIGHTS
        stored = array.astype(np.float16) if narrow else array
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(stored), name))
        return self.op("Cast", name, to=TensorProto.FLOAT) if narrow else name

    def index(self, *numbers: int) -> str:
        return self.weight(np.array(numbers, np.int64))

    def input(self, name: str, *shape: str | int, kind: int = TensorProto.INT32) -> str:
        if name not in self._known:
            self._known.add(name)
            self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name


def _features(graph: _Graph, channels: int) -> str:
    return graph.input("features", "V0", channels, kind=TensorProto.FLOAT)


def _padded(graph: _Graph, features: str, channels: int) -> str:
    """The features followed by a row of zeros, for missing neighbours."""
    return graph.op("Concat", features, graph.weight(np.zeros((1, channels), np.float32)), axis=0)


def _neighbours(graph: _Graph, conv: Any, features: str, level: int, residual: str | None = None) -> str:
    """relu(3x3x3 convolution + bias + residual)."""
    kernel = conv.kernel
    c_in, c_out = kernel.shape[1:]
    table = graph.input(f"neighbours.{level}.table", f"R{level}", 26)
    back = graph.input(f"neighbours.{level}.back", f"V{level}")
    others = graph.weight(torch.cat([kernel[:13], kernel[14:]]).reshape(-1, c_out))
    blocks = graph.op("Reshape", table, graph.index(-1, BLOCK, 26))
    product = _scan(graph, blocks, _padded(graph, features, c_in), others, 26 * c_in, c_out)
    around = graph.op("Gather", graph.op("Reshape", product, graph.index(-1, c_out)), back, axis=0)
    centre = graph.op("MatMul", features, graph.weight(kernel[13]))
    terms = [centre, around, graph.weight(conv.bias), *([residual] if residual else [])]
    return graph.op("Relu", graph.op("Sum", *terms))


def _scan(graph: _Graph, blocks: str, padded: str, weights: str, length: int, c_out: int) -> str:
    """For each block of a table (blocks, BLOCK, 26): its rows of `padded`, joined into long rows, times the weights."""
    name, shape = f"scan_{len(graph.nodes)}", graph.index(BLOCK, length)
    rows, gathered, long, product = (f"{name}_{part}" for part in ("rows", "gathered", "long", "product"))
    steps = [
        helper.make_node("Gather", [padded, rows], [gathered], axis=0),
        helper.make_node("Reshape", [gathered, shape], [long]),
        helper.make_node("MatMul", [long, weights], [product]),
    ]
    inputs = [helper.make_tensor_value_info(rows, TensorProto.INT32, [BLOCK, 26])]
    outputs = [helper.make_tensor_value_info(product, TensorProto.FLOAT, [BLOCK, c_out])]
    return graph.op("Scan", blocks, body=helper.make_graph(steps, name, inputs, outputs), num_scan_inputs=1)


def _down(graph: _Graph, conv: Any, features: str, level: int) -> str:
    c_in, c_out = conv.kernel.shape[1:]
    table = graph.input(f"down.{level}.table", f"V{level + 1}", 8)
    gathered = graph.op("Gather", _padded(graph, features, c_in), table, axis=0)
    row = graph.op("Reshape", gathered, graph.index(0, 8 * c_in))
    product = graph.op("MatMul", row, graph.weight(conv.kernel.reshape(-1, c_out)))
    return graph.op("Relu", graph.op("Add", product, graph.weight(conv.bias)))


def _up(graph: _Graph, conv: Any, features: str, level: int) -> str:
    c_in, c_out = conv.kernel.shape[1:]
    rows = graph.input(f"up.{level}.rows", f"V{level}")
    every = graph.op("MatMul", features, graph.weight(conv.kernel.permute(1, 0, 2).reshape(c_in, -1)))
    flat = graph.op("Reshape", every, graph.index(-1, c_out))
    return graph.op("Relu", graph.op("Add", graph.op("Gather", flat, rows, axis=0), graph.weight(conv.bias)))


def _residual_block(graph: _Graph, block: Any, features: str, level: int) -> str:
    hidden = _neighbours(graph, block.net[0], features, level)
    if len(block.downsample):
        conv = block.downsample[0]
        product = graph.op("MatMul", features, graph.weight(conv.kernel))
        features = graph.op("Add", product, graph.weight(conv.bias))
    return _neighbours(graph, block.net[3], hidden, level, residual=features)


def _stem(graph: _Graph, stem: Any) -> str:
    features = _features(graph, stem[0].kernel.shape[1])
    return _neighbours(graph, stem[3], _neighbours(graph, stem[0], features, 0), 0)


def _encoder_stage(graph: _Graph, stage: Any, features: str, level: int) -> str:
    features = _down(graph, stage[0].net[0], features, level)
    for block in (stage[1], stage[2]):
        features = _residual_block(graph, block, features, level + 1)
    return features


def _decoder_stage(graph: _Graph, stage: Any, features: str, skip: str, level: int) -> str:
    features = graph.op("Concat", _up(graph, stage[0].net[0], features, level), skip, axis=1)
    for block in stage[1]:
        features = _residual_block(graph, block, features, level)
    return features


def _trunk(graph: _Graph, network: Any, gate: Any) -> str:
    features, skips = _stem(graph, network.stem), []
    for level in range(4):
        skips.append(features)
        name = f"stage{level + 1}"
        features = _encoder_stage(graph, getattr(network, name), gate(name, features), level)
    for i, skip in enumerate(reversed(skips)):
        name = f"up{i + 1}"
        features = _decoder_stage(graph, getattr(network, name), gate(name, features), skip, 3 - i)
    return features


def _two_layers(graph: _Graph, layers: Any, features: str) -> str:
    hidden = graph.op("LeakyRelu", _linear(graph, layers[0], features), alpha=0.1)
    return _linear(graph, layers[2], hidden)


def _linear(graph: _Graph, layer: nn.Linear, features: str) -> str:
    return graph.op("Gemm", features, graph.weight(layer.weight), graph.weight(layer.bias), transB=1)


def _point_row(graph: _Graph) -> str:
    return graph.input("point_row", "N")


def _encoder(graph: _Graph, network: Any) -> onnx.ValueInfoProto:
    features = _stem(graph, network.stem)
    for level in range(4):
        features = _encoder_stage(graph, getattr(network, f"stage{level + 1}"), features, level)
    width = network.stage4[2].net[3].kernel.shape[2]
    graph.op("Identity", features)
    graph.nodes[-1].output[0] = "condition"
    return helper.make_tensor_value_info("condition", TensorProto.FLOAT, ["V4", width])


def _denoiser(graph: _Graph, network: Any) -> onnx.ValueInfoProto:
    condition_channels = network.latent_stage1[0].in_features
    condition = graph.input("condition", "C", condition_channels, kind=TensorProto.FLOAT)
    embedding = _timestep_embedding(graph, _timestep(graph), network.embedding_channels)
    one = graph.op("Concat", graph.op("Shape", condition, end=1), graph.index(1), axis=0)

    def gate(stage: str, features: str) -> str:
        part = _two_layers(graph, getattr(network, f"latent_{stage}"), condition)
        time = _two_layers(graph, getattr(network, f"{stage}_temp"), embedding)
        times = graph.op("Tile", time, one)
        both = (times, part) if stage == "up1" else (part, times)
        table = _two_layers(graph, getattr(network, f"latemp_{stage}"), graph.op("Concat", *both, axis=1))
        level = STAGE_LEVEL[stage]
        nearest = graph.input(f"nearest.{level}", f"V{level}")
        return graph.op("Mul", features, graph.op("Gather", table, nearest, axis=0))

    graph.op("Identity", _point_outputs(graph, network, _trunk(graph, network, gate)))
    graph.nodes[-1].output[0] = "noise"
    return helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["N", network.last[2].out_features])


def _union(graph: _Graph, network: Any) -> onnx.ValueInfoProto:
    """As networks.UnionDenoiser, or networks.UnionRefiner."""
    constant = isinstance(network, UnionRefiner)
    timestep = graph.weight(np.array([network.TIMESTEP], np.float32)) if constant else _timestep(graph)
    embedding = _timestep_embedding(graph, timestep, TIME_CHANNELS)
    gates = [_two_layers(graph, gate, embedding) for gate in network.gates]
    features, skips = _features(graph, network.architecture.inputs), []
    for convolution in list(network.stem)[::2]:
        features = _neighbours(graph, convolution, features, 0)
    for level in range(network.depth):
        skips.append(features)
        features = _down(graph, network.down[level].net[0], features, level)
        features = _blocks(graph, network.encode[level], features, level + 1)
        features = graph.op("Mul", features, gates[level])
    for i, skip in enumerate(reversed(skips)):
        level = network.depth - 1 - i
        both = (_up(graph, network.up[i].net[0], features, level), skip)
        features = graph.op("Add", *both) if network.add_skips else graph.op("Concat", *both, axis=1)
        features = _blocks(graph, network.decode[i], features, level)
        if level:
            features = graph.op("Mul", features, gates[network.depth + i])
    return _estimates(graph, network, features)


def _blocks(graph: _Graph, blocks: Any, features: str, level: int) -> str:
    for block in blocks:
        features = _residual_block(graph, block, features, level)
    return features


def _estimates(graph: _Graph, network: Any, features: str) -> onnx.ValueInfoProto:
    """As networks.UnionDenoiser.point_outputs, offsets and logits in one output."""
    offset = graph.input("point_offset", "N", 3, kind=TensorProto.FLOAT)
    of_point = graph.op("Concat", graph.op("Gather", features, _point_row(graph), axis=0), offset, axis=1)
    hidden = graph.op("LeakyRelu", _linear(graph, network.first, of_point), alpha=0.1)
    graph.op("Mul", _linear(graph, network.last, hidden), graph.weight(network.output_scale()[None]))
    graph.nodes[-1].output[0] = "estimates"
    return helper.make_tensor_value_info("estimates", TensorProto.FLOAT, ["N", network.last.out_features])


def _timestep(graph: _Graph) -> str:
    return graph.input("t", 1, kind=TensorProto.FLOAT)


def _timestep_embedding(graph: _Graph, timestep: str, channels: int) -> str:
    """As networks.timestep_embedding."""
    half = channels // 2
    frequency = np.exp(np.arange(half) * (-np.log(10000.0) / (half - 1))).astype(np.float32)
    t = graph.op("Reshape", timestep, graph.index(1, 1))
    angle = graph.op("Mul", t, graph.weight(frequency[None]))
    parts = [graph.op("Sin", angle), graph.op("Cos", angle)]
    if channels % 2:
        parts.append(graph.weight(np.zeros((1, 1), np.float32)))
    return graph.op("Concat", *parts, axis=1)


def _refiner(graph: _Graph, network: Any) -> onnx.ValueInfoProto:
    outputs_of_points = _point_outputs(graph, network, _trunk(graph, network, lambda stage, features: features))
    outputs = network.last[2].out_features // network.OFFSETS
    of_each = graph.op("Reshape", outputs_of_points, graph.index(0, network.OFFSETS, outputs))
    first, last = graph.index(0), graph.index(3)
    axis = graph.index(2)
    offsets = graph.op("Tanh", graph.op("Slice", of_each, first, last, axis))
    logits = graph.op("Slice", of_each, last, graph.index(outputs), axis)
    graph.op("Concat", offsets, logits, axis=2)
    graph.nodes[-1].output[0] = "offsets"
    return helper.make_tensor_value_info("offsets", TensorProto.FLOAT, ["N", network.OFFSETS, outputs])


def _point_outputs(graph: _Graph, network: Any, features: str) -> str:
    """As networks.unet.UNet.point_outputs."""
    if not network.point_offsets:
        return graph.op("Gather", _two_layers(graph, network.last, features), _point_row(graph), axis=0)
    offset = graph.input("point_offset", "N", 3, kind=TensorProto.FLOAT)
    of_point = graph.op("Gather", features, _point_row(graph), axis=0)
    return _two_layers(graph, network.last, graph.op("Concat", of_point, offset, axis=1))
