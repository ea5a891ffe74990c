"""A folder of small images with one worker and with two that are killed at random: the same bytes, images a second.

    python benchmarks/jobs.py --pictures 1000 > benchmarks/results/jobs.md

`segment --prompts` and `automask` go through the folder once with one worker. Then with two, of which one or the parent
gets a SIGKILL every few seconds, the same command again after each death of the parent, until it ends by itself.
Everything in the two folders must be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.jobs.killed import children

MODEL = ("-m", "test_tiny", "--weights", "none", "--image-size", "64", "--threads", "1", "--device", "cpu", "-q")
VERBS = {
    "segment --prompts": ["segment", "photos", "--prompts", "boxes.json"],
    "automask": ["automask", "photos", "--points", "2", "--iou", "0", "--stability", "0"],
}


def make(place: Path, count: int) -> None:
    """Small images of noise with a bright square, and its box."""
    (place / "photos").mkdir()
    said = {}
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 90, (48, 64, 3), dtype=np.uint8)
        x, y = number % 40, number % 24
        pixels[y : y + 20, x : x + 20] = (250, 220, 40)
        Image.fromarray(pixels).save(place / "photos" / f"{number:05d}.jpg")
        said[f"{number:05d}.jpg"] = [[x, y, x + 20, y + 20]]
    (place / "boxes.json").write_text(json.dumps(said))


def start(place: Path, words: list[str], out: str, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "sam2core", *words, "-o", out, "--workers", str(workers), *MODEL]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL)


def killed(
    place: Path, words: list[str], out: str, draws: random.Random, pause: tuple[float, float]
) -> tuple[int, int]:
    """Run with two workers and kill one, or the parent, now and then; how many of each died."""
    workers = parents = 0
    while True:
        parent = start(place, words, out, 2)
        done = len(list((place / out).glob("*.json")))
        while parent.poll() is None:
            until = time.monotonic() + draws.uniform(*pause)
            while parent.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            if len(list((place / out).glob("*.json"))) == done:
                continue  # nothing was begun yet: starting takes a while
            if draws.random() < 0.6 and (found := children(parent.pid)):
                os.kill(draws.choice(found), signal.SIGKILL)
                workers += 1
            elif parent.poll() is None and parents < 3:
                parent.kill()
                parents += 1
        if parent.wait() == 0:
            return workers, parents


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, nargs=2, default=(3.0, 8.0), help="seconds between kills")
    options = parser.parse_args()
    draws = random.Random(options.seed)
    print(f"# {options.pictures} small images, two workers killed at random\n")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; the smallest model, 64 x 48 pixels\n")
    print(
        "| verb | one worker | pictures/s | two workers | pictures/s | killed: workers | parents | files | the same |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make(place, options.pictures)
        for number, (verb, words) in enumerate(VERBS.items()):
            began = time.monotonic()
            assert start(place, words, f"one{number}", 1).wait() == 0
            alone = time.monotonic() - began
            began = time.monotonic()
            workers, parents = killed(place, words, f"two{number}", draws, tuple(options.pause))
            both = time.monotonic() - began
            first, second = digest(place / f"one{number}"), digest(place / f"two{number}")
            same = "yes" if first == second else f"no: {sum(first[name] != second.get(name) for name in first)} differ"
            rates = [options.pictures / seconds for seconds in (alone, both)]
            cells = [verb, f"{alone:.0f} s", f"{rates[0]:.1f}", f"{both:.0f} s", f"{rates[1]:.1f}"]
            print(f"| {' | '.join([*cells, str(workers), str(parents), str(len(first)), same])} |", flush=True)


if __name__ == "__main__":
    main()
