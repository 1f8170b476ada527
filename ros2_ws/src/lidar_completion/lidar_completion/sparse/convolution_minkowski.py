"""Sparse convolution with MinkowskiEngine, if it is installed. Written against the documented interface of version 0.5.

Each KernelMap gets its own coordinate manager, so MinkowskiEngine searches once per map and not once per layer. Its kernel
order is the same as here (x fastest, even kernels start at 0). Its row order differs and is undone with the maps that it
returns. Only float32 and float64.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lidar_completion.sparse.coordinates import Voxels
from lidar_completion.sparse.kernel_map import KernelMap


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """Same as convolution_torch.convolve; ValueError for a map that was not made from voxels."""
    import MinkowskiEngine

    geometry = kernel_map.geometry
    if geometry is None:
        raise ValueError(
            "the minkowski backend builds its own maps from voxels, but this map was made from rows alone: "
            "build it with kernel_map, submanifold_map or child_map, or choose another backend"
        )
    if not kernel_map.num_in or not kernel_map.num_out:
        return features.new_zeros(kernel_map.num_out, kernel.shape[2]) + 0 * (features.sum() + kernel.sum())
    manager, fine, coarse = kernel_map.cached("minkowski", lambda: _manager(geometry.inputs, geometry.outputs))
    (in_key, in_order, _), (out_key, _, out_order) = (coarse, fine) if geometry.transposed else (fine, coarse)
    sparse = MinkowskiEngine.SparseTensor(
        features.index_select(0, in_order), coordinate_map_key=in_key, coordinate_manager=manager
    )
    stride = geometry.outputs.stride // geometry.inputs.stride
    layer = _layer(*kernel.shape[1:], geometry.kernel_size, stride, geometry.dilation, geometry.transposed)
    out = torch.func.functional_call(layer, {"kernel": kernel}, (sparse, out_key))
    return out.F.index_select(0, out_order)


Side = tuple[Any, Tensor, Tensor]  # key; for each of its rows our row; for each of our rows its row


def _manager(inputs: Voxels, outputs: Voxels) -> tuple[Any, Side, Side]:
    import MinkowskiEngine

    kind = MinkowskiEngine.CoordinateMapType
    on_gpu = inputs.keys.device.type == "cuda"
    manager = MinkowskiEngine.CoordinateManager(D=3, coordinate_map_type=kind.CUDA if on_gpu else kind.CPU)

    def insert(voxels: Voxels) -> Side:
        key, (ours, theirs) = manager.insert_and_map(voxels.coordinates.contiguous(), [voxels.stride] * 3)
        every = torch.arange(len(voxels), device=voxels.keys.device)
        # MinkowskiEngine may return empty maps if no voxel was merged or moved
        return key, ours.long() if len(ours) else every, theirs.long() if len(theirs) else every

    fine = insert(inputs)
    same = inputs.stride == outputs.stride and torch.equal(inputs.keys, outputs.keys)
    return manager, fine, fine if same else insert(outputs)


@cache
def _layer(c_in: int, c_out: int, kernel_size: int, stride: int, dilation: int, transposed: bool) -> Any:
    """A layer whose kernel is replaced on each call."""
    import MinkowskiEngine

    kind = MinkowskiEngine.MinkowskiConvolutionTranspose if transposed else MinkowskiEngine.MinkowskiConvolution
    return kind(c_in, c_out, kernel_size=kernel_size, stride=stride, dilation=dilation, dimension=3)
