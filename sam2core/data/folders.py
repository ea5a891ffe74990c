"""Where data sets of videos keep their pictures and their masks, for training and for evaluation.

What is recognised, `VIDEO` being a folder of numbered JPEGs there and of mask PNGs here:

    ROOT/JPEGImages/VIDEO       ROOT/Annotations/VIDEO         MOSE, YouTube-VOS, LVOS
    ROOT/JPEGImages/480p/VIDEO  ROOT/Annotations/480p/VIDEO    DAVIS, with its lists in ROOT/ImageSets/YEAR
    ROOT/JPEGImages_24fps/VIDEO ROOT/Annotations_6fps/VIDEO    SA-V
    ROOT/VIDEO/JPEGImages       ROOT/VIDEO/Annotations         PUMaVOS
    ROOT/JPEGImages             ROOT/Annotations               one video
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png")
IMAGE_FOLDERS = ("JPEGImages_24fps", "JPEGImages")
MASK_FOLDERS = ("Annotations_6fps", "Annotations")
RESOLUTIONS = ("480p", "Full-Resolution", "1080p")


def video_places(root: Path, kinds: Sequence[str], *, bare: bool = False) -> dict[str, Path]:
    """Video name -> its folder below one of the `kinds`; with `bare`, below `root` itself when there is none."""
    for kind in kinds:
        below = root / kind
        if not below.is_dir():
            continue
        for resolution in RESOLUTIONS:
            if (below / resolution).is_dir():
                return _subfolders(below / resolution)
        if any(path.suffix.lower() in PICTURES for path in below.iterdir()):
            return {root.resolve().name: below}
        return _subfolders(below)
    folders = _subfolders(root)
    nested = {name: path / kind for name, path in folders.items() for kind in kinds if (path / kind).is_dir()}
    return folders if bare and not nested else nested


def _subfolders(root: Path) -> dict[str, Path]:
    found = (path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.suffix != ".part")
    return {path.name: path for path in sorted(found)}
