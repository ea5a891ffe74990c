"""Exported graphs beside the model they were made of: seconds for an image, and the masks along a video.

    sam2core export sam2core_nano -o graphs/ && sam2core export sam2core_nano --int8 -o graphs8/
    python benchmarks/graphs.py sam2core_nano graphs/ graphs8/ --clip chair.mp4 --box 180,60,350,340

Contenders take turns within a round; medians of wall and CPU time, and the mask IoU with the model's, as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sam2core_export import load

import registry
from sam2core.predictors.video import VideoPredictor


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def track(model: Any, clip: Path, box: list[float], frames: int) -> list[torch.Tensor]:
    session = VideoPredictor(model).open(clip, stop=frames)
    session.prompt(0, 0, box=box)
    return [result.masks[0] for result in session.propagate()]


def iou(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    union = int((mine | theirs).sum())
    return int((mine & theirs).sum()) / union if union else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--weights", choices=["own", "none"], default="own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--box", type=lambda text: [float(word) for word in text.split(",")])
    parser.add_argument("--frames", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = tuple(load(options.folders[0], threads=1).image_size)
    contenders = {"eager": registry.build(options.model, weights=options.weights == "own", image_size=size)}
    contenders |= {str(folder.name): load(folder, threads=options.threads) for folder in options.folders}
    pixels = torch.randn(1, 3, *size)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for _ in range(options.rounds + 1):
            for name, model in contenders.items():
                spent[name].append(timed(lambda: model.encode(pixels)))  # noqa: B023  # called at once
        report: dict[str, Any] = {}
        for name, times in spent.items():
            wall, cpu = (statistics.median(column) for column in zip(*times[1:]))
            ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(times[1:], spent["eager"][1:]))
            report[name] = {"encode_s": wall, "encode_cpu_s": cpu, "of_eager": ratio}
    if options.clip:
        masks = {name: track(model, options.clip, options.box, options.frames) for name, model in contenders.items()}
        for name, found in masks.items():
            each = [iou(mine, theirs) for mine, theirs in zip(found, masks["eager"])]
            report[name]["clip_iou"] = {"mean": statistics.mean(each), "least": min(each), "frames": len(each)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
