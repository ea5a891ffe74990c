"""Small folders of masks, made from a seed: every case in which the official evaluators do something of their own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 64)
OBJECTS = {  # the others have one
    "blobs2": 2,
    "blobs3": 3,
    "perfect": 2,
    "empty-answer": 2,
    "full-answer": 2,
    "last-row-and-column": 2,
    "away-and-back": 2,
    "late": 2,
    "appears-later": 3,
}


def _disc(y: float, x: float, radius: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    ys, xs = np.ogrid[: size[0], : size[1]]
    return (ys - y) ** 2 + (xs - x) ** 2 <= radius**2


def _blobs(generator: np.random.Generator, frames: int, objects: int) -> np.ndarray:
    """Object numbers (T, H, W) of discs that wander, the higher ones in front."""
    places = generator.integers(5, 43, size=(objects, 2)).astype(float)
    radii = generator.integers(3, 13, size=objects)
    out = np.zeros((frames, *SIZE), np.uint8)
    for frame in range(frames):
        places += generator.integers(-2, 3, size=places.shape)
        for number in range(objects):
            out[frame][_disc(*places[number], radii[number])] = number + 1
    return out


def _worse(truth: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An answer near the truth: moved by a pixel or two, with a hole and specks."""
    out = np.zeros_like(truth)
    for frame, ids in enumerate(truth):
        out[frame] = np.roll(ids, generator.integers(-2, 3, size=2), (0, 1))
        y, x = generator.integers(0, SIZE[0]), generator.integers(0, SIZE[1])
        out[frame, y : y + 4, x : x + 4] = generator.integers(0, truth[0].max() + 1)
    return out


def videos() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> true and answered object numbers, (T, H, W) uint8 each, one palette PNG a frame."""
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for seed, (frames, objects) in enumerate([(7, 1), (9, 2), (12, 3)]):
        generator = np.random.default_rng([41, seed])
        truth = _blobs(generator, frames, objects)
        made[f"blobs{objects}"] = truth, _worse(truth, generator)
    generator = np.random.default_rng([41, 9])

    truth = _blobs(generator, 8, 2)
    made["perfect"] = truth, truth.copy()
    made["empty-answer"] = truth, np.zeros_like(truth)
    made["full-answer"] = truth, np.full_like(truth, 1)

    truth = np.zeros((6, *SIZE), np.uint8)
    truth[:, 20, 30] = 1
    answer = truth.copy()
    answer[2:] = np.roll(answer[2:], 1, 2)
    answer[4:] = np.roll(answer[4:], 5, 1)
    made["one-pixel"] = truth, answer

    truth = np.zeros((7, *SIZE), np.uint8)
    truth[:, -1, 10:40] = 1  # the last row and the last column have rules of their own
    truth[:, 5:30, -1] = 2
    truth[3, -1, -1] = 1
    answer = truth.copy()
    answer[2, -1, 10:20], answer[3, 5:30, -1], answer[4, -2] = 0, 1, 1
    made["last-row-and-column"] = truth, answer

    truth = np.ones((6, *SIZE), np.uint8)
    answer = truth.copy()
    answer[3, :10], answer[4] = 0, 0
    made["full-frame"] = truth, answer

    truth = _blobs(generator, 12, 2)
    truth[4:8][truth[4:8] == 1] = 0  # an object that goes and comes back
    made["away-and-back"] = truth, _worse(truth, generator)

    truth = _blobs(generator, 10, 2)
    truth[1:4][truth[1:4] == 2] = 0  # one that DAVIS counts as rightly absent and SA-V not at all
    answer = _worse(truth, generator)
    answer[1:3][answer[1:3] == 2] = 0
    made["late"] = truth, answer

    truth = _blobs(generator, 8, 3)
    truth[truth == 2] = 0  # numbers 1 and 3: DAVIS counts an object 2 that is nowhere
    answer = _worse(truth, generator)
    answer[answer == 2] = 0
    made["gap-in-numbers"] = truth, answer

    truth = _blobs(generator, 300, 1)
    made["long"] = truth, _worse(truth, generator)
    return made


def late_objects() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Videos that only SA-V's evaluator takes: an object after the first frame, and one that was only answered."""
    generator = np.random.default_rng([41, 77])
    truth = _blobs(generator, 10, 3)
    truth[:5][truth[:5] == 3] = 0
    answer = _worse(truth, generator)
    answer[:3][answer[:3] == 3] = 0
    invented = truth.copy()
    invented[2:6, 2:9, 2:9] = 7
    return {"appears-later": (truth, answer), "invented": (truth, invented)}


def write_palette(root: Path, videos: dict[str, np.ndarray]) -> None:
    for name, numbers in videos.items():
        (root / name).mkdir(parents=True)
        for frame, ids in enumerate(numbers):
            picture = Image.fromarray(ids)
            picture.putpalette([value for number in range(256) for value in (number, 255 - number, number * 7 % 256)])
            picture.save(root / name / f"{frame:05d}.png")


def write_objects(root: Path, videos: dict[str, np.ndarray], *, step: int = 1) -> None:
    """A folder per object as SA-V has them; frames are named in steps, as annotations at a quarter of the rate are."""
    for name, numbers in videos.items():
        for number in range(1, 1 + OBJECTS.get(name, 1)):
            folder = root / name / f"{number - 1:03d}"
            folder.mkdir(parents=True)
            for frame, ids in enumerate(numbers):
                Image.fromarray((ids == number).astype(np.uint8)).save(folder / f"{frame * step:05d}.png")


def write_all(root: Path) -> dict[str, tuple[Path, Path]]:
    """Everything, in folders of truth and answers per layout: davis, sav-palette, sav-objects."""
    common, late = videos(), late_objects()
    everything = {**common, **late}
    both = {name: pair for name, pair in everything.items() if name != "invented"}
    both.pop("gap-in-numbers")  # an object nowhere fails an assertion of SA-V's when it has a folder
    layouts = {"davis": (common, write_palette), "sav-palette": (everything, write_palette)}
    found = {}
    for layout, (chosen, write) in {**layouts, "sav-objects": (both, write_objects)}.items():
        truth, answers = root / layout / "truth", root / layout / "answers"
        write(truth, {name: pair[0] for name, pair in chosen.items()})
        write(answers, {name: pair[1] for name, pair in chosen.items()})
        found[layout] = truth, answers
    return found


def fingerprint() -> str:
    """A hash of all pixels: recorded scores are of exactly these."""
    digest = hashlib.sha256()
    for name, pair in sorted({**videos(), **late_objects()}.items()):
        digest.update(name.encode())
        for numbers in pair:
            digest.update(str(numbers.shape).encode() + numbers.tobytes())
    return digest.hexdigest()[:16]
