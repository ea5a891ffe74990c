"""Tracking, side by side with `sam2` and `transformers`: seconds per frame, by number of objects and stage.

    python benchmarks/video.py --size t --objects 1 4 --frames 10

All implementations have the same random weights and see the same synthetic clip; every object gets one click on frame
0. They take turns frame by frame (A B C A B C ...), so that a slow minute of the machine hits all alike; ratios are
taken within a frame, and the medians of the last frames (memories full from frame 7 on) are printed, with the share of
the machine's fp32 matrix-multiply peak that the memory attention reaches. Results go to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.image import gemm, processor_name, versions  # noqa: E402
from sam2core.predictors.video import VideoPredictor  # noqa: E402
from tests.parity import oracle, scripts  # noqa: E402

STAGES = ("encode", "memory attention", "decode", "memorize")
VIDEO = (270, 480)


class Stages:
    """Sums up the time spent in modules, by stage."""

    def __init__(self, modules: dict[str, list[torch.nn.Module]]) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        for stage, parts in modules.items():
            for part in parts:
                started: list[float] = []
                part.register_forward_pre_hook(lambda *_, s=started: s.append(time.perf_counter()))
                part.register_forward_hook(
                    lambda *_, s=started, stage=stage: self._add(stage, time.perf_counter() - s.pop())
                )

    def _add(self, stage: str, seconds: float) -> None:
        self.spent[stage] += seconds

    def take(self) -> dict[str, float]:
        spent, self.spent = dict(self.spent), defaultdict(float)
        return spent


def clicks(objects: int) -> np.ndarray:
    return np.random.default_rng(0).uniform((20, 20), (VIDEO[1] - 20, VIDEO[0] - 20), (objects, 2))


def ours(model: Any, frames: np.ndarray, objects: int, dtype: torch.dtype) -> tuple[Iterator[Any], Stages]:
    stages = Stages(
        {
            "encode": [model.backbone, model.neck],
            "memory attention": [model.memory_attention],
            "decode": [model.mask_decoder],
            "memorize": [model.memory_encoder],
        }
    )
    session = VideoPredictor(model.to(dtype), fill_holes=0).open(frames)
    for number, place in enumerate(clicks(objects)):
        session.prompt(0, number, [place])

    def walk() -> Iterator[torch.Tensor]:
        for result in session.propagate():
            yield result.video_logits

    return walk(), stages


def upstream(model: Any, frames: np.ndarray, objects: int, dtype: torch.dtype) -> tuple[Iterator[Any], Stages]:
    stages = Stages(
        {
            "encode": [model.image_encoder],
            "memory attention": [model.memory_attention],
            "decode": [model.sam_mask_decoder],
            "memorize": [model.memory_encoder],
        }
    )
    video = (scripts.pixels(frames, model.image_size), *VIDEO)

    def walk() -> Iterator[torch.Tensor]:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
            mock.patch("sam2.sam2_video_predictor.load_video_frames", lambda **_: video),
            mock.patch("sam2.sam2_video_predictor.tqdm", lambda frames, **_: frames),
        ):
            state = model.init_state(video_path="frames in memory")
            for number, place in enumerate(clicks(objects)):
                model.add_new_points_or_box(state, 0, number, points=[place.tolist()], labels=[1])
            for _, _, logits in model.propagate_in_video(state):
                yield logits[:, 0]

    return walk(), stages


def transformers(model: Any, frames: np.ndarray, objects: int, dtype: torch.dtype) -> tuple[Iterator[Any], Stages]:
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    stages = Stages(
        {
            "encode": [model.vision_encoder],
            "memory attention": [model.memory_attention],
            "decode": [model.mask_decoder],
            "memorize": [model.memory_encoder],
        }
    )
    side = model.config.image_size
    pixels = scripts.pixels(frames, side)

    def walk() -> Iterator[torch.Tensor]:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            session = Sam2VideoInferenceSession(
                video=pixels, video_height=VIDEO[0], video_width=VIDEO[1], dtype=torch.float32
            )
            scale = np.array([side / VIDEO[1], side / VIDEO[0]])
            for number, place in enumerate(clicks(objects)):
                prompt = {
                    "point_coords": torch.tensor(place * scale, dtype=torch.float32)[None, None, None],
                    "point_labels": torch.ones(1, 1, 1, dtype=torch.int32),
                }
                session.add_point_inputs(session.obj_id_to_idx(number), 0, prompt)
            session.obj_with_new_inputs = list(range(objects))
            for result in model.propagate_in_video_iterator(session, start_frame_idx=0):
                yield result.pred_masks[:, 0]

    return walk(), stages


WALKS = {"ours": ours, "sam2": upstream, "transformers": transformers}


def models(size: str, image: int, names: list[str]) -> dict[str, Any]:
    """The same random weights in each implementation."""
    shape = oracle.SHAPES[size].at(image=image)
    torch.manual_seed(0)
    found = {"ours": oracle.ours(shape)}
    state = found["ours"].state_dict()
    if "sam2" in names:
        from sam2core.checkpoints.facebook import FACEBOOK

        found["sam2"] = oracle.upstream(shape, video=True)
        found["sam2"].load_state_dict(FACEBOOK.inverse(state))
    if "transformers" in names:
        found["transformers"] = oracle.transformers_model(shape, video=True)
        found["transformers"].load_state_dict(oracle.to_transformers(state), strict=True)
    return {name: found[name] for name in names}


def run(options: argparse.Namespace, objects: int) -> list[dict[str, Any]]:
    """One row per frame: each implementation's time and stages, and the peak just before."""
    frames = scripts.clip(options.frames, VIDEO, 0)
    dtype = getattr(torch, options.dtype)
    walks = {
        name: WALKS[name](model, frames, objects, dtype)
        for name, model in models(options.size, options.image, options.names).items()
    }
    rows = []
    for number in range(options.frames):
        row: dict[str, Any] = {"objects": objects, "frame": number, "gemm": gemm()}
        turn = number % len(options.names)
        for name in options.names[turn:] + options.names[:turn]:
            walk, stages = walks[name]
            wall, cpu = time.perf_counter(), time.process_time()
            next(walk)
            row[name] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "stages": stages.take()}
        rows.append(row)
        told = ", ".join(f"{name} {row[name]['wall']:.2f} s" for name in options.names)
        print(f"[{time.strftime('%H:%M:%S')}] {objects} objects, frame {number}: {told}", file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict[str, Any]], names: list[str], last: int) -> str:
    others = [name for name in names if name != "ours"]
    head = ["objects", "seconds per frame", *names, *(f"ours / {name}" for name in others)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for objects in sorted({row["objects"] for row in rows}):
        steady = [row for row in rows if row["objects"] == objects][-last:]

        def cells(label: str, value: Any, steady: list[dict[str, Any]] = steady, objects: int = objects) -> str:
            medians = [statistics.median(value(row[name]) for row in steady) for name in names]
            relative = [
                statistics.median(value(row["ours"]) / max(value(row[other]), 1e-9) for row in steady)
                for other in others
            ]
            told = [f"{seconds:.3f}" for seconds in medians] + [f"{ratio:.2f}" for ratio in relative]
            return "| " + " | ".join([str(objects), label, *told]) + " |"

        lines.append(cells("frame, wall", lambda part: part["wall"]))
        lines.append(cells("frame, CPU time", lambda part: part["cpu"]))
        for stage in STAGES:
            lines.append(cells(stage, lambda part, stage=stage: part["stages"].get(stage, 0.0)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="t", choices=["t", "s", "b+", "l"])
    parser.add_argument("--image", type=int, default=1024)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--last", type=int, default=3, help="how many last frames count as steady")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--names", nargs="+", default=list(WALKS), choices=list(WALKS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    assert "ours" in options.names, "ratios are ours to others"
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for objects in options.objects:
        rows += run(options, objects)
    peaks = [row["gemm"] for row in rows]
    text = "\n".join(
        [
            f"# Video benchmark, size {options.size}, {options.image} px, {options.dtype}, {options.threads} thread(s)",
            "",
            f"{processor_name()}, {os.cpu_count()} cores; "
            + ", ".join(f"{name} {version}" for name, version in versions(options.names).items())
            + f". fp32 GEMM during the run: median {statistics.median(peaks):.0f} GFLOP/s, "
            f"{min(peaks):.0f} to {max(peaks):.0f}. Load average {os.getloadavg()[0]:.1f}.",
            "",
            f"Random weights, the same in all; one click per object on frame 0; medians of the last {options.last} of "
            f"{options.frames} frames, ratios within a frame. Below 1.00 ours is faster.",
            "",
            table(rows, options.names, options.last),
            "",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"video_{options.size.replace('+', '_plus')}_{options.dtype}"
    stem.with_suffix(".json").write_text(json.dumps({"options": {**vars(options), "out": ""}, "rows": rows}, indent=1))
    stem.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
