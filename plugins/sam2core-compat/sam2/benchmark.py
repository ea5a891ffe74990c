"""Frames per second of a compiled video predictor on a GPU: one click, tracked through a folder of frames, 25 times.

    python -m sam2.benchmark [--config NAME] [--checkpoint FILE] [--frames FOLDER]

Defaults are the files of Meta's repository, whose script of this name it answers to; the computing is sam2core's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from sam2.build_sam import build_sam2_video_predictor

WARM_UP, RUNS = 5, 25


def measure(predictor, frames: str, runs: int = RUNS, warm_up: int = WARM_UP) -> tuple[float, float]:
    """Frames per second of the first `warm_up` passes over a folder, and of all later ones."""
    state = predictor.init_state(video_path=frames)
    predictor.add_new_points_or_box(
        state, frame_idx=0, obj_id=1, points=np.array([[210, 350]], np.float32), labels=np.array([1], np.int32)
    )
    spent = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in predictor.propagate_in_video(state):
            pass
        if predictor.device.type == "cuda":
            torch.cuda.synchronize(predictor.device)
        spent.append(time.perf_counter() - start)
    count = state["num_frames"]
    return count * warm_up / sum(spent[:warm_up]), count * (runs - warm_up) / sum(spent[warm_up:])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sam2.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/sam2.1/sam2.1_hiera_b+.yaml")
    parser.add_argument("--checkpoint", default="checkpoints/sam2.1_hiera_base_plus.pt")
    parser.add_argument("--frames", default="notebooks/videos/bedroom")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("sam2.benchmark measures a GPU, and torch sees none here; `sam2core bench` measures a CPU\n")
        return 1
    with torch.autocast("cuda", dtype=torch.bfloat16), torch.inference_mode():
        predictor = build_sam2_video_predictor(given.config, given.checkpoint, device="cuda", vos_optimized=True)
        first, later = measure(predictor, given.frames)
    sys.stdout.write(f"Warmup FPS:  {first:.2f}\nFPS:  {later:.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
