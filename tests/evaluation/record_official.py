"""Record what the official evaluators say of the folders of `made.py`, into official_scores.json.

    python tests/evaluation/record_official.py DAVIS2017_EVALUATION SAM2

The two arguments are checkouts of github.com/davisvideochallenge/davis2017-evaluation and of
github.com/facebookresearch/sam2; they need numpy, Pillow, OpenCV, scikit-image and tqdm.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import made


def davis(truth: Path, answers: Path, root: Path) -> dict[str, Any]:
    """davis2017-evaluation, semi-supervised, on a data set made of our folders."""
    from davis2017.evaluation import DAVISEvaluation

    (root / "Annotations").mkdir(parents=True)
    (root / "Annotations" / "480p").symlink_to(truth)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    names = sorted(path.name for path in truth.iterdir())
    (root / "ImageSets" / "2017" / "val.txt").write_text("\n".join(names))
    for name in names:  # it wants an image per frame, and never opens one
        folder = root / "JPEGImages" / "480p" / name
        folder.mkdir(parents=True)
        for frame in (truth / name).iterdir():
            (folder / f"{frame.stem}.jpg").touch()
    found = DAVISEvaluation(str(root), task="semi-supervised", gt_set="val").evaluate(str(answers))
    per_object = {}
    for number, name in enumerate(found["J"]["M_per_object"]):
        per_object[name] = {letter: [found[letter][key][number] for key in "MRD"] for letter in "JF"}
    overall = {f"{letter}{key}": np.mean(found[letter][key]) for letter in "JF" for key in "MRD"}
    return {"objects": per_object, "overall": overall}


def sav(truth: Path, answers: Path) -> dict[str, Any]:
    """SA-V's evaluator in one of its two shapes."""
    from sav_benchmark import VideoEvaluator

    evaluate = VideoEvaluator(str(truth), str(answers))
    per_object, j, f = {}, [], []
    for name in sorted(path.name for path in truth.iterdir()):
        _, iou, contour = evaluate(name)
        j += iou.values()
        f += contour.values()
        for key in iou:
            per_object[f"{name}_{key}"] = {"J": iou[key], "F": contour[key]}
    return {"objects": per_object, "overall": {"J": np.mean(j), "F": np.mean(f)}}


def merged(folder: Path, into: Path) -> Path:
    """The same masks with all objects as one, 255 as in DAVIS 2016 turned into the 1 that the code of 2017 wants."""
    for path in folder.rglob("*.png"):
        target = into / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8)).save(target)
    return into


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if math.isnan(value) else float(value)


def main() -> None:
    checkout, sam2 = map(Path, sys.argv[1:3])
    sys.path[:0] = [str(checkout), str(sam2 / "sav_dataset" / "utils")]
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        folders = made.write_all(root)
        one = [merged(path, root / "merged" / path.name) for path in folders["davis"]]
        found = {
            "pixels": made.fingerprint(),
            "made with": {name: version(name) for name in ("numpy", "opencv-python-headless", "scikit-image")},
            "davis": davis(*folders["davis"], root / "as-davis"),
            "davis2016": davis(*one, root / "as-davis-2016"),
            "sav-palette": sav(*folders["sav-palette"]),
            "sav-objects": sav(*folders["sav-objects"]),
        }
    target = Path(__file__).with_name("official_scores.json")
    target.write_text(json.dumps(plain_document(found), indent=1) + "\n")


def plain_document(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value if key in ("pixels", "made with") else plain(value) for key, value in found.items()}


if __name__ == "__main__":
    main()
