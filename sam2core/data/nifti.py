"""NIfTI volumes as videos along an axis: ``imagesTr/NAME.nii.gz`` with ``labelsTr/NAME.nii.gz``, or images and labels.

Needs nibabel: ``pip install "sam2core[medical]"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.footage import Footage, IdFootage
from sam2core.data.pictures import DataError, files_in, first_folder
from sam2core.data.writing import Written

SUFFIXES = (".nii", ".gz")
SHOWN = (0.5, 99.5)
"""Percentiles of a volume's values that become black and white, unless a window is said."""


def _nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise DataError('NIfTI volumes need nibabel: pip install "sam2core[medical]"') from error
    return nibabel


class Volume:
    """A file's values, read when they are wanted and kept while one of its slices was asked for last."""

    def __init__(self, path: Path, axis: int) -> None:
        self.path, self.axis = path, axis
        self._values: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        nibabel = _nibabel()
        try:
            return tuple(int(side) for side in nibabel.load(self.path).shape)
        except (nibabel.filebasedimages.ImageFileError, OSError, EOFError) as error:
            raise DataError(f"cannot read volume {self.path}: {error}") from error

    @property
    def values(self) -> np.ndarray:
        if self._values is None:
            nibabel = _nibabel()
            try:
                self._values = np.asarray(nibabel.load(self.path).dataobj)
            except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
                raise DataError(f"cannot read volume {self.path}: {error}") from error
        return self._values

    def slice(self, number: int) -> np.ndarray:
        """A slice (H, W): the later of the two other axes goes down, as viewers show it, and the first to the right."""
        return np.ascontiguousarray(np.take(self.values, number, axis=self.axis).T[::-1])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "axis": self.axis, "_values": None}  # a worker reads its own


class Slices:
    """A volume's slices as frames (H, W, 3) uint8, dark to bright over a window of values."""

    def __init__(self, path: Path, axis: int, window: tuple[float, float] | None) -> None:
        self.volume, self.window = Volume(path, axis), window
        self._count = self.volume.shape[axis]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> np.ndarray:
        if not 0 <= number < self._count:
            raise IndexError(number)
        values = self.volume.values
        if not np.isfinite(values).all():
            raise DataError(f"{self.volume.path} has values that are not finite")
        if self.window is None:
            low, high = np.percentile(values, SHOWN)
            self.window = float(low), float(max(high, low + 1e-6))
        low, high = self.window
        grey = np.clip((self.volume.slice(number).astype(np.float64) - low) / (high - low), 0, 1)
        return np.repeat(np.round(255 * grey).astype(np.uint8)[..., None], 3, axis=2)

    def __str__(self) -> str:
        return str(self.volume.path)


class VolumeClip(IdFootage):
    """A volume with a volume of ids; an object keeps its number from slice to slice."""

    def __init__(self, name: str, image: Path, labels: Path, axis: int, window: tuple[float, float] | None) -> None:
        self.volume = Volume(labels, axis)
        frames = Slices(image, axis, window)
        if self.volume.shape != frames.volume.shape:
            raise DataError(f"{labels} is {self.volume.shape}, its image {image} is {frames.volume.shape}")
        super().__init__(name, frames, [labels] * len(frames), source=str(labels))

    def read_map(self, frame: int) -> np.ndarray:
        ids = self.volume.slice(frame)
        whole = np.rint(ids).astype(np.int64)
        if not np.array_equal(whole, ids):
            raise DataError(f"{self.maps[frame]} holds fractions; labels are integers")
        return whole.astype(np.uint16) if whole.min(initial=0) >= 0 and whole.max(initial=0) < 65536 else whole


def _volumes(folder: Path | None) -> dict[str, Path]:
    found = files_in(folder, SUFFIXES) if folder is not None else []
    return {path.name.partition(".nii")[0]: path for path in found if re.search(r"\.nii(\.gz)?$", path.name)}


def recognise(root: Path) -> bool:
    return bool(_volumes(first_folder(root, ("labelsTr", "labels"))))


def read(root: Path, *, axis: int = 2, window: Sequence[float] = ()) -> list[Footage]:
    """The volumes in order, as videos along an axis (0, 1 or 2). Raises DataError.

    window: the values that become black and white, such as -160, 240; without it the 0.5th and 99.5th percentile of a
    volume. Of several channels (``NAME_0000``) the first is shown.
    """
    if axis not in (0, 1, 2):
        raise DataError(f"nifti: axis is 0, 1 or 2, not {axis!r}")
    if len(window) not in (0, 2) or (len(window) == 2 and not window[0] < window[1]):
        raise DataError(f"nifti: window is two values, the lower first, not {list(window)}")
    shown = (float(window[0]), float(window[1])) if len(window) else None
    labels = _volumes(first_folder(root, ("labelsTr", "labels")))
    images = _volumes(first_folder(root, ("imagesTr", "images")))
    if not labels:
        raise DataError(f"{root} holds no volume (.nii, .nii.gz) in labelsTr or labels")
    found: list[Footage] = []
    for name, path in labels.items():
        image = images.get(name) or images.get(f"{name}_0000")
        if image is None:
            raise DataError(f"{path} has no image of its name in imagesTr or images")
        found.append(VolumeClip(name, image, path, axis, shown))
    return found


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write grey volumes of 8 bits and volumes of ids, slices along the last axis."""
    nibabel = _nibabel()
    for item in footage:
        pictures = item.pictures(range(item.length))
        grey = np.stack([np.round(picture.mean(2)).astype(np.uint8)[::-1].T for picture in pictures], axis=2)
        colour = any(int((picture.max(2) - picture.min(2)).max()) for picture in pictures)
        maps = np.stack([written.map_of(item, frame)[::-1].T for frame in range(item.length)], axis=2)
        for folder, values in (("images", grey), ("labels", maps)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / folder / f"{item.name}.nii.gz")
        written.lose("videos' colours", int(colour))
        written.lose("class names", len(item.classes))
        written.lose("names of frames, which are counted from 0", item.length)
        for frame in range(item.length):
            ignored = item.ignored(frame)
            written.lose("pixels that are not counted", 0 if ignored is None else int(ignored.sum()))
