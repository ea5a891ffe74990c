"""Automatic masks of many images: what is found, what is done already, and what is written of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.jobs.folder import AUTOMASK, DOCUMENT, DRAWN, KEEP, Origin, TakenError, began_as, check_own, held
from sam2core.jobs.manifest import build_settings
from sam2core.jobs.pictures import Made, Picture, attempt, document, is_same, read_picture
from sam2core.storage import disk_errors

if TYPE_CHECKING:
    import numpy as np

    from sam2core.predictors.automask import AutoMask, MaskGenerator

DRAWN_PIXELS = 100_000_000
"""Larger images are not drawn on, nor held as an id map."""

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class AutomaskWork:
    """Finds the masks of images that have none yet: called with a worker's number, it returns what does an image.

    make            builds a worker's generator; picklable, as all of this is
    output          where to write to
    settings        what decides the masks beside the model; results made with anything else are made again
    tile, overlap   of `MaskGenerator.tiles`; without a tile, images are looked at as a whole
    frame           which image of files that hold several; None: the first
    force           do again what is done, and replace what is of other images
    progress        given an image, gives what is told how far it is; for one worker, in this process
    """

    make: Callable[[int], MaskGenerator]
    output: Path
    settings: Mapping[str, Any]
    tile: int | None = None
    overlap: int | None = None
    frame: int | None = None
    force: bool = False
    kinds: Sequence[str] = ("overlay", "ids")
    """What is drawn."""
    progress: Callable[[Picture], Progress] | None = None

    def __call__(self, number: int) -> Callable[[Picture], Made]:
        with disk_errors(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
        finder = _Finder(self, self.make(number))
        return lambda picture: attempt(picture, finder.do)


class _Finder:
    """A worker's generator, and what it does with an image."""

    def __init__(self, work: AutomaskWork, generator: MaskGenerator) -> None:
        self.work, self.generator = work, generator
        settings = {**build_settings(generator.model), **work.settings}
        self.settings = json.loads(json.dumps(settings))

    def do(self, picture: Picture, made: Made) -> None:
        """Find the masks of an image and write its files, unless that is done."""
        path = self.work.output / f"{picture.name}{DOCUMENT}"
        made.document = str(path)
        origin = Origin.of(picture.path)
        earlier = held(path, origin, force=self.work.force)
        if earlier is not None and not self.work.force and is_same(earlier, origin, self.settings):
            made.notes.append(f"{path} is there already (--force makes it again)")
            made.masks = len(earlier["masks"])
            return
        pixels, found = self._find(picture, made)
        with disk_errors(self.work.output):
            self._write(pixels, found, origin, path, made)
        made.masks = len(found)

    def _find(self, picture: Picture, made: Made) -> tuple[Any, list[AutoMask]]:
        from sam2core.media.rasters import open_raster

        work = self.work
        progress = None if work.progress is None else work.progress(picture)
        if work.tile:
            raster: Any = open_raster(picture.path, frame=work.frame or 0)
            masks = self.generator.tiles(raster, tile=work.tile, overlap=work.overlap, progress=progress)
            found = list(masks)
            height, width = raster.shape[:2]
            return (raster[:, :] if height * width <= DRAWN_PIXELS else raster), found
        pixels = read_picture(picture.path, work.frame, made.notes.append)
        return pixels, self.generator.generate(pixels, progress=progress)

    def _write(self, picture: Any, found: Sequence[AutoMask], origin: Origin, path: Path, made: Made) -> None:
        """Write an image's files; the document has its name last."""
        from sam2core import __version__
        from sam2core.media.render import write_png

        height, width = (int(side) for side in picture.shape[:2])
        facts = {
            "format": AUTOMASK,
            "sam2core": __version__,
            "settings": self.settings,
            "image": {"path": origin.path, "sha256": origin.sha256, "width": width, "height": height},
            "masks": [describe_automask(mask, number) for number, mask in enumerate(found, 1)],
        }
        drawings = _drawings(path)
        wanted = [drawing.name.split(".")[-2] in self.work.kinds for drawing in drawings]
        with document(path, json.dumps(facts)):
            if height * width > DRAWN_PIXELS:
                made.notes.append(f"{origin.path} is too large to be drawn on: {path.name} has the masks")
                for drawing in drawings:
                    drawing.unlink(missing_ok=True)
            else:
                for drawing, pixels, keep in zip(drawings, _draw(picture, found), wanted):
                    if keep:
                        write_png(drawing, pixels)
                    else:
                        drawing.unlink(missing_ok=True)


def _drawings(path: Path) -> list[Path]:
    """Where the masks of a document are drawn."""
    return [path.with_name(path.name.removesuffix(DOCUMENT) + end) for end in DRAWN]


def check_targets(pictures: Sequence[Picture], output: Path) -> None:
    """Raise TakenError when automatic masks would replace a file of somebody else, or one of the images."""
    sources = {picture.path.resolve() for picture in pictures}
    for file, name, _ in pictures:
        path = output / f"{name}{DOCUMENT}"
        for drawn in _drawings(path):
            if drawn.resolve() in sources:
                raise TakenError(f"what is drawn of {file} would replace the image {drawn}: {KEEP}")
        check_own([path], [path] if began_as(path, AUTOMASK) else [], "automask")


def describe_automask(mask: AutoMask, number: int) -> dict[str, Any]:
    """What a program wants to know of a mask that was found."""
    x0, y0, x1, y1 = mask.box
    return {
        "id": number,
        "iou": round(mask.iou, 4),
        "stability": round(mask.stability, 4),
        "area": mask.area,
        "bbox": [x0, y0, x1 + 1 - x0, y1 + 1 - y0] if mask.area else [0, 0, 0, 0],
        "point": list(mask.point),
        "crop": list(mask.crop),
        "segmentation": mask.coco,
    }


def _draw(picture: np.ndarray, found: Sequence[AutoMask]) -> tuple[np.ndarray, np.ndarray]:
    """The overlay and the id map; small masks lie above large ones."""
    import numpy as np

    from sam2core.media.images import as_bytes
    from sam2core.media.render import overlay, palette

    order = sorted(range(len(found)), key=lambda index: -found[index].area)
    backdrop = as_bytes(picture)
    ids = np.zeros(backdrop.shape[:2], dtype=np.uint16)
    colors = palette(len(found))
    for index in order:
        inside = found[index].mask
        ids[inside] = index + 1
        # one at a time: an image can have hundreds of masks
        backdrop = overlay(backdrop, [inside], colors=colors[index : index + 1])
    return backdrop, ids
