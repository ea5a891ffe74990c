"""A folder of small images: images a second with 1 and 2 workers, and the same bytes whatever is killed on the way.

    python benchmarks/jobs.py speed --images 100 --rounds 3
    python benchmarks/jobs.py kills --images 1000

`segment --prompts` and `automask` go through the folder. `speed` runs each with one and with two workers in turn, into
a new folder each time. `kills` runs each once undisturbed with one worker, and once with two, of which one, or the
parent, gets a SIGKILL whenever some more images are done; after each death of the parent the same command is given
again, until it ends by itself. Every file must be there with the same bytes in the end.

Each part replaces its own half of ``benchmarks/results/jobs.json``, and ``jobs.md`` is written from both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.image import processor_name  # noqa: E402
from tests.jobs.killed import children  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MODEL = ("-m", "sam2core_nano", "--image-size", "64", "--threads", "1", "--device", "cpu", "-q")
VERBS = {
    "segment --prompts": ["segment", "photos", "--prompts", "boxes.json", "--write", "masks,overlay,coco"],
    "automask": ["automask", "photos", "--points", "1", "--iou", "0", "--stability", "0"],
}
WORKERS = (1, 2)


def make(place: Path, count: int) -> None:
    """Images of 64 x 48 pixels, noise with a bright square, and the squares' boxes."""
    (place / "photos").mkdir()
    boxes = {}
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 90, (48, 64, 3), dtype=np.uint8)
        x, y = number % 40, number % 24
        pixels[y : y + 20, x : x + 20] = (250, 220, 40)
        Image.fromarray(pixels).save(place / "photos" / f"{number:05d}.jpg")
        boxes[f"{number:05d}.jpg"] = [[x, y, x + 20, y + 20]]
    (place / "boxes.json").write_text(json.dumps(boxes))


def start(place: Path, words: list[str], out: str, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "sam2core", *words, "-o", out, "--workers", str(workers), *MODEL]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL)


def documents(folder: Path) -> list[Path]:
    """The documents of images that are done; each is written last of its image's files."""
    return list(folder.glob("[0-9]*.json"))


def run_whole(place: Path, words: list[str], out: str, workers: int) -> None:
    code = start(place, words, out, workers).wait()
    if code:
        raise SystemExit(f"{' '.join(words)} with {workers} workers ended with exit code {code}")


def run_killed(place: Path, words: list[str], out: str, workers: int, draws: random.Random, every: int) -> dict:
    """Run a command and kill what works on it, now and then, until it ends by itself; how many of each died.

    every   images that are done between two kills, on average
    """
    died = {"workers": 0, "parents": 0}
    while True:
        parent = start(place, words, out, workers)
        due = len(documents(place / out)) + draws.randint(1, 2 * every)
        while parent.poll() is None:
            time.sleep(0.02)
            if len(documents(place / out)) < due:
                continue
            due += draws.randint(1, 2 * every)
            if draws.random() < 0.7 and (found := children(parent.pid)):
                os.kill(draws.choice(found), signal.SIGKILL)
                died["workers"] += 1
            elif parent.poll() is None:
                parent.kill()
                died["parents"] += 1
        code = parent.wait()
        if code == 0:
            return died
        if code != -signal.SIGKILL:
            raise SystemExit(f"{' '.join(words)} with {workers} workers ended with exit code {code}")


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def kills(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    draws = random.Random(options.seed)
    result: dict[str, Any] = {"images": options.images, "seed": options.seed, "runs": []}
    for number, (verb, words) in enumerate(VERBS.items()):
        run_whole(place, words, f"whole{number}", 1)
        whole = digest(place / f"whole{number}")
        died = run_killed(place, words, f"killed{number}", 2, draws, options.every)
        now = digest(place / f"killed{number}")
        differ = sorted(name for name in whole.keys() | now.keys() if whole.get(name) != now.get(name))
        run = {"verb": verb, "workers": 2, "died": died, "files": len(whole), "differ": differ}
        result["runs"].append(run)
        print(json.dumps(run), file=sys.stderr, flush=True)
    return result


def speed(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of whole commands, and images a second between the first image that is done and the last."""
    runs: dict[str, dict[str, list[dict[str, float]]]] = {verb: {str(n): [] for n in WORKERS} for verb in VERBS}
    for turn in range(options.rounds):
        for number, (verb, words) in enumerate(VERBS.items()):
            for workers in WORKERS:
                out = f"timed{number}_{workers}_{turn}"
                began = time.monotonic()
                run_whole(place, words, out, workers)
                seconds = time.monotonic() - began
                times = sorted(path.stat().st_mtime for path in documents(place / out))
                rate = (len(times) - 1) / (times[-1] - times[0])
                runs[verb][str(workers)].append({"seconds": seconds, "rate": rate})
    return {"images": options.images, "processor": processor_name(), "cores": os.cpu_count(), "runs": runs}


def report(result: dict[str, Any]) -> str:
    lines = ["# Many small images", ""]
    lines += ["`sam2core_nano` at 64 pixels, images of 64 x 48; `automask` with one click an image.", ""]
    if timed := result.get("speed"):
        lines += [
            f"## Images a second: {timed['images']} images",
            "",
            f"{timed['processor']}, {timed['cores']} cores, one thread a worker, the rest of the machine kept back; "
            f"{len(next(iter(timed['runs'].values()))['1'])} rounds, one and two workers in turn, medians. Images a "
            "second are counted from the first image that is done to the last; the seconds are those of the whole "
            "command, in which each worker starts Python and builds the model.",
            "",
            "| verb | 1 worker, images/s | 2 workers | ratio | 1 worker, seconds | 2 workers |",
            "|---|---|---|---|---|---|",
        ]
        for verb, runs in timed["runs"].items():
            ratio = statistics.median(two["rate"] / one["rate"] for one, two in zip(runs["1"], runs["2"]))
            rate, seconds = (
                [statistics.median(run[key] for run in runs[str(n)]) for n in WORKERS] for key in ("rate", "seconds")
            )
            cells = [f"{rate[0]:.1f}", f"{rate[1]:.1f}", f"{ratio:.2f}", f"{seconds[0]:.1f}", f"{seconds[1]:.1f}"]
            lines.append(f"| `{verb}` | {' | '.join(cells)} |")
        lines.append("")
    if killed := result.get("kills"):
        lines += [
            f"## The same bytes: {killed['images']:,} images",
            "",
            "SIGKILL at random, and the same command again after each death of the parent; compared with one worker "
            "that nobody disturbed. Every file counts: documents, masks, overlays, id maps, COCO.",
            "",
            "| verb | workers | workers killed | parents killed | files | that differ |",
            "|---|---|---|---|---|---|",
        ]
        for run in killed["runs"]:
            died = run["died"]
            cells = [run["workers"], died["workers"], died["parents"], f"{run['files']:,}", len(run["differ"])]
            lines.append(f"| `{run['verb']}` | {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "kills"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="of speed")
    parser.add_argument("--every", type=int, default=80, help="images between two kills, on average")
    parser.add_argument("--seed", type=int, default=0, help="draws what is killed when")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.images)
        part = (speed if options.part == "speed" else kills)(Path(folder), options)
    path = options.out / "jobs.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result[options.part] = part
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "jobs.md").write_text(report(result), encoding="utf-8")
    print(report(result))


if __name__ == "__main__":
    main()
