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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.datasets import MaskFolder, mask_folders
from sam2core.data.pictures import DataError, read_ids
from sam2core.evaluation.contours import contour_score
from sam2core.evaluation.metrics import Course, Summary, course, iou, summarise, terciles

PROTOCOLS = ("davis", "davis2016", "sav")
LISTED = 20
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
    """Its mean share of the picture where it is in it; 0 when it never is."""
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


def counted(truth: MaskFolder, folder: str = "", *, ends: bool = False) -> list[str]:
    """The names of a video's (or an object's) true frames that count: all but the first and last, unless `ends`."""
    names = truth.objects[folder]
    return names if ends else names[1:-1]


def missing(truth: Mapping[str, MaskFolder], answers: Path, *, ends: bool = False) -> list[str]:
    """What a folder of answers lacks, as lines: videos, objects and frames that count."""
    lines = []
    for video, masks in truth.items():
        if not (answers / video).is_dir():
            lines.append(f"{video}: no folder {answers / video}")
            continue
        for folder in masks.objects:
            names = counted(masks, folder, ends=ends)
            absent = [name for name in names if not (answers / video / folder / f"{name}.png").exists()]
            if absent:
                place = f"{video}/{folder}" if folder else video
                lines.append(f"{place}: {len(absent)} of {len(names)} frames, the first is {absent[0]}.png")
    return lines


def check_protocol(protocol: str) -> str:
    """The protocol itself. Raises ValueError when there is none of that name."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocols are {', '.join(PROTOCOLS)}, not {protocol!r}")
    return protocol


def score(
    truth: str | Path,
    answers: str | Path,
    *,
    protocol: str = "davis",
    videos: Sequence[str] | None = None,
    ends: bool = False,
    narrow_bins: bool = False,
) -> Iterator[tuple[str, list[ObjectScore]]]:
    """Score video by video: its name and its objects, as they are made; collect them in `Scores`.

    truth        a data set or its folder of annotations, see `datasets`
    answers      ``VIDEO/FRAME.png`` or ``VIDEO/OBJECT/FRAME.png``, as the truth
    videos       names of those that count; None: all that have true masks
    ends         count the first and last frame too, which the evaluators do only when told to
    narrow_bins  davis2017-evaluation's decay, wrong for more than 256 frames; see `metrics.course`

    Raises IncompleteError before anything is scored when answers are missing; DataError, naming the file, for masks
    that do not fit; ValueError for an unknown protocol.
    """
    check_protocol(protocol)
    folders = mask_folders(Path(truth), videos)
    if lines := missing(folders, Path(answers), ends=ends):
        raise IncompleteError(lines)
    for name, masks in folders.items():
        yield (
            name,
            score_video(name, masks, Path(answers) / name, protocol=protocol, ends=ends, narrow_bins=narrow_bins),
        )


def score_video(
    name: str, truth: MaskFolder, answers: Path, *, protocol: str, ends: bool = False, narrow_bins: bool = False
) -> list[ObjectScore]:
    """The scores of one video's objects; arguments and errors are those of `score`."""
    if protocol != "sav":
        if truth.per_object:
            raise DataError(f"{truth.path} has a folder per object; protocol {protocol} wants palette PNGs")
        frames = _davis(truth, answers, merged=protocol == "davis2016", ends=ends)
        return [record.score(name, narrow_bins) for record in _records(frames).values()]
    found = []
    for folder in truth.objects:
        frames = _sav(truth, answers, folder, ends=ends)
        records = {key: record for key, record in _records(frames).items() if record.in_truth}
        if folder and not records:
            raise DataError(f"{truth.path / folder} shows its object on no frame that counts")
        for key in sorted(records):
            record = records[key]
            record.name = folder or record.name
            found.append(record.score(name, narrow_bins))
    return found


Pair = tuple[int, np.ndarray, np.ndarray]  # object, its answer (H, W), its truth (H, W)


def _davis(truth: MaskFolder, answers: Path, *, merged: bool, ends: bool) -> Iterator[Pair]:
    """Every object on every frame that counts, all objects of the first true frame from the start."""
    first = read_ids(truth.file(truth.objects[""][0]))
    count = 1 if merged else int(first[first != 255].max(initial=0))
    if not count:
        raise DataError(f"{truth.file(truth.objects[''][0])} shows no object")
    for frame in counted(truth, ends=ends):
        wanted, answered = _pair(truth.file(frame), answers / f"{frame}.png")
        if merged:
            yield 1, answered > 0, wanted > 0
            continue
        if answered.max(initial=0) > count:
            raise DataError(f"{answers / f'{frame}.png'} has object {answered.max()}; the video has {count}")
        for number in range(1, count + 1):
            yield number, answered == number, wanted == number


def _sav(truth: MaskFolder, answers: Path, folder: str, *, ends: bool) -> Iterator[Pair]:
    """Every object on every frame that counts, from where it was first seen in truth or answer."""
    seen: set[int] = set()
    for frame in counted(truth, folder, ends=ends):
        files = truth.file(frame, folder), answers / folder / f"{frame}.png"
        wanted, answered = _pair(*files)
        if folder:
            for file, ids in zip(files, (wanted, answered)):
                if len(np.unique(ids)) > 2:
                    raise DataError(f"{file} has more than one object; with a folder per object each has one")
            wanted, answered = (wanted > 0).astype(np.uint8), (answered > 0).astype(np.uint8)
        seen |= {int(number) for ids in (wanted, answered) for number in np.unique(ids)} - {0}
        for number in sorted(seen):
            yield number, answered == number, wanted == number


def _pair(truth: Path, answer: Path) -> tuple[np.ndarray, np.ndarray]:
    wanted, answered = read_ids(truth), read_ids(answer)
    if wanted.shape != answered.shape:
        raise DataError(f"{answer} is {answered.shape}, the true mask {wanted.shape} (height, width)")
    return wanted, answered


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
