"""The images of what the embedded model does: `python docs/nano_pictures.py IMAGES` with the folder that holds the
photos `truck.jpg`, `groceries.jpg` and `cars.jpg` of the SAM 2 repository. They are written to `docs/images`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import registry
from sam2core.media.render import overlay
from sam2core.predictors.crops import Crop

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "registry" / "samples"
TILE, GAP = (240, 160), 4
# a photo, and what is said about one thing in it; points and boxes in pixels, chosen by hand
WORKS: list[tuple[str, dict[str, Any]]] = [
    ("truck", {"points": [(900, 960)]}),
    ("groceries", {"points": [(490, 240)]}),
    ("coffee", {"points": [(300, 160)]}),
    ("cat", {"points": [(316, 141)]}),
    ("cars", {"points": [(1894, 600)]}),
    ("cars", {"points": [(1500, 300)]}),
    ("groceries", {"points": [(400, 294)]}),
    ("cat", {"points": [(172, 128)]}),
]
FAILS: list[tuple[str, dict[str, Any]]] = [
    ("truck", {"points": [(997, 555)]}),
    ("cars", {"box": (262, 515, 1312, 1088)}),
    ("truck", {"box": (172, 292, 1755, 870)}),
    ("groceries", {"points": [(440, 294), (560, 260)], "labels": [1, 0]}),
    ("cat", {"box": (24, 4, 408, 297)}),
    ("cat", {"points": [(199, 58), (148, 229)]}),
    ("coffee", {"box": (82, 20, 480, 395)}),
    ("truck", {"points": [(555, 787)]}),
]
CLIP, CLICK, FRAMES = "chair.mp4", (85, 90), 6
SMALL, CROP = (199, 47), (120, 0, 320, 180)  # the chair's reflection, and what is looked at to follow it


def sheet(tiles: list[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size in rows, on white."""
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    whole = Image.new("RGB", (columns * (width + GAP), rows * (height + GAP)), "white")
    for number, tile in enumerate(tiles):
        whole.paste(tile, (number % columns * (width + GAP), number // columns * (height + GAP)))
    return whole


def tile(picture: Image.Image, mask: np.ndarray, said: dict[str, Any], size: tuple[int, int]) -> Image.Image:
    """The image with a mask and its prompt, cut and scaled to a size."""
    boxes = [said["box"]] if "box" in said else []
    shown = overlay(
        np.asarray(picture.convert("RGB")),
        [mask],
        opacity=0.7,
        points=said.get("points", []),
        labels=said.get("labels"),
        boxes=boxes,
    )
    return ImageOps.fit(Image.fromarray(shown), size, Image.Resampling.LANCZOS)


def main() -> None:
    predictor = registry.predictor("sam2core_nano")
    handles: dict[str, tuple[Image.Image, Any]] = {}
    for target, prompts in (("nano_works", WORKS), ("nano_fails", FAILS)):
        tiles = []
        for name, said in prompts:
            if name not in handles:
                own = SAMPLES / f"{name}.jpg"
                picture = Image.open(own if own.exists() else Path(sys.argv[1]) / f"{name}.jpg")
                handles[name] = picture, predictor.encode(picture)
            picture, handle = handles[name]
            tiles.append(tile(picture, handle.predict(**said).masks[0, 0].numpy(), said, TILE))
        sheet(tiles, 4).save(ROOT / "docs" / "images" / f"{target}.jpg", quality=88)

    sheet(followed(CLICK, None, None), FRAMES).save(ROOT / "docs" / "images" / "nano_tracks.jpg", quality=88)
    sheet([*followed(SMALL, None, CROP), *followed(SMALL, CROP, CROP)], FRAMES).save(
        ROOT / "docs" / "images" / "video_crop.jpg", quality=88
    )


def followed(click: tuple[int, int], crop: Crop | None, shown: Crop | None) -> list[Image.Image]:
    """Frames of the video with the mask that follows from a click on the first, where the model looks at a `crop`."""
    session = registry.predictor("sam2core_nano", "video").open(SAMPLES / CLIP, crop=crop)
    session.prompt(0, 1, points=[click])
    found = {result.frame: np.asarray(result.masks[1]) for result in session.propagate()}
    height, width = session.size
    x0, y0, x1, y1 = shown or (0, 0, width, height)
    tiles = []
    for frame in np.linspace(0, len(found) - 1, FRAMES).astype(int).tolist():
        picture = Image.fromarray(session.source[frame][y0:y1, x0:x1])
        said = {} if frame else {"points": [(click[0] - x0, click[1] - y0)]}
        tiles.append(tile(picture, found[frame][y0:y1, x0:x1], said, (230, 153)))
    return tiles


if __name__ == "__main__":
    main()
