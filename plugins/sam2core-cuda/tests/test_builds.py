"""Every kernel builds for the GPUs that are met most, which wants none here: A100 (8.0) and H100 (9.0)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="torch's builds for GPUs bring triton")

BUILD = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sam2core_cuda import average, components, distance

image = {"nodes": "i32", "height": "i32", "width": "i32", "rows": "i32", "columns": "i32", "BLOCK": 256}
bits, numbers = "*u8", "*i32"
strides = {name: "i32" for name in average._average.arg_names if name.endswith(("_batch", "_head", "_row"))}
counts = {"heads": "i32", "queries": "i32", "keys": "i32", "scale": "fp32"}
tiles = {"MASKED": True, "DIM": 256, "WIDTH": 64, "ROWS": average.ROWS, "COLUMNS": average.COLUMNS}
half = {name: "*bf16" for name in ("query", "key", "tokens", "out")}
KERNELS = [
    (components._merge, {"masks": bits, "parents": numbers, **image}, {}),
    (components._count, {"masks": bits, "parents": numbers, "sizes": numbers, **image}, {}),
    (components._write, {
        "masks": bits, "parents": numbers, "sizes": numbers, "labels": numbers, "areas": numbers, "pixels": "i32",
        **image,
    }, {}),
    (distance._down, {
        "masks": bits, "squares": numbers, "height": "i32", "width": "i32",
        "FAR": distance.FAR, "BLOCK": distance.COLUMNS,
    }, {"num_warps": 2}),
    (distance._across, {"squares": numbers, "out": "*fp32", "width": "i32", "TILE": distance.TILE}, {}),
    (average._average, {**half, "readable": bits, **strides, **counts, **tiles}, {"num_warps": 8, "num_stages": 2}),
]
for kernel, given, options in KERNELS:
    names = kernel.arg_names
    fixed = {(names.index(name),): given[name] for name in names if not isinstance(given[name], str)}
    signature = {name: given[name] if isinstance(given[name], str) else "constexpr" for name in names}
    source = ASTSource(kernel, signature, fixed)
    built = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
    shared = built.metadata.shared
    assert shared <= {80: 166912, 90: 232448}[int(sys.argv[1])], (kernel.__name__, shared)
    print(kernel.__name__, shared, len(built.asm["cubin"]))
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_builds(capability, tmp_path):
    """In a process of its own, where kernels are not interpreted."""
    places = [str(Path(__file__).parents[1]), *(place for place in sys.path if place)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(places), "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(capability)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 6
