"""Sessions on disk, as JSON and tensors: they outlive the server, and come back at the first call that names them.

A session is a folder of its own: `state.json`, the library's `session-N.safetensors` that it names, and the uploaded
file. `state.json` is replaced as a whole after the rest is there, so that what is read always belongs together.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sam2core.ops import rle
from sam2core_web.sessions import Session
from sam2core_web.work import Answer, ClipWork, Said, Thing, Work

SCHEMA = 1
STATE, SOURCE = "state.json", "source"


class Saved:
    """A folder of saved sessions; those that nobody used for `seconds` are removed."""

    def __init__(self, folder: Path, *, seconds: float = 7 * 86400.0, clock: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.seconds = seconds
        self.clock = clock

    def has(self, id: str) -> bool:
        return self._place(id) is not None

    def source(self, id: str) -> Path:
        """Where an uploaded file is kept."""
        return self.folder / id / SOURCE

    def write(self, session: Session) -> None:
        """Save a session, in place of what was saved of it. In the model's thread, under the session's lock."""
        place = self.folder / session.id
        place.mkdir(exist_ok=True, mode=0o700)
        work = session.work
        state: dict[str, Any] = {
            "schema": SCHEMA,
            "name": session.name,
            "of": session.of,
            "file": session.file,
            "kind": work.kind,
            "legs": work.legs,
            "things": {str(number): _told(thing) for number, thing in work.things.items()},
            "tensors": None,
        }
        if session.of == "uploads" and work.path is not None and not self.source(session.id).exists():
            _keep(work.path, self.source(session.id))
        if isinstance(work, ClipWork):
            older = {int(path.stem.removeprefix("session-")) for path in place.glob("session-*.safetensors")}
            state["tensors"] = f"session-{max(older, default=0) + 1}.safetensors"
            work.session.save(place / state["tensors"])
        unfinished = place / f"{STATE}.part"
        unfinished.write_text(json.dumps(state))
        os.replace(unfinished, place / STATE)
        for path in place.glob("session-*.safetensors*"):
            if path.name != state["tensors"]:
                path.unlink()

    def read(self, id: str) -> dict[str, Any]:
        """What was written of a session; `restore` puts it into new work. Raises ValueError when it is damaged."""
        place = self._place(id)
        assert place is not None
        state = json.loads((place / STATE).read_text())
        if state["schema"] != SCHEMA:
            raise ValueError(f"the session was saved with schema {state['schema']}; this version reads {SCHEMA}")
        os.utime(place / STATE)
        return state

    def tensors(self, id: str, state: dict[str, Any]) -> Path:
        return self.folder / id / state["tensors"]

    def remove(self, id: str) -> None:
        """Forget a saved session, if there is one."""
        place = self._place(id)
        if place is not None:
            (place / STATE).unlink()  # what is left without it is no session
            shutil.rmtree(place, ignore_errors=True)

    def expire(self) -> None:
        """Remove sessions that nobody used for long, and what writing left when it broke off."""
        limit = self.clock() - self.seconds
        for place in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = place / STATE
                if (state if state.exists() else place).stat().st_mtime < limit:
                    shutil.rmtree(place, ignore_errors=True)

    def _place(self, id: str) -> Path | None:
        """The folder of a session; ids come from callers, so nothing but what the server makes up names one."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{22}", id) or not (self.folder / id / STATE).is_file():
            return None
        return self.folder / id


def restore(work: Work, state: dict[str, Any]) -> None:
    """Put what was saved of objects and masks into a new work over the same picture or clip."""
    work.things = {int(number): _thing(told) for number, told in state["things"].items()}
    work.legs = [(first, stop, direction) for first, stop, direction in state["legs"]]


def _told(thing: Thing) -> dict[str, Any]:
    said = {
        str(frame): {**asdict(one), "mask": None if one.mask is None else rle.encode(one.mask)}
        for frame, one in thing.said.items()
    }
    answers = {str(frame): list(answer) for frame, answer in thing.answers.items()}
    return {"name": thing.name, "color": thing.color, "said": said, "answers": answers}


def _thing(told: dict[str, Any]) -> Thing:
    said = {
        int(frame): Said(
            tuple((x, y) for x, y in one["points"]),
            tuple(one["labels"]),
            None if one["box"] is None else (one["box"][0], one["box"][1], one["box"][2], one["box"][3]),
            None if one["mask"] is None else rle.decode(one["mask"]),
        )
        for frame, one in told["said"].items()
    }
    answers = {int(frame): Answer(*answer) for frame, answer in told["answers"].items()}
    return Thing(told["name"], told["color"], said, answers)


def _keep(path: Path, kept: Path) -> None:
    """Give a file a second name, or copy it where that cannot be."""
    unfinished = kept.with_name(kept.name + ".part")
    unfinished.unlink(missing_ok=True)
    try:
        os.link(path, unfinished)
    except OSError:
        shutil.copyfile(path, unfinished)
    os.replace(unfinished, kept)
