"""Resident memory while a video is tracked, frame by frame, beside `sam2` and `transformers`.

    python benchmarks/memory.py                 # all cells; those that are in the results already are not run again
    python benchmarks/memory.py --only tiny live --force

Every cell is a process of its own on one thread, tracks two clicked objects through a synthetic video and notes its
resident set (and, for ours, the bytes of live tensors and the number of Python objects) as it goes. Ours takes frames
from a function and from a live feed; the others get them in the way they offer: `sam2` a folder of JPEGs, which it
reads whole, `transformers` its streaming session. Results go to ``benchmarks/results/memory.{json,md,png}``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

VIDEO = (90, 160)
CLICKS = ((50.0, 40.0), (110.0, 60.0))
SETTLED = 0.1
"""The share of a run after which memories are full, allocators warm, and growth counts."""

CELLS: dict[str, dict[str, Any]] = {
    "tiny": {"who": "ours", "model": "test_tiny", "image": 64, "frames": 20_000, "every": 100},
    "live": {"who": "ours, live", "model": "test_tiny", "image": 64, "frames": 2_000, "every": 20},
    "t": {"who": "ours", "model": "sam2.1_hiera_t", "image": 256, "frames": 500, "every": 5},
    "t-sam2": {"who": "sam2", "model": "sam2.1_hiera_t", "image": 256, "frames": 100, "every": 2},
    "t-transformers": {"who": "transformers", "model": "sam2.1_hiera_t", "image": 256, "frames": 100, "every": 2},
}


def frame(index: int) -> np.ndarray:
    """A frame (H, W, 3) uint8: a bright square that circles over fixed noise."""
    picture = _GROUND.copy()
    top, left = (int(30 + 25 * wave(index / 40)) for wave in (np.sin, np.cos))
    picture[top : top + 30, 40 + left : 70 + left] = (220, 180, 60)
    return picture


_GROUND = np.random.default_rng(0).integers(0, 120, (*VIDEO, 3), dtype=np.uint8)


def resident() -> float:
    """This process's resident set in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# one walk per implementation: it yields "built" before it opens the video, "opened", and "tracked" after every frame


def ours(cell: dict[str, Any]) -> Iterator[str]:
    import registry

    torch_seed()
    predictor = registry.predictor(cell["model"], "video", weights=False, image_size=cell["image"])
    yield "built"
    if cell["who"] == "ours, live":
        session = predictor.open()
        yield "opened"
        said = {number: {"points": [click]} for number, click in enumerate(CLICKS)}
        for index in range(cell["frames"]):
            _ = session.step(frame(index), said if index == 0 else None).masks
            yield "tracked"
        return
    session = predictor.open(lambda index: frame(index) if index < cell["frames"] else None)
    yield "opened"
    for number, click in enumerate(CLICKS):
        session.prompt(0, number, [click])
    for result in session.propagate():
        _ = result.masks
        yield "tracked"


def upstream(cell: dict[str, Any]) -> Iterator[str]:
    import torch
    from PIL import Image

    from tests.parity import oracle

    torch_seed()
    model = oracle.upstream(oracle.SHAPES["t"].at(image=cell["image"]), video=True)
    quiet = mock.patch("sam2.sam2_video_predictor.tqdm", lambda frames, **_: frames)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder, quiet:
        for index in range(cell["frames"]):
            Image.fromarray(frame(index)).save(Path(folder) / f"{index:05d}.jpg")
        model.forward_image(torch.zeros(1, 3, cell["image"], cell["image"]))  # opening encodes a frame: no growth
        yield "built"
        state = model.init_state(video_path=folder)
        yield "opened"
        for number, click in enumerate(CLICKS):
            model.add_new_points_or_box(state, 0, number, points=[list(click)], labels=[1])
        for _, _, logits in model.propagate_in_video(state):
            _ = logits > 0
            yield "tracked"


def transformers(cell: dict[str, Any]) -> Iterator[str]:
    import torch
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    from tests.parity import oracle, scripts

    torch_seed()
    model = oracle.transformers_model(oracle.SHAPES["t"].at(image=cell["image"]), video=True)
    yield "built"
    session = Sam2VideoInferenceSession(video=None, video_height=VIDEO[0], video_width=VIDEO[1], dtype=torch.float32)
    yield "opened"
    with torch.inference_mode():
        for index in range(cell["frames"]):
            pixels = scripts.pixels(frame(index)[None], cell["image"])[0]
            if index == 0:
                session.add_new_frame(pixels)
                for number, (x, y) in enumerate(CLICKS):
                    place = torch.tensor([x / VIDEO[1], y / VIDEO[0]]) * cell["image"]
                    prompt = {
                        "point_coords": place[None, None, None],
                        "point_labels": torch.ones(1, 1, 1, dtype=torch.int32),
                    }
                    session.add_point_inputs(session.obj_id_to_idx(number), 0, prompt)
                session.obj_with_new_inputs = list(range(len(CLICKS)))
                answer = model(inference_session=session, frame_idx=0)
            else:
                answer = model(inference_session=session, frame=pixels)
            _ = torch.nn.functional.interpolate(answer.pred_masks, VIDEO) > 0
            yield "tracked"


WALKS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "ours": ours,
    "ours, live": ours,
    "sam2": upstream,
    "transformers": transformers,
}


def torch_seed() -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


def live_tensors() -> tuple[float, int]:
    """MiB of the tensors that Python can reach, and the number of objects it keeps account of."""
    import torch

    gc.collect()
    objects = gc.get_objects()
    storages = {}
    for one in objects:
        if issubclass(type(one), torch.Tensor) and one.device.type != "meta":
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values()) / 2**20, len(objects)


def measure(name: str) -> None:
    """Run one cell in this process; write its samples to stdout as JSON."""
    cell = CELLS[name]
    samples: list[dict[str, float]] = []
    stages = {"built": 0.0, "opened": 0.0}
    begun = time.perf_counter()
    done = 0
    for stage in WALKS[cell["who"]](cell):
        if stage in stages:
            stages[stage] = resident()
            continue
        done += 1
        if done == 1 or done % cell["every"] == 0:
            sample = {"frame": done, "resident": round(resident(), 3), "seconds": round(time.perf_counter() - begun, 2)}
            if cell["who"].startswith("ours") and done % (10 * cell["every"]) == 0:
                tensors, objects = live_tensors()
                sample |= {"tensors": round(tensors, 3), "objects": objects}
            samples.append(sample)
        if done % (10 * cell["every"]) == 0:
            print(f"{name}: {done}/{cell['frames']}, {samples[-1]['resident']:.1f} MiB", file=sys.stderr, flush=True)
    opening = round(stages["opened"] - stages["built"], 3)
    print(json.dumps({"cell": cell, "opening": opening, "samples": samples}))


def summary(found: dict[str, Any]) -> dict[str, float]:
    """What a run's samples say: MiB of growth after it settled and over its last half, and MiB per 1,000 frames."""
    samples = found["samples"]
    frames = np.array([one["frame"] for one in samples], dtype=float)
    values = np.array([one["resident"] for one in samples])
    settled = frames >= SETTLED * frames[-1]
    half = frames >= frames[-1] / 2
    tenth = max(1, len(values) // 10)
    from_half = values[half]
    slope = np.polyfit(frames[half], from_half, 1)[0] * 1000
    counted = [one for one in samples if "tensors" in one]
    return {
        "peak": float(values.max()),
        "growth": float(values[settled].max() - values[settled][0]),
        "last_half": float(np.median(from_half[-tenth:]) - np.median(from_half[:tenth])),
        "per_1000": float(slope),
        "rate": float((frames[-1] - frames[0]) / max(samples[-1]["seconds"] - samples[0]["seconds"], 1e-9)),
        "tensors": float(counted[-1]["tensors"] - counted[len(counted) // 2]["tensors"]) if counted else float("nan"),
        "objects": float(counted[-1]["objects"] - counted[len(counted) // 2]["objects"]) if counted else float("nan"),
    }


def table(results: dict[str, Any]) -> str:
    head = (
        "| | model | frames | peak MiB | growth after a tenth, MiB | growth over the last half, MiB "
        "| MiB per 1,000 frames | of that when the video is opened | live tensors, last half, MiB | frames/s |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for name, found in results.items():
        cell, said = found["cell"], summary(found)
        at_once = found["opening"] / cell["frames"] * 1000 if cell["who"] == "sam2" else 0.0
        tensors = "" if np.isnan(said["tensors"]) else f"{said['tensors']:+.2f}"
        lines.append(
            f"| {cell['who']} (`{name}`) | {cell['model']}, {cell['image']} px | {cell['frames']:,} | "
            f"{said['peak']:.0f} | {said['growth']:+.1f} | {said['last_half']:+.1f} | "
            f"{said['per_1000'] + at_once:+.1f} | {at_once:.1f} | {tensors} | {said['rate']:.1f} |"
        )
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for name, found in results.items():
        axis = right if name.startswith("t-") or name == "t" else left
        samples = found["samples"]
        axis.plot(
            [one["frame"] for one in samples],
            [one["resident"] - samples[0]["resident"] for one in samples],
            label=f"{found['cell']['who']}, {found['cell']['model']}",
        )
    for axis in (left, right):
        axis.set(xlabel="frame", ylabel="resident memory since the first frame, MiB", ylim=(-8, None))
        axis.axhline(64, color="grey", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=90)


def recorded(path: Path) -> dict[str, Any]:
    """The cells that are in the results."""
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--force", action="store_true", help="run cells again that are in the results")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--measure", choices=list(CELLS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "memory.json"
    results = recorded(path)
    for name in options.only:
        if name in results and results[name]["cell"] == CELLS[name] and not options.force:
            print(f"{name}: there already", file=sys.stderr)
            continue
        told = subprocess.run(
            [sys.executable, __file__, "--measure", name],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        results = recorded(path) | {name: json.loads(told.stdout.splitlines()[-1])}  # another may have written since
        results = {one: results[one] for one in CELLS if one in results}
        path.write_text(json.dumps(results) + "\n")
    from benchmarks.image import processor_name, versions

    named = ", ".join(f"{who} {version}" for who, version in versions(["ours", "sam2", "transformers"]).items())
    text = "\n".join(
        [
            "# Resident memory along a video",
            "",
            f"{processor_name()}, one thread; {named}. Random weights, two clicked objects, frames of "
            f"{VIDEO[1]} x {VIDEO[0]}; a process per row.",
            "`sam2` reads the whole video when it opens it: that is counted per frame, too.",
            "",
            table(results),
            "",
            "![Resident memory by frame](memory.png)",
            "",
        ]
    )
    (options.out / "memory.md").write_text(text)
    draw(results, options.out / "memory.png")
    print(text)


if __name__ == "__main__":
    main()
