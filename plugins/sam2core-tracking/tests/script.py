"""What a decoder might answer along a video, made from a seed: three masks a frame, their scores, and object score."""

from __future__ import annotations

import math
import random

import torch

SIDE = 128  # of the image; masks are a quarter of it
FRAMES = 70


def script(seed: int) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    """Per frame: mask logits (3, 32, 32), predicted IoUs (3,), object score.

    Three blobs wander, sizes breathe, the scores of which is best change in bouts, an object may vanish for a while.
    """
    random_ = random.Random(seed)
    side = SIDE // 4
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = [[random_.uniform(8, 24), random_.uniform(8, 24), random_.uniform(3, 7)] for _ in range(3)]
    speeds = [[random_.gauss(0, 0.5), random_.gauss(0, 0.5)] for _ in range(3)]
    mood, absent, frames = 0.8, 0, []
    for _ in range(FRAMES):
        if random_.random() < 0.08:
            mood = random_.choice([0.15, 0.45, 0.55, 0.8, 0.8, 0.9])
        if random_.random() < 0.04:
            absent = random_.randint(1, 9)
        masks, ious = [], []
        for blob in range(3):
            for axis in (0, 1):
                speeds[blob][axis] += random_.gauss(0, 0.15)
                places[blob][axis] += speeds[blob][axis]
                if not 4 < places[blob][axis] < side - 4:
                    speeds[blob][axis] *= -1
                    places[blob][axis] = min(max(places[blob][axis], 4), side - 4)
            y, x, radius = places[blob]
            radius = max(1.5, radius + random_.gauss(0, 0.4))
            distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
            masks.append((radius - distance) * 2 if random_.random() > 0.03 else torch.full((side, side), -9.0))
            ious.append(min(max(mood + random_.gauss(0, 0.08), 0.01), 0.99))
        frames.append((torch.stack(masks).float(), torch.tensor(ious), -3.0 if absent else 3.0 + math.sin(y)))
        absent = max(absent - 1, 0)
    return frames
