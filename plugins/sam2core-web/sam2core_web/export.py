"""A session's masks as files: palette PNGs, COCO JSON, an effect as mp4, a transparent video, cut-outs."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2core.data.coco import Document
from sam2core.media.render import CutoutWriter, PaletteWriter, VideoWriter
from sam2core.ops import rle
from sam2core_web import effects
from sam2core_web.media import Refused
from sam2core_web.work import Thing, Work

KINDS = ("palette", "coco", "overlay", "transparent", "cutouts")
TYPES = {
    ".zip": "application/zip",
    ".json": "application/json",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".webm": "video/webm",
}


def write(
    kind: str, work: Work, things: Mapping[int, Thing], name: str, folder: Path, *, effect: str = "highlight"
) -> Path:
    """Write what a session knows into an empty folder, as one file, and return it.

    `effect`, one of `effects.EFFECTS`, is how an overlay shows it. `things` is a copy that nothing changes meanwhile.
    Where masks overlap in palette PNGs and overlays, the object that was added later lies above. Raises ValueError when
    there is no mask.
    """
    frames = sorted({frame for thing in things.values() for frame in thing.answers})
    if not frames:
        raise Refused("there is no mask to export yet", 409)
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in Path(name).stem)[:60] or "masks"
    if kind == "coco":
        path = folder / f"{stem}.coco.json"
        path.write_text(json.dumps(coco(work, things, frames, Path(name).name)))
        return path
    if kind == "overlay":
        return _overlay(work, things, stem, folder, effect)
    if kind == "transparent":
        return _transparent(work, things, stem, folder)
    parts = folder / "parts"
    if kind == "palette":
        _palette(work, things, frames, parts)
    else:
        _cutouts(work, things, frames, parts)
    path = folder / f"{stem}.{kind}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNGs are packed already
        for file in sorted(parts.rglob("*.png")):
            archive.write(file, file.relative_to(parts).as_posix())
    shutil.rmtree(parts)
    return path


def coco(work: Work, things: Mapping[int, Thing], frames: list[int], name: str) -> dict[str, Any]:
    """The masks as COCO instances: a category per name, so that two things called car are of one class.

    An image has its own file's name; a frame of a video says its number and the video, for it is no file.
    """
    document = Document(thing.name for thing in things.values())
    for frame in frames:
        _check_open(work)
        still = work.kind == "image"
        more = {} if still else {"frame": frame, "video": name}
        picture = document.add_picture(name if still else f"{Path(name).stem}/{frame:05d}.png", work.size, **more)
        for number, thing in things.items():
            answer = thing.answers.get(frame)
            if answer is not None and answer.area:
                told = {"segmentation": answer.segmentation, "track_id": number, "score": answer.iou}
                document.add_mask(picture, rle.decode(answer.segmentation), thing.name, **told)
    return document.json()


def _check_open(work: Work) -> None:
    """Ends the export of a session that was closed meanwhile, so that a server that stops need not wait for it."""
    if work.closed:
        raise Refused("the session was closed", 404)


def _masks(work: Work, things: Mapping[int, Thing], frame: int) -> np.ndarray:
    """The masks (K, H, W) of a frame, empty where there is no answer. Raises Refused when the session was closed."""
    _check_open(work)
    masks = np.zeros((len(things), *work.size), dtype=bool)
    for row, thing in enumerate(things.values()):
        if frame in thing.answers:
            masks[row] = rle.decode(thing.answers[frame].segmentation)
    return masks


def _colors(things: Mapping[int, Thing]) -> np.ndarray:
    return np.array([list(bytes.fromhex(thing.color[1:])) for thing in things.values()], dtype=np.uint8).reshape(-1, 3)


def _overlay(work: Work, things: Mapping[int, Thing], stem: str, folder: Path, effect: str) -> Path:
    names, colors = [thing.name for thing in things.values()], _colors(things)
    drawn = lambda frame: effects.draw(effect, work.frame(frame), _masks(work, things, frame), colors, names)  # noqa: E731
    stem = f"{stem}.{'overlay' if effect == 'highlight' else effect}"
    if work.kind == "image":
        path = folder / f"{stem}.png"
        Image.fromarray(drawn(0)).save(path)
        return path
    path = folder / f"{stem}.mp4"
    with VideoWriter(path, work.size, fps=work.fps or 25.0) as writer:
        for frame in range(work.frames):
            writer.write(drawn(frame), time=work.time(frame))
    return path


def _transparent(work: Work, things: Mapping[int, Thing], stem: str, folder: Path) -> Path:
    """All objects together, without what is behind them."""
    if work.kind == "image":
        path = folder / f"{stem}.transparent.png"
        inside = np.any(_masks(work, things, 0), axis=0)[..., None].astype(np.uint8)
        Image.fromarray(np.concatenate([work.frame(0) * inside, inside * 255], axis=2)).save(path)
        return path
    path = folder / f"{stem}.transparent.webm"
    with effects.TransparentWriter(path, work.size, fps=work.fps or 25.0) as writer:
        for frame in range(work.frames):
            writer.write(work.frame(frame), np.any(_masks(work, things, frame), axis=0))
    return path


def _palette(work: Work, things: Mapping[int, Thing], frames: list[int], folder: Path) -> None:
    with PaletteWriter(folder, colors=_colors(things)) as writer:
        for frame in frames:
            numbers = np.zeros(work.size, dtype=np.uint8)
            for row, mask in enumerate(_masks(work, things, frame), 1):
                numbers[mask] = row
            writer.write(f"{frame:05d}", numbers)


def _cutouts(work: Work, things: Mapping[int, Thing], frames: list[int], folder: Path) -> None:
    with CutoutWriter(folder, [f"object_{number}" for number in things]) as writer:
        for frame in frames:
            writer.write(f"{frame:05d}", work.frame(frame), _masks(work, things, frame))
