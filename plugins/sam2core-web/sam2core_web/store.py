"""Sessions on disk: they outlive the server, and come back at the first call that names them.

One SQLite file in a folder, written as sessions change: a session's state as JSON, its masks by object and frame, and
the tensors that the model remembers. Tensors lie in the same file as the state that names them, so that both change in
one transaction and a session is whole whenever the server dies; each is written once. Uploaded images and videos are
files beside it, since decoders read files, and they never change.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from sam2core.media.frames import FrameSource
from sam2core.ops import rle
from sam2core.predictors.history import History, Step
from sam2core.predictors.session import VideoSession
from sam2core.predictors.session_file import session_of_values, session_values
from sam2core_web import schemas as s
from sam2core_web.engine import Engine
from sam2core_web.media import Refused
from sam2core_web.sessions import Session
from sam2core_web.work import Answer, ClipWork, Said, Thing, Work

LOG = logging.getLogger(__name__)
Value = TypeVar("Value")
FILE, MEDIA = "sessions.sqlite", "media"
SCHEMA = 2
OLDER = (1,)
"""Schemas that are brought up to date: what could be undone was not kept in the first."""
BUSY = 10.0
"""Seconds that a call waits while another server writes to the same file."""
HALF = 86400.0
"""Seconds after which a file that belongs to no session is what an upload left when the server died."""
TABLES = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, used REAL NOT NULL, bytes INTEGER NOT NULL, model TEXT NOT NULL,
    name TEXT NOT NULL, kind TEXT NOT NULL, frames INTEGER NOT NULL, objects INTEGER NOT NULL, origin TEXT NOT NULL,
    cover BLOB NOT NULL, state TEXT NOT NULL
);
CREATE INDEX used ON sessions (used);
CREATE TABLE answers (
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE, object INTEGER NOT NULL, frame INTEGER NOT NULL,
    answer TEXT NOT NULL, PRIMARY KEY (session, object, frame)
) WITHOUT ROWID;
CREATE TABLE tensors (
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE, number INTEGER NOT NULL, checksum INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (session, number)
);
"""
PAST = """
CREATE TABLE past (
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE, number INTEGER NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY (session, number)
) WITHOUT ROWID;
"""
"""Masks that undo and redo would bring back, by numbers that a session's state names."""


class StoreError(Refused):
    """The store's file, or a session in it, cannot be read or written; the message names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 409)


class Overtaken(Refused):
    """Another server over the same folder has changed or deleted the session."""

    def __init__(self) -> None:
        super().__init__("another server has changed or deleted this session meanwhile; load it again", 409)


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class KeptPrompt(_Kept):
    """What was said of an object on a frame."""

    points: list[s.Point]
    labels: list[Literal[0, 1]]
    box: s.Box | None
    mask: str | None
    """Run lengths."""

    def said(self, size: tuple[int, int]) -> Said:
        if len(self.points) != len(self.labels):
            raise ValueError(f"{len(self.points)} points have {len(self.labels)} labels")
        mask = None if self.mask is None else rle.decode({"size": list(size), "counts": self.mask})
        return Said(tuple(self.points), tuple(self.labels), self.box, mask)


class KeptObject(_Kept):
    number: int
    name: s.Name
    color: s.Color
    prompts: dict[int, KeptPrompt]


class KeptPast(KeptObject):
    """An object as undo or redo brings it back."""

    answers: dict[int, int]
    """Numbers of its masks, by frame."""


class KeptStep(_Kept):
    """What undo or redo does: an object becomes what it was, or is removed, where it was not."""

    object: int
    thing: KeptPast | None
    place: int = Field(ge=0)


class KeptState(_Kept):
    """A session but for its masks and tensors."""

    file: str
    size: s.Size
    frames: int
    objects: list[KeptObject]
    legs: list[tuple[int, int | None, Literal["forward", "backward"]]]
    video: dict[str, Any] | None
    """What the library's session remembers, with numbers for its tensors."""
    undo: list[KeptStep] = []
    redo: list[KeptStep] = []


class KeptAnswer(NamedTuple):
    counts: str
    area: int
    iou: float
    score: float | None


KEPT_ANSWER: TypeAdapter[KeptAnswer] = TypeAdapter(KeptAnswer)


class Entry(NamedTuple):
    """A session in the list of those that are kept."""

    id: str
    name: str
    kind: str
    model: str
    frames: int
    objects: int
    used: float


@dataclass
class Written:
    """What is on disk of a session: the next write adds what is new, and removes what is gone."""

    version: int = 0
    next: int = 1
    """The number of the next tensor or past mask."""
    tensors: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """Tensors by their identity, and their numbers."""
    answers: dict[tuple[int, int], Answer] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes of tensors, by number."""
    past: dict[int, tuple[Answer, int]] = field(default_factory=dict)
    """Masks of the past by their identity, and their numbers."""


@dataclass(frozen=True)
class Kept:
    """A session as it was read."""

    name: str
    kind: str
    origin: str
    cover: bytes
    state: KeptState
    answers: dict[tuple[int, int], Answer]
    tensors: dict[int, Tensor]
    past: dict[int, Answer]
    written: Written


class Store:
    """The sessions that are kept in a folder; those that were not used for `seconds` are removed.

    When all of them take more than `size` bytes, so are those that were not used for longest. Methods may be called
    from any thread. Raises StoreError where the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float = 30 * 86400.0,
        size: int = 20 * 2**30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.seconds = seconds
        self.size = size
        self.clock = clock
        self.file = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / MEDIA).mkdir(exist_ok=True, mode=0o700)
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))  # its journal gets the same mode
            self._db = self._connect()
            self._begin()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"sessions cannot be kept in {self.file}: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def media(self, id: str) -> Path:
        """Where the uploaded file of a session is."""
        return self.folder / MEDIA / id

    # reading

    def has(self, id: str) -> bool:
        with self._reading() as db:
            return db.execute("SELECT 1 FROM sessions WHERE id = ?", (id,)).fetchone() is not None

    def entries(self, limit: int) -> list[Entry]:
        """The sessions that hold something of their user's: objects, or a file; the one used last comes first."""
        wanted = "SELECT id, name, kind, model, frames, objects, used FROM sessions"
        with self._reading() as db:
            rows = db.execute(
                f"{wanted} WHERE objects > 0 OR origin = 'uploads' ORDER BY used DESC LIMIT ?", (limit,)
            ).fetchall()
        return [Entry(*row) for row in rows]

    def glimpse(self, id: str) -> tuple[bytes, list[tuple[str, dict[str, Any]]]]:
        """A session's image, and its masks there with their colours. Raises Refused when there is no such session."""
        with self._reading() as db:
            row = db.execute("SELECT cover, state FROM sessions WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise Refused("there is no such session", 404)
            told = db.execute("SELECT object, answer FROM answers WHERE session = ? AND frame = 0", (id,)).fetchall()
        cover, text = row
        with self._checked(id):
            state = KeptState.model_validate_json(text)
            colors = {one.number: one.color for one in state.objects}
            return cover, [(colors[number], _answer(answer, state.size).segmentation) for number, answer in told]

    def read(self, id: str, device: torch.device) -> Kept:
        """A session, with its tensors on a device; `restore` puts it into new work. Raises StoreError and Refused."""
        with self._writing() as db:
            db.execute("UPDATE sessions SET used = ? WHERE id = ?", (self.clock(), id))
        with self._reading() as db:
            db.execute("BEGIN")  # all of it is of one moment
            row = db.execute(
                "SELECT version, name, kind, origin, cover, state FROM sessions WHERE id = ?", (id,)
            ).fetchone()
            if row is None:
                raise Refused("there is no such session", 404)
            masks = db.execute("SELECT object, frame, answer FROM answers WHERE session = ?", (id,)).fetchall()
            blobs = db.execute("SELECT number, checksum, data FROM tensors WHERE session = ?", (id,)).fetchall()
            older = db.execute("SELECT number, answer FROM past WHERE session = ?", (id,)).fetchall()
        version, name, kind, origin, cover, text = row
        with self._checked(id):
            state = KeptState.model_validate_json(text)
            answers = {(number, frame): _answer(told, state.size) for number, frame, told in masks}
            tensors = {number: _tensor(data, checksum, device) for number, checksum, data in blobs}
            past = {number: _answer(told, state.size) for number, told in older}
        sizes = {number: len(data) for number, _, data in blobs}
        following = 1 + max((*sizes, *past), default=0)
        written = Written(version, following, _identities(tensors), dict(answers), sizes, _identities(past))
        return Kept(name, kind, origin, cover, state, answers, tensors, past, written)

    # writing

    def write(self, session: Session) -> None:
        """Save what has changed of a session. In the model's thread, under the session's lock.

        Raises StoreError, for one when the disk is full, and Overtaken; the session then is saved as it was before.
        """
        work, before = session.work, session.written or Written()
        now = Written(before.version + 1, before.next, answers=_answers(work), sizes=dict(before.sizes))
        fresh: dict[int, bytes] = {}

        def number(tensor: Tensor) -> int:
            known = now.tensors.get(id(tensor)) or before.tensors.get(id(tensor))
            if known is None:
                known = (tensor, now.next)
                now.next += 1
                fresh[known[1]] = _blob(tensor)
                now.sizes[known[1]] = len(fresh[known[1]])
            now.tensors[id(tensor)] = known
            return known[1]

        def past(answer: Answer) -> int:
            known = now.past.get(id(answer)) or before.past.get(id(answer))
            if known is None:
                known = (answer, now.next)
                now.next += 1
            now.past[id(answer)] = known
            return known[1]

        state = _state(session, number, past)
        used = {number for _, number in now.tensors.values()}
        gone = [number for number in now.sizes if number not in used]
        for one in gone:
            del now.sizes[one]
        columns = {
            "id": session.id,
            "version": now.version,
            "used": self.clock(),
            "bytes": sum(now.sizes.values()) + _size(self.media(session.id)),
            "model": session.model,
            "name": session.name,
            "kind": work.kind,
            "frames": work.frames,
            "objects": len(work.things),
            "origin": session.of,
            "cover": session.cover,
            "state": json.dumps(state),
        }
        with self._writing() as db:
            _put(db, columns, before.version)
            key = session.id
            db.executemany("DELETE FROM tensors WHERE session = ? AND number = ?", [(key, one) for one in gone])
            rows = [(key, one, zlib.crc32(data), data) for one, data in fresh.items()]
            db.executemany("INSERT INTO tensors VALUES (?, ?, ?, ?)", rows)
            lost = [(key, *place) for place in before.answers if place not in now.answers]
            db.executemany("DELETE FROM answers WHERE session = ? AND object = ? AND frame = ?", lost)
            changed = [
                (key, *place, _text(one)) for place, one in now.answers.items() if before.answers.get(place) is not one
            ]
            db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", changed)
            over = [(key, number) for place, (_, number) in before.past.items() if place not in now.past]
            db.executemany("DELETE FROM past WHERE session = ? AND number = ?", over)
            added = [(key, number, _text(one)) for place, (one, number) in now.past.items() if place not in before.past]
            db.executemany("INSERT INTO past VALUES (?, ?, ?)", added)
        session.written = now

    def add(self, columns: dict[str, Any], answers: dict[tuple[int, int], str], tensors: dict[int, Tensor]) -> None:
        """Take in a session that was kept elsewhere, with its masks by object and frame, and its tensors by number."""
        id, blobs = columns["id"], {number: _blob(tensor) for number, tensor in tensors.items()}
        size = sum(map(len, blobs.values())) + _size(self.media(id))
        with self._writing() as db:
            _put(db, {**columns, "version": 1, "bytes": size}, 0)
            rows = [(id, number, zlib.crc32(data), data) for number, data in blobs.items()]
            db.executemany("INSERT INTO tensors VALUES (?, ?, ?, ?)", rows)
            masks = [(id, *place, text) for place, text in answers.items()]
            db.executemany("INSERT INTO answers VALUES (?, ?, ?, ?)", masks)

    def remove(self, id: str) -> None:
        """Forget a session, if there is one, and its file."""
        with self._writing() as db:
            db.execute("DELETE FROM sessions WHERE id = ?", (id,))
        self.media(id).unlink(missing_ok=True)
        self._shrink()

    def expire(self, live: Collection[str] = ()) -> None:
        """Remove sessions that nobody used for long, or for which there is no room, but for those that are open."""
        with self._reading() as db:
            rows = db.execute("SELECT id, name, used, bytes FROM sessions ORDER BY used").fetchall()
        limit, total = self.clock() - self.seconds, sum(row[3] for row in rows)
        for id, name, used, size in rows:
            if id in live or used >= limit and total <= self.size:
                continue
            LOG.warning("session %r is removed: %s", name, "it is old" if used < limit else "there is no room for it")
            self.remove(id)
            total -= size
        kept = {row[0] for row in rows}
        for path in (self.folder / MEDIA).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in kept and path.stat().st_mtime < self.clock() - HALF:
                    path.unlink()

    # the file

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.file, timeout=BUSY, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = NORMAL")  # after a power cut the latest writes may be gone, never half of one
        return db

    def _begin(self) -> None:
        """Make the tables of a new file. Raises StoreError for a file of another version."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, *OLDER, SCHEMA):
            raise StoreError(
                f"{self.file} has schema {version}; this version reads {SCHEMA}: --save takes another folder"
            )
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")
        with self._writing() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA:  # nobody was faster
                for statement in (PAST if version else TABLES + PAST).split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA}")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, which waits for no writer."""
        try:
            with contextlib.closing(self._connect()) as db:
                yield db
        except sqlite3.Error as error:
            raise StoreError(f"{self.file} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise StoreError(f"{self.file} cannot be written: {error}") from error

    def _shrink(self) -> None:
        """Give the room of what was removed back to the disk."""
        with self._lock:
            self._db.execute("PRAGMA incremental_vacuum").fetchall()

    @contextlib.contextmanager
    def _checked(self, id: str) -> Iterator[None]:
        """What is wrong with a saved session becomes one message that names the file."""
        try:
            yield
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "state"
            raise StoreError(f"session {id} in {self.file} is damaged: {place}: {wrong['msg']}") from error
        except (SafetensorError, ValueError, LookupError, TypeError) as error:
            raise StoreError(f"session {id} in {self.file} is damaged: {error}") from error


def remembered(engine: Engine, kept: Kept, source: FrameSource) -> VideoSession:
    """The library's session over a video, with what it remembered. Raises ValueError."""
    if kept.state.video is None:
        raise ValueError("nothing is said of what the model remembers")
    try:
        return session_of_values(engine.video, kept.state.video, kept.tensors, source, name="it")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"what the model remembers is damaged: {type(error).__name__} {error}") from error


def restore(work: Work, kept: Kept) -> None:
    """Put what was saved of objects and masks into a new work over the same image or video. Raises ValueError."""
    state = kept.state
    if state.size != work.size or state.frames != work.frames:
        raise ValueError(
            f"its file has changed: {state.frames} frames of {state.size} then, {work.frames} of {work.size} now"
        )
    frames = range(work.frames)
    for one in state.objects:
        answers = {frame: answer for (number, frame), answer in kept.answers.items() if number == one.number}
        work.things[one.number] = _thing(work, one, answers)
    undo, redo = ([_step(work, kept, step) for step in steps] for steps in (state.undo, state.redo))
    work.history = History(undo, redo)
    if isinstance(work, ClipWork) and (len(undo), len(redo)) != tuple(map(len, work.session.history.steps)):
        raise ValueError("what can be undone of objects and of what the model remembers differs")
    for first, stop, _ in state.legs:
        if first not in frames or stop is not None and stop not in range(-1, work.frames + 1):
            raise ValueError("a run is planned beyond the video's end")
    work.legs = [(first, stop, direction) for first, stop, direction in state.legs]


def _thing(work: Work, one: KeptObject, answers: dict[int, Answer]) -> Thing:
    said = {frame: prompt.said(work.size) for frame, prompt in one.prompts.items()}
    if not all(frame in range(work.frames) for frame in (*said, *answers)):
        raise ValueError(f"object {one.number} has frames beyond the video's end")
    return Thing(one.name, one.color, said, answers)


def _step(work: Work, kept: Kept, step: KeptStep) -> Step[int, Thing]:
    if step.thing is None:
        return step.object, None, step.place
    lost = [number for number in step.thing.answers.values() if number not in kept.past]
    if lost:
        raise ValueError(f"mask {lost[0]} of the past is missing")
    answers = {frame: kept.past[number] for frame, number in step.thing.answers.items()}
    return step.object, _thing(work, step.thing, answers), step.place


def _told(number: int, thing: Thing) -> dict[str, Any]:
    """An object as `KeptObject` has it."""
    return {
        "number": number,
        "name": thing.name,
        "color": thing.color,
        "prompts": {
            str(frame): {
                "points": [list(xy) for xy in said.points],
                "labels": list(said.labels),
                "box": said.box,
                "mask": None if said.mask is None else rle.encode(said.mask)["counts"],
            }
            for frame, said in thing.said.items()
        },
    }


def _state(session: Session, number: Callable[[Tensor], int], past: Callable[[Answer], int]) -> dict[str, Any]:
    work = session.work

    def told(step: Step[int, Thing]) -> dict[str, Any]:
        key, thing, place = step
        if thing is None:
            return {"object": key, "thing": None, "place": place}
        answers = {str(frame): past(answer) for frame, answer in thing.answers.items()}
        return {"object": key, "thing": {**_told(key, thing), "answers": answers}, "place": place}

    undo, redo = ([told(step) for step in steps] for steps in work.history.steps)
    return {
        "file": session.file,
        "size": list(work.size),
        "frames": work.frames,
        "objects": [_told(key, thing) for key, thing in work.things.items()],
        "legs": work.legs,
        "video": session_values(work.session, number) if isinstance(work, ClipWork) else None,
        "undo": undo,
        "redo": redo,
    }


def _identities(values: dict[int, Value]) -> dict[int, tuple[Value, int]]:
    return {id(value): (value, number) for number, value in values.items()}


def _answers(work: Work) -> dict[tuple[int, int], Answer]:
    return {(number, frame): one for number, thing in work.things.items() for frame, one in thing.answers.items()}


def _text(answer: Answer) -> str:
    return json.dumps([answer.segmentation["counts"], *answer[1:]])


def _answer(text: str, size: tuple[int, int]) -> Answer:
    told = KEPT_ANSWER.validate_json(text)
    return Answer({"size": list(size), "counts": told.counts}, told.area, told.iou, told.score)


def _blob(tensor: Tensor) -> bytes:
    copy = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return save_tensors({"tensor": copy})


def _tensor(data: bytes, checksum: int, device: torch.device) -> Tensor:
    if zlib.crc32(data) != checksum:
        raise ValueError("a tensor has another checksum")
    (tensor,) = load_tensors(data).values()
    return tensor.to(device)


def _put(db: sqlite3.Connection, columns: dict[str, Any], version: int) -> None:
    """Write a session's row, if it is as this server wrote or read it last. Raises Overtaken."""
    if version == 0:
        values = ", ".join(f":{name}" for name in columns)
        db.execute(f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({values})", columns)
        return
    changes = ", ".join(f"{name} = :{name}" for name in columns)
    done = db.execute(
        f"UPDATE sessions SET {changes} WHERE id = :id AND version = :before", {**columns, "before": version}
    )
    if done.rowcount != 1:
        raise Overtaken


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
