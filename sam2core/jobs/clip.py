"""One run over a video: what was pointed at, or everything; to its end or until it is stopped; and going on with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeAlias

from sam2core.jobs.folder import PLACES, clear, compare, earlier_run, try_folder
from sam2core.jobs.interrupt import InterruptGuard, exit_code
from sam2core.jobs.output import ClipOutput, Tally, rle_place
from sam2core.jobs.plan import Plan, Stretch, count
from sam2core.jobs.prompts import Prompts, UserPrompt
from sam2core.jobs.writers import forget
from sam2core.storage import disk_errors, write_text

if TYPE_CHECKING:
    from sam2core.jobs.writers import Labels
    from sam2core.media.frames import FrameSource
    from sam2core.predictors.automask import MaskGenerator
    from sam2core.predictors.results import FrameResult
    from sam2core.predictors.session import VideoSession
    from sam2core.predictors.video import VideoPredictor
    from sam2core.protocols import Detector

CHECKPOINT = 60.0
"""Seconds between saved sessions, for runs that are killed."""
Progress: TypeAlias = "Callable[[str, int, int | None], None]"
"""Told what is being done, how many frames of it are done, and of how many."""


@dataclass(frozen=True)
class ClipSettings:
    """What a run over a video was asked for; run.json keeps it, and --resume goes on with nothing else.

    video       the path or address of the video
    write       kinds of output, of `sam2core.jobs.folder.KINDS`
    palette     the overlay's colours
    everything  options of `track_everything` and of its `MaskGenerator`, where nothing was pointed at
    model, overrides, weights, dtype, image_size    the model, in the command line's words
    """

    video: str
    write: list[str]
    model: str
    overrides: list[str]
    weights: str | None
    dtype: str
    image_size: str | None
    start: int = 0
    stop: int | None = None
    stride: int = 1
    crop: list[float] | None = None
    direction: str = "forward"
    keep: str = "horizon"
    non_overlapping: bool = False
    palette: str = "bright"
    everything: dict[str, Any] = field(default_factory=dict)
    detector: dict[str, Any] = field(default_factory=dict)
    """What finds the objects, its options, `every` and `max_objects`, where nothing was pointed at."""

    @property
    def stretch(self) -> Stretch:
        return Stretch(self.start, self.stop, self.stride)

    def document(self) -> dict[str, Any]:
        """The same as plain values; what earlier versions did not write is left out where it says nothing."""
        document = asdict(self)
        for key in ("everything", "detector"):
            if not document[key]:
                del document[key]
        return document


def open_run(
    folder: Path, settings: ClipSettings, prompts: Prompts, *, resume: bool, force: bool
) -> dict[str, Any] | None:
    """The run.json of the run to go on with, whose prompts are taken where there are no others; None to begin one.

    Raises ValueError when the folder holds something else, and DiskError when it cannot be written to.
    """
    earlier = earlier_run(folder, settings.write, resume=resume, force=force)
    if earlier is not None:
        if not prompts:
            for one in earlier["prompts"]:
                prompts[one["object"], one["frame"]] = UserPrompt(**one)
        mine = {**settings.document(), "prompts": prompts.document()}
        compare(mine, {**earlier["settings"], "prompts": earlier["prompts"]})
    try_folder(folder)
    return earlier


class ClipRun:
    """One run: what it was asked, where it is, and what it has written.

    Args:
        folder: where to write to.
        settings: what was asked.
        prompts: what was pointed at; empty when everything is to be found.
        source: the frames.
        predictor: tracks.
        say: told a line for people, now and then.
        progress: told how far it is.
        labels: the labels for other tools that are written in the end.
    """

    def __init__(
        self,
        folder: Path,
        settings: ClipSettings,
        prompts: Prompts,
        source: FrameSource,
        predictor: VideoPredictor,
        *,
        say: Callable[[str], None],
        progress: Progress,
        labels: Labels | None = None,
    ) -> None:
        self.folder, self.settings, self.prompts = folder, settings, prompts
        self.source, self.predictor, self.say, self.progress = source, predictor, say, progress
        self.status, self.error, self.code = "running", "", 0
        self.late = ""
        """Which prompts of a live source came too late, in words."""
        self.labels = labels
        self.categories = dict(prompts.categories)
        """The class of each object of which one is known."""
        most = {**settings.everything, **settings.detector}.get("max_objects", 0)
        self.tally = Tally(prompts.objects or [str(number) for number in range(1, most + 1)])
        self.unfinished = folder / "unfinished"
        self.saved = self.unfinished / "session.safetensors"

    # of files

    def track(self, *, force: bool, resume: bool) -> None:
        """Follow what was pointed at through the video until it ends, breaks off or somebody stops it."""
        session = self._session(resume)
        stretch = self.settings.stretch
        if not resume or not self.saved.exists():
            for one in self.prompts.values():
                try:
                    session.prompt(stretch.index(one.frame), one.object, **one.keywords(self.source.size))
                except ValueError as error:
                    raise ValueError(f"{one.where}: {error}") from error
        plan = Plan.of(self.settings.direction, (stretch.index(one.frame) for one in self.prompts.values()))
        passes = plan.ahead(session.position, self.source)
        results = (
            result
            for one in passes
            for result in session.propagate(one.start, one.stop, direction=one.direction)  # type: ignore[arg-type]
        )
        done = plan.behind(session.position, self.source.length)
        self._go(session, results, done, count(passes, self.source.length), force=force, resume=resume)

    def everything(self, generator: MaskGenerator, *, force: bool, resume: bool) -> None:
        """Find everything and follow it through the video until it ends, breaks off or somebody stops it."""
        from sam2core.predictors.everything import reached, track_everything

        session = self._session(resume)
        done = reached(session)
        options = {key: self.settings.everything[key] for key in ("every", "max_objects")}
        results = track_everything(session, generator, start=done, **options)
        left = None if self.source.length is None else self.source.length - done
        self._go(session, results, done, left, force=force, resume=resume)

    def detected(self, detector: Detector, *, force: bool, resume: bool, categories: Mapping[str, str]) -> None:
        """Follow what a detector finds through the video until it ends, breaks off or somebody stops it.

        categories  of the objects that an earlier run has found
        """
        from sam2core.jobs.detectors import Newcomers
        from sam2core.media.images import as_bytes
        from sam2core.predictors.everything import reached, track_found

        session = self._session(resume)
        done = reached(session)
        if resume and self.saved.exists():
            known = [str(one) for one in session.tracks]
            self.categories = {name: categories.get(name, "") for name in known}
        every, most = self.settings.detector["every"], self.settings.detector["max_objects"]
        find = Newcomers(
            detector,
            self.settings.video,
            lambda frame: as_bytes(self.source[frame]),
            self.settings.stretch.number,
            self.categories,
            most=most,
            joined=self._record,
        )
        results = track_found(session, find, every=every, start=done, max_objects=most)
        left = None if self.source.length is None else self.source.length - done
        self._go(session, results, done, left, force=force, resume=resume)

    def _session(self, resume: bool) -> VideoSession:
        if resume and self.saved.exists():
            return self.predictor.load(self.saved, self.source)
        crop = self.settings.crop
        return self.predictor.open(self.source, keep=self.settings.keep, crop=crop)  # type: ignore[arg-type]

    def _go(
        self,
        session: VideoSession,
        results: Iterator[FrameResult],
        done: int,
        left: int | None,
        *,
        force: bool,
        resume: bool,
    ) -> None:
        """Write results as they come, `done` frames being written and `left` to come; save the place now and then."""
        going_on = resume and self.saved.exists()
        self._begin(force=force)
        safe = session.fork()

        def save() -> None:
            if self.status == "running":  # a complete run has no place to go on from
                safe.save(self.saved)

        promise = "stopping after this frame; Ctrl-C again to stop at once"
        try:
            with InterruptGuard(self.say, promise, save=save) as guard, disk_errors(self.folder):
                with self._output(self.settings.direction == "forward", done if going_on else None) as output:
                    output.redraw(guard)
                    total = None if left is None else left + self.tally.frames
                    due = time.monotonic() + CHECKPOINT
                    for result in results:
                        with guard.shielded():
                            output.write(result, self.source[result.frame])
                            safe = session.fork()
                        self.progress("tracking", self.tally.frames, total)
                        if time.monotonic() > due:
                            safe.save(self.saved)
                            due = time.monotonic() + CHECKPOINT
                        guard.check()
                    output.complete(guard)
                if self.labels is not None:
                    self._label(self.labels)
                with guard.shielded():
                    self.status = "complete"
                    self._tidy()
                    self._record()
        except KeyboardInterrupt as error:
            if self.status != "complete":  # else the request came when all was there
                self.status, self.code = "interrupted", exit_code(error)
        except (ValueError, OSError) as error:
            self.status, self.error = "failed", str(error)
        except BaseException as error:  # not the user's doing: shown as it is, and no frame lost
            self.status, self.error = "failed", repr(error)
            raise
        finally:
            if self.status != "complete":
                self._keep(safe)

    def _label(self, labels: Labels) -> None:
        """Write the labels for other tools, of the codes of all frames."""
        from sam2core.jobs import found
        from sam2core.media.render.documents import RleFrames

        frames = RleFrames(rle_place(self.folder, self.settings.write))
        item = found.clip(self.settings.video, frames, self.tally.objects, self.categories)
        for sentence in labels.write([item]):
            self.say(sentence)

    def _keep(self, session: VideoSession) -> None:
        """Save the place of a run that is not complete and say how it went; what fails here is told beside the rest."""
        for last in (lambda: session.save(self.saved), self._record):
            try:
                last()
            except OSError as error:
                self.status = "failed"
                self.error = f"{self.error}; {error}" if self.error else str(error)

    # live

    def live(self, *, force: bool, listen: Callable[[Event], None]) -> None:
        """Follow a camera or a stream until it ends or somebody stops it; `listen` may set the event that ends it."""
        session = self.predictor.open(crop=self.settings.crop)  # type: ignore[arg-type]
        waiting: dict[int, dict[Hashable, Mapping[str, Any]]] = {}
        for one in self.prompts.values():
            here = waiting.setdefault(self.settings.stretch.index(one.frame), {})
            here[one.object] = one.keywords(self.source.size)
        self._begin(force=force)
        try:
            with (
                InterruptGuard(self.say, "finishing; Ctrl-C again to stop at once") as guard,
                disk_errors(self.folder),
                self._output(True, None) as output,
            ):
                listen(guard.asked)
                begun = time.monotonic()
                for index, frame in enumerate(self.source):
                    moment = time.monotonic() - begun
                    result = session.step(frame, waiting.pop(index, None))
                    with guard.shielded():
                        output.write(result, frame, time=moment)
                    self.progress("following", self.tally.frames, None)
                    if guard.asked.is_set():
                        break
            self.status = "complete"
        except KeyboardInterrupt as error:
            self.status, self.code = "interrupted", exit_code(error)
        except (ValueError, OSError) as error:
            self.status, self.error = "failed", str(error)
        self._tidy()
        self._record()
        if waiting and self.status == "complete":
            late = ", ".join(repr(name) for said in waiting.values() for name in said)
            number = self.settings.stretch.number(min(waiting))
            self.late = f"it ended before frame {number}, where {late} was to be prompted"

    # what both need

    def _output(self, in_order: bool, resume: int | None) -> ClipOutput:
        return ClipOutput(
            self.folder,
            self.settings.write,
            self.source,
            self.settings.video,
            self.settings.stretch,
            self.tally,
            prompts=list(self.prompts.values()),
            palette=self.settings.palette,
            in_order=in_order,
            resume=resume,
            progress=self.progress,
        )

    def _begin(self, *, force: bool) -> None:
        """Make the folder, and say in it what will be done. Nothing was written before."""
        if force:
            clear(self.folder)
            forget(self.folder)
        with disk_errors(self.folder):
            self.unfinished.mkdir(parents=True, exist_ok=True)
        self._record()

    def _tidy(self) -> None:
        for path in self.unfinished.iterdir():
            path.unlink()
        self.unfinished.rmdir()

    def _record(self) -> None:
        write_text(self.folder / "run.json", json.dumps(self.document(), indent=1) + "\n", force=True)

    def document(self) -> dict[str, Any]:
        """What run.json says."""
        from sam2core import __version__
        from sam2core.media.render import palette

        height, width = self.source.size
        colors = palette(len(self.tally.objects), self.settings.palette).tolist()
        return {
            "sam2core": __version__,
            "status": self.status,
            **({"error": self.error} if self.error else {}),
            "frames": self.tally.frames,
            "live": self.source.live,
            "video": {
                "path": self.settings.video,
                "width": width,
                "height": height,
                "fps": self.source.fps,
                "frames": self.source.length,
            },
            "objects": self.tally.document(colors, all=bool(self.prompts)),
            "files": {
                kind: PLACES.get(kind, kind)
                for kind in self.settings.write
                if self.status == "running" or (self.folder / PLACES.get(kind, kind)).exists()
            },
            **({"categories": self.categories} if any(self.categories.values()) else {}),
            "prompts": self.prompts.document(),
            "settings": self.settings.document(),
        }

    @property
    def kept(self) -> str:
        """Where the results so far are."""
        total = "" if self.source.length is None else f" of {self.source.length}"
        again = "" if self.source.live else ", --resume goes on"
        return f"{self.tally.frames}{total} frames are in {self.folder}{again}"
