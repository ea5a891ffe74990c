"""VideoSession and ObjectTrack: everything that changes while tracking."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam2core.annotations import integer
from sam2core.media.images import read_image
from sam2core.memory.bank import MemoryBank
from sam2core.older import check_keywords
from sam2core.ops import masks as mask_ops
from sam2core.predictors.crops import Crop
from sam2core.predictors.history import History
from sam2core.predictors.transforms import (
    check_given,
    crop_mask,
    drawn_mask,
    into_crop,
    read_boxes,
    read_crop,
    read_mask,
    read_points,
    to_model,
    to_model_points,
)
from sam2core.types import MASK_INPUT_LIMIT, NO_OBJECT, FrameMemory, ImageFeatures, Keep, Label, MaskPrediction, Prompt

if TYPE_CHECKING:
    from sam2core.media.frames import FrameSource
    from sam2core.predictors.video import VideoPredictor

CACHED_FRAMES = 4
PROMPT_KEYS = ("points", "labels", "box", "mask", "add")
DIRECTIONS = ("forward", "backward", "both")

Progress = Callable[[int, int | None], None]


@dataclass(eq=False)
class FrameResult:
    """What is known of every object on one frame.

    Rows are objects, in the order of `objects`. An object that has no answer on this frame yet has logits of
    NO_OBJECT, an IoU of 0 and an object score of NO_OBJECT.
    """

    frame: int
    objects: tuple[Hashable, ...]
    logits: Tensor  # (N, h, w) low-resolution logits, fp32
    iou: Tensor  # (N,) predicted IoU
    object_score: Tensor  # (N,) object scores; > 0: the object is in the picture
    size: tuple[int, int]
    """The video's (H, W)."""
    non_overlapping: bool = False
    threshold: float = 0.0
    crop: Crop | None = None
    """The part of the frame that was looked at, to which `logits` belong; None: all of it."""

    @property
    def video_logits(self) -> Tensor:
        """The logits (N, H, W) at the video's size, NO_OBJECT outside the crop; made when asked for."""
        logits = self.enlarged()
        return mask_ops.non_overlapping(logits) if self.non_overlapping else logits

    def enlarged(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The logits (K, H, W) of rows `start` to `stop` at the video's size, `non_overlapping` or not."""
        rows = self.logits[start:stop]
        if not len(rows):
            return rows.new_zeros(0, *self.size)
        if self.crop is None:
            return mask_ops.resize(rows.unsqueeze(1), self.size).squeeze(1)
        x0, y0, x1, y1 = self.crop
        whole = rows.new_full((len(rows), *self.size), NO_OBJECT, dtype=torch.float32)
        whole[:, y0:y1, x0:x1] = mask_ops.resize(rows.unsqueeze(1), (y1 - y0, x1 - x0)).squeeze(1)
        return whole

    @property
    def masks(self) -> dict[Hashable, Tensor]:
        """Object id -> boolean mask (H, W)."""
        return dict(zip(self.objects, self.video_logits > self.threshold, strict=True))


@dataclass(frozen=True, eq=False)
class Pending:
    """An answer to a prompt that is not memorized yet, and where its memory will go."""

    answer: MaskPrediction
    keep: Keep


@dataclass(frozen=True, eq=False)
class FramePrompt:
    """What the user said about one object on one frame: points (a box first), or a mask at model size."""

    points: Tensor  # (P, 2) in model pixels, on the CPU
    labels: Tensor  # (P,)
    mask: Tensor | None = None  # (H, W) of zeros and ones


class Passes:
    """Which frames were tracked, and in which direction last; kept as runs, so its size stays small."""

    def __init__(self, runs: Sequence[tuple[int, int, bool]] = ()) -> None:
        self.runs: list[tuple[int, int, bool]] = [(first, last, backwards) for first, last, backwards in runs]

    def add(self, frame: int, *, backwards: bool) -> None:
        if self.runs:
            first, last, same = self.runs[-1]
            if first <= frame <= last and same == backwards:
                return
            if same == backwards and first - 1 <= frame <= last + 1:
                self.runs[-1] = (min(first, frame), max(last, frame), backwards)
                self._settle()
                return
        self.runs.append((frame, frame, backwards))
        self._settle()

    def _settle(self) -> None:
        """Cut what the newest run covers out of the older ones."""
        first, last, _ = self.runs[-1]
        older = []
        for run in self.runs[:-1]:
            older += _without(run, first, last)
        self.runs[:-1] = older

    def drop(self, frame: int) -> None:
        self.runs = [part for run in self.runs for part in _without(run, frame, frame)]

    def direction(self, frame: int) -> bool | None:
        """Whether the frame was tracked backwards; None when it was not tracked."""
        for first, last, backwards in self.runs:
            if first <= frame <= last:
                return backwards
        return None

    def fork(self) -> Passes:
        return Passes(self.runs)


def _without(run: tuple[int, int, bool], first: int, last: int) -> list[tuple[int, int, bool]]:
    start, stop, backwards = run
    parts = [(start, min(stop, first - 1), backwards), (max(start, last + 1), stop, backwards)]
    return [part for part in parts if part[0] <= part[1]] if first <= stop and last >= start else [run]


@dataclass(eq=False)
class ObjectTrack:
    """One object in one video: its prompts, its memories, and the answers that wait to be memorized."""

    id: Hashable
    bank: MemoryBank = field(default_factory=MemoryBank)
    prompts: dict[int, FramePrompt] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)
    passes: Passes = field(default_factory=Passes)
    policy_state: Any = None
    shown: FrameMemory | None = None
    """The last tracked answer, without tokens: what is shown of a frame that the policy does not keep."""

    def fork(self, copy_state: Callable[[Any], Any]) -> ObjectTrack:
        """An independent track that shares every tensor."""
        return ObjectTrack(
            id=self.id,
            bank=self.bank.fork(),
            prompts=dict(self.prompts),
            pending=dict(self.pending),
            passes=self.passes.fork(),
            policy_state=copy_state(self.policy_state),
            shown=self.shown,
        )

    def latest(self, frame: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """The newest logits (1, 1, h, w), IoU (1,) and object score (1, 1) of a frame, if there is an answer."""
        known = self.pending[frame].answer if frame in self.pending else self.bank.get(frame)
        if known is None and self.shown is not None and self.shown.frame == frame:
            known = self.shown
        return None if known is None else (known.logits, known.iou, known.object_score)


def plain(id: Hashable) -> Hashable:
    """An object's id; NumPy's integers, as they come out of label maps, become Python's."""
    number = integer(id)
    return id if number is None else number


class VideoSession:
    """One video being segmented: its frames, its objects, and what is remembered of each.

    Comes from `VideoPredictor.open`. Sessions are independent of each other; one session belongs to one thread at a
    time. With ``keep="horizon"`` what the memory policy can never read again is forgotten, so that memory does not grow
    with the video; with ``keep="all"`` everything is kept, for corrections anywhere in the past.
    """

    KEEP = ("horizon", "all")

    def __init__(
        self,
        predictor: VideoPredictor,
        source: FrameSource | None,
        *,
        keep: str = "horizon",
        crop: Sequence[float] | None = None,
    ) -> None:
        if keep not in self.KEEP:
            raise ValueError(f"keep is one of {', '.join(self.KEEP)}, not {keep!r}")
        self.predictor = predictor
        self.source = source
        self.keep = keep
        self.crop: Any = crop if crop is None or source is None else read_crop(crop, source.size)
        """The part x0, y0, x1, y1 of every frame that is looked at; None: all. A live session checks it at first."""
        self.tracks: dict[Hashable, ObjectTrack] = {}
        self.position: int | None = None
        """The frame that was processed last; None before the first."""
        self._size: tuple[int, int] | None = None
        self._features: OrderedDict[int, ImageFeatures] = OrderedDict()
        self._history: History[Hashable, ObjectTrack] = History()

    # what is there

    @property
    def objects(self) -> tuple[Hashable, ...]:
        """The ids of the objects, in the order they were added."""
        return tuple(self.tracks)

    @property
    def length(self) -> int | None:
        """The number of frames; None when it is not known, as for a stream."""
        return None if self.source is None else self.source.length

    @property
    def size(self) -> tuple[int, int]:
        """The video's (H, W). Raises ValueError before a live session has seen its first frame."""
        if self._size is None:
            if self.source is None:
                raise ValueError("a live session has no size before its first step")
            self._size = self.source.size
        return self._size

    @property
    def _seen(self) -> Crop:
        """What is looked at of each frame."""
        height, width = self.size
        return (0, 0, width, height) if self.crop is None else self.crop

    @torch.inference_mode(False)  # to be edited, and to be learned from
    @torch.no_grad()
    def result(self, frame: int) -> FrameResult:
        """What is known of every object on a frame, without computing anything."""
        h, w = self.predictor.model.prompt_encoder.mask_input_size
        device = self.predictor.model.device
        logits, iou, object_score = [], [], []
        for track in self.tracks.values():
            known = track.latest(frame)
            if known is None:
                logits.append(torch.full((1, h, w), NO_OBJECT, device=device))
                iou.append(torch.zeros(1, device=device))
                object_score.append(torch.full((1,), NO_OBJECT, device=device))
            else:
                logits.append(known[0][0].float())
                iou.append(known[1].float())
                object_score.append(known[2][0].float())
        if logits:
            mask_ops.refuse_nan(torch.cat(iou), torch.cat(logits))
        return FrameResult(
            frame=frame,
            objects=self.objects,
            logits=torch.cat(logits) if logits else torch.zeros(0, h, w, device=device),
            iou=torch.cat(iou) if iou else torch.zeros(0, device=device),
            object_score=torch.cat(object_score) if object_score else torch.zeros(0, device=device),
            size=self.size,
            non_overlapping=self.predictor.non_overlapping,
            threshold=self.predictor.mask_threshold,
            crop=self.crop,
        )

    # prompts

    @torch.inference_mode()
    def prompt(
        self,
        frame: int,
        object: Hashable,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask: Any = None,
        *,
        add: bool = False,
        **unknown: Any,
    ) -> FrameResult:
        """Say what an object is on a frame, and see the answer for all objects on that frame.

        `object` is any hashable id; a new one adds an object. `points` (N, 2) x, y in video pixels with `labels` (N,)
        1 on the object (default), 0 off it; `box` x0, y0, x1, y1; or `mask` (H, W), booleans or integers of which 0 is
        off it. An earlier prompt of the object on this frame is replaced; with `add`, further points join it. An
        earlier answer on the frame goes to the decoder as a mask input. The answer is memorized when propagation goes
        on. Raises ValueError, and changes nothing, when the prompt makes no sense, lies outside the session's crop, or
        the frame does not exist.
        """
        check_keywords("prompt", unknown, PROMPT_KEYS)
        frame, object = self._check_frame(frame), plain(object)
        before = self.tracks.get(object)
        said = self._read_prompt(frame, before, points, labels, box, mask, add)
        track = (
            ObjectTrack(object, policy_state=self.predictor.policy.start()) if before is None else self._fork(before)
        )
        self._answer(frame, track, said)
        self._history.remember(self.tracks, object)
        self.tracks[object] = track
        return self.result(frame)

    def _read_prompt(
        self, frame: int, track: ObjectTrack | None, points: Any, labels: Any, box: Any, mask: Any, add: bool
    ) -> FramePrompt:
        check_given(points, labels, box, mask)
        if mask is not None:
            if points is not None or box is not None:
                raise ValueError("a mask prompt stands alone: give points and box in another call, to correct it")
            drawn = drawn_mask(mask, self.size)
            drawn = drawn if self.crop is None else crop_mask(drawn, self.crop)
            empty = torch.zeros(0, 2)
            return FramePrompt(
                empty, torch.zeros(0, dtype=torch.int32), read_mask(drawn, self.predictor.model.image_size)
            )
        parts = []
        earlier = track.prompts.get(frame) if track is not None and add else None
        if earlier is not None and earlier.mask is None:
            if box is not None:
                raise ValueError("a box comes before all points: it cannot be added to an earlier prompt")
            parts.append((earlier.points, earlier.labels))
        model_size = self.predictor.model.image_size
        x0, y0, x1, y1 = self._seen
        for xy, marks in (
            *([read_boxes(box, self.size)] if box is not None else []),
            *([read_points(points, labels, self.size)] if points is not None else []),
        ):
            if xy.shape[0] != 1:
                raise ValueError(f"a prompt is for one object; this one is for {xy.shape[0]}")
            told = marks[0] != Label.IGNORED
            places = into_crop(xy[0][told], marks[0][told], self._seen)
            parts.append((to_model_points(places, (y1 - y0, x1 - x0), model_size), marks[0][told]))
        if not sum(len(marks) for _, marks in parts):
            raise ValueError("all points are labelled -1: there is no prompt")
        return FramePrompt(torch.cat([xy for xy, _ in parts]), torch.cat([marks for _, marks in parts]))

    def _answer(self, frame: int, track: ObjectTrack, said: FramePrompt) -> None:
        """Compute the answer to a prompt and leave it pending on the track."""
        predictor = self.predictor
        backwards = track.passes.direction(frame)
        correcting = backwards is not None
        mask_input = track.latest(frame)
        features = self.features(frame)
        if said.mask is not None:
            answer = predictor.mask_as_output(features, said.mask)
        else:
            recall = None
            if correcting and len(track.bank.prompted):
                recall = predictor.policy.recall(
                    track.bank, frame, backwards=bool(backwards), length=self.length, state=track.policy_state
                )
            prompt = Prompt(
                points=said.points.unsqueeze(0).to(predictor.model.device),
                labels=said.labels.unsqueeze(0).to(predictor.model.device),
                mask_input=None if mask_input is None else mask_input[0].clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT),
            )
            answer = predictor.answer(features, prompt, recall, state=track.policy_state)
        trusted = not correcting or predictor.keep_corrections or not track.bank.prompted
        keep = Keep.PROMPTED if trusted else Keep.RECENT
        track.prompts[frame] = said
        track.pending[frame] = Pending(answer, keep)

    def undo(self) -> Hashable | None:
        """Take the latest prompt or removal back: its object is as it was before, memories included.

        The object's id, or None when there is nothing to take back.
        """
        return self._history.undo(self.tracks)

    def redo(self) -> Hashable | None:
        """Do again what `undo` took back last, memories included. The object's id, or None.

        The next prompt or removal ends what can be given back.
        """
        return self._history.redo(self.tracks)

    def clear(self, frame: int, object: Hashable) -> FrameResult:
        """Take back what was said of an object on a frame; its memory there becomes one of the recent frames."""
        track = self._track(object)
        frame = self._check_frame(frame)
        track.prompts.pop(frame, None)
        track.pending.pop(frame, None)
        if frame in track.bank.prompted:
            track.bank.demote(frame)
            track.passes.drop(frame)
        return self.result(frame)

    def remove(self, object: Hashable) -> None:
        """Remove an object, until `undo`; the others are not touched. Raises ValueError when it is not there."""
        self._track(object)
        self._history.remember(self.tracks, object)
        del self.tracks[object]

    def reset(self) -> None:
        """Forget all objects; the frames stay."""
        self.tracks.clear()
        self._history.clear()

    def clear_memory(self, around: int, object: Hashable | None = None) -> None:
        """Forget the recent frames of an object (or of all) near a frame, as after a correction that changes
        everything."""
        for track in [self._track(object)] if object is not None else list(self.tracks.values()):
            self._clear_around(track, around)

    def _clear_around(self, track: ObjectTrack, frame: int) -> None:
        reach = self.predictor.policy.clearing
        for at in [at for at in track.bank.recent if abs(at - frame) <= reach]:
            del track.bank.recent[at]

    # tracking

    def propagate(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        direction: str = "forward",
        progress: Progress | None = None,
    ) -> Iterator[FrameResult]:
        """Track every object frame by frame, yielding each frame's result.

        `start` is the first frame, by default the earliest prompted one; `stop` is the first frame that is *not*
        visited in the direction of travel (default: to the end, or down to frame 0). ``direction="both"`` goes forward
        to the end from `start`, then backward from the frame before it. `progress(done, total)` is called after
        every frame. The generator can be closed at any time; going on with ``start=session.position + 1`` gives the
        masks of an uninterrupted run. Raises ValueError when an object has no prompt, or there is nothing to visit.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"direction is one of {', '.join(DIRECTIONS)}, not {direction!r}")
        if self.source is None:
            raise ValueError("a live session has no frames to propagate over; give it one at a time with step()")
        self._check_prompted()
        first = self._first_prompted() if start is None else self._check_frame(start)
        last = self.length
        if direction == "both":
            if stop is not None:
                raise ValueError("stop has no meaning in both directions; propagate twice instead")
            plan: list[tuple[Iterator[int], bool]] = [(self._range(first, None, False), False)]
            if first > 0:
                plan.append((self._range(first - 1, None, True), True))
            total = last
        else:
            backwards = direction == "backward"
            if backwards and first == 0 and stop is None:
                raise ValueError("nothing lies before frame 0; give a later start, or propagate forward")
            if stop is not None and (stop >= first if backwards else stop <= first):
                raise ValueError(f"no frame lies between start {first} and stop {stop} going {direction}")
            plan = [(self._range(first, stop, backwards), backwards)]
            if backwards:
                total = first - (-1 if stop is None else stop)
            else:
                end = last if stop is None else stop if last is None else min(stop, last)
                total = None if end is None else end - first
        return self._run(plan, total, progress)

    def _range(self, first: int, stop: int | None, backwards: bool) -> Iterator[int]:
        frame, step = first, -1 if backwards else 1
        while frame >= 0 and frame != stop:
            if self.length is not None and frame >= self.length:
                return
            yield frame
            frame += step

    def _run(
        self, plan: Sequence[tuple[Iterator[int], bool]], total: int | None, progress: Progress | None
    ) -> Iterator[FrameResult]:
        done = 0
        for frames, backwards in plan:
            for frame in frames:
                if not self._exists(frame):
                    break
                result = self._visit(frame, backwards=backwards)
                done += 1
                if progress is not None:
                    progress(done, total)
                yield result

    @torch.inference_mode()
    def step(self, image: Any, prompts: Mapping[Hashable, Mapping[str, Any]] | None = None) -> FrameResult:
        """Give a live session its next frame, with prompts on it: object id -> keywords of `prompt`.

        Tracks every object onto the frame and returns the result; a frame before any prompt gives an empty one. Raises
        ValueError when the frame has another size than the ones before, or a prompt makes no sense; the session then is
        as it was.
        """
        if self.source is not None:
            raise ValueError("this session has frames of its own; step() is for sessions opened without a source")
        values = read_image(image)
        size = (values.shape[1], values.shape[2])
        if self._size is not None and size != self._size:
            raise ValueError(f"all frames of a session have one size: {self._size}, this one {size}")
        crop = None if self.crop is None else read_crop(self.crop, size)
        before = (self._size, self.crop, self.position, dict(self.tracks), self._history.copy())
        features = self._features.copy()
        frame = 0 if self.position is None else self.position + 1
        self._size, self.crop = size, crop
        self.position = frame
        try:
            self._encode(frame, values)
            for object, said in (prompts or {}).items():
                self.prompt(frame, object, **said)
            if self.tracks:
                self._check_prompted()
        except BaseException:
            self._size, self.crop, self.position, self.tracks, self._history = before
            self._features = features
            raise
        if not self.tracks:
            return self.result(frame)
        return self._visit(frame, backwards=False)

    @torch.inference_mode()
    def _visit(self, frame: int, *, backwards: bool) -> FrameResult:
        """Bring every object onto a frame: prompted ones as answered, the others from memory."""
        tracks = list(self.tracks.values())
        self._memorize_pending(tracks)
        self._check_prompted()
        followed = [track for track in tracks if frame not in track.bank.prompted]
        if followed:
            self.predictor.follow(self.features(frame), followed, frame, backwards=backwards, length=self.length)
        for track in tracks:
            if self.predictor.forget_around_prompts and frame in track.bank.prompted:
                self._clear_around(track, frame)
            track.passes.add(frame, backwards=backwards)
        self.position = frame
        result = self.result(frame)
        if self.keep == "horizon":
            for track in (*tracks, *self._history.values()):
                track.bank.trim(frame, self.predictor.policy.horizon, onwards=self.source is None)
        return result

    def _memorize_pending(self, tracks: Sequence[ObjectTrack]) -> None:
        """Memorize the answers to prompts, all objects of a frame together."""
        ready: dict[tuple[int, int], FrameMemory] = {}
        for frame in sorted({frame for track in tracks for frame in track.pending}):
            answers = {id(p.answer): p.answer for track in tracks if (p := track.pending.get(frame))}
            memories = self.predictor.memorize(self.features(frame), list(answers.values()), frame=frame)
            ready |= {(answer, frame): memory for answer, memory in zip(answers, memories, strict=True)}
        for track in tracks:
            for frame, pending in track.pending.items():  # in the order of prompting, which prompted frames keep
                if pending.keep is Keep.PROMPTED or frame not in track.bank.prompted:
                    track.bank.put(ready[id(pending.answer), frame], pending.keep)
                if self.predictor.forget_around_prompts:
                    self._clear_around(track, frame)
            track.pending.clear()

    # frames

    @torch.inference_mode()
    def features(self, frame: int) -> ImageFeatures:
        """The encoded image of a frame, from a small cache. Raises ValueError when the frame cannot be had any more."""
        if frame in self._features:
            self._features.move_to_end(frame)
            return self._features[frame]
        if self.source is None:
            raise ValueError(f"frame {frame} of this live session has passed; prompt the current one, {self.position}")
        return self._encode(frame, read_image(self.source[frame]))

    def _encode(self, frame: int, values: Tensor) -> ImageFeatures:
        model = self.predictor.model
        x0, y0, x1, y1 = self._seen
        features = model.encode(to_model(values[:, y0:y1, x0:x1].to(model.device), model.image_size))
        self._features[frame] = features
        while len(self._features) > CACHED_FRAMES:
            oldest = next(iter(self._features))
            if self.length is None:  # the frame does not come again
                everyone = [*self.tracks.values(), *self._history.values()]
                self._memorize_pending([track for track in everyone if oldest in track.pending])
            del self._features[oldest]
        return features

    def _exists(self, frame: int) -> bool:
        """Whether a source of unknown length has this frame."""
        return self.source is None or self.length is not None or self.source.has(frame)

    def _check_frame(self, frame: int) -> int:
        number = integer(frame)
        if number is None or number < 0:
            raise ValueError(f"a frame is a number from 0 on, not {frame!r}")
        frame = number
        if self.source is None:
            if self.position is None or frame > self.position:
                raise ValueError(f"frame {frame} has not come yet; prompts on the next frame go into step()")
        elif self.length is not None and frame >= self.length:
            raise ValueError(
                f"frame {frame} lies beyond the video's end: it has {self.length} frames, 0 to {self.length - 1}"
            )
        elif not self._exists(frame):
            raise ValueError(f"frame {frame} lies beyond the video's end")
        return frame

    # objects

    def _fork(self, track: ObjectTrack) -> ObjectTrack:
        return track.fork(self.predictor.policy.copy)

    def _track(self, object: Hashable) -> ObjectTrack:
        if object not in self.tracks:
            known = ", ".join(repr(known) for known in self.tracks) or "none"
            raise ValueError(f"there is no object {object!r}; known objects: {known}")
        return self.tracks[object]

    def _first_prompted(self) -> int:
        return min(min([*track.bank.prompted, *self._pending_prompted(track)]) for track in self.tracks.values())

    @staticmethod
    def _pending_prompted(track: ObjectTrack) -> list[int]:
        return [frame for frame, pending in track.pending.items() if pending.keep is Keep.PROMPTED]

    def _check_prompted(self) -> None:
        if not self.tracks:
            raise ValueError("there is no object to track; prompt one first")
        for track in self.tracks.values():
            if not track.bank.prompted and not self._pending_prompted(track):
                raise ValueError(f"object {track.id!r} has no prompt on any frame; prompt it or remove it")

    # copies

    def fork(self) -> VideoSession:
        """An independent session at the same point, over the same frames; every tensor is shared."""
        other = VideoSession(self.predictor, self.source, keep=self.keep, crop=self.crop)
        other.tracks = {id: self._fork(track) for id, track in self.tracks.items()}
        other.position = self.position
        other._size = self._size
        other._features = OrderedDict(self._features)
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a safetensors file: tensors and JSON. `VideoPredictor.load` reads it.

        Object ids must be strings or integers. The frames are not written: give the same source when loading.
        """
        from sam2core.predictors.session_file import write

        write(self, Path(path))
