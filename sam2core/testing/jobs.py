"""The contracts of detectors and writers: boxes that can be prompts, labels that are written of what was found."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2core.data.footage import Footage, Shape, ShapeFootage
from sam2core.ops import rle
from sam2core.protocols import Detector, Writer
from sam2core.testing.rules import Examination, Found


def examine_detector(examination: Examination, detector: Any) -> None:
    """Raise ContractError at the first rule that the detector breaks."""
    with examination.rule("protocol", "a method detect(image, source=, frame=)"):
        if not isinstance(detector, Detector):
            raise Found(f"a {type(detector).__name__}")
    with examination.rule("answer", "boxes (N, 4) of finite numbers, N labels that are texts, N scores, surest first"):
        picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        found = detector.detect(picture, source="picture.png", frame=0)
        count = len(found.labels)
        if found.boxes.shape != (count, 4) or found.scores.shape != (count,) or not np.isfinite(found.boxes).all():
            raise Found(f"boxes {found.boxes.shape}, {count} labels, scores {found.scores.shape}")
        if not all(isinstance(label, str) for label in found.labels) or (np.diff(found.scores) > 0).any():
            raise Found(f"labels {found.labels}, scores {found.scores}")


def examine_writer(examination: Examination, writer: Any) -> None:
    """Raise ContractError at the first rule that the writer breaks."""
    with examination.rule("protocol", "what it `holds`, images or videos or both, and a method write(folder, footage)"):
        if not isinstance(writer, Writer) or not writer.holds or set(writer.holds) - {"images", "videos"}:
            raise Found(f"a {type(writer).__name__} with {getattr(writer, 'holds', None)!r}")
    for holding in writer.holds:
        with (
            examination.rule("write", f"files in the folder for {holding}, and sentences"),
            tempfile.TemporaryDirectory() as place,
        ):
            (Path(place) / "out").mkdir()
            told = writer.write(Path(place) / "out", [_footage(Path(place), holding)])
            if not isinstance(told, list) or not all(isinstance(sentence, str) for sentence in told):
                raise Found(f"it returned {told!r}")
            if not any(path.is_file() for path in (Path(place) / "out").rglob("*")):
                raise Found("no file")


def _footage(place: Path, holding: str) -> Footage:
    """An image, or a video of two frames, with an object of the class person."""
    files = tuple(place / f"{number}.png" for number in range(1 if holding == "images" else 2))
    for file in files:
        Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(file)
    mask = np.zeros((32, 48), bool)
    mask[4:20, 8:30] = True
    shapes = [[Shape(1, rle.encode(mask), "person")] for _ in files]
    name = "0.png" if holding == "images" else "clip"
    return ShapeFootage(name, files, shapes, drawn_on=(32, 48), classes={1: "person"})
