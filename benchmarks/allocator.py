"""Whether the command line's setting of glibc's allocator pays: encode and automatic masks, with it and without.

    python benchmarks/allocator.py --tasks encode automask --rounds 5

Two processes with the same model and image take turns (A B A B); ratios are taken within a round. A line a round on
stderr, the summary on stdout as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("kept", "default")


def work(kept: bool, side: int, weights: Path, half: bool) -> None:
    """Answer the tasks that come on stdin, one a line, with seconds, page faults and peak memory."""
    if kept:
        from sam2core.cli.allocator import keep_freed_memory

        print(keep_freed_memory(), file=sys.stderr)
    import torch

    from benchmarks import automask

    run = automask.ours(weights, side, half)
    generator = next(cell.cell_contents for cell in run.__closure__ or () if hasattr(cell.cell_contents, "generate"))
    image = automask.picture()
    tasks = {"encode": lambda: generator._images.encode(image), "automask": lambda: run(image)}
    tasks["encode"]()
    print("ready", flush=True)
    for line in sys.stdin:
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        tasks[line.strip()]()
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_SELF)
        answer = {"seconds": seconds, "faults": used.ru_minflt - faults, "peak_mb": used.ru_maxrss / 1024}
        print(json.dumps(answer | {"threads": torch.get_num_threads()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["encode", "automask"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=8, help="clicks along a side of the grid")
    parser.add_argument("--half", action="store_true", help="bfloat16")
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work == "kept", options.side, options.weights, options.half)
        return
    from benchmarks import automask

    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.allocator", "--weights", str(automask.prepare(Path(folder)))]
        words += ["--side", str(options.side)] + (["--half"] if options.half else [])
        sides = {}
        for side in SIDES:
            sides[side] = subprocess.Popen(
                [*words, "--work", side], cwd=ROOT, env=os.environ, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        for process in sides.values():
            assert process.stdout and process.stdout.readline().strip() == "ready"
        found: list[dict[str, Any]] = []
        for number in range(options.rounds):
            for task in options.tasks:
                row: dict[str, Any] = {"task": task}
                for side in SIDES if number % 2 else SIDES[::-1]:
                    process = sides[side]
                    assert process.stdin and process.stdout
                    process.stdin.write(task + "\n")
                    process.stdin.flush()
                    row[side] = json.loads(process.stdout.readline())
                found.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
        for process in sides.values():
            assert process.stdin
            process.stdin.close()
            process.wait()
    summary = {}
    for task in options.tasks:
        rows = [row for row in found if row["task"] == task][1:]  # the first round warms up
        summary[task] = {
            "kept / default": statistics.median(row["kept"]["seconds"] / row["default"]["seconds"] for row in rows),
            **{
                side: {key: statistics.median(row[side][key] for row in rows) for key in rows[0][side]}
                for side in SIDES
            },
        }
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
