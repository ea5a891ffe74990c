"""Scoring a folder of masks: ours beside the evaluators of DAVIS and SA-V, in turn, on the same made-up folders.

    python benchmarks/evaluators.py DAVIS2017_EVALUATION SAM2

The two arguments are checkouts of github.com/davisvideochallenge/davis2017-evaluation and of
github.com/facebookresearch/sam2. Both sides run in this process, on one thread; what counts is CPU time. Their scores
are compared as well: a quick wrong answer would be no news.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sam2core.evaluation.scoring import Scores, score  # noqa: E402
from tests.evaluation import made, record_official  # noqa: E402


def video(size: tuple[int, int], frames: int, objects: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True and answered object numbers (T, H, W): blobs that drift, and the same with wrong borders."""
    generator = np.random.default_rng(seed)
    shapes = [ndimage.gaussian_filter(generator.normal(size=size), size[0] / 16) for _ in range(objects)]
    rough = ndimage.gaussian_filter(generator.normal(size=size), 4)
    truth, answer = np.zeros((frames, *size), np.uint8), np.zeros((frames, *size), np.uint8)
    for frame in range(frames):
        for number, shape in enumerate(shapes, 1):
            moved = np.roll(shape, (frame * number, 2 * frame), (0, 1))
            level = np.quantile(shape, 0.9)
            truth[frame][moved > level] = number
            answer[frame][moved + rough * shape.std() / rough.std() * 0.15 > level] = number
    return truth, answer


def ours(truth: Path, answers: Path, protocol: str) -> dict[str, float]:
    found = [one for _, objects in score(truth, answers, protocol=protocol) for one in objects]
    return Scores(protocol, tuple(found)).overall()


def in_turn(rounds: int, **sides: Callable[[], Any]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            side()
            seconds[name].append(time.process_time() - start)
    return seconds


def compare(protocol: str, root: Path, rounds: int) -> dict[str, Any]:
    """CPU seconds of both sides in turn, after a round in which their scores are held against each other."""
    folders, count = (root / "truth", root / "answers"), iter(range(10**6))

    def official() -> dict[str, Any]:
        if protocol == "sav":
            return record_official.sav(*folders)
        return record_official.davis(*folders, root / f"as-davis-{next(count)}")

    known, mine = official()["overall"], ours(*folders, protocol)
    for letter in "JF":
        wanted = known[letter] / 100 if protocol == "sav" else known[f"{letter}M"]
        assert abs(mine[f"{letter}-Mean"] - wanted) < 1e-9
    timed = in_turn(rounds, ours=lambda: ours(*folders, protocol), official=official)
    ratio = statistics.median(theirs / own for own, theirs in zip(timed["ours"], timed["official"]))
    return {**timed, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=Path)
    parser.add_argument("sam2", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=10)
    options = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    sys.path[:0] = [str(options.davis), str(options.sam2 / "sav_dataset" / "utils")]
    results: dict[str, Any] = {}
    for label, size in (("854x480", (480, 854)), ("1920x1080", (1080, 1920))):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            pairs = {f"video{seed}": video(size, options.frames, 3, seed) for seed in range(2)}
            made.write_palette(root / "truth", {name: pair[0] for name, pair in pairs.items()})
            made.write_palette(root / "answers", {name: pair[1] for name, pair in pairs.items()})
            for protocol in ("davis", "sav"):
                results[f"{protocol} {label}"] = compare(protocol, root, options.rounds)
                ratio = results[f"{protocol} {label}"]["ratio"]
                print(f"{protocol:6} {label:10} official / ours = {ratio:.1f}", flush=True)
    document = {"videos": 2, "frames": options.frames, "objects": 3, "CPU seconds": results}
    (ROOT / "benchmarks" / "results" / "evaluators.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
