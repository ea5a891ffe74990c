"""Scores of a folder of mask PNGs against the true ones, exact to the evaluators of DAVIS and SA-V.

    davis       davis2017-evaluation, semi-supervised: the objects of the first true frame, every frame but the first
                and last of the video, frames where an object is rightly absent counting as 1
    davis2016   the same with everything above 0 as one object
    sav         ``sav_evaluator.py``: per object, all annotated frames but the first and last, counted from where it was
                first seen in truth or answer; both with palette PNGs and with a folder per object

A frame is scored and forgotten. Nothing is left out silently: what is missing is an error that lists it.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.davis import ObjectFolders, listed, read_masks
from sam2core.data.footage import Footage
from sam2core.data.formats import FORMATS, open_clips, recognise
from sam2core.data.pictures import DataError, read_ids
from sam2core.evaluation.contours import contour_score
from sam2core.evaluation.metrics import Course, Summary, course, iou, summarise, terciles

PROTOCOLS = ("davis", "davis2016", "sav")
LISTED = 20
LARGEST_COUNT = 255  # numbers above are no count of objects
THIRDS = ("small", "medium", "large")


class IncompleteError(DataError):
    """Answers that are not there; `missing` has every one of them."""

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        shown = "".join(f"\n  {each}" for each in missing[:LISTED])
        more = f"\n  and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        super().__init__(f"{len(missing)} answers are missing; a part of a data set is not scored:{shown}{more}")


@dataclass(frozen=True)
class ObjectScore:
    """How well one object of one video was segmented, over the frames that count."""

    video: str
    object: str
    j: Course
    f: Course
    frames: int
    area: float
    """Its mean share of the image where it is in it; 0 when it never is."""
    returned: float | None
    """Mean J of the frames after it was away and had come back; None when it never did."""

    @property
    def jf(self) -> float:
        return (self.j.mean + self.f.mean) / 2


@dataclass(frozen=True)
class Scores:
    """The scores of all objects of all videos; shares, 0 to 1."""

    protocol: str
    objects: tuple[ObjectScore, ...]

    def overall(self) -> dict[str, float]:
        """Means over objects, under the names of davis2017-evaluation."""
        found: dict[str, float] = {}
        for letter, courses in (("J", [one.j for one in self.objects]), ("F", [one.f for one in self.objects])):
            found[f"{letter}-Mean"] = float(np.mean([one.mean for one in courses]))
            found[f"{letter}-Recall"] = float(np.mean([one.recall for one in courses]))
            found[f"{letter}-Decay"] = float(np.mean([one.decay for one in courses]))
        return {"J&F-Mean": (found["J-Mean"] + found["F-Mean"]) / 2, **found}

    def interval(self) -> Summary:
        """J&F with its 95 % interval, resampled over videos."""
        videos: dict[str, list[float]] = defaultdict(list)
        for one in self.objects:
            videos[one.video].append(one.jf)
        return summarise(list(videos.values()))

    def by_area(self) -> dict[str, float | None]:
        """J&F of the third of the objects that is smallest, medium and largest; None for an empty third."""
        thirds = terciles([one.area for one in self.objects])
        found = [[one.jf for one, third in zip(self.objects, thirds) if third == which] for which in range(3)]
        return {name: float(np.mean(each)) if each else None for name, each in zip(THIRDS, found)}

    def document(self) -> dict[str, Any]:
        """All of it as plain values, for JSON; a decay that is not a number is None."""
        interval = self.interval()
        returned = [one.returned for one in self.objects if one.returned is not None]
        return {
            "protocol": self.protocol,
            "overall": {key: _number(value) for key, value in self.overall().items()},
            "J&F-interval": [interval.low, interval.high],
            "videos": interval.images,
            "by_area": self.by_area(),
            "J-after-return": float(np.mean(returned)) if returned else None,
            "objects": [
                {
                    "video": one.video,
                    "object": one.object,
                    "J&F": one.jf,
                    **{f"J-{key}": _number(value) for key, value in vars(one.j).items()},
                    **{f"F-{key}": _number(value) for key, value in vars(one.f).items()},
                    "frames": one.frames,
                    "area": one.area,
                    "J-after-return": one.returned,
                }
                for one in self.objects
            ],
        }

    def csv(self) -> str:
        """A line per object."""
        rows = self.document()["objects"]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def markdown(self) -> str:
        """The overall table, in percent, and a line per video."""
        overall, interval = self.overall(), self.interval()
        lines = [
            f"Protocol `{self.protocol}`, {interval.images} videos, {interval.objects} objects; in percent, J&F "
            "with its 95 % interval over videos.",
            "",
            "| J&F | interval | " + " | ".join(key for key in overall if key != "J&F-Mean") + " |",
            "|" + "---|" * (len(overall) + 1),
            f"| **{100 * overall['J&F-Mean']:.1f}** | {100 * interval.low:.1f} to {100 * interval.high:.1f} | "
            + " | ".join(f"{100 * value:.1f}" for key, value in overall.items() if key != "J&F-Mean")
            + " |",
            "",
            "| video | objects | J&F | J | F |",
            "|---|---|---|---|---|",
        ]
        for video in dict.fromkeys(one.video for one in self.objects):
            own = [one for one in self.objects if one.video == video]
            means = [np.mean([getter(one) for one in own]) for getter in (_jf, _j, _f)]
            lines.append(f"| {video} | {len(own)} | " + " | ".join(f"{100 * mean:.1f}" for mean in means) + " |")
        return "\n".join(lines) + "\n"


def _jf(one: ObjectScore) -> float:
    return one.jf


def _j(one: ObjectScore) -> float:
    return one.j.mean


def _f(one: ObjectScore) -> float:
    return one.f.mean


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


# what is compared ----------------------------------------------------------------------------------------------------


def truths(
    root: str | Path, name: str = "", videos: Sequence[str] | None = None, subset: str | None = None
) -> list[Footage]:
    """The true masks of a data set in any format of videos, or of a bare folder of annotations.

    name: the format, if it is not to be recognised. videos: only these, all of which must be there; subset: those of a
    list of the data set. Raises DataError.
    """
    root = Path(root)
    likely = [name] if name else [each for each in recognise(root) if FORMATS[each].clips]
    if not likely or likely[0] == "davis":  # masks may lie without their images
        return read_masks(root, videos=list(videos or ()) or listed(root, subset))
    return open_clips(root, likely[0], videos=videos or (), subset=subset).footage


def tracks(truth: Footage) -> dict[str, tuple[int, list[int]]]:
    """Folder of answers -> the object and its labelled frames; one entry '' for all objects when they share files."""
    if not truth.overlapping:
        return {"": (0, list(range(truth.length)))}
    found: dict[str, tuple[int, list[int]]] = {}
    whole = not isinstance(truth, ObjectFolders)  # only folders tell frames without a label from empty ones
    for frame in range(truth.length):
        for number in truth.objects(frame):
            found.setdefault(truth.object_name(number), (number, []))[1].append(frame)
    everywhere = list(range(truth.length))
    return {name: (number, everywhere if whole else frames) for name, (number, frames) in sorted(found.items())}


def counted(frames: Sequence[int], *, ends: bool = False) -> list[int]:
    """Those of an object's labelled frames that count: all but the first and last, unless `ends`."""
    return list(frames) if ends else list(frames[1:-1])


def missing(footage: Sequence[Footage], answers: Path, *, ends: bool = False) -> list[str]:
    """What a folder of answers lacks, as lines: videos, objects and frames that count."""
    lines = []
    for truth in footage:
        video, names = truth.name, truth.names
        if not (answers / video).is_dir():
            lines.append(f"{video}: no folder {answers / video}")
            continue
        for folder, (_, frames) in tracks(truth).items():
            wanted = counted(frames, ends=ends)
            absent = [
                names[frame] for frame in wanted if not (answers / video / folder / f"{names[frame]}.png").exists()
            ]
            if absent:
                place = f"{video}/{folder}" if folder else video
                lines.append(f"{place}: {len(absent)} of {len(wanted)} frames, the first is {absent[0]}.png")
    return lines


def check_protocol(protocol: str) -> str:
    """The protocol itself. Raises ValueError when there is none of that name."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocols are {', '.join(PROTOCOLS)}, not {protocol!r}")
    return protocol


def score(
    truth: str | Path | list[Footage],
    answers: str | Path,
    *,
    protocol: str = "davis",
    videos: Sequence[str] | None = None,
    ends: bool = False,
    narrow_bins: bool = False,
) -> Iterator[tuple[str, list[ObjectScore]]]:
    """Score video by video: its name and its objects, as they are made; collect them in `Scores`.

    truth        a data set, its folder of annotations, or its footage; see `truths`
    answers      ``VIDEO/FRAME.png`` or ``VIDEO/OBJECT/FRAME.png``, as the truth
    videos       names of those that count; None: all that have true masks
    ends         count the first and last frame too, which the evaluators do only when told to
    narrow_bins  davis2017-evaluation's decay, wrong for more than 256 frames; see `metrics.course`

    Raises IncompleteError before anything is scored when answers are missing; DataError, naming the file, for masks
    that do not fit; ValueError for an unknown protocol.
    """
    check_protocol(protocol)
    footage = truth if isinstance(truth, list) else truths(truth, videos=videos)
    if lines := missing(footage, Path(answers), ends=ends):
        raise IncompleteError(lines)
    for item in footage:
        found = score_video(item, Path(answers) / item.name, protocol=protocol, ends=ends, narrow_bins=narrow_bins)
        yield item.name, found


def score_video(
    truth: Footage, answers: Path, *, protocol: str, ends: bool = False, narrow_bins: bool = False
) -> list[ObjectScore]:
    """The scores of one video's objects; arguments and errors are those of `score`."""
    if protocol != "sav":
        if truth.overlapping:
            raise DataError(f"{truth.source} has a folder per object; protocol {protocol} wants palette PNGs")
        frames = _davis(truth, answers, merged=protocol == "davis2016", ends=ends)
        return [record.score(truth.name, narrow_bins) for record in _records(frames).values()]
    found = []
    for folder, (number, labelled) in tracks(truth).items():
        frames = _sav(truth, answers, folder, number, counted(labelled, ends=ends))
        records = {key: record for key, record in _records(frames).items() if record.in_truth}
        if folder and not records:
            raise DataError(f"{truth.source}/{folder} shows its object on no frame that counts")
        for key in sorted(records):
            record = records[key]
            record.name = folder or record.name
            found.append(record.score(truth.name, narrow_bins))
    return found


Pair = tuple[int, np.ndarray, np.ndarray]  # object, its answer (H, W), its truth (H, W)


def _davis(truth: Footage, answers: Path, *, merged: bool, ends: bool) -> Iterator[Pair]:
    """Every object on every frame that counts, all objects of the first true frame from the start."""
    count = 1 if merged else max(truth.objects(0), default=0)
    if not count:
        raise DataError(
            f"{truth.source} shows no object on {truth.names[0]}; its labels' values are "
            f"{', '.join(map(str, truth.values(0)))}"
        )
    places = _numbers(truth, count)
    names = truth.names
    for frame in counted(range(truth.length), ends=ends):
        path = answers / f"{names[frame]}.png"
        wanted, answered = _pair(truth, frame, path)
        if merged:
            yield 1, answered > 0, wanted > 0
            continue
        if answered.max(initial=0) > count:
            raise DataError(f"{path} has object {answered.max()}; the video has {count}")
        for number in places:
            yield number, answered == number, wanted == number


def _numbers(truth: Footage, count: int) -> Sequence[int]:
    """The objects that are scored: 1 to the highest, as DAVIS counts; where numbers are no count, those there are."""
    return range(1, count + 1) if count <= LARGEST_COUNT else truth.objects(0)


def _sav(truth: Footage, answers: Path, folder: str, number: int, frames: Sequence[int]) -> Iterator[Pair]:
    """Every object on every frame that counts, from where it was first seen in truth or answer."""
    seen: set[int] = set()
    names = truth.names
    for frame in frames:
        path = answers / folder / f"{names[frame]}.png"
        if folder:
            wanted, answered = truth.masks(frame, [number])[0], _answer(path)
            if len(np.unique(answered)) > 2:
                raise DataError(f"{path} has more than one object; with a folder per object each has one")
            _same_size(path, wanted, answered)
            wanted, answered = wanted.astype(np.uint8), (answered > 0).astype(np.uint8)
        else:
            wanted, answered = _pair(truth, frame, path)
        seen |= {int(value) for ids in (wanted, answered) for value in np.unique(ids)} - {0}
        for value in sorted(seen):
            yield value, answered == value, wanted == value


def _pair(truth: Footage, frame: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The true map and the answered one; pixels that are not counted are no object in either."""
    wanted, answered = truth.ids(frame), _answer(path)
    _same_size(path, wanted, answered)
    ignored = truth.ignored(frame)
    return wanted, answered if ignored is None else np.where(ignored, 0, answered)


def _answer(path: Path) -> np.ndarray:
    return read_ids(path)


def _same_size(path: Path, wanted: np.ndarray, answered: np.ndarray) -> None:
    if wanted.shape != answered.shape:
        raise DataError(f"{path} is {answered.shape}, the true mask {wanted.shape} (height, width)")


@dataclass
class _Record:
    """What is gathered of one object while its frames go by."""

    name: str
    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    returned: list[float] = field(default_factory=list)
    in_truth: bool = False
    away: bool = False
    back: bool = False

    def add(self, answer: np.ndarray, truth: np.ndarray) -> None:
        self.j.append(iou(answer, truth))
        self.f.append(contour_score(answer, truth))
        there = bool(truth.any())
        self.back |= there and self.away
        self.away |= self.in_truth and not there
        self.in_truth |= there
        if there:
            self.areas.append(float(truth.mean()))
            if self.back:
                self.returned.append(self.j[-1])

    def score(self, video: str, narrow_bins: bool) -> ObjectScore:
        return ObjectScore(
            video=video,
            object=self.name,
            j=course(self.j, narrow_bins=narrow_bins),
            f=course(self.f, narrow_bins=narrow_bins),
            frames=len(self.j),
            area=float(np.mean(self.areas)) if self.areas else 0.0,
            returned=float(np.mean(self.returned)) if self.returned else None,
        )


def _records(pairs: Iterator[Pair]) -> dict[int, _Record]:
    records: dict[int, _Record] = {}
    for number, answer, truth in pairs:
        records.setdefault(number, _Record(str(number))).add(answer, truth)
    if not records:
        raise DataError("a video has no frame that counts: its first and last do not")
    return records
