"""Everything that is worth knowing of a GPU, in one command and under ten minutes on a fast one.

    python benchmarks/gpu.py                          # cuda, sizes t and l, results/gpu.{json,md}
    python benchmarks/gpu.py --device cpu --small     # tries the script itself: a tiny model, results nowhere

Each measurement writes its rows as it ends, so that one that fails or a run that is stopped costs no other; `--only`
names those to take (again). Weights are random, which speed does not depend on. `sam2` is measured in the same run
where it is installed, under autocast as its users run it. Times are medians of rounds in which all contenders take
turns, each round closed by waiting for the device.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import registry  # noqa: E402
from benchmarks.video import FULL, copied  # noqa: E402
from sam2core.media.frames import open_source  # noqa: E402
from sam2core.ops import attention, regions  # noqa: E402
from sam2core.ops.cuda.precision import tf32  # noqa: E402
from sam2core.ops.cuda.regions import pooled_regions  # noqa: E402
from sam2core.predictors.automask import MaskGenerator  # noqa: E402
from sam2core.predictors.image import ImagePredictor  # noqa: E402
from sam2core.predictors.video import VideoPredictor  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
SAMPLES = Path(registry.__file__).parent / "samples"
NAMES = {"t": "sam2.1_hiera_t", "l": "sam2.1_hiera_l"}
VIDEO = (270, 480)
Ways = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Setting:
    """What is measured on, and how much of it."""

    device: torch.device
    small: bool
    rounds: int

    @property
    def names(self) -> dict[str, str]:
        return {"tiny": "test_tiny"} if self.small else NAMES

    @property
    def objects(self) -> tuple[int, ...]:
        return (1, 3) if self.small else (1, 4, 16, 50)

    @property
    def half(self) -> str:
        """The type of a model where nobody says one, on a GPU."""
        return "bfloat16"

    def build(self, name: str, dtype: str) -> Any:
        torch.manual_seed(0)
        return registry.build(name, weights=False, device=self.device, dtype=dtype)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, ways: Ways, rounds: int | None = None) -> dict[str, float]:
        """Median milliseconds of each way: one turn of each to warm up, then turns in rounds."""
        for way in ways.values():
            way()
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds or self.rounds):
            for name, way in ways.items():
                self.wait()
                began = time.perf_counter()
                way()
                self.wait()
                spent[name].append(1000 * (time.perf_counter() - began))
        return {name: statistics.median(times) for name, times in spent.items()}

    @contextmanager
    def memory(self, row: dict[str, Any]) -> Iterator[None]:
        """Adds to a row the most memory that was in use within, in MB; on a GPU alone."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        yield
        if self.device.type == "cuda":
            row["memory, MB"] = torch.cuda.max_memory_allocated(self.device) / 2**20


def clip(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (length, *VIDEO, 3), dtype=np.uint8)


def clicks(objects: int) -> np.ndarray:
    return np.random.default_rng(0).uniform((20, 20), (VIDEO[1] - 20, VIDEO[0] - 20), (objects, 2))


def answered(handle: Any, points: Any) -> Any:
    return handle.predict(points).masks


def tracking(predictor: VideoPredictor, objects: int, frames: int, prompted: int = 1) -> Callable[[], Any]:
    """The next frame of a pass with full pasts; those of frames 2 to 15 are copies of what frame 1 left behind."""
    session = predictor.open(clip(FULL + frames))
    for number, place in enumerate(clicks(objects)):
        for frame in range(prompted):
            session.prompt(frame, number, [place])
    for _ in session.propagate(stop=prompted + 1):
        pass
    for track in session.tracks.values():
        for frame in range(prompted + 1, FULL):
            track.bank.recent[frame] = replace(copied(track.bank.recent[prompted]), frame=frame)
    steps = session.propagate(FULL)
    return lambda: next(steps).masks


def kernels(setting: Setting) -> Iterator[dict[str, Any]]:
    """1. The tests of the kernels, on the device itself."""
    if setting.device.type != "cuda":
        yield {"tests": "not run: there is no GPU"}
        return
    tests = [sys.executable, "-m", "pytest", "-q", "tests"]
    run = subprocess.run(tests, cwd=ROOT / "plugins" / "sam2core-cuda", capture_output=True, text=True)
    yield {"tests": run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr.strip()[-200:]}


def stages(setting: Setting) -> Iterator[dict[str, Any]]:
    """2. Encode, click, 16 clicks and a tracked frame, in half precision."""
    yield from _stages(setting, setting.half)


def full_precision(setting: Setting) -> Iterator[dict[str, Any]]:
    """3. The same in fp32, strict and with TF32, for the smallest size."""
    for words, context in (("fp32", nullcontext()), ("fp32, TF32", tf32())):
        with context:
            yield from ({**row, "type": words} for row in _stages(setting, "float32", sizes=1))


def _stages(setting: Setting, dtype: str, sizes: int = 9) -> Iterator[dict[str, Any]]:
    for size, name in list(setting.names.items())[:sizes]:
        model = setting.build(name, dtype)
        predictor = ImagePredictor(model)
        picture = np.array(clip(1)[0])
        handle = predictor.encode(picture)
        row = {"size": size, "type": dtype}
        with setting.memory(row):
            times = setting.timed(
                {
                    "encode": partial(predictor.encode, picture),
                    "click": partial(answered, handle, [(90, 90)]),
                    "16 clicks": partial(answered, handle, clicks(16)[:, None]),
                }
            )
        yield {**row, **times}
        for objects in setting.objects:
            row = {"size": size, "type": dtype, "objects": objects}
            with setting.memory(row):
                row["tracked frame"] = setting.timed(
                    {"": tracking(VideoPredictor(model), objects, setting.rounds + 2)}
                )[""]
            yield row


def waits(setting: Setting) -> Iterator[dict[str, Any]]:
    """4. How often the host waits for the device: in a tracked frame, a click, an image's automatic masks."""
    model = setting.build(next(iter(setting.names.values())), setting.half)
    session = VideoPredictor(model).open(clip(8))
    session.prompt(0, 1, [(90, 90)])
    steps = session.propagate()
    generator = MaskGenerator(model, points_per_side=2 if setting.small else 8)
    work: Ways = {
        "tracked frame": lambda: next(steps),
        "click": lambda: session.prompt(0, 2, [(50, 90)]),
        "automatic masks": lambda: generator.generate(clip(1)[0]),
    }
    for name, way in work.items():
        way()
        yield {"work": name, "waits": _waits(setting, way)}


def _waits(setting: Setting, way: Callable[[], Any]) -> int | str:
    if setting.device.type != "cuda":
        return "not counted"
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            way()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in told)


def profile(setting: Setting) -> Iterator[dict[str, Any]]:
    """5. Where one tracked frame's time goes: the ten operators that take most of it."""
    on_gpu = setting.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    model = setting.build(next(iter(setting.names.values())), setting.half)
    for objects in setting.objects[:3:2] or setting.objects[:1]:
        step = tracking(VideoPredictor(model), objects, 4)
        step()
        with torch.profiler.profile(activities=activities) as found:
            step()
            setting.wait()
        key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        rows = sorted(found.key_averages(), key=lambda one: -getattr(one, key))[:10]
        for one in rows:
            yield {"objects": objects, "operator": one.key[:60], "calls": one.count, "ms": getattr(one, key) / 1000}


def alone(setting: Setting) -> Iterator[dict[str, Any]]:
    """6. Attention to a full past alone: each of SDPA's backends, with a mask and without, and the averaging kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    queries, keys = (256, 1024) if setting.small else (4096, 28736)
    made = partial(torch.randn, device=setting.device, dtype=torch.bfloat16)
    query, key, values, narrow = (
        made(1, 1, rows, width) for rows, width in ((queries, 256), (keys, 256), (keys, 256), (keys, 64))
    )
    mask = torch.ones(1, 1, 1, keys, dtype=torch.bool, device=setting.device)
    for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
        for masked in (None, mask):
            row = {"way": name.lower(), "mask": masked is not None}
            with torch.inference_mode(), sdpa_kernel(getattr(SDPBackend, name)):
                try:
                    attend = partial(F.scaled_dot_product_attention, query, key, values, attn_mask=masked)
                    row["ms"] = setting.timed({"": attend})[""]
                except RuntimeError as error:
                    row["ms"] = str(error).splitlines()[0][:60]
            yield row
    for masked in (None, mask[:, 0, 0]):
        ways: Ways = {"definition": partial(attention.average_tokens.portable, query, key, narrow[:1], masked)}
        if setting.device.type == "cuda" and importlib.util.find_spec("sam2core_cuda"):
            from sam2core_cuda.average import averages

            ways["kernel"] = partial(averages, query, key, narrow[:1], masked)
        with torch.inference_mode():
            for way, ms in setting.timed(ways).items():
                yield {"way": f"tokens of 64 averaged, {way}", "mask": masked is not None, "ms": ms}


def peers(setting: Setting) -> Iterator[dict[str, Any]]:
    """7. Encode, click and tracked frames beside `sam2` under autocast, and its `vos_optimized` at one object."""
    if importlib.util.find_spec("sam2") is None or setting.small:
        yield {"sam2": "not measured"}
        return
    from sam2.build_sam import build_sam2, build_sam2_video_predictor
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    half = partial(torch.autocast, setting.device.type, torch.bfloat16)
    for size, name in setting.names.items():
        config, model = f"configs/sam2.1/{name}.yaml", setting.build(name, setting.half)
        theirs, mine = SAM2ImagePredictor(build_sam2(config, device=str(setting.device))), ImagePredictor(model)
        picture = np.array(clip(1)[0])
        handle = mine.encode(picture)
        times = setting.timed(
            {"encode, ours": partial(mine.encode, picture), "encode, sam2": _half(half, theirs.set_image, picture)}
        )
        times |= setting.timed(
            {
                "click, ours": partial(answered, handle, [(90, 90)]),
                "click, sam2": _half(half, theirs.predict, np.array([[90, 90]]), np.array([1])),
            }
        )
        yield {"size": size, **times}
        for objects in setting.objects[:3]:
            ways = {"ours": tracking(VideoPredictor(model), objects, setting.rounds + 2)}
            ways["sam2"] = _theirs(
                setting, build_sam2_video_predictor(config, device=str(setting.device)), objects, half
            )
            times = setting.timed({f"tracked frame, {name}": way for name, way in ways.items()})
            yield {"size": size, "objects": objects, **times}
    config = f"configs/sam2.1/{NAMES['t']}.yaml"
    fast = build_sam2_video_predictor(config, device=str(setting.device), vos_optimized=True)
    yield {
        "size": "t",
        "objects": 1,
        **setting.timed({"tracked frame, sam2 vos_optimized": _theirs(setting, fast, 1, half)}),
    }


def _half(half: Callable[[], Any], work: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode(), half():
            return work(*given)

    return run


def _theirs(setting: Setting, model: Any, objects: int, half: Callable[[], Any]) -> Callable[[], Any]:
    """Upstream's next frame, once its past is full; from a folder of JPEGs, which it wants."""
    from PIL import Image

    folder = tempfile.TemporaryDirectory()
    for number, frame in enumerate(clip(FULL + setting.rounds + 4)):
        Image.fromarray(frame).save(Path(folder.name) / f"{number:05d}.jpg")
    with torch.inference_mode(), half():
        state = model.init_state(video_path=folder.name)
        for number, place in enumerate(clicks(objects)):
            model.add_new_points_or_box(state, 0, number, points=[place.tolist()], labels=[1])
    steps = model.propagate_in_video(state)

    def step() -> Any:
        with torch.inference_mode(), half():
            return next(steps)[2] > 0

    for _ in range(FULL):
        step()
    step.folder = folder  # type: ignore[attr-defined]  # it lives as long as its frames are read
    return step


def masks(setting: Setting) -> Iterator[dict[str, Any]]:
    """8. Holes and distances of masks: pooling, kernels and SciPy's way over the host."""
    side = 64 if setting.small else 256
    for batch in setting.objects:
        torch.manual_seed(0)
        coarse = torch.randn(batch, 1, side // 16, side // 16, device=setting.device)
        smooth = F.interpolate(coarse, size=(side, side), mode="bicubic")
        mask = (smooth + 0.3 * torch.randn_like(smooth) > 0)[:, 0]
        ways: Ways = {
            "holes of 8, pooling": lambda mask=mask: pooled_regions(mask, 8),
            "holes of 8, SciPy": lambda mask=mask: regions.connected_components.portable(mask),
        }
        if setting.device.type == "cuda" and importlib.util.find_spec("sam2core_cuda"):
            from sam2core_cuda.components import label_regions
            from sam2core_cuda.distance import distances

            ways["regions, kernel"] = lambda mask=mask: label_regions(mask)
            ways["distances, kernel"] = lambda mask=mask: distances(mask)
        assert torch.equal(pooled_regions(mask, 8), regions.small_regions.plain(mask, 8))
        yield {"masks": batch, "side": side, **setting.timed(ways)}


def compiled(setting: Setting) -> Iterator[dict[str, Any]]:
    """9. Tracking eager and compiled, in two modes, with one and with two prompted frames."""
    name = next(iter(setting.names.values()))
    for mode in ("eager",) if setting.small else ("eager", "default", "reduce-overhead"):
        for prompted in (1, 2):
            for objects in setting.objects[: 1 if mode != "eager" else 3 : 2]:
                torch.compiler.reset()
                model = setting.build(name, setting.half)
                predictor = VideoPredictor(model, compile=False if mode == "eager" else mode)
                began = time.perf_counter()
                step = tracking(predictor, objects, setting.rounds + 4, prompted)
                for _ in range(2):
                    step()
                first = time.perf_counter() - began
                row = {"mode": mode, "prompted frames": prompted, "objects": objects, "to the third frame, s": first}
                yield {**row, "tracked frame": setting.timed({"": step})[""]}


def whole(setting: Setting) -> Iterator[dict[str, Any]]:
    """10. Automatic masks, a video from file to masks, and a training step."""
    name = next(iter(setting.names.values()))
    model = setting.build(name, setting.half)
    generator = MaskGenerator(model, points_per_side=4 if setting.small else 32)
    photo = SAMPLES / "coffee.jpg"
    row: dict[str, Any] = {"work": "automatic masks"}
    with setting.memory(row):
        row["ms"] = setting.timed({"": lambda: generator.generate(photo)}, rounds=min(3, setting.rounds))[""]
    yield row
    length = 6 if setting.small else 600
    with open_source(SAMPLES / "chair.mp4") as source:
        frames = source.length or 1
        session = VideoPredictor(model).open(lambda at: source[at % frames] if at < length else None)
        session.prompt(0, 1, [(source.size[1] // 2, source.size[0] // 2)])
        began = time.perf_counter()
        seen = sum(1 for result in session.propagate() if result.cpu().masks)
        yield {"work": f"a video of {seen} frames, file to masks", "ms": 1000 * (time.perf_counter() - began) / seen}
    yield {"work": "training step", "ms": _training_step(setting, name)}


def _training_step(setting: Setting, name: str) -> float:
    from sam2core.training.augment import Mixture
    from sam2core.training.loop import train
    from sam2core.training.recipe import Recipe
    from tests.training.job import squares

    steps, side = (3, 64) if setting.small else (8, 512)
    stage = {"name": "clicks", "steps": steps, "size": side, "batch": 2, "objects": 2, "prompts": {"box": 0.3}}
    tree = {"model": name, "sources": [{"path": "-", "reader": "label_folder"}], "stages": [stage]}
    at: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            setting.build(name, "float32"),
            Recipe.read(tree),
            Mixture([squares()], [1.0]),
            folder,
            workers=0,
            report=lambda progress: at.append(progress.seconds),
        )
    return 1000 * statistics.median(later - earlier for earlier, later in zip(at, at[1:]))


MEASURED: dict[str, Callable[[Setting], Iterator[dict[str, Any]]]] = {
    "kernels": kernels,
    "stages": stages,
    "full precision": full_precision,
    "waits": waits,
    "profile": profile,
    "attention alone": alone,
    "beside sam2": peers,
    "masks": masks,
    "compiled": compiled,
    "whole": whole,
}


def table(result: dict[str, Any]) -> str:
    """All rows as markdown, a table a measurement."""
    lines = [f"# {result['machine']}", "", f"{result['about']}. Milliseconds where nothing else is said.", ""]
    for name, rows in result["rows"].items():
        head = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {name}", "", (MEASURED[name].__doc__ or "").strip(), ""]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += ["| " + " | ".join(_written(row.get(key, "")) for key in head) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def measure(setting: Setting, names: list[str], save: Callable[[dict[str, Any]], None], result: dict[str, Any]) -> None:
    """Takes the measurements; one that the device refuses leaves what it said in its place."""
    for name in names:
        began = time.perf_counter()
        rows: list[dict[str, Any]] = []
        try:
            for row in MEASURED[name](setting):
                rows.append(row)
        except (RuntimeError, ImportError, AssertionError) as error:
            rows.append({"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"})
        result["rows"][name] = rows
        save(result)
        print(f"{name}: {len(rows)} rows in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model, few rounds, and nothing is written")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is here; --device cpu --small tries the script")
    setting = Setting(device, given.small, given.rounds or (2 if given.small else 10))
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    result: dict[str, Any] = {"machine": machine, "rows": {}}
    if RESULTS.exists() and not given.small:
        before = json.loads(RESULTS.read_text())
        result["rows"] = before["rows"] if before["machine"] == machine else {}
    result["about"] = f"{time.strftime('%d %B %Y')}, torch {torch.__version__}, {given.rounds or setting.rounds} rounds"

    def save(found: dict[str, Any]) -> None:
        if given.small:
            return
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(table(found))

    measure(setting, given.only, save, result)
    print(table(result))


if __name__ == "__main__":
    main()
