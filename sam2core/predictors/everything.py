"""Track everything: automatic masks of key frames start objects of a video session, and newcomers join later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam2core.predictors.automask import AutoMask, MaskGenerator
from sam2core.predictors.results import FrameResult
from sam2core.predictors.session import VideoSession

Progress = Callable[[int, "int | None"], None]


def track_everything(
    session: VideoSession,
    generator: MaskGenerator,
    *,
    every: int = 30,
    start: int = 0,
    stop: int | None = None,
    same: float = 0.5,
    covered: float = 0.7,
    min_area: float = 0.0005,
    max_objects: int = 64,
    progress: Progress | None = None,
) -> Iterator[FrameResult]:
    """Follow all that `generator` finds in a video, frame by frame from the first, without a prompt.

    On every `every`-th frame the masks found are compared with the objects followed so far. One that has an IoU of
    `same` or more with an object, or lies by a share of `covered` within objects, is that object or a part of it; one
    smaller than `min_area` of the image is left out. The others start new objects, numbered from 1 in the order they
    were found, up to `max_objects`; nested masks give one object, the one with the best estimate. Objects that the
    session has already are followed along. `progress(done, total)` counts frames. Results come one per frame; the
    generator can be closed at any time; ``start=reached(session)`` goes on, also with a session that was saved. Raises
    ValueError for a live session and for numbers out of range.
    """
    for name, share in (("same", same), ("covered", covered), ("min_area", min_area)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, not {share}")

    def find(frame: int, known: list[Tensor]) -> list[dict[str, Any]]:
        smallest = min_area * session.size[0] * session.size[1]
        found = [mask for mask in generator.generate(session.source[frame]) if mask.area > smallest]  # type: ignore[index]
        return [{"mask": mask} for mask in newcomers(found, known, same=same, covered=covered)]

    return track_found(session, find, every=every, start=start, stop=stop, max_objects=max_objects, progress=progress)


def track_found(
    session: VideoSession,
    find: Callable[[int, list[Tensor]], Sequence[Mapping[str, Any]]],
    *,
    every: int,
    start: int = 0,
    stop: int | None = None,
    max_objects: int = 64,
    progress: Progress | None = None,
) -> Iterator[FrameResult]:
    """Follow what `find` finds on every `every`-th frame, as `track_everything` does.

    `find(frame, masks)` is given a frame's number and the masks (H, W) bool there of the objects followed so far, on
    the CPU, and returns the prompts of those that are new, as keywords of `VideoSession.prompt`.
    """
    if session.source is None:
        raise ValueError("a live session has no frames to look through; open the video itself")
    if every < 1 or max_objects < 1:
        raise ValueError(f"every and max_objects are 1 or more, not {every} and {max_objects}")
    if stop is not None and stop < 0:
        raise ValueError(f"stop is a number of frames, 0 or more, not {stop}")
    return _track_found(session, find, every, start, stop, max_objects, progress)


def _track_found(
    session: VideoSession,
    find: Callable[[int, list[Tensor]], Sequence[Mapping[str, Any]]],
    every: int,
    start: int,
    stop: int | None,
    max_objects: int,
    progress: Progress | None,
) -> Iterator[FrameResult]:
    assert session.source is not None
    end = session.length if stop is None else stop if session.length is None else min(stop, session.length)
    frame = start
    while (end is None or frame < end) and (session.length is not None or session.source.has(frame)):
        result = None
        if session.tracks:
            result = next(iter(session.propagate(frame, frame + 1)))
        if frame % every == 0 and len(session.tracks) < max_objects:
            known = [] if result is None else [mask.cpu() for mask in result.masks.values()]
            for prompt in find(frame, known)[: max_objects - len(session.tracks)]:
                result = session.prompt(frame, _next_id(session), **prompt)
        if progress is not None:
            progress(frame + 1, end)
        yield session.result(frame) if result is None else result
        frame += 1


def reached(session: VideoSession) -> int:
    """How many frames `track_everything` has gone through in a session; before it found anything, none."""
    prompted = (frame for track in session.tracks.values() for frame in track.prompts)
    return 1 + max([-1 if session.position is None else session.position, *prompted])


def newcomers(found: Sequence[AutoMask], known: Sequence[Tensor], *, same: float, covered: float) -> list[np.ndarray]:
    """The masks (H, W) that are neither one of the `known` ones nor a part of them, nor of a newcomer before them.

    Those with the best estimates come first.
    """
    taken = [mask.bool() for mask in known]
    chosen: list[np.ndarray] = []
    for mask in sorted(found, key=lambda mask: -mask.iou):
        inside = torch.from_numpy(mask.mask)
        area = int(inside.sum())
        if not area or _is_known(inside, area, taken, same, covered):
            continue
        taken.append(inside)
        chosen.append(inside.numpy())
    return chosen


def _is_known(inside: Tensor, area: int, taken: Sequence[Tensor], same: float, covered: float) -> bool:
    together = torch.zeros_like(inside)
    for other in taken:
        shared = int((inside & other).sum())
        if shared and shared / (area + int(other.sum()) - shared) >= same:
            return True
        together |= other
    return int((inside & together).sum()) / area >= covered


def _next_id(session: VideoSession) -> int:
    return max((id for id in session.tracks if isinstance(id, int)), default=0) + 1
