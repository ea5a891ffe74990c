"""`sam2core automask`: everything in a picture, in a folder of pictures, or followed through a video."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.options import DEFAULT_MODEL, build_arguments, model_options, pairs
from sam2core.cli.output import check_free, clear

if TYPE_CHECKING:
    import numpy as np

    from sam2core.model import Sam2
    from sam2core.predictors.automask import AutoMask, MaskGenerator

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".btf", ".npy")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")
DRAWN_PIXELS = 100_000_000  # larger pictures are not drawn on, nor held as an id map
FORMAT = "sam2core.automask.1"
"""What the first key of a document says."""
DRAWN = (".overlay.png", ".ids.png")
"""What a picture's name is followed by in the names of the pictures made of it."""
OPTIONS = {
    "points": "points_per_side",
    "iou": "iou_threshold",
    "stability": "stability_threshold",
    "nms": "nms_threshold",
    "crops": "crop_layers",
    "min_area": "min_region_area",
}
"""Words of the command line -> options of MaskGenerator; those not given are the model's own."""


@click.command()
@click.argument("source", metavar="IMAGE|FOLDER|VIDEO")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
              show_default=True, help="Folder to write to.")  # fmt: skip
@click.option("--points", type=click.IntRange(min=1), help="Clicks along each side of the grid.  [default: 32]")
@click.option("--iou", type=click.FloatRange(0, 1), help="The model's estimate must be above it.  [default: 0.8]")
@click.option("--stability", type=click.FloatRange(0, 1), help="Keep masks at least so stable.  [default: 0.95]")
@click.option("--nms", type=click.FloatRange(0, 1), help="Box IoU above which two masks are one.  [default: 0.7]")
@click.option("--crops", type=click.IntRange(min=0), help="Layers of crops to look at as well.  [default: 0]")
@click.option("--min-area", type=click.IntRange(min=0), help="Remove holes and islands of fewer pixels.  [default: 0]")
@click.option("--refine", is_flag=True, help="Give every mask back to the model once more.")
@click.option("--tile", type=click.IntRange(min=64), help="Look at tiles of N pixels: for pictures of any size.")
@click.option("--overlap", type=click.IntRange(min=0), help="Pixels that tiles share.  [default: an eighth]")
@click.option("--every", type=click.IntRange(min=1), default=30, show_default=True,
              help="In a video, look for new objects on every N-th frame.")  # fmt: skip
@click.option("--max-objects", type=click.IntRange(1, 255), default=64, show_default=True,
              help="In a video, follow so many at most.")  # fmt: skip
@click.option("--force", is_flag=True, help="Do again what is done already.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@model_options
def command(source: str, output: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Cut out everything: all masks of a picture, of a folder of pictures, or through a video.

    \b
    sam2core automask photo.jpg -o out/
    sam2core automask photographs/ -o out/ --points 16 --crops 1
    sam2core automask scan.tif -o out/ --tile 1024        any size: read and looked at in tiles
    sam2core automask clip.mp4 -o out/ --every 30         found, followed, and looked for again

    Per picture: NAME.overlay.png, NAME.ids.png (16 bits; a pixel's value is its mask's id, small
    masks above large ones, 0 where there is none), and NAME.json: per mask the model's own estimate
    of the IoU, stability, area, bbox (x, y, width, height), the click and the mask as COCO RLE.
    NAME.json comes last. What is whole and was made of the same picture, with the same weights and
    options, is not made again, so a folder that was interrupted goes on; --force starts over. A
    NAME.json that is not of this command is never replaced, one of another picture with --force alone.

    Of a video: overlay.mp4 (needs sam2core[video]), palette/FRAME.png with object numbers, and
    masks.jsonl, a line per frame.

    A trailing KEY=VALUE changes the model's spec, such as predictors.automask.nms_threshold=0.9.
    """
    changes = pairs(options["overrides"])
    place = Path(source)
    if not place.exists():
        raise OSError(f"{source}: no such file or folder")

    import registry
    from sam2core.cli.segment import fetch

    name = options["model"] or DEFAULT_MODEL
    if options["model"] is None and not quiet:
        click.echo(f"{name} is a small model for trying things out; an official one: --model sam2.1_hiera_l", err=True)
    if options["weights"] is None:
        fetch(registry.spec(name, *changes), quiet)
    also = {ours: options[word] for word, ours in OPTIONS.items() if options[word] is not None}
    if options["refine"]:
        also["refine"] = True
    if place.suffix.lower() in VIDEOS:
        summary = _follow(place, output, name, changes, also, options, quiet)
    else:
        pictures = list(_pictures(place))
        _check_own(output, pictures)
        if options["weights"] == "none":  # the same random ones in every run, so that an interrupted folder goes on
            import torch

            torch.manual_seed(0)
        generator = registry.predictor(name, "automask", *changes, **build_arguments(options), **also)
        settings = {**build_settings(generator.model, options), **also}
        summary = _each(pictures, output, generator, settings, options, quiet)
    lines = summary.pop("lines")
    click.echo(json.dumps(summary, indent=1) if as_json else "\n".join(lines))
    if summary["failed"]:
        raise click.exceptions.Exit(1)


def build_settings(model: Sam2, options: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the masks of a picture: results made with anything else are made again."""
    from sam2core.evaluation.vos import fingerprint

    words = ("dtype", "tile", "overlap")
    return {
        "spec": dataclasses.asdict(model.spec),
        "fingerprint": fingerprint(model),  # a name says nothing of a file that was replaced
        **{word: options[word] for word in words if options[word] is not None},
    }


def _pictures(place: Path) -> Iterator[tuple[Path, str]]:
    """The pictures of a folder, or the one, with the name of each one's results; no two have the same.

    What an earlier run drew is left out. Raises ValueError for none.
    """
    if place.is_file():
        yield place, place.stem
        return
    files = sorted(
        file for file in place.iterdir() if file.suffix.lower() in PICTURES and file.is_file() and not _is_drawn(file)
    )
    if not files:
        raise ValueError(f"{place} holds no picture ({', '.join(PICTURES)})")
    # some file systems do not tell a.json from A.json
    names = {file.name.casefold() for file in files}
    stems = Counter(file.stem.casefold() for file in files)
    for file in files:
        stem = file.stem.casefold()
        yield file, file.stem if stems[stem] == 1 and stem not in names else file.name


def _is_drawn(file: Path) -> bool:
    """Whether a picture is an overlay or an id map of an earlier run, which may have been stopped."""
    names = [file.name.removesuffix(end) for end in DRAWN if file.name.endswith(end)]
    return any(_is_own(file.with_name(f"{name}.json{part}")) for name in names for part in ("", ".part"))


def _is_own(path: Path) -> bool:
    """Whether a file is a document of this command."""
    begin = json.dumps({"format": FORMAT})[:-1].encode()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(begin)) == begin


def _check_own(output: Path, pictures: Sequence[tuple[Path, str]]) -> None:
    """Raise ValueError when results would replace a document of another kind, or one of the pictures."""
    sources = {file.resolve() for file, _ in pictures}
    for file, stem in pictures:
        path = output / f"{stem}.json"
        if path.exists() and not _is_own(path):
            raise ValueError(f"{path} is there, and automask did not write it: -o OTHER keeps it")
        for drawn in (output / f"{stem}{end}" for end in DRAWN):
            if drawn.resolve() in sources:
                raise ValueError(f"what is drawn of {file} would replace the picture {drawn}: -o OTHER keeps it")


def _each(
    pictures: Sequence[tuple[Path, str]],
    output: Path,
    generator: MaskGenerator,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Find the masks of every picture that has none yet; a picture that fails does not stop the others."""
    from sam2core.checkpoints.files import sha256

    output.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(settings))
    lines, failed, results = [], [], []
    for number, (file, stem) in enumerate(pictures, 1):
        path = output / f"{stem}.json"
        try:
            checksum = sha256(file)
            about = None if options["force"] else _earlier(path, file, settings, checksum)
            if about is None:
                label = file.name if len(pictures) == 1 else f"{number}/{len(pictures)} {file.name}"
                about = _one(file, checksum, path, generator, settings, options, _Bar(label, quiet))
            elif not quiet:
                click.echo(f"{path} is there already (--force makes it again)", err=True)
        except (ValueError, OSError) as error:
            if len(pictures) == 1:
                raise
            click.echo(f"{file}: {error}", err=True)
            failed.append(str(file))
            continue
        results.append({"path": str(file), "document": str(path), "masks": len(about["masks"])})
        lines.append(f"{path}  {len(about['masks'])} masks")
    if failed:
        click.echo(f"{len(failed)} of {len(pictures)} pictures could not be read", err=True)
    return {"pictures": results, "failed": failed, "lines": lines}


def _earlier(path: Path, file: Path, settings: Mapping[str, Any], checksum: str) -> dict[str, Any] | None:
    """What an earlier run found in the same picture with the same settings; None when there is nothing of the kind.

    A picture is the same by its content: its path changes when a folder is moved, its time when it is copied. Raises
    ValueError for the masks of another picture.
    """
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    about = document["image"]
    if about.get("sha256") == checksum:
        return document if document.get("settings") == settings else None
    if Path(about["path"]).resolve() != file.resolve():
        raise ValueError(f"{path} holds the masks of {about['path']}: --force replaces it, -o OTHER keeps it")
    return None


def _one(
    file: Path,
    checksum: str,
    path: Path,
    generator: MaskGenerator,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    bar: _Bar,
) -> dict[str, Any]:
    """Find the masks of one picture and write its files; the document has its name last."""
    from sam2core import __version__

    with bar:
        if options["tile"]:
            from sam2core.media.rasters import open_raster

            picture: Any = open_raster(file)
            found = list(generator.tiles(picture, tile=options["tile"], overlap=options["overlap"], progress=bar))
        else:
            picture = _read(file)
            found = generator.generate(picture, progress=bar)
    height, width = (int(side) for side in picture.shape[:2])
    document = {
        "format": FORMAT,
        "sam2core": __version__,
        "settings": settings,
        "image": {"path": str(file), "sha256": checksum, "width": width, "height": height},
        "masks": [describe(mask, number) for number, mask in enumerate(found, 1)],
    }
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(document) + "\n", encoding="utf-8")  # tells whose the drawings are, from here on
    if height * width <= DRAWN_PIXELS:
        _draw(picture[:, :], found, [path.with_name(path.stem + end) for end in DRAWN])
    elif not bar.quiet:
        click.echo(f"{file} is too large to be drawn on: {path.name} has the masks", err=True)
    os.replace(unfinished, path)
    return document


def describe(mask: AutoMask, number: int) -> dict[str, Any]:
    """What a program wants to know of a mask."""
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


def _read(file: Path) -> np.ndarray:
    """A picture as an array that the generator takes, EXIF rotation applied."""
    from sam2core.media.images import read_pixels
    from sam2core.media.rasters import open_raster

    return open_raster(file)[:, :] if file.suffix.lower() == ".npy" else read_pixels(file)


def _draw(picture: np.ndarray, found: Sequence[AutoMask], paths: Sequence[Path]) -> None:
    """Write the overlay and the id map; small masks lie above large ones."""
    import numpy as np
    from PIL import Image

    from sam2core.cli.segment import eight_bit
    from sam2core.media.render import overlay, palette

    if picture.ndim == 3 and picture.shape[2] in (1, 4):
        picture = picture[..., 0] if picture.shape[2] == 1 else picture[..., :3]
    if picture.dtype != np.uint8:
        top = 65535 if picture.dtype == np.uint16 else 1.0
        picture = np.clip(picture.astype(np.float32) * (255 / top), 0, 255).astype(np.uint8)
    backdrop = eight_bit(Image.fromarray(np.ascontiguousarray(picture)))
    order = sorted(range(len(found)), key=lambda index: -found[index].area)
    ids = np.zeros(backdrop.shape[:2], dtype=np.uint16)
    colors = palette(len(found))
    for index in order:
        inside = found[index].mask
        ids[inside] = index + 1
        # one at a time: a picture can have hundreds of masks
        backdrop = overlay(backdrop, [inside], colors=colors[index : index + 1])
    for path, drawn in zip(paths, (backdrop, ids)):
        Image.fromarray(drawn).save(path)


def _follow(
    video: Path,
    output: Path,
    name: str,
    changes: tuple[str, ...],
    also: Mapping[str, Any],
    options: Mapping[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Find everything in a video and follow it; frames are written as they come."""
    import numpy as np

    import registry
    from sam2core.media import render
    from sam2core.predictors.automask import MaskGenerator
    from sam2core.predictors.everything import track_everything

    document = output / "masks.jsonl"
    if not options["force"]:
        check_free(output, ("overlay", "palette"))
    tracker = registry.predictor(name, "video", *changes, **build_arguments(options))
    chosen: dict[str, Any] = {**tracker.model.spec.predictors.get("automask", {}), **also}
    generator = MaskGenerator(tracker.model, **chosen)
    session = tracker.open(video)
    clear(output)
    output.mkdir(parents=True, exist_ok=True)
    colors = render.palette(options["max_objects"])
    palette = render.PaletteWriter(output / "palette", colors=colors)
    bar = _Bar(video.name, quiet)
    results = track_everything(
        session, generator, every=options["every"], max_objects=options["max_objects"], progress=bar
    )
    unfinished = document.with_name(document.name + ".part")
    fps = session.source.fps or 25.0
    with (
        bar,
        unfinished.open("w", encoding="utf-8") as lines,
        render.VideoWriter(output / "overlay.mp4", session.size, fps=fps) as film,
    ):
        for result in results:
            masks = {int(str(number)): mask.cpu().numpy() for number, mask in result.masks.items()}
            lines.write(json.dumps(_frame(result, masks)) + "\n")
            lines.flush()
            numbers = np.zeros(session.size, np.uint8)
            for number in sorted(masks, key=lambda number: -int(masks[number].sum())):
                numbers[masks[number]] = number
            palette.write(f"{result.frame:05d}", numbers)
            shown = [number for number in masks if masks[number].any()]
            frame = _pixels(session.source[result.frame])
            film.write(
                render.overlay(
                    frame,
                    [masks[number] for number in shown],
                    colors=colors[[number - 1 for number in shown]],
                    names=[str(number) for number in shown],
                )
            )
    os.replace(unfinished, document)
    written = [
        f"{document}  {len(session.tracks)} objects",
        str(output / "overlay.mp4"),
        f"{output / 'palette'}{os.sep}",
    ]
    return {"video": str(video), "objects": list(session.tracks), "failed": [], "lines": written}


def _frame(result: Any, masks: Mapping[int, np.ndarray]) -> dict[str, Any]:
    from sam2core.ops import rle

    return {
        "frame": result.frame,
        "objects": {
            str(number): {
                "iou": round(float(iou), 4),
                "presence": round(float(presence), 4),
                "segmentation": rle.encode(masks[number]),
            }
            for number, iou, presence in zip(result.objects, result.iou, result.presence)
        },
    }


def _pixels(frame: Any) -> np.ndarray:
    """A frame of a video as (H, W, 3) uint8, to draw on."""
    from sam2core.media.images import read_image

    return (read_image(frame) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


class _Bar:
    """A callback (done, total) that draws a bar on stderr, or nothing."""

    def __init__(self, label: str, quiet: bool) -> None:
        self.label, self.quiet = label, quiet
        self._bar: Any = None

    def __call__(self, done: int, total: int | None) -> None:
        if self.quiet:
            return
        if self._bar is None:
            self._bar = click.progressbar(length=total, label=self.label, file=sys.stderr)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
