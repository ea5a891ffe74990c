"""What the policies bring on rendered videos: an object that hides for a while, and one that meets its double.

    python plugins/sam2core-tracking/benchmarks/look_alikes.py [--model sam2core_nano] [--seeds 3]

Prints the mean IoU with the truth over the frames after the event, and how many videos are lost (below 0.3 on the last
frames), and writes `results/look_alikes.{json,md,jpg}` beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from sam2core_tracking.beam import BeamMemory, BeamPredictor

import registry
from sam2core.predictors.video import VideoPredictor

HERE = Path(__file__).parent
SIZE = (240, 320)
FRAMES = 36
EVENT = range(12, 20)  # hidden, or side by side with the double
KINDS = ("occlusion", "double")


def backdrop(seed: int) -> Image.Image:
    """Soft, pale patches."""
    generator = np.random.default_rng(seed)
    small = generator.integers(120, 190, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC)


def thing(seed: int, radius: int) -> tuple[Image.Image, Image.Image]:
    """A round thing of one strong colour with a ring, and its mask."""
    random_ = random.Random(seed)
    side = 2 * radius + 1
    strong = random_.choice([(200, 30, 30), (30, 60, 200), (20, 130, 40), (40, 30, 30)])
    picture, mask = Image.new("RGB", (side, side), strong), Image.new("L", (side, side))
    draw = ImageDraw.Draw(picture)
    inner = radius // 2
    draw.ellipse([inner, inner, side - inner, side - inner], outline=tuple(value // 2 for value in strong), width=3)
    ImageDraw.Draw(mask).ellipse([0, 0, side - 1, side - 1], fill=255)
    return picture, mask


def clip(kind: str, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames (H, W, 3) and the visible part of the object on each (H, W)."""
    random_ = random.Random(f"{kind}{seed}")
    height, width = SIZE
    radius = random_.randint(26, 34)
    picture, mask = thing(seed, radius)
    middle = sum(EVENT) / len(EVENT) / (FRAMES - 1)
    bar = 2 * radius + 4  # hides the whole of it for a moment
    left = round(50 + (width - 100) * middle) - bar // 2
    frames, truths = [], []
    for at in range(FRAMES):
        share = at / (FRAMES - 1)
        x = 50 + (width - 100) * share
        y = height / 2 + 12 * math.sin(3 * share + seed)
        frame, seen = backdrop(seed).copy(), Image.new("L", (width, height))
        corner = (round(x) - radius, round(y) - radius)
        if kind == "double":  # the double comes the other way, passes behind, and goes on
            other = (round(50 + (width - 100) * (2 * middle - share)) - radius, round(y) - radius + radius)
            frame.paste(picture, other, mask)
        frame.paste(picture, corner, mask)
        seen.paste(255, corner, mask)
        if kind == "occlusion":
            frame.paste((90, 85, 80), (left, 0, left + bar, height))
            seen.paste(0, (left, 0, left + bar, height))
        frames.append(np.array(frame))
        truths.append(np.array(seen) > 127)
    return frames, truths


def ways(model_name: str) -> dict[str, VideoPredictor]:
    """A predictor per way of tracking, all with the same weights, and three masks to choose from."""
    options = {"multimask": {"while_tracking": True}}
    frames = registry.spec(model_name).memory_policy.get("frames", 6)
    plain = registry.build(model_name)
    three = registry.build(model_name, **options)
    motion = registry.build(model_name, memory_policy={"type": "tracking.motion", "frames": frames}, **options)
    single = registry.build(model_name, memory_policy={"type": "tracking.motion", "frames": frames})
    distractor = {"type": "tracking.distractor", "slots": frames + 1, "prompted": 2, "stride": 2}
    return {
        "as it comes": VideoPredictor(plain),
        "best of three": VideoPredictor(three),
        "motion": VideoPredictor(motion),
        "motion, one mask": VideoPredictor(single),
        "distractor": VideoPredictor(registry.build(model_name, memory_policy=distractor, **options)),
        "beam": BeamPredictor(three, policy=BeamMemory(frames=frames)),
    }


@torch.inference_mode()
def follow(predictor: VideoPredictor, frames: list[np.ndarray], truth: np.ndarray) -> list[np.ndarray]:
    session = predictor.open(frames)
    session.prompt(0, 1, mask=truth)
    return [result.masks[1].cpu().numpy() for result in session.propagate()]


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    union = (found | truth).sum()
    return 1.0 if not union else float((found & truth).sum() / union)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sam2core_nano")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    scores: dict[str, dict[str, list[list[float]]]] = {kind: {} for kind in KINDS}
    rows = []
    for kind in KINDS:
        for seed in range(given.seeds):
            frames, truths = clip(kind, seed)
            for name, predictor in ways(given.model).items():
                masks = follow(predictor, frames, truths[0])
                scores[kind].setdefault(name, []).append([overlap(a, b) for a, b in zip(masks, truths)])
                print(kind, seed, name, f"{np.mean(scores[kind][name][-1][EVENT.stop :]):.3f}", flush=True)
                if seed == 0:
                    rows.append((f"{kind}, {name}", frames, masks))
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / "look_alikes.json").write_text(json.dumps({"model": given.model, "iou": scores}, indent=1))
    (folder / "look_alikes.md").write_text(table(given.model, scores))
    sheet(rows).save(folder / "look_alikes.jpg", quality=80)
    print(table(given.model, scores))


def table(model: str, scores: dict) -> str:
    lines = [
        f"`{model}`, first frame's mask given, {len(next(iter(scores['double'].values())))} rendered videos a kind. "
        "IoU with the truth over the frames after the event; in brackets, videos lost at the end.",
        "",
        "| | " + " | ".join(KINDS) + " |",
        "|---|" + "---|" * len(KINDS),
    ]
    for name in scores[KINDS[0]]:
        cells = []
        for kind in KINDS:
            clips = scores[kind][name]
            lost = sum(np.mean(clip_[-4:]) < 0.3 for clip_ in clips)
            cells.append(f"{np.mean([clip_[EVENT.stop :] for clip_ in clips]):.3f} ({lost} of {len(clips)})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sheet(rows: list) -> Image.Image:
    """A strip of frames for each way on the first video, the answer in red."""
    at = (0, 8, 14, 18, 22, 28, 35)
    height, width = SIZE[0] // 2, SIZE[1] // 2
    out = Image.new("RGB", (130 + width * len(at), height * len(rows)), "white")
    draw = ImageDraw.Draw(out)
    for row, (name, frames, masks) in enumerate(rows):
        draw.text((4, row * height + height // 2), name.replace(", ", "\n"), fill="black")
        for column, frame in enumerate(at):
            shown = frames[frame].copy()
            shown[masks[frame]] = (shown[masks[frame]] // 2 + np.array([127, 0, 0])).astype(np.uint8)
            out.paste(Image.fromarray(shown).resize((width, height)), (130 + column * width, row * height))
    return out


if __name__ == "__main__":
    main()
