"""One program on two packages called `sam2`: Meta's, where it is installed, and the one in this folder."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PLUGIN = Path(__file__).parents[1]
OURS = (PLUGIN, PLUGIN.parents[1])
"""The folders that lead to this package."""


def _meta() -> tuple[Path, ...] | None:
    for name in ("sam2", "SAM-2"):
        try:
            package = importlib.metadata.distribution(name).locate_file("sam2")
        except importlib.metadata.PackageNotFoundError:
            continue
        if (Path(str(package)) / "modeling" / "sam2_base.py").is_file():
            return (Path(str(package)).parent,)
    return None


META = _meta()
"""The folder that leads to Meta's package; None where it is not installed."""


def run(where: tuple[Path, ...] | None, program: Path, *arguments: Path | str) -> str:
    """What a program says, run by a process of its own with these folders first on its path."""
    assert where is not None
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, where)), OMP_NUM_THREADS="1")
    command = [sys.executable, str(program), *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=program.parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def write_frames(
    folder: Path,
    count: int,
    *,
    size: tuple[int, int] = (64, 48),
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    name: str = "{}.jpg",
    rng: np.random.Generator | None = None,
) -> None:
    """Write frames of (width, height): a coarse random pattern, at the first of these numbers, that moves sideways."""
    folder.mkdir(parents=True, exist_ok=True)
    coarse = (rng or np.random.default_rng(0)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for frame in range(count):
        image = Image.fromarray(np.roll(coarse, frame, axis=1)).resize(size, resample)
        image.save(folder / name.format(frame), quality=95)


def write_place(place: Path, frames: int) -> Path:
    """A user's own folder: the configuration `tiny.yaml`, and so many frames."""
    (place / "tiny.yaml").write_text((Path(__file__).parent / "tiny.yaml").read_text())
    write_frames(place / "frames", frames)
    return place
