"""Sessions on disk: one safetensors file, tensors by number and everything else as JSON in its metadata.

`session_values` and `session_of_values` are the same for stores of another kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam2core import older
from sam2core.checkpoints import files
from sam2core.memory.bank import MemoryBank
from sam2core.older import WORDS
from sam2core.predictors.history import History, Step
from sam2core.predictors.tracks import FramePrompt, ObjectTrack, Passes, Pending
from sam2core.storage import FileError, parse_json
from sam2core.types import FrameMemory, ImageFeatures, Keep, MaskCandidates, MaskPrediction, TokenBlock

if TYPE_CHECKING:
    from sam2core.media.frames import FrameSource
    from sam2core.predictors.session import VideoSession
    from sam2core.predictors.video import VideoPredictor

KEY = "sam2core.session"
SCHEMAS = (1, 2)
"""Written is the first that holds all there is: the second has a crop."""


class _Numbers:
    """Numbers the tensors of a session, and copies each to the CPU; a tensor that is shared has one number."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._numbers: dict[int, int] = {}
        self._held: list[Tensor] = []

    def __call__(self, value: Tensor) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._numbers)
            self._held.append(value)
            self.tensors[str(self._numbers[id(value)])] = (
                value.detach().cpu().clone(memory_format=torch.contiguous_format)
            )
        return self._numbers[id(value)]


class _Writer:
    """Turns values into JSON, with each tensor replaced by its number."""

    def __init__(self, number: Callable[[Tensor], int]) -> None:
        self.number = number
        self._memories: dict[int, int] = {}
        self._count = 0

    def tensor(self, value: Tensor | None) -> int | None:
        return None if value is None else self.number(value)

    def id(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"only sessions whose object ids are strings or integers can be saved, not {value!r}")
        return value

    def state(self, value: Any) -> Any:
        """A policy's state: None, numbers, strings, tensors, and lists and dicts of them."""
        if isinstance(value, Tensor):
            return {"tensor": self.tensor(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [self.state(item) for item in value]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: self.state(item) for key, item in value.items()}}
        raise ValueError(
            f"a memory policy's state is saved when it is made of numbers, strings, tensors, lists and dicts; "
            f"this one holds a {type(value).__qualname__}"
        )

    def memory(self, memory: FrameMemory) -> dict[str, Any]:
        self._memories[id(memory)] = self._count
        self._count += 1
        return {
            "frame": memory.frame,
            "blocks": None if memory.blocks is None else [self.block(block) for block in memory.blocks],
            "object_pointer": self.tensor(memory.object_pointer),
            "logits": self.tensor(memory.logits),
            "object_score": self.tensor(memory.object_score),
            "iou": self.tensor(memory.iou),
            "notes": dict(memory.notes),
        }

    def block(self, block: TokenBlock) -> dict[str, Any]:
        return {
            "tokens": self.tensor(block.tokens),
            "position": self.tensor(block.position),
            "grid": block.grid,
            "key_scale": block.key_scale,
        }

    def answer(self, answer: MaskPrediction) -> dict[str, Any]:
        return {
            "logits": self.tensor(answer.logits),
            "iou": self.tensor(answer.iou),
            "object_pointer": self.tensor(answer.object_pointer),
            "object_score": self.tensor(answer.object_score),
            "candidates": {
                name: self.tensor(getattr(answer.candidates, name))
                for name in ("logits", "iou", "object_pointers", "object_score")
            },
        }

    def known_memory(self, memory: FrameMemory) -> dict[str, Any] | int:
        """A memory that was written already by its number: a past that differs in one frame does not take all again."""
        return self._memories[id(memory)] if id(memory) in self._memories else self.memory(memory)

    def step(self, step: Step[Hashable, ObjectTrack]) -> list[Any]:
        """What undo or redo takes; written after the tracks, whose memories it shares."""
        key, track, place = step
        return [self.id(key), None if track is None else self.track(track, self.known_memory), place]

    def track(self, track: ObjectTrack, memory: Callable[[FrameMemory], Any] | None = None) -> dict[str, Any]:
        told = memory or self.memory
        return {
            "id": self.id(track.id),
            "prompted": [told(memory) for memory in track.bank.prompted.values()],
            "recent": [told(memory) for memory in track.bank.recent.values()],
            "prompts": [
                [frame, self.tensor(said.points), self.tensor(said.labels), self.tensor(said.mask)]
                for frame, said in track.prompts.items()
            ],
            "pending": [
                [frame, pending.keep.value, self.answer(pending.answer)] for frame, pending in track.pending.items()
            ],
            "passes": track.passes.runs,
            "state": self.state(track.policy_state),
            "shown": None if track.shown is None else told(track.shown),
        }


class _Reader:
    """The inverse of `_Writer`: tensors that were one stay one."""

    def __init__(self, tensors: Mapping[int, Tensor], predictor: VideoPredictor, name: str) -> None:
        self.tensors = tensors
        self.name = name
        self.dim = predictor.model.object_pointer.absent.shape[-1]
        self.map_size = predictor.model.prompt_encoder.mask_input_size
        self._memories: list[FrameMemory] = []

    def tensor(self, number: int, *last: int) -> Tensor:
        """The tensor of a number, whose last dimensions are as given: what does not fit would fail frames later."""
        tensor = self.tensors[number]
        if last and tuple(tensor.shape[-len(last) :]) != last:
            raise self.wrong(f"a tensor of {tuple(tensor.shape)} where one must end in {last}")
        return tensor

    def optional(self, number: int | None) -> Tensor | None:
        return None if number is None else self.tensors[number]

    def frame(self, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(f"{value!r:.60} where the number of a frame must be")
        return value

    def id(self, value: Any) -> str | int:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.wrong(f"{value!r:.60} where the id of an object must be")
        return value

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.name} is a damaged session: it holds {what}")

    def state(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.state(item) for item in value]
        if isinstance(value, dict):
            if "tensor" in value:
                return self.tensor(value["tensor"])
            return {key: self.state(item) for key, item in value["dict"].items()}
        return value

    def memory(self, value: dict[str, Any] | int) -> FrameMemory:
        if not isinstance(value, dict):
            return self._memories[self.frame(value)]
        found = FrameMemory(
            frame=self.frame(value["frame"]),
            blocks=None if value["blocks"] is None else tuple(self.block(block) for block in value["blocks"]),
            object_pointer=self.tensor(value["object_pointer"], self.dim),
            logits=self.tensor(value["logits"], *self.map_size),
            object_score=self.tensor(value["object_score"]),
            iou=self.tensor(value["iou"]),
            notes=value["notes"],
        )
        self._memories.append(found)
        return found

    def block(self, value: dict[str, Any]) -> TokenBlock:
        grid = value["grid"]
        return TokenBlock(
            tokens=self.tensor(value["tokens"]),
            position=self.tensor(value["position"]),
            grid=None if grid is None else (grid[0], grid[1]),
            key_scale=value["key_scale"],
        )

    def answer(self, value: dict[str, Any]) -> MaskPrediction:
        return MaskPrediction(
            logits=self.tensor(value["logits"]),
            iou=self.tensor(value["iou"]),
            object_pointer=self.tensor(value["object_pointer"]),
            object_score=self.tensor(value["object_score"]),
            candidates=MaskCandidates(**{name: self.tensor(number) for name, number in value["candidates"].items()}),
        )

    def track(self, value: dict[str, Any]) -> ObjectTrack:
        bank = MemoryBank()
        for kept, told in ((bank.prompted, value["prompted"]), (bank.recent, value["recent"])):
            kept.update({memory.frame: memory for memory in map(self.memory, told)})
        return ObjectTrack(
            id=self.id(value["id"]),
            bank=bank,
            prompts={
                self.frame(frame): FramePrompt(
                    self.tensor(points).cpu(), self.tensor(labels).cpu(), self.optional(mask)
                )
                for frame, points, labels, mask in value["prompts"]
            },
            pending={
                self.frame(frame): Pending(self.answer(answer), Keep(WORDS.get(keep, keep)))
                for frame, keep, answer in value["pending"]
            },
            passes=Passes(
                [(self.frame(first), self.frame(last), bool(backwards)) for first, last, backwards in value["passes"]]
            ),
            policy_state=self.state(value["state"]),
            shown=None if value["shown"] is None else self.memory(value["shown"]),
        )

    def step(self, value: Any) -> Step[Hashable, ObjectTrack]:
        key, track, place = value
        if not isinstance(place, int) or isinstance(place, bool) or place < 0:
            raise self.wrong(f"{place!r:.60} where a place among objects must be")
        return self.id(key), None if track is None else self.track(track), place


def write_session(session: VideoSession, path: Path) -> None:
    """Write a session; a file that is there already is replaced when the new one is whole."""
    numbers = _Numbers()
    about = session_values(session, numbers)
    files.save_tensors(path, numbers.tensors, {KEY: json.dumps(about)}, force=True)


def session_values(session: VideoSession, number: Callable[[Tensor], int]) -> dict[str, Any]:
    """All that a session remembers, as values of JSON in which `number` stands for each tensor.

    Tensors are not edited once they are remembered, so one that was numbered before need not be written again.
    Raises ValueError when an object's id or a policy's state cannot be written.
    """
    writer = _Writer(number)
    undo, redo = session.history.steps
    features = {}
    if session.source is None:  # a live session cannot see its frames again: those it remembers go along
        features = {
            frame: [
                writer.tensor(kept.embedding),
                writer.tensor(kept.position),
                [writer.tensor(s) for s in kept.high_res_features],
            ]
            for frame, kept in session._frames.encoded.items()
        }
    return {
        "schema": SCHEMAS[session.crop is not None],
        **({} if session.crop is None else {"crop": session.crop}),
        "model": session.predictor.model.fingerprint(),
        "options": session.predictor.options,
        "keep": session.keep,
        "position": session.position,
        "size": session._frames.known_size if session.source is None else session.size,
        "length": session.length,
        "tracks": [writer.track(track) for track in session.tracks.values()],
        "features": [[frame, *kept] for frame, kept in features.items()],
        "undo": [writer.step(step) for step in undo],
        "redo": [writer.step(step) for step in redo],
    }


def read_session(predictor: VideoPredictor, path: Path, source: FrameSource | None) -> VideoSession:
    """The session that was written, over `source`. Raises ValueError when it cannot go on with this predictor."""
    name = repr(str(path))
    try:
        stored, metadata = files.read(path)
        if KEY not in metadata:
            raise ValueError(f"{name} is not a saved session")
        about = older.session(older.renamed(parse_json(metadata[KEY], name)))
    except FileError as error:
        raise ValueError(f"{name} is not a saved session: {error}") from error
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{name} is a damaged session: it does not hold what one must ({error!r})") from error
    tensors = {int(key): tensor.to(predictor.model.device) for key, tensor in stored.items() if key.isdecimal()}
    return session_of_values(predictor, about, tensors, source, name=repr(str(path)))


def session_of_values(
    predictor: VideoPredictor,
    about: dict[str, Any],
    tensors: Mapping[int, Tensor],
    source: FrameSource | None,
    *,
    name: str,
) -> VideoSession:
    """The session that `session_values` told, over `source`; `tensors` has those that it names, on the model's device.

    `name` says in messages where the values are from. Raises ValueError when the session cannot go on with this
    predictor, or holds what no session does.
    """
    try:
        return _session_of_values(predictor, about, tensors, source, name)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(f"{name} is a damaged session: it does not hold what one must ({reason})") from error
    except ValueError as error:
        if name in str(error):
            raise
        raise ValueError(f"{name} is a damaged session: {error}") from error


def _session_of_values(
    predictor: VideoPredictor,
    about: dict[str, Any],
    tensors: Mapping[int, Tensor],
    source: FrameSource | None,
    name: str,
) -> VideoSession:
    if about["schema"] not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        raise ValueError(f"{name} has session schema {about['schema']}; this version reads {known}")
    for what, saved, mine in (
        ("by another model", about["model"], predictor.model.fingerprint()),
        ("with other options", about["options"], json.loads(json.dumps(predictor.options))),
    ):
        if saved != mine:
            told = ", ".join(
                f"{key}: {saved.get(key)!r} there, {mine.get(key)!r} here"
                for key in sorted({*saved, *mine})
                if saved.get(key) != mine.get(key)
            )
            raise ValueError(f"{name} was saved {what} ({told})")
    live = bool(about["features"]) or about["length"] is None and source is None
    if source is None and not live:
        raise ValueError(f"{name} is a session over {about['length']} frames: give the source to go on with")
    if source is not None:
        if list(source.size) != list(about["size"]) or source.length != about["length"]:
            raise ValueError(
                f"{name} was saved over {about['length']} frames of {about['size']}; "
                f"this source has {source.length} of {list(source.size)}"
            )
    reader = _Reader(tensors, predictor, name)
    crop = tuple(about["crop"]) if "crop" in about else None
    session = predictor.open(source, keep=about["keep"], crop=crop)
    session.position = about["position"]
    session._frames.known_size = None if about["size"] is None else (about["size"][0], about["size"][1])
    tracks = [reader.track(track) for track in about["tracks"]]
    session.tracks = {track.id: track for track in tracks}
    # files of before have no past
    undo, redo = ([reader.step(step) for step in about.get(which, ())] for which in ("undo", "redo"))
    session.history = History(undo, redo)
    session._frames.encoded.update(
        (
            frame,
            ImageFeatures(
                reader.tensor(embedding),
                reader.tensor(position),
                tuple(reader.tensor(level) for level in high_res_features),
            ),
        )
        for frame, embedding, position, high_res_features in about["features"]
    )
    return session
