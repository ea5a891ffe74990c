"""The moving image of README: `python docs/readme_video.py 04_coffee.mp4`, with that demonstration video of the SAM 2
repository (Apache-2.0). One click on a cup, followed by the embedded model; written to `docs/images/nano_cup.webp`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sam2core import registry
from sam2core.media.render import overlay

TARGET = Path(__file__).parent / "images" / "nano_cup.webp"
CLICK = (868, 512)  # on the cup, in the first frame's pixels
FRAMES, STRIDE, RATE = 120, 4, 6  # the part of the video that is shown, and at how many frames a second
SIZE = (480, 270)
ORANGE = np.array([[255, 96, 0]], np.uint8)


def main() -> None:
    session = registry.predictor("sam2core_nano", "video").open(Path(sys.argv[1]), stop=FRAMES, stride=STRIDE)
    session.prompt(0, "cup", points=[CLICK])
    shown = []
    for result in session.propagate():
        said = {} if shown else {"points": [CLICK], "labels": [1]}
        frame = overlay(
            session.source[result.frame], [np.asarray(result.masks["cup"])], colors=ORANGE, opacity=0.6, **said
        )
        shown.append(Image.fromarray(frame).resize(SIZE, Image.Resampling.LANCZOS))
    first, *others = shown
    first.save(TARGET, save_all=True, append_images=others, duration=1000 // RATE, loop=0, quality=45, method=6)


if __name__ == "__main__":
    main()
