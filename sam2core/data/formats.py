"""The formats of labelled data, by the names that recipes, `--format` and this room's documents use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from sam2core.data import (
    coco,
    cvat,
    davis,
    label_folder,
    labelstudio,
    mots,
    nifti,
    panoptic,
    sa1b,
    sav,
    stacks,
    voc,
    yolo,
)
from sam2core.data.footage import Footage
from sam2core.data.pictures import DataError
from sam2core.data.writing import Written

Write = Callable[[Path, Iterable[Footage], Written], None]


@dataclass(frozen=True)
class Format:
    """One format: what it is, how it is recognised, read and, where it can be, written.

    videos: it holds videos; otherwise images. read(root, **options) lists the footage; write(root, footage, written)
    writes it to an empty folder and tells `written` what the format does not hold.
    """

    name: str
    title: str
    clips: bool
    recognise: Callable[[Path], bool]
    read: Callable[..., list[Footage]]
    write: Write | None = None

    @property
    def options(self) -> list[str]:
        """The names of what `read` may be told."""
        return [name for name in signature(self.read).parameters if name != "root"]


def _of(name: str, title: str, module: Any, *, clips: bool) -> Format:
    return Format(name, title, clips, module.recognise, module.read, getattr(module, "write", None))


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        _of("coco_panoptic", "COCO panoptic", panoptic, clips=False),
        _of("sav", "SA-V", sav, clips=True),
        _of("voc", "Pascal VOC", voc, clips=False),
        _of("davis", "DAVIS, MOSE, YouTube-VOS, LVOS", davis, clips=True),
        _of("mots", "MOTS PNG", mots, clips=True),
        _of("cvat", "CVAT for video 1.1", cvat, clips=True),
        _of("nifti", "NIfTI volumes", nifti, clips=True),
        _of("tiff_stack", "TIFF stacks with label stacks", stacks, clips=True),
        _of("yolo", "YOLO-seg", yolo, clips=False),
        _of("label_folder", "label folder", label_folder, clips=False),
        _of("labelstudio", "Label Studio export", labelstudio, clips=False),
        _of("coco", "COCO instances", coco, clips=False),
        _of("sa1b", "SA-1B", sa1b, clips=False),
    )
}
"""In the order in which a folder is tried."""


@dataclass(frozen=True)
class DataSet:
    """What lies in a folder: its format, its footage in order, and the other formats it might be taken for."""

    root: Path
    format: Format
    footage: list[Footage]
    also: tuple[str, ...] = field(default=())

    @property
    def sentence(self) -> str:
        """A line that tells how the folder was read."""
        what = "videos" if self.format.clips else "images"
        more = f" (it also looks like {', '.join(self.also)})" if self.also else ""
        return f"{self.root}: {self.format.title} ({self.format.name}), {len(self.footage)} {what}{more}"

    @property
    def notes(self) -> list[str]:
        """What was left out when the folder was listed, as sentences."""
        return [note for item in self.footage for note in item.notes]


def recognise(root: Path) -> list[str]:
    """The names of the formats that a folder looks like, the likeliest first."""
    return [name for name, each in FORMATS.items() if each.recognise(root)]


def looks_like(root: Path) -> str:
    """What a message adds about a folder that is not what a recipe expects: the format that it looks like."""
    likely = [name for name in recognise(root) if name != "label_folder"] if root.is_dir() else []
    return f"; it looks like {likely[0]}: say --format {likely[0]}" if likely else ""


def named(name: str) -> Format:
    """A format by its name. Raises DataError with the nearest match."""
    if name not in FORMATS:
        near = get_close_matches(name, FORMATS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"there is no format {name!r}; there are {', '.join(FORMATS)}{hint}")
    return FORMATS[name]


def open_data(root: str | Path, name: str = "", **options: Any) -> DataSet:
    """List what a folder holds, in the format `name` or in the one it looks like; nothing is decoded.

    options: those of the format's reader. Raises DataError for a folder of no known format, an option that the format
    does not have, and what the reader finds amiss.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    likely = [name] if name else recognise(root)
    if not likely:
        raise DataError(f"{root} is in none of the formats that are read: {', '.join(FORMATS)}; see docs/data.md")
    chosen = named(likely[0])
    for option in options:
        if option not in chosen.options:
            allowed = f"it has {', '.join(chosen.options)}" if chosen.options else "it has none"
            raise DataError(f"the format {chosen.name} has no option {option!r}; {allowed}")
    return DataSet(root, chosen, chosen.read(root, **options), tuple(likely[1:]))


def open_clips(
    root: str | Path, name: str = "", *, videos: Sequence[str] = (), subset: str | None = None, **options: Any
) -> DataSet:
    """List the videos of a folder; as `open_data`.

    videos: only these, in this order, all of which must be there. subset: those of one of the data set's lists. Raises
    DataError, also for a format of images and for a subset where the format has no lists.
    """
    likely = [name] if name else recognise(Path(root))
    chosen = named(likely[0]) if likely else None
    if chosen is not None and not chosen.clips:
        raise DataError(f"{root} is {chosen.title} ({chosen.name}): images, no videos; `evaluate clicks` takes them")
    if subset:
        if chosen is not None and "subset" not in chosen.options:
            raise DataError(f"the format {chosen.name} has no lists of videos to take the subset {subset!r} from")
        options["subset"] = subset
    if videos and chosen is not None and "videos" in chosen.options:
        options["videos"] = list(videos)
    data = open_data(root, name, **options)
    if not videos:
        return data
    held = {item.name: item for item in data.footage}
    absent = [each for each in videos if each not in held]
    if absent:
        raise DataError(f"{root} has no video {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    return replace(data, footage=[held[each] for each in dict.fromkeys(videos)])
