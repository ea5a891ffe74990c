"""What reading the past pooled costs and saves on SAM 2.1's own shape.

    python benchmarks/pooled.py --size 1024 --clip ../../registry/samples/chair.mp4 --box 180 60 350 340

Time: sam2.1_hiera_t with random weights, one object, its past full; the plain memory attention and the pooled one take
turns frame by frame. Masks: `sam2core_nano`, trained without pooling, follows the box along the video with both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import registry
from sam2core.predictors.video import VideoPredictor

POOLED = {"type": "efficienttam.pooled", "count": "keys"}


def predictor(name: str, pooled: bool, **options: Any) -> VideoPredictor:
    torch.manual_seed(0)
    change = {"memory_attention": {**registry.spec(name).memory_attention, **POOLED}} if pooled else {}
    return VideoPredictor(registry.build(name, **change, **options))


def frames(count: int) -> np.ndarray:
    """A bright square that moves over noise."""
    clip = np.random.default_rng(0).integers(0, 120, (1, 270, 480, 3), dtype=np.uint8).repeat(count, 0)
    for index, picture in enumerate(clip):
        picture[80:160, 100 + 4 * index : 180 + 4 * index] = (220, 180, 60)
    return clip


def walk(name: str, pooled: bool, source: Any, box: list[float], **options: Any) -> Iterator[Any]:
    session = predictor(name, pooled, **options).open(source)
    session.prompt(0, "it", box=box)
    yield from session.propagate()


def seconds(size: int, dtype: torch.dtype, full: int, count: int) -> dict[str, float]:
    clip, box = frames(full + count), [100.0, 80.0, 180.0, 160.0]
    options = {"weights": False, "image_size": size, "dtype": dtype}
    runs = {name: walk("sam2.1_hiera_t", name == "pooled", clip, box, **options) for name in ("plain", "pooled")}
    for run in runs.values():
        for _ in range(full):
            next(run)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, run in runs.items():
            begun = time.perf_counter()
            next(run)
            spent[name].append(time.perf_counter() - begun)
    return {name: statistics.median(some) for name, some in spent.items()}


def overlap(clip: Path, box: list[float]) -> list[float]:
    """The IoU of both answers on each frame."""
    found = []
    for plain, pooled in zip(
        walk("sam2core_nano", False, clip, box), walk("sam2core_nano", True, clip, box), strict=True
    ):
        a, b = (np.asarray(result.masks["it"]) for result in (plain, pooled))
        found.append(float((a & b).sum() / max((a | b).sum(), 1)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--full", type=int, default=8, help="frames before the timed ones")
    parser.add_argument("--frames", type=int, default=5, help="timed frames")
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--box", type=float, nargs=4)
    options = parser.parse_args()
    told = seconds(options.size, getattr(torch, options.dtype), options.full, options.frames)
    print(f"{options.dtype}, {options.size} px: plain {told['plain']:.3f} s a frame, pooled {told['pooled']:.3f} s")
    if options.clip:
        ious = overlap(options.clip, options.box)
        print(f"masks of {len(ious)} frames: IoU {np.mean(ious):.3f} in the mean, {min(ious):.3f} at least")


if __name__ == "__main__":
    main()
