"""Images for the tutorial, and where their objects are: `python docs/tutorial_images.py OUT [COUNT]`.

Drawn leaves on gravel, seeded: OUT/0.png and so on, and OUT.json with a box (x0, y0, x1, y1) around each leaf.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE, LEAVES = (384, 288), 3
GREENS = ((74, 120, 52), (122, 134, 48), (176, 122, 40), (150, 70, 36))


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    folder.mkdir(parents=True)
    boxes = {}
    for number in range(count):
        image, leaves = draw(np.random.default_rng(number))
        image.save(folder / f"{number}.png")
        boxes[f"{number}.png"] = leaves
    folder.with_suffix(".json").write_text(json.dumps(boxes, indent=1), encoding="utf-8")


def draw(random: np.random.Generator) -> tuple[Image.Image, list[list[int]]]:
    """An image, and the boxes of the leaves in it; leaves lie in columns, so that they do not overlap."""
    width, height = SIZE
    stones = random.normal(128, 34, (height // 6, width // 6))
    ground = Image.fromarray(np.clip(stones, 0, 255).astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    image = Image.merge("RGB", [ground.point(lambda value, part=part: value * part) for part in (0.95, 0.9, 0.82)])
    column, boxes = width // LEAVES, []
    for place in range(LEAVES):
        side = int(random.integers(84, 116))
        leaf = _leaf(side, GREENS[random.integers(len(GREENS))]).rotate(
            random.uniform(0, 360), Image.Resampling.BICUBIC
        )
        x = place * column + int(random.integers(0, column - side + 1))
        y = int(random.integers(0, height - side))
        image.paste(leaf, (x, y), leaf)
        x0, y0, x1, y1 = leaf.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox() or (0, 0, side, side)
        boxes.append([x + x0, y + y0, x + x1, y + y1])
    noise = random.normal(0, 5, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)), boxes


def _leaf(side: int, colour: tuple[int, int, int]) -> Image.Image:
    """A pointed leaf with its veins, transparent around."""
    along = np.linspace(0, np.pi, 40)
    half = np.sin(along) ** 1.4 * side * 0.22
    x = np.linspace(0.04, 0.96, 40) * side
    outline = [*zip(x, side / 2 - half), *zip(x[::-1], side / 2 + half[::-1])]
    leaf = Image.new("RGBA", (side, side), (*colour, 0))
    pen = ImageDraw.Draw(leaf)
    pen.polygon([tuple(map(float, point)) for point in outline], fill=(*colour, 255))
    vein = tuple(min(255, value + 38) for value in colour)
    pen.line((x[0], side / 2, x[-1], side / 2), fill=(*vein, 255), width=3)
    for at in range(8, 32, 6):
        for sign in (-1, 1):
            pen.line((x[at], side / 2, x[at + 5], side / 2 + sign * half[at + 5] * 0.8), fill=(*vein, 255), width=1)
    return leaf.filter(ImageFilter.GaussianBlur(0.6))


if __name__ == "__main__":
    main()
