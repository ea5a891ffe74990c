"""The image of docs/finetuning.md: `python docs/nuclei_picture.py NUCLEI WEIGHTS` with the folder of images and the
fine-tuned weights. Written to `docs/images/finetuning.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import registry
from sam2core.evaluation.clicks import first_click, folder_samples
from sam2core.media.render import overlay

SIDE, SHOWN, HELD_OUT = 240, 6, 40
SMALLEST = 0.001  # share of the image; what is smaller would not be seen at this size
LEAST = 3  # objects that an image must have to be shown


def main() -> None:
    nuclei, weights = sys.argv[1:3]
    held_out = folder_samples(nuclei, last=HELD_OUT, background=False, smallest=SMALLEST)
    samples = [sample for sample in held_out if len(sample.masks) >= LEAST]
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
            shown = Image.fromarray(overlay(image, masks, points=clicks))
            square = ImageOps.fit(shown, (SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(square, (column * SIDE, row * SIDE))
    sheet.save(Path(__file__).parent / "images" / "finetuning.png", optimize=True)


if __name__ == "__main__":
    main()
