"""`compile=True`: what compiling costs, what a frame takes then, and whether anything compiles again afterwards.

    python benchmarks/compile.py --model test_tiny --image 64
    python benchmarks/compile.py --model sam2.1_hiera_t --objects 1 --points 1 --frames 10

A compiled and a plain predictor with the same random weights track the same videos. One video with one object and one
with two are the warm-up; then come videos with every number of objects and of points asked for, and every graph that is
compiled in them is counted. At last both track on in turn, frame by frame, with their pasts full: medians are printed.
Results are added to ``benchmarks/results/compile.{json,md}``, a row per model and size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

import registry  # noqa: E402
from benchmarks.image import processor_name  # noqa: E402
from sam2core.predictors.results import FrameResult  # noqa: E402
from sam2core.predictors.video import VideoPredictor  # noqa: E402

VIDEO = (270, 480)
CLIP = 3
"""Frames of a video that only looks for compilations: prompted, tracked with one memory, and with more."""


def graphs() -> int:
    """How many graphs have been compiled in this process."""
    return int(counters["stats"]["unique_graphs"])


def frames(count: int) -> np.ndarray:
    """A video (count, H, W, 3) uint8: a bright square moves over noise."""
    clip = np.random.default_rng(0).integers(0, 120, (1, *VIDEO, 3), dtype=np.uint8).repeat(count, 0)
    for index, picture in enumerate(clip):
        picture[80:160, 100 + 4 * index : 180 + 4 * index] = (220, 180, 60)
    return clip


def track(predictor: VideoPredictor, clip: np.ndarray, objects: int, points: int) -> Iterator[FrameResult]:
    """The results of all frames, with so many clicks on every object in the first."""
    rng = np.random.default_rng(100 * objects + points)
    session = predictor.open(clip)
    for number in range(objects):
        session.prompt(0, number, rng.uniform(20, (VIDEO[1] - 20, VIDEO[0] - 20), (points, 2)))
    yield from session.propagate()


def told(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def spent() -> float:
    """CPU seconds of this process and of the compilers it has run."""
    return sum(use.ru_utime + use.ru_stime for use in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def warm_up(pair: dict[str, VideoPredictor], objects: int) -> dict[str, float]:
    """The compiled predictor's first video with so many objects, and how far its logits are from the plain one's."""
    before, begun, used = graphs(), time.perf_counter(), spent()
    mine = [result.logits for result in track(pair["compiled"], frames(CLIP), objects, 1)]
    found = {"objects": objects, "seconds": time.perf_counter() - begun, "cpu": spent() - used}
    found["graphs"] = graphs() - before
    theirs = [result.logits for result in track(pair["plain"], frames(CLIP), objects, 1)]
    found["error"] = max(float((a - b).abs().max() / (b.max() - b.min())) for a, b in zip(mine, theirs, strict=True))
    told(f"warm-up: {found}")
    return found


def compiled_again(predictor: VideoPredictor, options: argparse.Namespace) -> dict[str, int]:
    """The graphs compiled in videos with every number of objects and points."""
    again = {}
    for objects in options.objects:
        for points in options.points:
            before = graphs()
            for _ in track(predictor, frames(CLIP), objects, points):
                pass
            again[f"{objects} objects, {points} points"] = graphs() - before
    told(f"compiled after the warm-up, in {len(again)} videos: {sum(again.values())} graphs")
    return again


class Steady:
    """Both predictors with the past of an object full, tracking on in turn."""

    def __init__(self, pair: dict[str, VideoPredictor], options: argparse.Namespace) -> None:
        self.count = options.frames
        clip = frames(options.full + options.frames)
        self.runs = {name: track(predictor, clip, 1, 1) for name, predictor in pair.items()}
        for run in self.runs.values():
            for _ in range(options.full):
                next(run)

    def measure(self) -> dict[str, dict[str, list[float]]]:
        """Seconds and CPU seconds of each frame, by predictor."""
        found: dict[str, dict[str, list[float]]] = {key: {name: [] for name in self.runs} for key in ("seconds", "cpu")}
        for index in range(self.count):
            for name in list(self.runs)[:: 1 if index % 2 else -1]:
                wall, cpu = time.perf_counter(), time.process_time()
                _ = next(self.runs[name]).logits
                found["seconds"][name].append(time.perf_counter() - wall)
                found["cpu"][name].append(time.process_time() - cpu)
        return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    pair = {}
    size: dict[str, Any] = {"image_size": options.image} if options.image else {}
    size["dtype"] = getattr(torch, options.dtype)
    for name in ("compiled", "plain"):
        torch.manual_seed(0)
        also: dict[str, Any] = {"compile": True} if name == "compiled" else {}
        pair[name] = registry.predictor(options.model, "video", weights=False, **size, **also)
    warm = [warm_up(pair, objects) for objects in ((1, 2) if max(options.objects) > 1 else (1,))]
    again = compiled_again(pair["compiled"], options)
    before = graphs()
    steady = Steady(pair, options).measure()
    return {
        "model": options.model,
        "image": pair["plain"].model.image_size[0],
        "dtype": options.dtype,
        "threads": options.threads,
        "torch": torch.__version__,
        "processor": processor_name(),
        "warm": warm,
        "clips": len(again),
        "again": sum(again.values()) + graphs() - before,
        "objects": options.objects,
        "points": options.points,
        "full": options.full,
        **steady,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | threads | first video of 1 object (then of 2), CPU s | graphs | difference, of the spread "
        "| videos afterwards | graphs compiled in them | plain, s a frame | compiled, s a frame | times as fast, wall "
        "| CPU |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        wall, cpu = ({name: statistics.median(some) for name, some in row[key].items()} for key in ("seconds", "cpu"))
        first, *second = (f"{one['cpu']:.0f}" for one in row["warm"])
        lines.append(
            f"| {row['model']}, {row['image']} px, {row['dtype']} | {row['threads']} "
            f"| {first}{''.join(f' ({one})' for one in second)} "
            f"| {sum(one['graphs'] for one in row['warm'])} | {max(one['error'] for one in row['warm']):.1e} "
            f"| {row['clips']}: {span(row['objects'])} objects, {span(row['points'])} points | {row['again']} "
            f"| {wall['plain']:.3f} | {wall['compiled']:.3f} | {wall['plain'] / wall['compiled']:.2f} "
            f"| {cpu['plain'] / cpu['compiled']:.2f} |"
        )
    return "\n".join(lines)


def span(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="test_tiny")
    parser.add_argument("--image", type=int)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--objects", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--points", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--full", type=int, default=8, help="frames before the timed ones")
    parser.add_argument("--frames", type=int, default=10, help="timed frames")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options)
    path = options.out / "compile.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    same = ("model", "image", "dtype", "threads")
    rows = [row for row in rows if any(row[key] != found[key] for key in same)] + [found]
    path.write_text(json.dumps(rows, indent=1) + "\n")
    text = "\n".join(
        [
            "# Compiled parts",
            "",
            f"{found['processor']}, {os.cpu_count()} cores; torch {found['torch'].split('+')[0]}, its default backend; "
            "random weights. One object's past is full when frames are timed; compiled and plain take turns.",
            "",
            table(rows),
            "",
        ]
    )
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
