"""Two versions of this library in turn on one machine: what a change of structure costs, or a new version brings.

    python benchmarks/releases.py ../sam2core-before --rounds 5 --json benchmarks/results/releases.json

Each step of a round starts a process for the one checkout, then for the other; the order changes from round to round. A
row is the median of the ratios within rounds: above 1.00 this checkout is faster. bfloat16 is left out on processors
without products of that type, where one encoding takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from benchmarks.image import processor_name  # noqa: E402

TINY, LARGE, NANO = "sam2.1_hiera_t", "sam2.1_hiera_l", "sam2core_nano"
RUNS = (
    (TINY, "", ("--weights", "none", "--stages", "encode,prompt,track", "--objects", "1", "--frames", "6")),
    (TINY, ", bfloat16", ("--weights", "none", "--stages", "encode", "--dtype", "bf16")),
    (LARGE, "", ("--weights", "none", "--stages", "encode")),
    (NANO, "", ("--stages", "decode,encode,prompt,track,automask", "--objects", "1,4")),
)


def run(checkout: Path, *words: str) -> float:
    """Seconds of one command of that checkout's command line. Raises RuntimeError with what it said."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1", "SAM2CORE_PLUGINS": ""}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sam2core", *words], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{checkout}: sam2core {' '.join(words)}: {done.stderr[-2000:]}")
    return time.perf_counter() - started


def started(checkout: Path, folder: Path) -> dict[str, float]:
    """Seconds from the process's start to its first answers."""
    picture, out = checkout / "registry" / "samples" / "cat.jpg", tempfile.mkdtemp(dir=folder)
    return {
        "process start to --version": run(checkout, "--version"),
        f"process start to the first mask, {NANO}": run(
            checkout, "segment", str(picture), "--point", "172,128", "-o", out
        ),
    }


def benched(model: str, kind: str, words: Sequence[str], checkout: Path, folder: Path) -> dict[str, float]:
    """Seconds of each stage of one call of `sam2core bench`."""
    file = folder / "bench.json"
    run(checkout, "bench", "-m", model, *words, "--rounds", "2", "--json", str(file), "-q")
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {
        f"{model}{kind}: {row['stage']}": statistics.median(row["warm"]) if row["warm"] else row["first"]
        for row in rows
    }


def steps() -> list[Callable[[Path, Path], dict[str, float]]]:
    """What a round consists of: each takes a checkout and a folder, and gives its rows."""
    able = [row for row in RUNS if "bf16" not in row[2] or torch.ops.mkldnn._is_mkldnn_bf16_supported()]
    return [started, *(partial(benched, *row) for row in able)]


def main() -> None:
    asked = argparse.ArgumentParser(description="Two versions of this library in turn on one machine.")
    asked.add_argument("before", type=Path, help="a checkout of the version to compare with")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--json", type=Path, required=True, help="where every second is written, after each round")
    given = asked.parse_args()
    sides = {"before": given.before.resolve(), "after": HERE}
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: {side: [] for side in sides})
    for number in range(given.rounds):
        for step in steps():
            for side in sorted(sides, reverse=number % 2 == 0):
                with tempfile.TemporaryDirectory() as folder:
                    for row, spent in step(sides[side], Path(folder)).items():
                        seconds[row][side].append(spent)
            given.json.write_text(json.dumps(report(sides, seconds), indent=1) + "\n", encoding="utf-8")
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    for row in report(sides, seconds)["rows"]:
        print(f"{row['ratio']:6.3f}  {min(row['before']):8.3f} s  {min(row['after']):8.3f} s  {row['row']}")


def report(sides: dict[str, Path], seconds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Which commits were compared, where, and each row's seconds with the median of its ratios."""
    return {
        "processor": processor_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **{side: commit(checkout) for side, checkout in sides.items()},
        "rows": [
            {"row": row, "ratio": statistics.median(b / a for b, a in zip(found["before"], found["after"])), **found}
            for row, found in seconds.items()
        ],
    }


def commit(checkout: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
