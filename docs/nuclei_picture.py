"""The picture of docs/finetuning.md: `python docs/nuclei_picture.py NUCLEI WEIGHTS` with the folder of pictures and the
fine-tuned weights. Written to `docs/images/finetuning.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import registry
from sam2core.evaluation.clicks import first_click, folder_samples
from sam2core.predictors.render import overlay, palette

SIDE, SHOWN, HELD_OUT = 240, 6, 40
LEAST = 3  # objects that a picture must have to be shown


def drawn(image: np.ndarray, masks: list[np.ndarray], clicks: list[tuple[float, float]]) -> Image.Image:
    """The middle square of a picture with masks and clicks."""
    height, width = image.shape[:2]
    edge = min(height, width)
    left, top = (width - edge) // 2, (height - edge) // 2
    picture = Image.fromarray(overlay(image, masks, colors=palette(len(masks))))
    picture = picture.crop((left, top, left + edge, top + edge)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for x, y in clicks:
        x, y = (x - left) * SIDE / edge, (y - top) * SIDE / edge
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill="white")
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(0, 170, 0))
    return picture


def main() -> None:
    nuclei, weights = sys.argv[1:3]
    samples = [
        sample for sample in folder_samples(nuclei, last=HELD_OUT, background=False) if len(sample.masks) >= LEAST
    ]
    chosen = [samples[number] for number in np.linspace(0, len(samples) - 1, SHOWN).astype(int)]
    predictors = [registry.predictor("sam2core_nano"), registry.predictor(weights)]
    sheet = Image.new("RGB", (SHOWN * SIDE, 3 * SIDE))
    for column, sample in enumerate(chosen):
        image = np.asarray(sample.image)
        clicks = [(float(click.x), float(click.y)) for click in map(first_click, sample.masks)]
        rows = [list(sample.masks)]
        for predictor in predictors:
            handle = predictor.encode(image)
            rows.append([handle.predict(points=[click]).masks[0, 0].numpy() for click in clicks])
        for row, masks in enumerate(rows):
            sheet.paste(drawn(image, masks, clicks), (column * SIDE, row * SIDE))
    sheet.save(Path(__file__).parent / "images" / "finetuning.png", optimize=True)


if __name__ == "__main__":
    main()
