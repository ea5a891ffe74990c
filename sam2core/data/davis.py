"""Folders of videos with palette PNGs: DAVIS, MOSE, YouTube-VOS, LVOS, PUMaVOS, and SA-V's evaluation half.

    ROOT/JPEGImages/VIDEO       ROOT/Annotations/VIDEO         MOSE, YouTube-VOS, LVOS
    ROOT/JPEGImages/480p/VIDEO  ROOT/Annotations/480p/VIDEO    DAVIS, with its lists in ROOT/ImageSets/YEAR
    ROOT/JPEGImages_24fps/VIDEO ROOT/Annotations_6fps/VIDEO    SA-V
    ROOT/VIDEO/JPEGImages       ROOT/VIDEO/Annotations         PUMaVOS
    ROOT/JPEGImages             ROOT/Annotations               one video

Masks are one palette PNG a frame, a pixel's value being its object, or as SA-V has them ``OBJECT/FRAME.png``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.footage import Footage, IdFootage, Void
from sam2core.data.pictures import PICTURES, DataError, files_in, folders_in, natural, read_ids, read_palette, visible
from sam2core.data.writing import Written, copy_pictures, write_ids

IMAGE_FOLDERS = ("JPEGImages_24fps", "JPEGImages")
MASK_FOLDERS = ("Annotations_6fps", "Annotations")
RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


class PaletteVideo(IdFootage):
    """A video with one PNG of all objects a frame."""

    def palette(self) -> np.ndarray | None:
        return read_palette(self.maps[0])


class ObjectFolders(Footage):
    """A video with a folder of PNGs per object, numbered from 1 in the order of their names; above 0 is the object."""

    overlapping = True

    def __init__(
        self, name: str, media: tuple[Path, ...], folders: Sequence[Path], labelled: Sequence[int], **more: Any
    ) -> None:
        super().__init__(name, media, labelled, **more)
        self.folders = dict(enumerate(folders, 1))

    @cached_property
    def _held(self) -> dict[int, frozenset[str]]:
        return {
            number: frozenset(path.stem for path in files_in(folder, (".png",)))
            for number, folder in self.folders.items()
        }

    def object_name(self, number: int) -> str:
        return self.folders[number].name

    def objects(self, frame: int) -> list[int]:
        name = self.frame_name(self.labelled[frame])
        return [number for number, held in self._held.items() if name in held]

    def masks(self, frame: int, numbers: Sequence[int]) -> np.ndarray:
        name = self.frame_name(self.labelled[frame])
        found = {number: self._mask(number, name, frame) for number in numbers if name in self._held.get(number, ())}
        shape = next((mask.shape for mask in found.values()), None) or self.size(frame)
        return np.stack([found.get(number, np.zeros(shape or (0, 0), dtype=bool)) for number in numbers])

    def _mask(self, number: int, name: str, frame: int) -> np.ndarray:
        path = self.folders[number] / f"{name}.png"
        ids = read_ids(path)
        if len(np.unique(ids)) > 2:
            raise DataError(f"{path} has more than one object; with a folder per object each has one")
        return self.fitted(ids > 0, frame, path)


def recognise(root: Path) -> bool:
    if (root / "SegmentationObject").is_dir():
        return False
    return bool(video_places(root, IMAGE_FOLDERS) and video_places(root, MASK_FOLDERS))


def read(
    root: Path,
    *,
    images: str = "",
    labels: str = "",
    videos: Sequence[str] = (),
    subset: str | None = None,
    ignore: int | str | None = "auto",
) -> list[Footage]:
    """The videos in order.

    images, labels: folders of a folder per video, below `root`; without them the layouts above. videos: only these;
    subset: those of the list ``ImageSets/**/SUBSET.txt``, which must be chosen where there are several. ignore: as in
    `label_folder`. Raises DataError for what is missing, holds nothing, or does not go together.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    shown, marked = _places(root, images, IMAGE_FOLDERS), _places(root, labels, MASK_FOLDERS)
    names = list(videos) or (None if images or labels else listed(root, subset))
    chosen = _chosen(root, marked if images or labels else shown, names)
    for name in chosen:
        if name not in marked:
            raise DataError(f"the video {shown[name]} has no folder of masks")
        if name not in shown:
            raise DataError(f"there is no folder {name} of {images or ' or '.join(IMAGE_FOLDERS)} in {root}")
    return [video(name, shown[name], marked[name], ignore) for name in chosen]


def read_masks(root: Path, *, videos: Sequence[str] | None = None, ignore: int | str | None = "auto") -> list[Footage]:
    """The masks of a data set, of its ``Annotations`` or of a folder of results, with images or without.

    videos: only these, all of which must be there. Raises DataError.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    places = video_places(root, MASK_FOLDERS, bare=True)
    return [video(name, None, places[name], ignore) for name in _chosen(root, places, videos)]


def video(name: str, images: Path | None, masks: Path, ignore: int | str | None = "auto") -> Footage:
    """One video of a folder of images and one of masks. Raises DataError."""
    entries = visible(masks)
    if not entries:
        raise DataError(f"the folder {masks} is empty")
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if not entry.is_dir()]
    if folders and loose:
        raise DataError(f"{loose[0]} stands beside folders: masks are all PNGs, or all a folder per object")
    stems = {path.stem for folder in folders or [masks] for path in files_in(folder, (".png",))}
    if images is None:
        media = tuple(Path(name) for name in sorted(stems, key=natural))
        labelled = list(range(len(media)))
    else:
        media = tuple(files_in(images, PICTURES))
        if not media:
            raise DataError(f"{images} holds no image ({', '.join(PICTURES)})")
        missing = sorted(stems - {path.stem for path in media}, key=natural)
        if missing:
            raise DataError(f"{masks} has labels of {missing[0]!r}, but {images} has no such frame")
        labelled = [number for number, path in enumerate(media) if path.stem in stems]
    if not labelled:
        raise DataError(f"no frame of {images} has labels in {masks}")
    bare = images is None
    if folders:
        return ObjectFolders(name, media, folders, labelled, source=str(masks), bare=bare)
    maps = [masks / f"{media[number].name if bare else media[number].stem}.png" for number in labelled]
    return PaletteVideo(name, media, maps, labelled, void=Void(ignore, maps), source=str(masks), bare=bare)


def video_places(root: Path, kinds: Sequence[str], *, bare: bool = False) -> dict[str, Path]:
    """Video name -> its folder below one of the `kinds`; with `bare`, below `root` itself when there is none."""
    for kind in kinds:
        below = root / kind
        if not below.is_dir():
            continue
        for resolution in RESOLUTIONS:
            if (below / resolution).is_dir():
                return _by_name(below / resolution)
        if files_in(below, PICTURES):
            return {root.resolve().name: below}
        return _by_name(below)
    folders = _by_name(root)
    nested = {name: path / kind for name, path in folders.items() for kind in kinds if (path / kind).is_dir()}
    return folders if bare and not nested else nested


def _by_name(root: Path) -> dict[str, Path]:
    return {path.name: path for path in folders_in(root)}


def _places(root: Path, folder: str, kinds: Sequence[str]) -> dict[str, Path]:
    """Video name -> its folder. Raises DataError when there is none."""
    if folder and not (root / folder).is_dir():
        raise DataError(f"there is no folder {root / folder}")
    found = video_places(root / folder, (), bare=True) if folder else video_places(root, kinds)
    if not found:
        if folder:
            raise DataError(f"{root / folder} holds no folder of a video")
        raise DataError(f"{root} holds neither {' nor '.join(kinds)}, nor do the folders in it")
    return found


def _chosen(root: Path, found: Iterable[str], names: Iterable[str] | None) -> list[str]:
    known = list(found)
    if not known:
        raise DataError(f"{root} holds no folder of a video")
    if names is None:
        return known
    wanted = list(dict.fromkeys(names))
    absent = [name for name in wanted if name not in known]
    if absent:
        raise DataError(f"{root} has no video {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    return wanted


def listed(root: Path, subset: str | None) -> list[str] | None:
    """The names in ``ImageSets/**/SUBSET.txt``, DAVIS's way; None where a data set has no lists and none is asked for.

    Raises DataError when there are lists and none was chosen, or the chosen one is not there: half of a data set is
    never taken for all of it.
    """
    lists = {path.stem: path for path in sorted(root.glob("ImageSets/**/*.txt"))}
    years = {path.parent for path in lists.values()}
    if (root / "ImageSets" / "2017").is_dir() and len(years) > 1:  # DAVIS 2016's lists lie beside those of 2017
        lists = {path.stem: path for path in sorted((root / "ImageSets" / "2017").glob("*.txt"))}
    if subset is None:
        if len(lists) > 1:
            raise DataError(f"{root} has several lists of videos: choose one of {', '.join(lists)}")
        return None if not lists else next(iter(lists.values())).read_text().split()
    if subset not in lists:
        raise DataError(f"{root} has no list ImageSets/**/{subset}.txt; it has {', '.join(lists) or 'none'}")
    return lists[subset].read_text().split()


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write videos as MOSE has them: one palette PNG a labelled frame, all frames as images."""
    for item in footage:
        copy_pictures(root / "JPEGImages" / item.name, item, every=True)
        written.lose("class names", len(item.classes))
        for frame, name in enumerate(item.names):
            ids = written.map_of(item, frame, largest=254)
            ignored = item.ignored(frame)
            if ignored is not None and ids.any():
                ids = np.where(ignored & (ids == 0), 255, ids)
            elif ignored is not None:
                written.lose("pixels that are not counted", int(ignored.sum()))
            write_ids(root / "Annotations" / item.name / f"{name}.png", ids.astype(np.uint8), palette=item.palette())
