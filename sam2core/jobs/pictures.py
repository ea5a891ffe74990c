"""The same done to many pictures: which files, under which names, what is done already; and what is written of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sam2core.jobs.folder import KEEP, Origin, TakenError, began_as, check_own, held
from sam2core.older import renamed
from sam2core.storage import DiskError, FileError, disk_errors, finish, read_json, relative_name

if TYPE_CHECKING:
    import numpy as np

    from sam2core.jobs.interrupt import InterruptGuard
    from sam2core.predictors.automask import AutoMask, MaskGenerator

RASTERS = (".btf", ".npy")
"""What can be looked at in tiles beside what every verb takes for a picture."""
DRAWN_PIXELS = 100_000_000  # larger pictures are not drawn on, nor held as an id map
AUTOMASK = "sam2core.automask.1"
SEGMENT = "sam2core.segment.1"
"""What the first key of a document says."""
DRAWN = (".automask.overlay.png", ".automask.ids.png")
"""What a picture's name is followed by in the names of the pictures that automatic masks are drawn into."""
DOCUMENT = ".automask.json"
_EARLIER = (".overlay.png", ".ids.png")  # what earlier versions wrote beside NAME.json

Progress = Callable[[int, "int | None"], None]


def listed(place: Path) -> list[tuple[Path, str]]:
    """The pictures of a folder, or the one, with the name of each one's results; no two have the same.

    What an earlier run drew is left out. Raises ValueError for none.
    """
    if place.is_file():
        return [(place, place.stem)]
    from sam2core.media import listing

    kinds = (*listing.SUFFIXES, *RASTERS)
    files = [file for file in listing.listed(place, kinds) if not _is_drawn(file)]
    if not files:
        raise ValueError(f"{place} holds no picture ({', '.join(kinds)})")
    # some file systems do not tell a.json from A.json
    names = {file.name.casefold() for file in files}
    stems = Counter(file.stem.casefold() for file in files)
    return [(file, file.stem if _alone(file, stems, names) else file.name) for file in files]


def _alone(file: Path, stems: Mapping[str, int], names: set[str]) -> bool:
    stem = file.stem.casefold()
    return stems[stem] == 1 and stem not in names


def _is_drawn(file: Path) -> bool:
    """Whether a picture is an overlay or an id map of an earlier run, which may have been stopped."""
    for ends, document in ((DRAWN, DOCUMENT), (_EARLIER, ".json")):
        names = [file.name.removesuffix(end) for end in ends if file.name.endswith(end)]
        if any(began_as(file.with_name(name + document + part), AUTOMASK) for name in names for part in ("", ".part")):
            return True
    return False


@dataclass
class Done:
    """What became of the pictures: those that have results, and those that could not be read, in order."""

    pictures: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """The path of each that could not be read -> why."""


class AutomaskPictures:
    """Finds the masks of every picture that has none yet; a picture that cannot be read does not stop the others.

    Args:
        pictures: files with the names of their results, as `listed` gives them.
        output: where to write to.
        generator: finds masks.
        settings: what decides the masks; results made with anything else are made again.
        tile, overlap: of `MaskGenerator.tiles`; without a tile, pictures are looked at as a whole.
        frame: which picture of files that hold several; None: the first.
        force: do again what is done, and replace what is of other pictures.
        say: told a line for people, now and then.

    Raises ValueError when results would replace a document of another kind, or one of the pictures.
    """

    def __init__(
        self,
        pictures: Sequence[tuple[Path, str]],
        output: Path,
        generator: MaskGenerator,
        settings: Mapping[str, Any],
        *,
        tile: int | None,
        overlap: int | None,
        frame: int | None,
        force: bool,
        say: Callable[[str], None],
    ) -> None:
        self.pictures, self.output, self.generator = pictures, output, generator
        self.settings = json.loads(json.dumps(settings))
        self.tile, self.overlap, self.frame, self.force, self.say = tile, overlap, frame, force, say

    def run(self, guard: InterruptGuard, progress: Callable[[str], Progress]) -> Done:
        """Go through the pictures; `progress(label)` gives what is told how far a picture is.

        Raises DiskError when results cannot be written, Interrupted when the guard is asked to stop.
        """
        done = Done()
        many = len(self.pictures) > 1
        with disk_errors(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
        for number, (file, stem) in enumerate(self.pictures, 1):
            path = self.output / f"{stem}{DOCUMENT}"
            label = f"{number}/{len(self.pictures)} {file.name}" if many else file.name
            try:
                count = self._one(file, path, progress(label))
            except DiskError:
                raise
            except (ValueError, OSError) as error:
                if not many:
                    raise
                done.failed[str(file)] = str(error)
            else:
                done.pictures.append({"path": str(file), "document": str(path), "masks": count})
            guard.check()
        return done

    def _one(self, file: Path, path: Path, progress: Progress) -> int:
        """Find the masks of one picture and write its files, unless that is done; how many masks there are."""
        origin = Origin.of(file)
        earlier = held(path, origin, force=self.force)
        if earlier is not None and not self.force and self._is_same(earlier, origin):
            self.say(f"{path} is there already (--force makes it again)")
            return len(earlier["masks"])
        picture, found = self._find(file, progress)
        with disk_errors(self.output):
            self._write(picture, found, origin, path)
        return len(found)

    def _is_same(self, earlier: Mapping[str, Any], origin: Origin) -> bool:
        return earlier["image"].get("sha256") == origin.sha256 and renamed(earlier.get("settings")) == self.settings

    def _find(self, file: Path, progress: Progress) -> tuple[Any, list[AutoMask]]:
        from sam2core.media.rasters import open_raster

        if self.tile:
            picture: Any = open_raster(file, frame=self.frame or 0)
            masks = self.generator.tiles(picture, tile=self.tile, overlap=self.overlap, progress=progress)
            found = list(masks)
            height, width = picture.shape[:2]
            return (picture[:, :] if height * width <= DRAWN_PIXELS else picture), found
        picture = read_picture(file, self.frame, self.say)
        return picture, self.generator.generate(picture, progress=progress)

    def _write(self, picture: Any, found: Sequence[AutoMask], origin: Origin, path: Path) -> None:
        """Write a picture's files; the document has its name last."""
        from sam2core import __version__
        from sam2core.media.render import write_png

        height, width = (int(side) for side in picture.shape[:2])
        document = {
            "format": AUTOMASK,
            "sam2core": __version__,
            "settings": self.settings,
            "image": {"path": origin.path, "sha256": origin.sha256, "width": width, "height": height},
            "masks": [describe_automask(mask, number) for number, mask in enumerate(found, 1)],
        }
        drawings = _drawings(path)
        with _document(path, json.dumps(document)):
            if height * width > DRAWN_PIXELS:
                self.say(f"{origin.path} is too large to be drawn on: {path.name} has the masks")
                for drawing in drawings:
                    drawing.unlink(missing_ok=True)
            else:
                for drawing, pixels in zip(drawings, _draw(picture, found)):
                    write_png(drawing, pixels)


def _drawings(path: Path) -> list[Path]:
    """Where the masks of a document are drawn."""
    return [path.with_name(path.name.removesuffix(DOCUMENT) + end) for end in DRAWN]


def _unfinished(path: Path) -> Path:
    """What a document is called until the files it speaks of are there: it tells whose they are, from the first on."""
    return path.with_name(path.name + ".part")


def check_targets(pictures: Sequence[tuple[Path, str]], output: Path) -> None:
    """Raise TakenError when automatic masks would replace a file of somebody else, or one of the pictures."""
    sources = {file.resolve() for file, _ in pictures}
    for file, stem in pictures:
        path = output / f"{stem}{DOCUMENT}"
        for drawn in _drawings(path):
            if drawn.resolve() in sources:
                raise TakenError(f"what is drawn of {file} would replace the picture {drawn}: {KEEP}")
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


def read_picture(
    source: Path | BinaryIO, frame: int | None, say: Callable[[str], None], *, name: str | None = None
) -> np.ndarray:
    """The pixels of a picture file, turned the way viewers show it.

    Without a `frame` the first is read, and `say` is told when the file holds more pictures. Raises ValueError that
    names the file: there is none, or no such picture in it.
    """
    from sam2core.media.files import PictureFile
    from sam2core.media.images import file_pixels
    from sam2core.media.rasters import open_raster

    if isinstance(source, Path) and source.suffix.lower() in RASTERS:
        return open_raster(source, frame=frame or 0)[:, :]
    with PictureFile(source, name=name) as file:
        if frame is None and file.count > 1:
            say(f"{file.name} holds {file.count} pictures, and the first is taken; --frame N takes another")
        return file_pixels(file, frame or 0)


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
        # one at a time: a picture can have hundreds of masks
        backdrop = overlay(backdrop, [inside], colors=colors[index : index + 1])
    return backdrop, ids


@contextmanager
def _document(path: Path, text: str) -> Iterator[None]:
    """Write the files that a document speaks of in the block; it has its name when they are there."""
    unfinished = _unfinished(path)
    unfinished.write_text(text + "\n", encoding="utf-8")
    yield
    finish(unfinished, path)


# --------------------------------------------------------------------------------------------- what was pointed at


class SegmentOutput:
    """The files of a photograph in which something was pointed at: NAME.json, and what it names.

    Raises TakenError when they would replace those of another picture, unless forced, or somebody else's.
    """

    def __init__(self, folder: Path, stem: str, origin: Origin, *, force: bool) -> None:
        self.folder, self.stem, self.origin = folder, stem, origin
        self.path = folder / f"{stem}.json"
        documents = [each for each in (self.path, _unfinished(self.path)) if _is_segments(each)]
        check_own([self.path], documents, "segment")
        held(self.path, origin, force=force)
        self.earlier = {folder / name for each in documents for name in _named(each) if name.startswith(f"{stem}.")}

    def write(self, document: dict[str, Any], masks: np.ndarray, picture: np.ndarray) -> list[Path]:
        """Write the masks (B, M, H, W) bool, the overlay and the document, whose facts get the names; the paths."""
        import numpy as np

        from sam2core.media.images import as_bytes
        from sam2core.media.render import overlay, write_png

        files = [self.folder / f"{self.stem}.mask{number}.png" for number in range(len(document["masks"]))]
        drawing = self.folder / f"{self.stem}.overlay.png"
        check_own([*files, drawing], self.earlier, "segment")
        for path, facts in zip(files, document["masks"]):
            facts["file"] = path.name
        document["overlay"] = drawing.name
        prompt = document["prompt"]
        backdrop = as_bytes(picture)
        panels = [
            overlay(backdrop, masks[:, rank], points=prompt["points"], labels=prompt["labels"], boxes=prompt["boxes"])
            for rank in range(masks.shape[1])
        ]
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _document(self.path, json.dumps({"format": SEGMENT, **document}, indent=1)):
                for path, mask in zip(files, masks.reshape(-1, *masks.shape[2:])):
                    write_png(path, mask.astype(np.uint8) * 255)
                write_png(drawing, np.concatenate(panels, axis=1))
                for path in self.earlier - {*files, drawing}:
                    path.unlink(missing_ok=True)
        return [*files, drawing, self.path]


def _is_segments(path: Path) -> bool:
    """Whether a file is a document of `segment`, of this version or an earlier one."""
    if began_as(path, SEGMENT):
        return True
    try:
        document = read_json(path)
    except FileError:
        return False
    return isinstance(document, dict) and {"sam2core", "model", "prompt", "masks"} <= document.keys()


def _named(path: Path) -> list[str]:
    """The files that a document of `segment` names, beside it."""
    document = read_json(path)
    names = [document.get("overlay"), *(mask.get("file") for mask in document["masks"] if isinstance(mask, dict))]
    return [relative_name(name, str(path)) for name in names if name is not None]


def describe_masks(masks: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """Say per mask what a program wants to know; masks (B, M, H, W) bool, scores (B, M)."""
    from sam2core.ops import rle
    from sam2core.ops.polygons import extent

    found = []
    for number, (candidates, estimates) in enumerate(zip(masks, scores)):
        for rank, (mask, estimate) in enumerate(zip(candidates, estimates)):
            x0, y0, x1, y1 = extent(mask)
            found.append(
                {
                    "object": number,
                    "rank": rank,
                    "iou": round(float(estimate), 4),
                    "area": int(mask.sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": rle.encode(mask),
                }
            )
    return found
