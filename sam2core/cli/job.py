"""One tracking run: through a video or behind a camera, until it ends or is stopped; and going on with it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sam2core.cli.output import PLACES, Output, check_free, clear, report
from sam2core.cli.progress import Bar, Say, listen
from sam2core.cli.prompts import Prompts, Said
from sam2core.jobs.interrupt import InterruptGuard, exit_code

if TYPE_CHECKING:
    from sam2core.media.frames import FrameSource
    from sam2core.predictors.session import VideoSession
    from sam2core.predictors.video import VideoPredictor

CHECKPOINT = 60.0
"""Seconds between saved sessions, for runs that are killed."""
Leg: TypeAlias = "tuple[int, int | None, str]"


def check_frame(said: Said, source: FrameSource, start: int, stop: int | None, stride: int) -> None:
    """Raise ValueError when a prompt is on a frame that is not seen."""
    at, off = divmod(said.frame - start, stride)
    if at < 0 or off or stop is not None and said.frame >= stop:
        seen = f"{start}, {start + stride} and so on" + ("" if stop is None else f", before {stop}")
        raise ValueError(f"{said.where}: the frames seen are {seen} (--start, --stop, --stride)")
    if source.length is not None and at >= source.length:
        last = start + (source.length - 1) * stride
        raise ValueError(f"{said.where}: that lies beyond the video's end, its last frame is {last}")


def earlier_run(folder: Path, kinds: Sequence[str], *, resume: bool, force: bool) -> dict[str, Any] | None:
    """The run.json of the run to go on with. Raises ValueError when the folder and the options do not fit together.

    kinds   what will be written, of `sam2core.cli.output.KINDS`
    """
    path = folder / "run.json"
    if not path.exists():
        if resume:
            raise ValueError(f"{folder} holds no run to resume")
        if not force:
            check_free(folder, kinds)
        return None
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        status, done, live, _, _ = (earlier[key] for key in ("status", "frames", "live", "prompts", "settings"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not one of this program's: {error!r}") from error
    if force:
        return None
    if not resume and status == "complete":
        raise ValueError(f"{folder} holds a finished run: --force replaces it, -o OTHER keeps it")
    if not resume:
        raise ValueError(f"{folder} holds a run stopped after {done} frames: --resume goes on, --force starts over")
    if live:
        raise ValueError(f"{folder} holds a live run, which cannot be resumed; --force replaces it")
    return earlier


def compare(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise ValueError when a run would go on in another way than it began."""
    for key, value in mine.items():
        if value != theirs.get(key):
            raise ValueError(
                f"--resume goes on with the same command: {key} was {theirs.get(key)!r} and is now {value!r}"
            )


def legs(direction: str, first: int, position: int | None, source: FrameSource) -> list[Leg]:
    """What `VideoSession.propagate` has yet to go through after a frame: start, stop, direction."""
    backwards = direction == "backward" or direction == "both" and position is not None and position < first
    if backwards:
        start = first if position is None else position - 1
        return [(start, -1, "backward")] if start >= 0 else []
    start = first if position is None else position + 1
    ahead: list[Leg] = [(start, None, "forward")] if source.has(start) else []
    return [*ahead, (first - 1, -1, "backward")] if direction == "both" and first > 0 else ahead


def gone(direction: str, first: int, position: int | None, length: int | None) -> int:
    """How many frames lie behind a run that is at a frame."""
    if position is None:
        return 0
    if direction == "both" and position < first:
        assert length is not None
        return length - position
    return abs(position - first) + 1


class Job:
    """One run: what it was asked, where it is, and what it has written."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        prompts: Prompts,
        source: FrameSource,
        predictor: VideoPredictor,
        say: Say,
    ) -> None:
        self.folder, self.settings, self.prompts = folder, settings, prompts
        self.source, self.predictor, self.say = source, predictor, say
        self.status, self.error, self.code = "running", "", 0
        self.frames = 0
        self.seen = {name: [0, 0, 0.0] for name in prompts.objects}
        """Per object: frames with an answer, frames where it is present, sum of their IoU."""
        self.unfinished = folder / "unfinished"
        self.saved = self.unfinished / "session.safetensors"

    # offline

    def track(self, *, force: bool, resume: bool) -> None:
        """Go through the video, or on with it, until it ends, breaks off or somebody stops it."""
        direction = self.settings["direction"]
        prompted = [self._index(one.frame) for one in self.prompts.values()]
        first = max(prompted) if direction == "backward" else min(prompted)
        going_on = resume and self.saved.exists()
        if going_on:
            session = self.predictor.load(self.saved, self.source)
        else:
            session = self.predictor.open(self.source, keep=self.settings["keep"], crop=self.settings["crop"])
            for one in self.prompts.values():
                try:
                    session.prompt(self._index(one.frame), one.object, **one.keywords(self.source.size))
                except ValueError as error:
                    raise ValueError(f"{one.where}: {error}") from error
        done = gone(direction, first, session.position, self.source.length)
        self._begin(force=force)
        plan = legs(direction, first, session.position, self.source)
        total = self._total(plan)
        safe = session.fork()
        promise = "stopping after this frame; Ctrl-C again to stop at once"
        try:
            with (
                InterruptGuard(self.say, promise, save=lambda: safe.save(self.saved)) as guard,
                Output(self, in_order=direction == "forward", resume=done if going_on else None) as output,
            ):
                output.redraw(guard)
                bar = Bar(self.say, "tracking", None if total is None else total + self.frames, self.frames)
                due = time.monotonic() + CHECKPOINT
                for start, stop, way in plan:
                    for result in session.propagate(start, stop, direction=way):
                        output.write(result, self.source[result.frame])
                        safe = session.fork()
                        bar.update(self.frames)
                        if time.monotonic() > due:
                            safe.save(self.saved)
                            due = time.monotonic() + CHECKPOINT
                        guard.check()
                bar.finish()
                output.complete(guard)
            self.status = "complete"
        except KeyboardInterrupt as error:
            self.status, self.code = "interrupted", exit_code(error)
        except (ValueError, OSError) as error:
            self.status, self.error = "failed", str(error)
        except BaseException as error:  # not the user's doing: shown as it is, and no frame lost
            self.status, self.error = "failed", repr(error)
            raise
        finally:
            if self.status == "complete":
                self._tidy()
                self._record()
            else:
                self._keep(safe)

    def _keep(self, session: VideoSession) -> None:
        """Save the place of a run that is not complete and say how it went; what fails here is told beside the rest."""
        for last in (lambda: session.save(self.saved), self._record):
            try:
                last()
            except OSError as error:
                self.status = "failed"
                self.error = f"{self.error}; {error}" if self.error else str(error)

    def _total(self, plan: list[Leg]) -> int | None:
        length = self.source.length
        if length is None:
            return None
        return sum(start + 1 if way == "backward" else length - start for start, _, way in plan)

    # live

    def live(self, *, force: bool) -> None:
        """Follow a camera or a stream until it ends or somebody stops it."""
        session = self.predictor.open(crop=self.settings["crop"])
        waiting: dict[int, dict[Hashable, Mapping[str, Any]]] = {}
        for one in self.prompts.values():
            waiting.setdefault(self._index(one.frame), {})[one.object] = one.keywords(self.source.size)
        self._begin(force=force)
        with InterruptGuard(self.say, "finishing; Ctrl-C again to stop at once") as guard:
            listen(guard.asked)
            try:
                with Output(self, in_order=True, resume=None) as output:
                    bar = Bar(self.say, "following", None, 0)
                    begun = time.monotonic()
                    for index, frame in enumerate(self.source):
                        moment = time.monotonic() - begun
                        output.write(session.step(frame, waiting.pop(index, None)), frame, time=moment)
                        bar.update(self.frames)
                        if guard.asked.is_set():
                            break
                    bar.finish()
                self.status = "complete"
            except KeyboardInterrupt as error:
                self.status, self.code = "interrupted", exit_code(error)
            except (ValueError, OSError) as error:
                self.status, self.error = "failed", str(error)
            self._tidy()
            self._record()
        if waiting and self.status == "complete":
            late = ", ".join(repr(name) for said in waiting.values() for name in said)
            self.say(f"it ended before frame {self.number(min(waiting))}, where {late} was to be prompted", always=True)

    # what both need

    def number(self, index: int) -> int:
        """A frame's number in the video."""
        return int(self.settings["start"] + index * self.settings["stride"])

    def _index(self, number: int) -> int:
        return int((number - self.settings["start"]) // self.settings["stride"])

    def _begin(self, *, force: bool) -> None:
        """Make the folder, and say in it what will be done. Nothing was written before."""
        if force:
            clear(self.folder)
        self.unfinished.mkdir(parents=True, exist_ok=True)
        self._record()

    def _tidy(self) -> None:
        for path in self.unfinished.iterdir():
            path.unlink()
        self.unfinished.rmdir()

    def _record(self) -> None:
        path = self.folder / "run.json"
        spare = path.with_name(path.name + ".part")
        spare.write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")
        os.replace(spare, path)

    def document(self) -> dict[str, Any]:
        """What run.json says."""
        from sam2core import __version__
        from sam2core.media.render import palette

        height, width = self.source.size
        colors = palette(len(self.seen), self.settings["palette"]).tolist()
        return {
            "sam2core": __version__,
            "status": self.status,
            **({"error": self.error} if self.error else {}),
            "frames": self.frames,
            "live": self.source.live,
            "video": {
                "path": self.settings["video"],
                "width": width,
                "height": height,
                "fps": self.source.fps,
                "frames": self.source.length,
            },
            "objects": [
                {
                    "number": number,
                    "id": name,
                    "color": colors[number - 1],
                    "frames": frames,
                    "present": present,
                    "iou": round(iou / present, 4) if present else None,
                }
                for number, (name, (frames, present, iou)) in enumerate(self.seen.items(), 1)
            ],
            "files": {kind: PLACES[kind] for kind in self.settings["write"]},
            "prompts": self.prompts.document(),
            "settings": self.settings,
        }

    def count(self, entry: Mapping[str, Any]) -> None:
        """Take note of a frame in masks.json."""
        self.frames += 1
        for name, one in entry["objects"].items():
            tally = self.seen[name]
            tally[0] += 1
            if one["presence"] > 0:
                tally[1] += 1
                tally[2] += one["iou"]

    @property
    def kept(self) -> str:
        """Where the results so far are."""
        total = "" if self.source.length is None else f" of {self.source.length}"
        again = "" if self.source.live else ", --resume goes on"
        return f"{self.frames}{total} frames are in {self.folder}{again}"

    def report(self, as_json: bool) -> None:
        report(self.document(), self.folder, as_json)
