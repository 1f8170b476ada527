"""Compiles the Triton kernels ahead of time and prints the registers, spills and shared memory of each. Needs no GPU.

    python benchmarks/gpu_kernels.py [--targets 80 86 89 90] [--layers all|few] [--json FILE]

Targets are compute capabilities: 80 is an A100, 86 an RTX 30 or A10, 89 an RTX 40 or L4, 90 an H100 or H200. Layers are the
shapes of the published network and of models/edge. A kernel that spills, or whose block needs more registers or shared memory than a
multiprocessor has, is reported, and the exit status is 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lidar_completion.sparse import convolution_triton, nearest_triton
from lidar_completion.sparse.convolution_triton import DTYPES, FLOAT32_PRECISION, shape_of

REGISTERS = 65536  # of a multiprocessor, since Volta
MAX_REGISTERS = 255  # of a thread
SHARED_BYTES = {
    80: 163 * 1024,
    86: 99 * 1024,
    89: 99 * 1024,
    90: 227 * 1024,
}  # that a block can use (CUDA programming guide)
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
LAYERS = [(16, 16), (32, 32), (64, 64), (128, 128), (96, 128), (256, 256), (384, 128)]  # channels in, out
FEW = [(16, 16), (256, 256)]
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Kernel:
    """A kernel with everything that determines its code."""

    name: str
    function: triton.JITFunction
    types: dict[str, str]  # of the arguments that are not constants; pointers start with *
    constants: dict[str, object]
    warps: int
    stages: int


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel needs."""

    kernel: str
    target: int
    registers: int  # per thread
    spilled_bytes: int  # per thread
    shared_bytes: int  # per block
    threads: int  # per block

    @property
    def faults(self) -> list[str]:
        """Why the kernel would be slow or could not start."""
        found = []
        if self.spilled_bytes:
            found.append(f"spills {self.spilled_bytes} bytes")
        if self.registers > MAX_REGISTERS or self.registers * self.threads > REGISTERS:
            found.append(f"{self.registers} registers in {self.threads} threads")
        if self.shared_bytes > SHARED_BYTES[self.target]:
            found.append(f"{self.shared_bytes} of {SHARED_BYTES[self.target]} bytes of shared memory")
        return found


def kernels(layers: list[tuple[int, int]]) -> Iterator[Kernel]:
    """Every kernel: convolution and kernel gradient of each layer in each type, and the nearest-voxel search."""
    for c_in, c_out in layers:
        for dtype in TYPES:
            yield convolution(c_in, c_out, dtype)
            yield kernel_gradient(c_in, c_out, dtype)
    yield Kernel(
        "nearest voxels",
        nearest_triton._nearest_block,
        {"queries": "*i64", "condition": "*i64", "rows": "*i64", "num_queries": "i32", "num_condition": "i32"},
        {"BLOCK_Q": nearest_triton.BLOCK_Q, "BLOCK_P": nearest_triton.BLOCK_P},
        warps=4,
        stages=3,
    )


def convolution(c_in: int, c_out: int, dtype: torch.dtype) -> Kernel:
    """The convolution of a large cloud as `_launch` starts it, with bias, residual and ReLU."""
    shape = shape_of(torch.empty(27, c_in, c_out, dtype=dtype, device="meta"))
    types = {name: f"*{TYPES[dtype]}" for name in ("features", "kernel", "bias", "residual", "out")}
    types |= {name: "*i32" for name in ("table", "rows", "offsets", "counts")}
    types |= {name: "i32" for name in ("slots", "volume", "c_in", "c_out", "stride_k", "stride_i")}
    constants = {
        "stride_o": 1, "HAS_BIAS": True, "HAS_RESIDUAL": True, "RELU": True, "PRECISION": FLOAT32_PRECISION,
        "BLOCK_V": 128, "BLOCK_N": shape.block_n, "BLOCK_C": shape.block_c,
    }  # fmt: skip
    name = f"convolution {c_in} -> {c_out}, {TYPES[dtype]}"
    return Kernel(name, convolution_triton._convolve_block, types, constants, shape.warps, shape.stages)


def kernel_gradient(c_in: int, c_out: int, dtype: torch.dtype) -> Kernel:
    """The gradient of a layer's kernel as `convolution_triton.kernel_gradient` starts it."""
    types = {name: f"*{TYPES[dtype]}" for name in ("features", "grad")} | {"parts": "*fp32"}
    types |= {name: "*i32" for name in ("in_rows", "out_rows", "counts")}
    types |= {name: "i32" for name in ("line", "c_in", "c_out")}
    tile_m, tile_n = (min(convolution_triton._tile(channels), 64) for channels in (c_in, c_out))
    constants = {
        "PRECISION": FLOAT32_PRECISION, "DTYPE": DTYPES[dtype], "BLOCK_M": tile_m, "BLOCK_N": tile_n, "BLOCK_P": 32,
    }  # fmt: skip
    name = f"kernel gradient {c_in} -> {c_out}, {TYPES[dtype]}"
    return Kernel(name, convolution_triton._kernel_gradient_tile, types, constants, warps=4, stages=2)


def compiled(kernel: Kernel, target: int) -> Resources:
    """Compile a kernel for a compute capability. Sizes and strides count as multiples of 16, as in most layers."""
    names = kernel.function.arg_names
    signature = {name: kernel.types.get(name, "constexpr") for name in names}
    wide = [
        name
        for name, kind in kernel.types.items()
        if kind.startswith("*") or name in ("c_in", "c_out", "stride_k", "stride_i")
    ]
    source = ASTSource(
        kernel.function,
        signature,
        {(names.index(name),): value for name, value in kernel.constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in wide},
    )
    options = {"num_warps": kernel.warps, "num_stages": kernel.stages}
    done = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    registers, spilled = usage(done.asm["cubin"])
    return Resources(kernel.name, target, registers, spilled, done.metadata.shared, 32 * kernel.warps)


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of local memory and stack, per thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, nargs="+", default=sorted(SHARED_BYTES), choices=sorted(SHARED_BYTES))
    parser.add_argument("--layers", choices=("all", "few"), default="all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 interprets kernels; unset it to compile them")
    print(f"triton {triton.__version__}, torch {torch.__version__}")
    print(f"{'kernel':34}{'sm':>4}{'registers':>11}{'spilled B':>11}{'shared B':>10}{'threads':>9}")
    found = []
    for kernel in kernels(LAYERS if options.layers == "all" else FEW):
        for target in options.targets:
            each = compiled(kernel, target)
            found.append(each)
            print(
                f"{each.kernel:34}{target:4}{each.registers:11}{each.spilled_bytes:11}{each.shared_bytes:10}{each.threads:9}"
                f"  {'; '.join(each.faults)}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps([{**asdict(each), "faults": each.faults} for each in found]))
    return int(any(each.faults for each in found))


if __name__ == "__main__":
    sys.exit(main())
