"""How well labelled pictures show what to cut out of others: memory, nearest features, and the whole picture.

    python benchmarks/remember.py DATA        measures, and writes benchmarks/results/remember.json and remember.md

DATA holds ``dsb2018_nuclei`` (its last 40), ``coco128_panoptic`` (things of its val half) and ``ccp_clothing`` (its
last 100). Protocol: an object is all that a picture has of a class, where that is 1 to 60 % of the picture. Each
picture of a class is asked for with the next one, or the next three, of the same class remembered, in the order of the
files' names and round to the first; a class has at most ``MOST`` such questions. Whether an object is there at all is
asked of a picture of the class and of one that has none of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import registry  # noqa: E402
from sam2core.data.label_folder import read as label_folder  # noqa: E402
from sam2core.data.panoptic import coco_pictures  # noqa: E402
from sam2core.evaluation.baselines import NearestFeatures  # noqa: E402
from sam2core.evaluation.metrics import iou, summarise  # noqa: E402
from sam2core.jobs.manifest import fingerprint  # noqa: E402
from sam2core.predictors.image import ImageHandle, ImagePredictor  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MOST = 6
AREAS = 0.01, 0.6
SHOWN = 1, 3
METHODS = "memory", "nearest features", "whole picture"
Classes = dict[Any, dict[str, np.ndarray]]
"""Class -> picture -> all that the picture has of it."""
Labelled = Iterable[tuple[Path, dict[Any, np.ndarray]]]


def nuclei(data: Path) -> Labelled:
    for item in label_folder(data / "dsb2018_nuclei")[-40:]:
        yield item.media[0], {"nuclei": np.any(list(item.read(0).values()), axis=0)}


def coco(data: Path) -> Labelled:
    pictures, things = coco_pictures(data / "coco128_panoptic", "val")
    for picture in sorted(pictures, key=lambda each: each.image.name):
        ids = picture.read()[1]
        found: dict[Any, list[int]] = defaultdict(list)
        for segment in picture.segments:
            if things[segment["category_id"]]:
                found[segment["category_id"]].append(segment["id"])
        yield picture.image, {category: np.isin(ids, own) for category, own in found.items()}


def clothing(data: Path) -> Labelled:
    for item in label_folder(data / "ccp_clothing")[-100:]:
        yield item.media[0], item.read(0)


def classes(labelled: Labelled, predictor: ImagePredictor) -> tuple[Classes, dict[str, ImageHandle], dict[str, set]]:
    """What is asked for, the pictures encoded, and the classes that each holds, however small."""
    asked: Classes = defaultdict(dict)
    handles, held = {}, {}
    for path, masks in labelled:
        name = path.name
        held[name] = {category for category, mask in masks.items() if mask.any()}
        usable = {category: mask for category, mask in masks.items() if AREAS[0] <= mask.mean() <= AREAS[1]}
        if usable:
            handles[name] = predictor.encode(path)
        for category, mask in usable.items():
            asked[category][name] = mask
    return {category: found for category, found in asked.items() if len(found) > max(SHOWN)}, handles, held


def answers(predictor: ImagePredictor, shown: list[tuple[ImageHandle, np.ndarray]]) -> dict[str, Callable]:
    """What each method makes of labelled pictures: a function of another picture to its mask."""
    predictor.forget()
    nearest = NearestFeatures()
    for handle, mask in shown:
        predictor.remember(handle, mask)
        nearest.remember(handle, mask)
    return {
        "memory": lambda handle: handle.predict().numpy()[0],
        "nearest features": nearest.find,
        "whole picture": lambda handle: np.ones(handle.size, dtype=bool),
    }


def measure(predictor: ImagePredictor, labelled: Labelled) -> dict[str, Any]:
    """Scores of one collection: method -> pictures remembered -> picture -> IoU of each class, and what was seen."""
    asked, handles, held = classes(labelled, predictor)
    scores: dict[str, dict[int, dict[str, list[float]]]] = {
        method: {count: defaultdict(list) for count in SHOWN} for method in METHODS
    }
    seen: dict[str, list[bool]] = {"there": [], "not there": []}
    for category, pictures in asked.items():
        names = list(pictures)
        without = [name for name in handles if category not in held[name]]
        for place, name in enumerate(names[:MOST]):
            for count in SHOWN:
                shown = [names[(place + step) % len(names)] for step in range(1, count + 1)]
                methods = answers(predictor, [(handles[each], pictures[each]) for each in shown])
                for method, find in methods.items():
                    scores[method][count][name].append(iou(find(handles[name]), pictures[name]))
                if count == 1 and without:
                    other = without[place % len(without)]
                    for what, where in (("there", name), ("not there", other)):
                        seen[what].append(bool(handles[where].predict().visible[0]))
    return {
        "classes": len(asked),
        "questions": sum(min(len(pictures), MOST) for pictures in asked.values()),
        "pictures": len(handles),
        "visible": {what: round(float(np.mean(each)), 3) for what, each in seen.items() if each},
        "iou": {
            method: {str(count): _told(list(found.values())) for count, found in by_count.items()}
            for method, by_count in scores.items()
        },
    }


def _told(found: list[list[float]]) -> list[float]:
    """A mean with its 95 % interval over pictures."""
    summary = summarise(found)
    return [round(value, 3) for value in (summary.mean, summary.low, summary.high)]


def table(document: dict[str, Any]) -> str:
    lines = [
        f"Mean IoU of {document['model']}, 95 % intervals over pictures; made by `benchmarks/remember.py`.",
        "",
        "| asked for | remembered | " + " | ".join(METHODS) + " |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    for title, found in document["sets"].items():
        for count in map(str, SHOWN):
            cells = []
            for method in METHODS:
                mean, low, high = found["iou"][method][count]
                cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
            lines.append(
                f"| {title}: {found['questions']} of {found['classes']} | {count} | " + " | ".join(cells) + " |"
            )
    lines += ["", "| said to be visible, one remembered | where it is | where it is not |", "|---|---|---|"]
    for title, found in document["sets"].items():
        if len(found["visible"]) == 2:
            there, absent = found["visible"]["there"], found["visible"]["not there"]
            lines.append(f"| {title} | {there:.3f} | {absent:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="sam2core_nano")
    arguments = parser.parse_args()
    predictor = registry.predictor(arguments.model)
    collections = {"nuclei": nuclei, "things of COCO": coco, "clothing": clothing}
    document: dict[str, Any] = {
        "model": arguments.model,
        "weights": fingerprint(predictor.model),
        "sets": {},
    }
    for title, read in collections.items():
        document["sets"][title] = measure(predictor, read(arguments.data))
        (RESULTS / "remember.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "remember.md").write_text(table(document))
    print(table(document))


if __name__ == "__main__":
    main()
