"""VideoSession: everything that changes while tracking."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam2core.annotations import integer
from sam2core.older import takes_our_words
from sam2core.predictors.crops import Crop
from sam2core.predictors.history import History
from sam2core.predictors.results import FrameResult, frame_result
from sam2core.predictors.session_file import write_session
from sam2core.predictors.session_frames import Route, SessionFrames
from sam2core.predictors.session_prompts import answer_prompt, read_prompt
from sam2core.predictors.tracks import ObjectTrack, check_prompted, first_prompted
from sam2core.predictors.transforms import pixels_of
from sam2core.types import FrameMemory, ImageFeatures, Keep

if TYPE_CHECKING:
    from sam2core.media.frames import FrameSource
    from sam2core.predictors.video import VideoPredictor

DIRECTIONS = ("forward", "backward", "both")

Progress = Callable[[int, int | None], None]


def object_id(id: Hashable) -> Hashable:
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
        self.keep = keep
        self.tracks: dict[Hashable, ObjectTrack] = {}
        self.position: int | None = None
        """The frame that was processed last; None before the first."""
        self._frames = SessionFrames(source, crop)
        self.history: History[Hashable, ObjectTrack] = History()  # what undo and redo bring back

    def __repr__(self) -> str:
        objects = ", ".join(map(repr, self.objects)) or "none"
        at = "" if self.position is None else f", at frame {self.position}"
        return f"<VideoSession: {self._frames}{at}, objects: {objects}>"

    # what is there

    @property
    def objects(self) -> tuple[Hashable, ...]:
        """The ids of the objects, in the order they were added."""
        return tuple(self.tracks)

    @property
    def source(self) -> FrameSource | None:
        """The frames; None for a live session."""
        return self._frames.source

    @property
    def crop(self) -> Crop | None:
        """The part x0, y0, x1, y1 of every frame that is looked at; None: all. A live session checks it at first."""
        return self._frames.crop

    @property
    def length(self) -> int | None:
        """The number of frames; None when it is not known, as for a stream."""
        return self._frames.length

    @property
    def size(self) -> tuple[int, int]:
        """The video's (H, W). Raises ValueError before a live session has seen its first frame."""
        return self._frames.size

    @torch.inference_mode(False)  # to be edited, and to be learned from
    @torch.no_grad()
    def result(self, frame: int) -> FrameResult:
        """What is known of every object on a frame, without computing anything."""
        return frame_result(self.predictor, self.tracks, frame, frames=self._frames)

    # prompts

    @takes_our_words
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
    ) -> FrameResult:
        """Say what an object is on a frame, and see the answer for all objects on that frame.

        `object` is any hashable id; a new one adds an object. `points` (N, 2) x, y in video pixels with `labels` (N,)
        1 on the object (default), 0 off it; `box` x0, y0, x1, y1; or `mask` (H, W), booleans or integers of which 0 is
        off it. An earlier prompt of the object on this frame is replaced; with `add`, further points join it. An
        earlier answer on the frame goes to the decoder as a mask input. The answer is memorized when propagation goes
        on. Raises ValueError, and changes nothing, when the prompt makes no sense, lies outside the session's crop, or
        the frame does not exist.
        """
        frame, object = self._frames.check(frame, self.position), object_id(object)
        before = self.tracks.get(object)
        earlier = before.prompts.get(frame) if before is not None and add else None
        model_size = self.predictor.model.image_size
        said = read_prompt(
            points, labels, box, mask, earlier=earlier, size=self.size, crop=self.crop, model_size=model_size
        )
        policy = self.predictor.policy
        track = ObjectTrack(object, policy_state=policy.start()) if before is None else before.fork(policy.copy)
        answer_prompt(self.predictor, self.features(frame), frame, track, said, length=self.length)
        self.history.remember(self.tracks, object)
        self.tracks[object] = track
        return self.result(frame)

    def undo(self) -> Hashable | None:
        """Take the latest prompt or removal back: its object is as it was before, memories included.

        The object's id, or None when there is nothing to take back.
        """
        return self.history.undo(self.tracks)

    def redo(self) -> Hashable | None:
        """Do again what `undo` took back last, memories included. The object's id, or None.

        The next prompt or removal ends what can be given back.
        """
        return self.history.redo(self.tracks)

    def clear(self, frame: int, object: Hashable) -> FrameResult:
        """Take back what was said of an object on a frame; its memory there becomes one of the recent frames."""
        track = self._track(object)
        frame = self._frames.check(frame, self.position)
        track.prompts.pop(frame, None)
        track.pending.pop(frame, None)
        if frame in track.bank.prompted:
            track.bank.demote(frame)
            track.passes.drop(frame)
        return self.result(frame)

    def remove(self, object: Hashable) -> None:
        """Remove an object, until `undo`; the others are not touched. Raises ValueError when it is not there."""
        self._track(object)
        self.history.remember(self.tracks, object)
        del self.tracks[object]

    def reset(self) -> None:
        """Forget all objects; the frames stay."""
        self.tracks.clear()
        self.history.clear()

    # tracking

    @takes_our_words
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
        check_prompted(self.tracks)
        first = first_prompted(self.tracks) if start is None else self._frames.check(start, self.position)
        plan, total = self._frames.route(first, stop, direction)
        return self._run(plan, total, progress)

    def _run(self, plan: Route, total: int | None, progress: Progress | None) -> Iterator[FrameResult]:
        done = 0
        for frames, backwards in plan:
            for frame in self._frames.encoded_ahead(frames, self.predictor.frames_per_call, self._encode):
                if not self._frames.exists(frame):
                    break
                result = self._visit(frame, backwards=backwards)
                done += 1
                if progress is not None:
                    progress(done, total)
                yield result

    @takes_our_words
    @torch.inference_mode()
    def step(self, image: Any, prompts: Mapping[Hashable, Mapping[str, Any]] | None = None) -> FrameResult:
        """Give a live session its next frame, with prompts on it: object id -> keywords of `prompt`.

        Tracks every object onto the frame and returns the result; a frame before any prompt gives an empty one. Raises
        ValueError when the frame has another size than the ones before, or a prompt makes no sense; the session then is
        as it was.
        """
        if self.source is not None:
            raise ValueError("this session has frames of its own; step() is for sessions opened without a source")
        values = pixels_of(image, self.predictor.model.device)
        size = (values.shape[1], values.shape[2])
        before = (self._frames.copy(), self.position, dict(self.tracks), self.history.copy())
        self._frames.admit(size)
        frame = 0 if self.position is None else self.position + 1
        self._frames.newest.frame, self._frames.newest.image = frame, image
        self.position = frame
        try:
            self._encode([frame], values)
            for object, said in (prompts or {}).items():
                self.prompt(frame, object, **said)
            if self.tracks:
                check_prompted(self.tracks)
        except BaseException:
            self._frames, self.position, self.tracks, self.history = before
            raise
        if not self.tracks:
            return self.result(frame)
        return self._visit(frame, backwards=False)

    @torch.inference_mode()
    def _visit(self, frame: int, *, backwards: bool) -> FrameResult:
        """Bring every object onto a frame: prompted ones as answered, the others from memory."""
        tracks = list(self.tracks.values())
        self._memorize_pending(tracks)
        check_prompted(self.tracks)
        followed = [track for track in tracks if frame not in track.bank.prompted]
        if followed:
            self.predictor.follow(self.features(frame), followed, frame, backwards=backwards, length=self.length)
        for track in tracks:
            if self.predictor.forget_around_prompts and frame in track.bank.prompted:
                track.forget_recent(frame, self.predictor.policy.clearing)
            track.passes.add(frame, backwards=backwards)
        self.position = frame
        result = self.result(frame)
        if self.keep == "horizon":
            for track in (*tracks, *self.history.values()):
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
                    track.forget_recent(frame, self.predictor.policy.clearing)
            track.pending.clear()

    # frames

    @torch.inference_mode()
    def features(self, frame: int) -> ImageFeatures:
        """The encoded image of a frame, from a small cache. Raises ValueError when the frame cannot be had any more."""
        encoded = self._frames.encoded
        if frame in encoded:
            encoded.move_to_end(frame)
            return encoded[frame]
        if self.source is None:
            raise ValueError(f"frame {frame} of this live session has passed; prompt the current one, {self.position}")
        self._encode([frame])
        return encoded[frame]

    @torch.inference_mode()
    def _encode(self, frames: Sequence[int], *given: Tensor) -> None:
        """Encode frames of the source, or those `given` of a live session, and forget the oldest."""
        self._frames.encode(frames, given, self.predictor.model)
        while (oldest := self._frames.surplus) is not None:
            if self.length is None:  # the frame does not come again
                everyone = [*self.tracks.values(), *self.history.values()]
                self._memorize_pending([track for track in everyone if oldest in track.pending])
            del self._frames.encoded[oldest]

    # objects

    def _track(self, object: Hashable) -> ObjectTrack:
        if object not in self.tracks:
            known = ", ".join(repr(known) for known in self.tracks) or "none"
            raise ValueError(f"there is no object {object!r}; known objects: {known}")
        return self.tracks[object]

    # copies

    def fork(self) -> VideoSession:
        """An independent session at the same point, over the same frames; every tensor is shared."""
        other = VideoSession(self.predictor, self.source, keep=self.keep)
        other.tracks = {id: track.fork(self.predictor.policy.copy) for id, track in self.tracks.items()}
        other.position = self.position
        other._frames = self._frames.copy()
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a safetensors file: tensors and JSON. `VideoPredictor.load` reads it.

        Object ids must be strings or integers. The frames are not written: give the same source when loading.
        """
        write_session(self, Path(path))
