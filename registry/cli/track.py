"""`sam2core track`: a video and prompts in; an overlay, mask files and COCO RLE out; it stops and goes on anywhere."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from registry.cli.options import DEFAULT_MODEL, Box, Point, build_arguments, model_options, pairs
from registry.errors import hint

if TYPE_CHECKING:
    import numpy as np

    from sam2core.predictors.frames import FrameSource
    from sam2core.predictors.session import FrameResult
    from sam2core.predictors.video import VideoPredictor

KINDS = ("overlay", "palette", "masks", "rle", "cutouts")
PALETTES = ("bright", "davis", "colorblind", "pastel")
CHECKPOINT = 60.0
"""Seconds between saved sessions, for runs that are killed."""
CHUNK = 2**26
"""Mask values at the video's size that are made at once."""
ADDRESSES = ("rtsp:", "rtsps:", "rtmp:", "http:", "https:", "udp:", "tcp:")
PROMPTS = ("objects", "points", "boxes", "masks")
Leg: TypeAlias = "tuple[int, int | None, str]"


# what is asked


class OnFrame(click.ParamType):
    """A frame's number, a colon, and a point, a box or a path."""

    def __init__(self, inner: click.ParamType | None, name: str, example: str) -> None:
        self.inner, self.name, self.example = inner, name, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, Any]:
        if isinstance(value, tuple):
            return value
        frame, _, rest = value.partition(":")
        if not (frame.strip().isdecimal() and frame.isascii() and rest):
            self.fail(f"{value!r} is not {self.name}, such as {self.example}", param, ctx)
        return int(frame), self.inner.convert(rest, param, ctx) if self.inner else rest


class Kinds(click.ParamType):
    """Some of `KINDS`, between commas."""

    name = "KIND,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = value if isinstance(value, tuple) else tuple(word.strip() for word in value.split(","))
        if unknown := [word for word in words if word not in KINDS]:
            self.fail(f"{unknown[0]!r} is none of {', '.join(KINDS)}", param, ctx)
        return tuple(kind for kind in KINDS if kind in words)


@dataclass
class Said:
    """What was said of one object on one frame, in the video's pixels and its numbers of frames."""

    object: str
    frame: int
    points: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: list[float] | None = None
    mask: str | dict[str, Any] | None = None
    """The path of a picture, or COCO RLE."""

    @property
    def where(self) -> str:
        return f"object {self.object!r} on frame {self.frame}"

    def document(self) -> dict[str, Any]:
        """The same as an entry of a prompts file."""
        entry: dict[str, Any] = {"object": self.object, "frame": self.frame}
        if self.points:
            entry |= {"points": self.points, "labels": self.labels}
        return entry | {key: value for key in ("box", "mask") if (value := getattr(self, key)) is not None}

    def keywords(self, size: tuple[int, int]) -> dict[str, Any]:
        """The same as keywords of `VideoSession.prompt`, the mask read. Raises ValueError when it has another size."""
        if self.mask is not None:
            return {"mask": read_mask(self.mask, size)}
        said: dict[str, Any] = {"points": self.points, "labels": self.labels} if self.points else {}
        return said if self.box is None else {**said, "box": self.box}


class Prompts(dict[tuple[str, int], Said]):
    """All that was said, by object and frame, in the order in which it was said."""

    def add(self, object: str, frame: int, what: str, value: Any) -> None:
        one = self.setdefault((object, frame), Said(object, frame))
        if what == "points":
            one.points.append([float(value[0]), float(value[1])])
            one.labels.append(int(value[2]))
        elif getattr(one, what) is not None:
            raise ValueError(f"{one.where} has more than one {what}: other objects have other names")
        else:
            setattr(one, what, list(value) if what == "box" else value)
        if one.mask is not None and (one.points or one.box is not None):
            raise ValueError(f"{one.where} has a mask, which stands alone: no points or box on the same frame")

    @property
    def objects(self) -> list[str]:
        return list(dict.fromkeys(object for object, _ in self))

    def document(self) -> list[dict[str, Any]]:
        return [one.document() for one in self.values()]


class InOrder(click.Command):
    """Remembers in which order the prompts were written: those after an --object belong to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        ctx.meta["sam2core.order"] = [param.name for param in order if param.name in PROMPTS]
        return super().parse_args(ctx, args)


def spoken(order: list[str], given: Mapping[str, tuple], prompts: Prompts) -> None:
    """Add the prompts of the command line. Raises click.UsageError for an object of which nothing is said."""
    values = {name: iter(given[name]) for name in PROMPTS}
    current, silent = "1", False
    for name in order:
        value = next(values[name])
        if name == "objects":
            if silent:
                break
            current, silent = value, True
        else:
            what = {"points": "points", "boxes": "box", "masks": "mask"}[name]
            # run.json keeps what was said, and lies in another folder
            said = os.path.abspath(value[1]) if what == "mask" else value[1]
            try:
                prompts.add(current, value[0], what, said)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            silent = False
    if silent:
        raise click.UsageError(f"--object {current} says nothing: its --point, --box or --mask comes after it")


def written(path: str, prompts: Prompts) -> None:
    """Add the prompts of a JSON file. Raises ValueError for what they cannot mean."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        entries = document["prompts"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: a prompts file is {{"prompts": [{{"object", "frame", ...}}]}} ({error!r})') from None
    known = ("object", "frame", "points", "labels", "box", "mask")
    for at, entry in enumerate(entries):
        where = f"{path}: prompt {at}"
        if not isinstance(entry, dict) or not isinstance(entry.get("object"), str | int):
            raise ValueError(f'{where} needs an "object", a word or a number')
        if unknown := [key for key in entry if key not in known]:
            raise ValueError(f"{where} has {unknown[0]!r}; known are {', '.join(known)}{hint(unknown[0], known)}")
        frame = entry.get("frame")
        if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
            raise ValueError(f'{where} needs a "frame", a number from 0 on, not {frame!r}')
        points, box, mask = entry.get("points", []), entry.get("box"), entry.get("mask")
        labels = entry.get("labels", [1] * len(points))
        if not (points or box or mask):
            raise ValueError(f"{where} says nothing: it needs points, a box or a mask")
        if len(labels) != len(points) or any(label not in (0, 1) for label in labels):
            raise ValueError(f"{where} needs one label per point, 1 inside or 0 outside")
        if not all(_numbers(point, 2) for point in points) or box and not _numbers(box, 4):
            raise ValueError(f"{where}: points are [[x, y], ...], a box is [x0, y0, x1, y1]")
        name = str(entry["object"])
        for point, label in zip(points, labels):
            prompts.add(name, frame, "points", (*point, label))
        if box:
            prompts.add(name, frame, "box", box)
        if mask:
            folder = Path(path).absolute().parent
            prompts.add(name, frame, "mask", str(folder / mask) if isinstance(mask, str) else mask)


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(one, int | float) for one in value)


def read_mask(mask: str | Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """A picture or COCO RLE as (H, W) bool: what is white, or has an object's number in files with a colour table.

    Raises:
        OSError: no such picture.
        ValueError: it is not of the video's (H, W).
    """
    import numpy as np

    from registry.cli.segment import read
    from sam2core.ops import rle

    if isinstance(mask, str):
        picture = read(mask)
        inside = np.asarray(picture) > 0 if picture.mode == "P" else np.asarray(picture.convert("L")) > 127
    else:
        inside = rle.decode(mask)
    if inside.shape != size:
        what = f"the mask {mask}" if isinstance(mask, str) else "the mask"
        raise ValueError(f"{what} is {inside.shape[1]} x {inside.shape[0]}, the video {size[1]} x {size[0]}")
    return inside


# the verb


@click.command(cls=InOrder)
@click.argument("video", required=False)
@click.option("--object", "objects", multiple=True, metavar="ID",
              help="Prompts after it are for this object, until the next.  [default: 1]")  # fmt: skip
@click.option("-p", "--point", "points", multiple=True,
              type=OnFrame(Point(), "F:X,Y[,0|1]", "0:210,350 (inside) or 12:80,90,0 (outside)"),
              help="On frame F, a click on the object, or with ,0 beside it.")  # fmt: skip
@click.option("-b", "--box", "boxes", multiple=True, type=OnFrame(Box(), "F:X0,Y0,X1,Y1", "0:120,40,390,310"),
              help="On frame F, a box around the object.")  # fmt: skip
@click.option("--mask", "masks", multiple=True, type=OnFrame(None, "F:PNG", "0:dog.png"),
              help="On frame F, the object's mask: a picture as large as the video, white inside.")  # fmt: skip
@click.option("--prompts", "prompts_file", type=click.Path(exists=True, dir_okay=False), help="Prompts as JSON.")
@click.option("--camera", metavar="N|URL", help="Instead of VIDEO: a camera by number or name, or a stream's address.")
@click.option("--start", type=click.IntRange(min=0), default=0, help="The first frame to see.  [default: 0]")
@click.option("--stop", type=click.IntRange(min=1), help="The first frame not to see.  [default: the end]")
@click.option("--stride", type=click.IntRange(min=1), default=1, help="See every N-th frame.  [default: 1]")
@click.option("--direction", type=click.Choice(["forward", "backward", "both"]), default="forward", show_default=True,
              help="From the first prompted frame on; from the last one back; or both from the first.")  # fmt: skip
@click.option("--keep", type=click.Choice(["horizon", "all"]), default="horizon", show_default=True,
              help="Remember what can still be recalled, or everything.")  # fmt: skip
@click.option("--exclusive", is_flag=True, help="No pixel belongs to two objects.")
@click.option("--write", type=Kinds(), default="overlay,palette,rle", show_default=True,
              help=f"What to write: {', '.join(KINDS)}.")  # fmt: skip
@click.option("--palette", type=click.Choice(PALETTES), default="bright", show_default=True,
              help="The overlay's colours.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
              show_default=True, help="Folder to write to.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped: the same command, and this.")
@click.option("--force", is_flag=True, help="Replace what an earlier run wrote to the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON summary on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@model_options
def command(
    video: str | None,
    prompts_file: str | None,
    camera: str | None,
    start: int,
    stop: int | None,
    stride: int,
    direction: str,
    keep: str,
    exclusive: bool,
    write: tuple[str, ...],
    palette: str,
    output: Path,
    resume: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Follow what you point at through a video.

    \b
    sam2core track clip.mp4 --point 0:300,130
    sam2core track clip.mp4 --object dog --point 0:300,130 --point 0:80,90,0 --object ball --box 12:10,20,60,70
    sam2core track frames/ --mask 0:dog.png --direction both --write palette,masks -o dog/
    sam2core track --camera 0 --box 0:200,100,440,380 --stop 500

    VIDEO is a file, a folder of pictures, a quoted pattern such as 'frames/*.png', or an address.
    The order of prompts matters: each belongs to the --object before it, or to object 1. F is a
    frame's number in the video, from 0, whatever --start and --stride are; X and Y are its pixels.
    Points and a box on one frame describe the object together; a mask stands alone. A later frame's
    prompt corrects the object from there on.

    --prompts FILE says the same as JSON, frames and pixels as above; masks are paths from FILE's
    folder, or COCO RLE; what is missing may be left out, and options add to it:

    \b
    {"prompts": [{"object": "dog", "frame": 0, "points": [[300, 130], [80, 90]], "labels": [1, 0]},
                 {"object": "ball", "frame": 12, "box": [10, 20, 60, 70]},
                 {"object": "cat", "frame": 30, "mask": "cat.png"}]}

    Written to the folder, as --write says:

    \b
    overlay   overlay.mp4: masks, contours, ids and prompts over the video (needs sam2core[video])
    palette   palette/FRAME.png: DAVIS's format; a pixel is its object's number, 1 for the first named
    masks     masks/ID/FRAME.png: 255 inside, 0 outside
    rle       masks.json: per frame and object the mask as COCO RLE, IoU estimate, presence (> 0: seen)
    cutouts   cutouts/ID/FRAME.png: the object alone, transparent around it

    and run.json, which says how it went and can be given to --prompts. FRAME is the picture's name,
    or the number of the frame.

    Ctrl-C stops after the frame at hand (twice: at once) with exit code 130. What was written is valid
    and, with unfinished/, enough for --resume, which ends as if there had been no stop. Frames that
    cannot be read end the run with exit code 1; what came before them is kept in the same way.

    Live (--camera, or an address without an end) F counts the frames received, from the first on; q and
    Enter, Ctrl-C, --stop or the stream's end finish the run, which cannot be resumed.

    A trailing KEY=VALUE changes the model's spec, such as predictors.video.fill_holes=0.
    """
    context = click.get_current_context()
    if camera is not None and video is not None:  # then there is no VIDEO: the word is the first of the pairs
        options["overrides"], video = (video, *options["overrides"]), None
    changes = pairs(options["overrides"])
    if camera is None and video is None:
        raise click.UsageError("say what to follow in: VIDEO, or --camera N")
    if camera is not None and resume:
        raise click.UsageError("what a camera saw is over: --resume is for files")
    if resume and force:
        raise click.UsageError("--resume goes on with what --force would delete: choose one")
    if stop is not None and stop <= start:
        raise click.UsageError(f"--stop {stop} comes before the first frame: --start is {start}")
    prompts = Prompts()
    if prompts_file is not None:
        written(prompts_file, prompts)
    spoken(context.meta["sam2core.order"], {name: options.pop(name) for name in PROMPTS}, prompts)

    say = Say(quiet)
    address = camera if camera is None or camera.lower().startswith(ADDRESSES) else f"camera:{camera}"
    settings = {
        "video": address or (video if "://" in str(video) else os.path.abspath(str(video))),
        "start": start,
        "stop": stop,
        "stride": stride,
        "direction": direction,
        "keep": keep,
        "exclusive": exclusive,
        "write": list(write),
        "palette": palette,
        "model": options["model"] or DEFAULT_MODEL,
        "overrides": list(changes),
        **{name: options[name] for name in ("weights", "dtype")},
        "image_size": options["image_size"] and str(options["image_size"]),
    }
    earlier = earlier_run(output, resume=resume, force=force)
    if earlier is not None:
        if not prompts:
            for one in earlier["prompts"]:
                prompts[one["object"], one["frame"]] = Said(**one)
        compare({**settings, "prompts": prompts.document()}, {**earlier["settings"], "prompts": earlier["prompts"]})
        if earlier["status"] == "complete":
            say(f"{output} is finished already")
            report(earlier, output, as_json)
            return
    if not prompts:
        raise click.UsageError("say what to follow: --point F:X,Y, --box F:X0,Y0,X1,Y1, --mask F:PNG or --prompts FILE")

    import registry
    from registry.cli.segment import fetch
    from sam2core.predictors.frames import open_source
    from sam2core.predictors.render import folder_name

    for name in prompts.objects:
        folder_name(name)
    if "palette" in write and len(prompts.objects) > 255:
        raise ValueError(f"palette files hold 255 objects, not {len(prompts.objects)}: --write masks or rle instead")
    if "overlay" in write:
        import av  # noqa: F401  what is missing is said before anything slow
    with open_source(address or video, start=start, stop=stop, stride=stride) as source:
        for one in prompts.values():
            check_frame(one, source, start, stop, stride)
        if source.live and (resume or direction != "forward"):
            raise ValueError("a live source goes forward only, once: no --direction, no --resume")
        name = settings["model"]
        if options["model"] is None:
            say(f"{name} is a small model for trying things out; an official one: --model sam2.1_hiera_l")
        if options["weights"] is None:
            fetch(registry.spec(name, *changes), quiet)
        also: dict[str, Any] = {"exclusive": True} if exclusive else {}
        predictor = registry.predictor(name, "video", *changes, **build_arguments(options), **also)
        job = Job(output, settings, prompts, source, predictor, say)
        if source.live:
            job.live(force=force)
        else:
            job.track(force=force, resume=resume)
    job.report(as_json)
    if job.status == "failed":
        raise ValueError(f"{job.error}; {job.kept}")
    if job.status == "interrupted":
        say(f"interrupted; {job.kept}", always=True)
        context.exit(130)


def check_frame(said: Said, source: FrameSource, start: int, stop: int | None, stride: int) -> None:
    """Raise ValueError when a prompt is on a frame that is not seen."""
    at, off = divmod(said.frame - start, stride)
    if at < 0 or off or stop is not None and said.frame >= stop:
        seen = f"{start}, {start + stride} and so on" + ("" if stop is None else f", before {stop}")
        raise ValueError(f"{said.where}: the frames seen are {seen} (--start, --stop, --stride)")
    if source.length is not None and at >= source.length:
        last = start + (source.length - 1) * stride
        raise ValueError(f"{said.where}: that lies beyond the video's end, its last frame is {last}")


def earlier_run(folder: Path, *, resume: bool, force: bool) -> dict[str, Any] | None:
    """The run.json of the run to go on with. Raises ValueError when the folder and the options do not fit together."""
    path = folder / "run.json"
    if not path.exists():
        if resume:
            raise ValueError(f"{folder} holds no run to resume")
        return None
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        status, done = earlier["status"], earlier["frames"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is not one of this program's: {error!r}") from error
    if force:
        return None
    if not resume and status == "complete":
        raise ValueError(f"{folder} holds a finished run: --force replaces it, -o OTHER keeps it")
    if not resume:
        raise ValueError(f"{folder} holds a run stopped after {done} frames: --resume goes on, --force starts over")
    if earlier["live"]:
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
        self.status, self.error = "running", ""
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
            session = self.predictor.open(self.source, keep=self.settings["keep"])
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
        with Patience(self.say) as patience:
            try:
                with Output(self, in_order=direction == "forward", resume=done if going_on else None) as output:
                    output.redraw(patience)
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
                            patience.check()
                    bar.finish()
                    output.complete(patience)
                self.status = "complete"
            except KeyboardInterrupt:
                self.status = "interrupted"
            except (ValueError, OSError) as error:
                self.status, self.error = "failed", str(error)
            except BaseException as error:  # not the user's doing: shown as it is, and no frame lost
                self.status, self.error = "failed", repr(error)
                raise
            finally:
                if self.status == "complete":
                    self._tidy()
                else:
                    safe.save(self.saved)
                self._record()

    def _total(self, plan: list[Leg]) -> int | None:
        length = self.source.length
        if length is None:
            return None
        return sum(start + 1 if way == "backward" else length - start for start, _, way in plan)

    # live

    def live(self, *, force: bool) -> None:
        """Follow a camera or a stream until it ends or somebody stops it."""
        session = self.predictor.open()
        waiting: dict[int, dict[Hashable, Mapping[str, Any]]] = {}
        for one in self.prompts.values():
            waiting.setdefault(self._index(one.frame), {})[one.object] = one.keywords(self.source.size)
        self._begin(force=force)
        with Patience(self.say, "finishing; Ctrl-C again to stop at once") as patience:
            patience.listen()
            try:
                with Output(self, in_order=True, resume=None) as output:
                    bar = Bar(self.say, "following", None, 0)
                    begun = time.monotonic()
                    for index, frame in enumerate(self.source):
                        moment = time.monotonic() - begun
                        output.write(session.step(frame, waiting.pop(index, None)), frame, time=moment)
                        bar.update(self.frames)
                        if patience.asked:
                            break
                    bar.finish()
                self.status = "complete"
            except KeyboardInterrupt:
                self.status = "interrupted"
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
        from sam2core.predictors.render import palette

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


PLACES = {
    "overlay": "overlay.mp4",
    "palette": "palette",
    "masks": "masks",
    "rle": "masks.json",
    "cutouts": "cutouts",
}
"""Where each kind of output lies in the folder."""


def clear(folder: Path) -> None:
    """Delete what an earlier run wrote, and nothing else."""
    from itertools import chain

    for kind, depth in (("palette", "*.png"), ("masks", "*/*.png"), ("cutouts", "*/*.png"), ("unfinished", "*")):
        for path in chain((folder / kind).glob(depth)):
            path.unlink()
    for name in ("overlay.mp4", "overlay.mp4.part", "masks.json", "masks.json.part", "run.json"):
        (folder / name).unlink(missing_ok=True)


def report(document: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Print a run's summary on stdout: JSON for programs, a line per object and output for people."""
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    for one in document["objects"]:
        iou = "" if one["iou"] is None else f"  iou {one['iou']:.2f}"
        click.echo(f"object {one['id']}  present on {one['present']} of {one['frames']} frames{iou}")
    for place in document["files"].values():
        click.echo(str(folder / place) + ("" if "." in place else os.sep))


class Output:
    """Writes a run's frames in every form that was asked for; what it writes is valid at any time it is left."""

    def __init__(self, job: Job, *, in_order: bool, resume: int | None) -> None:
        from sam2core.predictors import render

        self.job, self.in_order = job, in_order
        folder, kinds, source = job.folder, job.settings["write"], job.source
        self.objects = job.prompts.objects
        self.colors = render.palette(len(self.objects), job.settings["palette"])
        self.names = _distinct(source)
        self.palette = render.PaletteWriter(folder / "palette") if "palette" in kinds else None
        self.masks = render.MaskWriter(folder / "masks", self.objects) if "masks" in kinds else None
        self.cutouts = render.CutoutWriter(folder / "cutouts", self.objects) if "cutouts" in kinds else None
        self._overlay = "overlay" in kinds
        self._drawing: render.VideoWriter | None = None
        # the codes also tell --resume what there is: they are written in any case
        video = {"path": job.settings["video"], "fps": source.fps, "frames": source.length}
        path = folder / "masks.json" if "rle" in kinds else job.unfinished / "masks.json"
        self.rle = render.RleWriter(path, source.size, self.objects, video=video, resume=resume)
        self._open = ExitStack()
        self._open.enter_context(self.rle)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and not self.in_order and self._overlay:
                self._draw(self.rle.frames(), None)
        finally:
            self._open.__exit__(kind, error, trace)

    def redraw(self, patience: Patience) -> None:
        """Take up what an earlier run has written: count it, and draw its frames again, as no mp4 can be continued."""
        frames = self.rle.frames()
        for frame in frames:
            self.job.count(frames[frame])
        if self._overlay and self.in_order:
            self._draw(frames, patience)

    def complete(self, patience: Patience) -> None:
        """Write what can be written only when all frames are known: an overlay whose frames came in another order."""
        if self._overlay and not self.in_order:
            self._draw(self.rle.frames(), patience)

    def _draw(self, frames: Mapping[int, Mapping[str, Any]], patience: Patience | None) -> None:
        """Draw frames into the mp4 in the video's order; the first call opens it."""
        import numpy as np

        from sam2core.ops import rle

        bar = Bar(self.job.say, "drawing", len(frames), 0)
        for done, number in enumerate(sorted(frames), 1):
            said = frames[number]["objects"]
            masks = np.stack([rle.decode(one["segmentation"]) for one in said.values()])
            self._film(number, list(said), masks, pixels(self.job.source[self.job._index(number)]), None)
            bar.update(done)
            if patience is not None:
                patience.check()
        if len(frames):
            bar.finish()

    def write(self, result: FrameResult, frame: Any, *, time: float | None = None) -> None:
        """Write one frame's answers; `frame` is the picture they belong to."""
        import numpy as np

        index, number = result.frame, self.job.number(result.frame)
        name = self.job.source.name(index) if self.names else f"{number:05d}"
        masks, numbers = split(result, self.objects)
        known = [str(one) for one in result.objects]
        picture = pixels(frame) if self.cutouts or self._overlay and self.in_order else None
        if self.palette:
            self.palette.write(name, numbers)
        if self.masks or self.cutouts:
            every = np.zeros((len(self.objects), *masks.shape[1:]), dtype=bool)
            every[[self.objects.index(one) for one in known]] = masks
            if self.masks:
                self.masks.write(name, every)
            if self.cutouts:
                assert picture is not None
                self.cutouts.write(name, picture, every)
        if self._overlay and self.in_order:
            assert picture is not None
            self._film(number, known, masks, picture, time)
        iou, presence = result.iou.tolist(), result.presence.tolist()
        self.job.count(self.rle.write(number, name, masks, iou=iou, presence=presence, objects=known))

    def _film(self, number: int, known: list[str], masks: np.ndarray, frame: np.ndarray, time: float | None) -> None:
        from sam2core.predictors import render

        if self._drawing is None:
            path, fps = self.job.folder / "overlay.mp4", self.job.source.fps or 25.0
            self._drawing = self._open.enter_context(render.VideoWriter(path, self.job.source.size, fps=fps))
        said = [one for one in self.job.prompts.values() if one.frame == number]
        drawn = render.overlay(
            frame,
            masks,
            colors=self.colors[[self.objects.index(one) for one in known]],
            names=known if len(self.objects) > 1 or known != ["1"] else None,
            points=[point for one in said for point in one.points],
            labels=[label for one in said for label in one.labels],
            boxes=[one.box for one in said if one.box is not None],
        )
        self._drawing.write(drawn, time=time)


def _distinct(source: FrameSource) -> bool:
    """Whether the frames' own names tell them apart; in a folder, a.jpg and a.png would not."""
    names = [source.name(index) for index in range(source.length or 0)]
    return len(set(names)) == len(names)


def split(result: FrameResult, objects: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A result's masks (K, H, W) bool at the video's size, and the number of the strongest object (H, W), 0 for none.

    A few objects at a time: at 4K, the logits of one take 33 MB.
    """
    import numpy as np
    import torch

    from sam2core.ops.masks import resize

    height, width = result.size
    masks = np.zeros((len(result.objects), height, width), dtype=bool)
    best = torch.full((height, width), -float("inf"), device=result.logits.device)
    owner = torch.full((height, width), -1, dtype=torch.int16, device=result.logits.device)
    step = max(1, CHUNK // (height * width))
    for start in range(0, len(masks), step):
        logits = resize(result.logits[start : start + step, None], result.size)[:, 0]
        masks[start : start + step] = (logits > result.threshold).cpu().numpy()
        top, at = logits.max(dim=0)
        stronger = top > best
        owner = torch.where(stronger, (at + start).to(torch.int16), owner)
        best = torch.where(stronger, top, best)
    rows = owner.cpu().numpy()
    if result.exclusive:
        masks &= np.arange(len(masks))[:, None, None] == rows
    number = np.array([objects.index(str(one)) + 1 for one in result.objects] + [0], dtype=np.int64)
    seen = (best > result.threshold).cpu().numpy()
    return masks, np.where(seen, number[rows], 0)


def pixels(frame: Any) -> np.ndarray:
    """A frame of any source as (H, W, 3) uint8."""
    import numpy as np

    values = np.asarray(frame) if isinstance(frame, np.ndarray) else frame.cpu().float().numpy().transpose(1, 2, 0)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    return np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)


# talking and listening


class Say:
    """Lines on stderr, and one that is written over again."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._over = 0

    def __call__(self, text: str, *, always: bool = False) -> None:
        if always or not self.quiet:
            self.over("")
            click.echo(text, err=True)

    def over(self, text: str) -> None:
        """Replace the line that `over` wrote; on terminals only."""
        if text or self._over:
            sys.stderr.write("\r" + text.ljust(self._over) + ("" if text else "\r"))
            sys.stderr.flush()
        self._over = len(text)


class Bar:
    """How far it is and how fast: a bar on a terminal, a line now and then elsewhere."""

    EVERY, LINES = 0.1, 15.0

    def __init__(self, say: Say, label: str, total: int | None, done: int) -> None:
        self.say, self.label, self.total, self.first, self.done = say, label, total, done, done
        self.begun = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()

    def update(self, done: int) -> None:
        self.done = done
        now = time.monotonic()
        if not self.say.quiet and now - self.shown >= (self.EVERY if self.live else self.LINES):
            self.shown = now
            (self.say.over if self.live else self.say)(self._text(now))

    def _text(self, now: float) -> str:
        rate = (self.done - self.first) / max(now - self.begun, 1e-6)
        text = f"{self.label} {self.done}" + ("" if self.total is None else f"/{self.total}") + f"  {rate:.2f} frames/s"
        if not self.total:
            return text
        left = round((self.total - self.done) / max(rate, 1e-6))
        filled = round(24 * self.done / self.total)
        bar = f"  [{'#' * filled}{'-' * (24 - filled)}]" if self.live else ""
        return f"{text}{bar}  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"

    def finish(self) -> None:
        seconds = time.monotonic() - self.begun
        count = self.done - self.first
        self.say(f"{self.label}: {count} frames in {seconds:.1f} s, {count / max(seconds, 1e-6):.2f} frames/s")


class Patience:
    """Lets the frame at hand be finished when somebody interrupts; the second time, at once."""

    def __init__(self, say: Say, promise: str = "stopping after this frame; Ctrl-C again to stop at once") -> None:
        self.say, self.promise = say, promise
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Patience:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say(self.promise)

    def check(self) -> None:
        """Raise KeyboardInterrupt when somebody has asked to stop."""
        if self.asked:
            raise KeyboardInterrupt

    def listen(self) -> None:
        """Take q and Enter for a request to stop."""
        if not sys.stdin.isatty():
            return

        def wait() -> None:
            for line in sys.stdin:
                if line.strip().lower() in ("q", "quit"):
                    self.asked = True
                    return

        threading.Thread(target=wait, name="keys", daemon=True).start()
