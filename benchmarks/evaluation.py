"""How good the masks are: a model and simple methods, on the same photographs and clicks, and on a clip.

    python benchmarks/evaluation.py baselines DATA      GrabCut, random walker, flood fill, disc; copied masks, flow
    python benchmarks/evaluation.py model DATA          the model, then the others on the model's clicks
    python benchmarks/evaluation.py report              table, plot and the ten worst, from what was measured
    python benchmarks/evaluation.py tune DATA           the settings of the baselines, on training photographs

DATA holds ``bsds500_val``, ``coco128_panoptic``, ``ccp_clothing`` and ``pumavos_samples``. Everything can be interrupted
and goes on where it stopped: what is measured is kept in ``benchmarks/results/evaluation_*.json``, of each method apart,
and measured again only when the method's settings or the model's weights changed.

Protocol: regions of 0.5 to 60 % of the picture, at most ``--objects`` a picture, one annotator drawn; the first click in
the middle of the region, each further one in the middle of the largest error of the method's own answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.evaluation import baselines, clicks
from sam2core.evaluation.clicks import Sample
from sam2core.evaluation.metrics import iou

RESULTS = Path(__file__).parent / "results"
CLICKS, MANY, COUNTS = 8, 20, (1, 3, 8)
METHODS: dict[str, Any] = {
    "constant disc": baselines.ConstantDisc(),
    "flood fill": baselines.FloodFill(),
    "GrabCut": baselines.GrabCut(),
    "random walker": baselines.RandomWalker(),
}
BOXED = "GrabCut"


def sets(data: Path, objects: int) -> dict[str, Callable[[], Iterable[Sample]]]:
    """The photographs: name -> what reads them."""
    return {
        "bsds500_val": lambda: clicks.folder_samples(data / "bsds500_val", most=objects),
        "coco128_val": lambda: clicks.coco_samples(data / "coco128_panoptic", split="val", most=objects),
        "ccp_last100": lambda: clicks.folder_samples(data / "ccp_clothing", last=100, background=False, most=objects),
    }


class Store:
    """Measurements in a JSON file, written whole now and then: method -> set -> image -> object -> what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"methods": {}}
        self._saved = time.monotonic()

    def method(self, name: str, settings: str) -> dict[str, Any]:
        """The measurements of a method; none when they are of other settings."""
        held = self.document["methods"].get(name)
        if held is None or held["settings"] != settings:
            held = self.document["methods"][name] = {"settings": settings, "sets": {}}
        return held["sets"]

    def save(self, *, force: bool = False) -> None:
        if force or time.monotonic() - self._saved > 15:
            self._saved = time.monotonic()
            spare = self.path.with_suffix(".part")
            spare.write_text(json.dumps(self.document, separators=(",", ":")) + "\n")
            os.replace(spare, self.path)


def object_key(truth: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(truth).tobytes()).hexdigest()[:10]


def rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


def session_of(answers: Any, truth: np.ndarray, count: int) -> dict[str, Any]:
    found = clicks.click_through(answers, truth, clicks=count)
    return {
        "iou": rounded(found.scores),
        "clicks": [[click.x, click.y, int(click.positive)] for click in found.clicks],
        "seconds": round(found.seconds / len(found.clicks), 4),
        "area": round(float(truth.mean()), 5),
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, int, Sample]]:
    """Set, number of the picture, and the picture, as the options limit them."""
    for name, read in sets(options.data, options.objects).items():
        if options.sets and name not in options.sets:
            continue
        for number, sample in enumerate(islice(read(), options.images)):
            yield name, number, sample


def measure_baselines(options: argparse.Namespace) -> None:
    """Every baseline on its own clicks, and GrabCut from boxes."""
    import cv2

    cv2.setNumThreads(1)
    store = Store(RESULTS / "evaluation_baselines.json")
    for name, number, sample in chosen(options):
        for method, segmenter in METHODS.items():
            held = store.method(method, repr(segmenter)).setdefault(name, {}).setdefault(sample.name, {})
            count = MANY if number < options.many and name == "bsds500_val" else options.clicks
            answers = None
            for index, truth in enumerate(sample.masks):
                key = object_key(truth)
                wanted = count if index == 0 else options.clicks
                if key in held and len(held[key]["iou"]) >= wanted:
                    continue
                answers = answers or segmenter.look(sample.image)
                held[key] = session_of(answers, truth, wanted)
                if method == BOXED:
                    held[key]["box"] = round(iou(segmenter.box(sample.image, clicks.box_of(truth)), truth), 4)
        store.save()
        if number % 10 == 9:
            say(f"{name} {number + 1}")
    store.save(force=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["baselines"])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--sets", nargs="*", help="only these sets of photographs")
    parser.add_argument("--images", type=int, help="only the first so many photographs of each set")
    parser.add_argument("--objects", type=int, default=3, help="regions a photograph at most")
    parser.add_argument("--many", type=int, default=25, help="photographs whose first region gets 20 clicks, for NoC")
    parser.add_argument("--clicks", type=int, default=CLICKS, help="clicks on a region")
    options = parser.parse_args()
    measure_baselines(options)


if __name__ == "__main__":
    main()
