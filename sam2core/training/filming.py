"""Clips from footage: which frames and objects, and what is done to all frames alike.

The changes are those of Meta's fine-tuning (hflip, affine, colour jitter, greyscale, mosaic), applied to the whole
clip with the same numbers; a second, weaker colour jitter differs from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from sam2core.data.footage import Footage
from sam2core.training.clips import Clip
from sam2core.training.pseudo import affine, inverse, then

BILINEAR = Image.Resampling.BILINEAR
FILL = (123, 116, 103)  # beyond the image's edge; the mean of ImageNet, which the model sees as 0


@dataclass(frozen=True)
class Filming:
    """How clips are cut out of footage and changed. Probabilities, degrees and ranges."""

    stride: int = 1  # labelled frames from one frame of a clip to the next, at most
    reverse: float = 0.5
    late: float = 0.5  # a clip may also take objects that are first seen after its first frame
    flip: float = 0.5
    rotate: float = 25.0
    shear: float = 20.0
    zoom: float = 1.0  # the image is enlarged by up to this factor about a random place
    jitter: tuple[float, float, float] = (0.1, 0.03, 0.03)  # brightness, contrast, saturation, the same on all frames
    jitter_frame: tuple[float, float, float] = (0.1, 0.05, 0.05)  # and on each frame
    grey: float = 0.05
    mosaic: float = 0.15  # the clip four times side by side, of which one is meant: look-alikes


def film(
    footage: Footage,
    frames: int,
    generator: np.random.Generator,
    *,
    size: int,
    objects: int,
    min_area: float,
    filming: Filming = Filming(),
) -> Clip | None:
    """A clip (frames, size, size) with up to `objects` objects; None when the frames that were drawn show none.

    min_area: share of the image below which an object is not asked for. Footage that is shorter than the clip goes to
    and fro.
    """
    chosen = draw_frames(footage.length, frames, generator, filming)
    ids = footage.objects(chosen[0])
    if frames > 1 and generator.random() < filming.late:
        ids = sorted(set(ids).union(*(footage.objects(frame) for frame in chosen[1:])))
    ids = [ids[place] for place in generator.permutation(len(ids))[:objects]]
    if not ids:
        return None
    pictures = [Image.fromarray(picture) for picture in footage.pictures(chosen)]
    masks = [footage.masks(frame, ids) for frame in chosen]
    for picture, mask in zip(pictures, masks):
        if mask.shape[1:] != (picture.height, picture.width):
            raise ValueError(
                f"{footage.source}: masks of {mask.shape[1:]} on an image of {(picture.height, picture.width)}"
            )
    large = np.stack(masks).mean((2, 3)).max(0) >= min_area
    if not large.any():
        return None
    masks = [mask[large] for mask in masks]
    voids = [footage.ignored(frame) for frame in chosen]
    has_void = any(void is not None for void in voids)
    if has_void:  # goes the way of the masks, as the last of them
        filled = [np.zeros(mask.shape[1:], bool) if void is None else void for mask, void in zip(masks, voids)]
        masks = [np.concatenate([mask, void[None]]) for mask, void in zip(masks, filled)]
    shown, seen = _warp_all(pictures, masks, size, generator, filming)
    shown = _colour(shown, generator, filming)
    frames_shown = np.stack([np.asarray(picture) for picture in shown])
    ignored = np.ascontiguousarray(seen[:, -1]) if has_void else None
    clip = Clip(frames_shown, seen[:, :-1] if has_void else seen, footage.source, ignored)
    return mosaic(clip, generator) if generator.random() < filming.mosaic else clip


def draw_frames(length: int, frames: int, generator: np.random.Generator, filming: Filming) -> list[int]:
    """Which labelled frames a clip takes: evenly spaced, backwards at times."""
    stride = int(generator.integers(1, filming.stride, endpoint=True))
    stride = max(1, min(stride, (length - 1) // max(frames - 1, 1)))
    span = (frames - 1) * stride + 1
    start = int(generator.integers(0, max(length - span, 0), endpoint=True))
    chosen = [start + step * stride for step in range(frames)]
    turn = max(2 * (length - 1), 1)
    chosen = [min(frame % turn, turn - frame % turn) if frame >= length else frame for frame in chosen]
    return chosen[::-1] if generator.random() < filming.reverse else chosen


def _warp_all(
    pictures: list[Image.Image], masks: list[np.ndarray], size: int, generator: np.random.Generator, filming: Filming
) -> tuple[list[Image.Image], np.ndarray]:
    """All frames at (size, size) through one affine map; a map that loses an object of the first frame is left out."""
    angle, slant = generator.uniform(-1, 1, 2) * (filming.rotate, filming.shear)
    enlarge = filming.zoom ** generator.random()
    shift = generator.uniform(-0.5, 0.5, 2) * (1 - 1 / enlarge) * size
    middle = np.array([size / 2, size / 2])
    turned = affine(angle, enlarge, slant, -shift * enlarge, middle)
    turned = _squeezed(turned, pictures[0].width / pictures[0].height, middle)
    flipped = np.array([[-1.0, 0.0, size], [0.0, 1.0, 0.0]]) if generator.random() < filming.flip else np.eye(3)[:2]
    plain, full = flipped, then(turned, flipped)
    first = np.stack([np.asarray(_warp(Image.fromarray(m * np.uint8(255)), full, size, 0)) for m in masks[0]])
    lost = masks[0].any((1, 2)) & ~(first > 127).any((1, 2))
    way = plain if lost.any() else full
    shown, seen = [], []
    for picture, mask in zip(pictures, masks):
        shown.append(_warp(picture, way, size, FILL))
        seen.append(np.stack([np.asarray(_warp(Image.fromarray(m * np.uint8(255)), way, size, 0)) > 127 for m in mask]))
    return shown, np.stack(seen)


def _squeezed(way: np.ndarray, ratio: float, middle: np.ndarray) -> np.ndarray:
    """A map of the image as it was, `ratio` times as wide as high, as one of the square it is squeezed to."""
    linear = way[:, :2] * np.array([[1.0, 1 / ratio], [ratio, 1.0]])
    shift = way[:, 2] + way[:, :2] @ middle - middle
    return np.concatenate([linear, (middle + shift - linear @ middle)[:, None]], axis=1)


def _warp(picture: Image.Image, way: np.ndarray, size: int, fill: int | tuple[int, ...]) -> Image.Image:
    """An image squeezed to (size, size) and then moved by `way`; what is reduced by much is averaged first."""
    if np.allclose(way, np.eye(3)[:2]):
        return picture.resize((size, size), BILINEAR)
    factor = max(1, min(picture.width, picture.height) // size)
    if factor > 1:
        picture = picture.reduce(factor)
    squeeze = np.array([[size / picture.width, 0.0, 0.0], [0.0, size / picture.height, 0.0]])
    back = inverse(then(way, squeeze)).ravel().tolist()
    return picture.transform((size, size), Image.Transform.AFFINE, back, BILINEAR, fillcolor=fill)


def _colour(pictures: list[Image.Image], generator: np.random.Generator, filming: Filming) -> list[Image.Image]:
    common = 1 + generator.uniform(-1, 1, 3) * filming.jitter
    grey = generator.random() < filming.grey
    changed = []
    for picture in pictures:
        own = 1 + generator.uniform(-1, 1, 3) * filming.jitter_frame
        for enhance, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), common * own):
            if factor != 1:
                picture = enhance(picture).enhance(float(factor))
        changed.append(picture.convert("L").convert("RGB") if grey else picture)
    return changed


def mosaic(clip: Clip, generator: np.random.Generator) -> Clip:
    """The clip in all four quarters, some of them mirrored; the objects are those of one quarter."""
    frames, size = clip.frames.shape[0], clip.frames.shape[1]
    half = size // 2
    rows = np.arange(half) * size // half
    small, marks = clip.frames[:, rows][:, :, rows], clip.masks[:, :, rows][..., rows]
    whole = np.empty((frames, 2 * half, 2 * half, 3), np.uint8)
    masks = np.zeros((frames, clip.masks.shape[1], 2 * half, 2 * half), bool)
    ignored = None if clip.ignored is None else np.zeros((frames, 2 * half, 2 * half), bool)
    meant = int(generator.integers(4))
    for cell in range(4):
        place = (slice(cell // 2 * half, cell // 2 * half + half), slice(cell % 2 * half, cell % 2 * half + half))
        mirrored = generator.random() < 0.5
        whole[:, place[0], place[1]] = small[:, :, ::-1] if mirrored else small
        if cell == meant:
            masks[:, :, place[0], place[1]] = marks[..., ::-1] if mirrored else marks
        if ignored is not None and clip.ignored is not None:
            void = clip.ignored[:, rows][..., rows]
            ignored[:, place[0], place[1]] = void[..., ::-1] if mirrored else void
    assert 2 * half == size, "clips have an even size"
    return Clip(whole, masks, clip.source, ignored)
