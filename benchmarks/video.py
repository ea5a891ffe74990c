"""Tracking, side by side with `sam2` and `transformers`: seconds per frame, by number of objects, type and stage.

    python benchmarks/video.py --size t --objects 1 4 16 --rounds 3

All contenders have the same random weights and see the same synthetic video; every object gets one click on frame 0.
Frame 1 is tracked, and what each contender remembers of it is copied to frames 2 to 15, in its own form: from frame 16
on every past is full (7 memories, 16 object pointers an object) without 15 frames having been computed. Frame 16 warms
up with few objects and counts the arithmetic; then a frame is a round. In a round all take a turn (A B C ..., each
round begun by another), so that a slow minute of the machine hits all alike; ratios are taken within a round, and
medians over rounds are printed, with the share of the machine's matrix-multiply peak in the contender's type, measured
in the same round.

Rounds are written to ``benchmarks/results/`` as they are measured: a run that was stopped resumes, and
what is measured with some of the ``--names`` is added to what is there of the others. "ours bfloat16 amx" wants
plugins/sam2core-amx installed; the others are measured without its kernels. OpenVINO and ONNX Runtime run our own
exported graphs behind our predictor; `--graphs` keeps them from call to call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks import graphs  # noqa: E402
from benchmarks.image import processor_name, versions  # noqa: E402
from sam2core.cli.bench import counter as new_counter  # noqa: E402
from sam2core.cli.bench import peak  # noqa: E402
from sam2core.ops.attention import average_tokens  # noqa: E402
from sam2core.ops.rope import rotary_pairs  # noqa: E402
from sam2core.predictors.video import VideoPredictor  # noqa: E402
from sam2core.prepare import prepare  # noqa: E402
from tests.parity import oracle, scripts  # noqa: E402

STAGES = ("encode", "memory attention", "decode", "memorize")
VIDEO = (270, 480)
FULL = 16
"""The first frame whose past is full."""
WARMED = 8
"""With more objects no frame is spent on warming up: the first round counts the arithmetic, in less than 1 % of it."""
USUAL = (
    "ours float32",
    "sam2 float32",
    "transformers float32",
    "ours bfloat16",
    "sam2 bfloat16",
    "transformers bfloat16",
)
CONTENDERS = (*USUAL, "ours bfloat16 amx", "openvino float32", "openvino bfloat16", "onnxruntime float32")


class Stages:
    """Sums up the time spent in modules, and on request their arithmetic, by stage."""

    def __init__(self, modules: dict[str, list[torch.nn.Module]]) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)
        self.counting = False
        for stage, parts in modules.items():
            for part in parts:
                self._watch(stage, part)

    def _watch(self, stage: str, part: torch.nn.Module) -> None:
        started: list[tuple[float, FlopCounterMode | None]] = []

        def before(*_: Any) -> None:
            counter = new_counter() if self.counting else None
            if counter is not None:
                counter.__enter__()
            started.append((time.perf_counter(), counter))

        def after(*_: Any) -> None:
            began, counter = started.pop()
            self.spent[stage] += time.perf_counter() - began
            if counter is not None:
                counter.__exit__(None, None, None)
                self.flops[stage] += counter.get_total_flops()

        part.register_forward_pre_hook(before)
        part.register_forward_hook(after)

    def take(self) -> dict[str, float]:
        spent, self.spent = dict(self.spent), defaultdict(float)
        return spent


class Walk:
    """One contender's way along the video."""

    def __init__(
        self,
        stages: Stages,
        steps: Iterator[torch.Tensor],
        state: Callable[[], Any],
        autocast: torch.dtype = torch.float32,
        kernels: dict[str, Any] | None = None,
    ) -> None:
        self.stages = stages
        self.steps = steps
        self.state = state
        self.autocast = autocast
        self.kernels = kernels or {}

    def step(self) -> torch.Tensor:
        """The next frame's logits (N, h, w). Modes are entered for each step: a generator would leave them on."""
        with (
            mock.patch.object(average_tokens, "_kernels", self.kernels.get(average_tokens.name, {})),
            mock.patch.object(rotary_pairs, "_kernels", self.kernels.get(rotary_pairs.name, {})),
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=self.autocast != torch.float32),
        ):
            return next(self.steps)


def clicks(objects: int) -> np.ndarray:
    return np.random.default_rng(0).uniform((20, 20), (VIDEO[1] - 20, VIDEO[0] - 20), (objects, 2))


def ours(model: Any, frames: np.ndarray, objects: int, dtype: torch.dtype, plugin: str = "") -> Walk:
    stages = Stages(
        {
            "encode": [model.backbone, model.neck],
            "memory attention": [model.memory_attention],
            "decode": [model.mask_decoder],
            "memorize": [model.memory_encoder],
        }
    )
    kernels = tiled() if plugin else None
    return session_of(
        model if dtype == torch.float32 else model.to_mixed_precision(dtype), stages, frames, objects, kernels
    )


def engine(model: Any, frames: np.ndarray, objects: int, dtype: torch.dtype) -> Walk:
    """Our predictor over exported graphs; `model` runs them in a type of its own, so nothing is cast here."""
    parts = model._runners
    stages = Stages(
        {
            "encode": [parts["image_encoder"]],
            "memory attention": [parts["memory_attention"]],
            "decode": [parts["mask_decoder"]],
            "memorize": [parts["memory_encoder"]],
        }
    )
    return session_of(model, stages, frames, objects)


def session_of(
    model: Any, stages: Stages, frames: np.ndarray, objects: int, kernels: dict[str, Any] | None = None
) -> Walk:
    """A walk of our own predictor."""
    session = VideoPredictor(model, cleaning={"fill_holes": 0}).open(frames)
    for number, place in enumerate(clicks(objects)):
        session.prompt(0, number, [place])

    def walk() -> Iterator[torch.Tensor]:
        for result in session.propagate(stop=2):
            yield result.video_logits
        for track in session.tracks.values():
            for frame in range(2, FULL):
                track.bank.recent[frame] = replace(copied(track.bank.recent[1]), frame=frame)
        for result in session.propagate(FULL):
            yield result.video_logits

    return Walk(stages, walk(), lambda: [list(track.bank) for track in session.tracks.values()], kernels=kernels)


def tiled() -> dict[str, Any]:
    """The kernels of sam2core-amx, as they are attached."""
    from sam2core_amx.kernel import averages, turned
    from sam2core_amx.library import missing

    if reason := missing():
        raise SystemExit(f"'ours bfloat16 amx' cannot be measured here: {reason}")
    here = ("cpu", torch.bfloat16)
    return {average_tokens.name: {here: averages}, rotary_pairs.name: {here: turned}}


def upstream(model: Any, frames: np.ndarray, objects: int, dtype: torch.dtype) -> Walk:
    stages = Stages(
        {
            "encode": [model.image_encoder],
            "memory attention": [model.memory_attention],
            "decode": [model.sam_mask_decoder],
            "memorize": [model.memory_encoder],
        }
    )
    video = (scripts.pixels(frames, model.image_size), *VIDEO)
    state: dict[str, Any] = {}

    def walk() -> Iterator[torch.Tensor]:
        with (
            mock.patch("sam2.sam2_video_predictor.load_video_frames", lambda **_: video),
            mock.patch("sam2.sam2_video_predictor.tqdm", lambda frames, **_: frames),
        ):
            state.update(model.init_state(video_path="frames in memory"))
            for number, place in enumerate(clicks(objects)):
                model.add_new_points_or_box(state, 0, number, points=[place.tolist()], labels=[1])
            for _, _, logits in model.propagate_in_video(state, 0, 1):
                yield logits[:, 0]
            _fill(state["output_dict_per_obj"])
            for _, _, logits in model.propagate_in_video(state, FULL):
                yield logits[:, 0]

    return Walk(stages, walk(), lambda: state["output_dict_per_obj"], dtype)


def transformers(model: Any, frames: np.ndarray, objects: int, dtype: torch.dtype) -> Walk:
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    stages = Stages(
        {
            "encode": [model.vision_encoder],
            "memory attention": [model.memory_attention],
            "decode": [model.mask_decoder],
            "memorize": [model.memory_encoder],
        }
    )
    side = model.config.image_size
    session = Sam2VideoInferenceSession(
        video=scripts.pixels(frames, side), video_height=VIDEO[0], video_width=VIDEO[1], dtype=torch.float32
    )
    scale = np.array([side / VIDEO[1], side / VIDEO[0]])

    def walk() -> Iterator[torch.Tensor]:
        for number, place in enumerate(clicks(objects)):
            prompt = {
                "point_coords": torch.tensor(place * scale, dtype=torch.float32)[None, None, None],
                "point_labels": torch.ones(1, 1, 1, dtype=torch.int32),
            }
            session.add_point_inputs(session.obj_id_to_idx(number), 0, prompt)
        session.obj_with_new_inputs = list(range(objects))
        for result in model.propagate_in_video_iterator(session, 0, 1):
            yield result.pred_masks[:, 0]
        _fill(session.output_dict_per_obj)
        for result in model.propagate_in_video_iterator(session, FULL):
            yield result.pred_masks[:, 0]

    return Walk(stages, walk(), lambda: session.output_dict_per_obj, dtype)


def _fill(outputs: dict[int, Any]) -> None:
    """Copy what the peers remember of frame 1 to the frames behind it."""
    for one in outputs.values():
        for frame in range(2, FULL):
            one["non_cond_frame_outputs"][frame] = copied(one["non_cond_frame_outputs"][1])


def copied(value: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: copied(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return type(value)(copied(item) for item in value) if isinstance(value, list | tuple) else value


def held(value: Any, seen: dict[int, int] | None = None) -> int:
    """The bytes of all tensors in a state, each storage once."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            held(getattr(value, field.name), seen)
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            held(item, seen)
    return sum(seen.values())


WALKS = {
    "ours": ours,
    "sam2": upstream,
    "transformers": transformers,
    "openvino": engine,
    "onnxruntime": engine,
}


def models(size: str, image: int, names: list[str], folder: Path) -> dict[str, Any]:
    """The same random weights for each contender; what autocasts shares the model of what does not.

    Graphs are written below `folder`.
    """
    from sam2core.checkpoints.facebook import FACEBOOK

    shape = oracle.SHAPES[size].at(image=image)
    torch.manual_seed(0)
    first = oracle.ours(shape)
    state = first.state_dict()
    found: dict[str, Any] = {}
    for name in names:
        package, dtype = name.split()[:2]
        if package == "ours":
            found[name] = prepare(oracle.ours(shape), "cpu")
            found[name].load_state_dict(state)
        elif package in graphs.ENGINES:
            place = graphs.written(first, folder / f"{size}_{image}")
            found[name] = graphs.load(place, package, dtype)
        elif twin := next((found[other] for other in found if other.split()[0] == package), None):
            found[name] = twin
        elif package == "sam2":
            found[name] = oracle.upstream(shape, video=True)
            found[name].load_state_dict(FACEBOOK.inverse(state))
        else:
            found[name] = oracle.transformers_model(shape, video=True)
            found[name].load_state_dict(oracle.to_transformers(state), strict=True)
    return found


def told(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class Cell:
    """All contenders with so many objects, walked up to a full past."""

    def __init__(self, options: argparse.Namespace, objects: int, rounds: int) -> None:
        self.objects = objects
        frames = scripts.clip(FULL + 1 + rounds, VIDEO, 0)
        with tempfile.TemporaryDirectory() as temporary:
            made = models(options.size, options.image, options.names, options.graphs or Path(temporary))
        self.walks: dict[str, Walk] = {}
        self.flops: dict[str, dict[str, float]] = {}
        for name in options.names:
            package, dtype, *plugin = name.split()
            walk = WALKS[package](made[name], frames, objects, getattr(torch, dtype), *plugin)
            self.walks[name] = walk
            walk.step(), walk.step()
            if objects <= WARMED:
                self._count(name)
            told(f"{objects} objects: {name} has a full past")

    def _count(self, name: str) -> torch.Tensor:
        """One frame whose arithmetic is counted."""
        walk = self.walks[name]
        walk.stages.counting = True
        logits = walk.step()
        walk.stages.counting = False
        self.flops[name] = dict(walk.stages.flops)
        return logits

    def round(self, number: int) -> dict[str, Any]:
        """One frame of each contender."""
        row: dict[str, Any] = {"objects": self.objects, "round": number, "date": time.strftime("%Y-%m-%d")}
        dtypes = dict.fromkeys(name.split()[1] for name in self.walks)
        row["peak"] = {name: peak(torch.device("cpu"), getattr(torch, name)) for name in dtypes}
        names = list(self.walks)
        turn = number % len(names)
        masks = {}
        for name in names[turn:] + names[:turn]:
            walk = self.walks[name]
            for other in self.walks.values():
                other.stages.take()
            before = held(walk.state())
            wall, cpu = time.perf_counter(), time.process_time()
            logits = walk.step() if name in self.flops else self._count(name)
            row[name] = {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "stages": walk.stages.take(),
                "flops": self.flops[name],
                "grown": held(walk.state()) - before,
            }
            masks[name] = logits.float() > 0
        for name, mask in masks.items():
            exact = masks.get("sam2 float32", masks.get("ours float32"))
            if exact is None or mask.shape != exact.shape:  # transformers gives masks of low resolution
                continue
            both, either = (mask & exact).sum().item(), (mask | exact).sum().item()
            row[name]["iou"] = both / either if either else 1.0
        told(f"{self.objects} objects, round {number}: " + ", ".join(f"{n} {row[n]['wall']:.2f} s" for n in names))
        return row


def measure(options: argparse.Namespace, rows: list[dict[str, Any]], save: Callable[[], None]) -> None:
    """The rounds that are missing."""
    for objects in options.objects:
        done = len(measured(rows, objects, *options.names))
        if done >= options.rounds:
            continue
        cell = Cell(options, objects, options.rounds - done)
        for number in range(done, options.rounds):
            rows.append(cell.round(number))
            save()


def measured(rows: list[dict[str, Any]], objects: int, *names: str) -> list[dict[str, Any]]:
    """The rounds with so many objects in which all of these took their turns."""
    return [row for row in rows if row["objects"] == objects and all(name in row for name in names)]


def _median(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(value(row) for row in rows)


def frame_table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Seconds a frame, and ours against each peer within a round: how many times as fast."""
    lines = ["| objects | rounds | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for objects in sorted({row["objects"] for row in rows}):
        turns = {name: measured(rows, objects, name) for name in names}
        cells = [
            f"{_median(some, lambda row, n=name: row[n]['wall']):.3f}" if some else "-" for name, some in turns.items()
        ]
        lines.append(f"| {objects} | {max(map(len, turns.values()))} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| objects | ours | times as fast as | wall | CPU time |",
        "|" + "---|" * 5,
    ]
    for objects in sorted({row["objects"] for row in rows}):
        for mine in (name for name in names if name.startswith("ours")):
            for other in (name for name in names if not name.startswith("ours")):
                some = measured(rows, objects, mine, other)
                if not some or mine.endswith("float32") and not other.endswith("float32"):
                    continue
                ratios = [
                    f"{_median(some, lambda row, m=mine, o=other, k=key: row[o][k] / row[m][k]):.2f}"
                    for key in ("wall", "cpu")
                ]
                lines.append(f"| {objects} | {mine} | {other} | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def stage_table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Seconds by stage, and the share of the peak."""
    lines = ["| objects | stage | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for objects in sorted({row["objects"] for row in rows}):
        for stage in STAGES:
            cells = []
            for name in names:
                some = measured(rows, objects, name)
                dtype = name.split()[1]
                if not some:
                    cells.append("-")
                    continue

                def share(row: dict[str, Any], name: str = name, stage: str = stage, dtype: str = dtype) -> float:
                    spent = max(row[name]["stages"].get(stage, 0.0), 1e-9)
                    return row[name]["flops"].get(stage, 0.0) / spent / 1e9 / row["peak"][dtype]

                seconds = _median(some, lambda row, n=name, s=stage: row[n]["stages"].get(s, 0.0))
                cells.append(f"{seconds:.3f}" + (f" ({100 * part:.0f} %)" if (part := _median(some, share)) else ""))
            lines.append(f"| {objects} | {stage} | " + " | ".join(cells) + " |")
        turns = {name: measured(rows, objects, name) for name in names}
        ious = [
            f"{_median(some, lambda row, n=name: row[n].get('iou', float('nan'))):.4f}" if some else "-"
            for name, some in turns.items()
        ]
        exact = "sam2 float32" if turns.get("sam2 float32") else "ours float32"
        lines.append(f"| {objects} | mask IoU with {exact} | " + " | ".join(ious).replace("nan", "-") + " |")
        grown = [
            f"{_median(some, lambda row, n=name: row[n]['grown']) / objects / 2**20:.2f} MiB" if some else "-"
            for name, some in turns.items()
        ]
        lines.append(f"| {objects} | kept per frame and object | " + " | ".join(grown) + " |")
    return "\n".join(lines)


def named(rows: list[dict[str, Any]]) -> list[str]:
    """Everyone who took a turn in any round."""
    return [name for name in CONTENDERS if any(name in row for row in rows)]


def report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    names = named(rows)
    dtypes = dict.fromkeys(dtype for row in rows for dtype in row["peak"])
    peaks = {name: sorted(row["peak"][name] for row in rows if name in row["peak"]) for name in dtypes}
    return "\n".join(
        [
            f"# Video benchmark, size {options.size}, {options.image} px, {options.threads} thread(s)",
            "",
            f"{processor_name()}, {os.cpu_count()} cores; "
            + ", ".join(f"{n} {v}" for n, v in versions([name.split()[0] for name in names]).items())
            + ". Matrix products of 2048 in GFLOP/s, measured in every round: "
            + ", ".join(f"{n} {statistics.median(p):.0f} ({p[0]:.0f} to {p[-1]:.0f})" for n, p in peaks.items())
            + ".",
            "",
            "Random weights, the same in all; one click per object on frame 0; every past full. sam2 and transformers "
            "run bfloat16 under autocast, ours with weights in it and fp32 heads; amx: with the kernels of "
            "plugins/sam2core-amx; openvino and onnxruntime: our exported graphs. Medians over rounds; ratios within a "
            f"round. Last measured on {rows[-1].get('date', 'a day that was not noted')}.",
            "",
            "## Seconds per frame",
            "",
            frame_table(rows, names),
            "",
            "## By stage",
            "",
            "Seconds a frame and, in brackets, the share of the peak that the contender's own arithmetic reached.",
            "",
            stage_table(rows, names),
            "",
        ]
    )


COLOURS = {
    "encode": "#4477aa",
    "memory attention": "#ee6677",
    "decode": "#228833",
    "memorize": "#ccbb44",
    "rest": "#bbbbbb",
}


def _spent(part: dict[str, Any], stage: str) -> float:
    stages = part["stages"]
    return part["wall"] - sum(stages.values()) if stage == "rest" else stages.get(stage, 0.0)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds a frame and object, stacked by stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = sorted({row["objects"] for row in rows})
    figure, axes = pyplot.subplots(1, len(counts), figsize=(4 * len(counts), 4), layout="constrained")
    for axis, objects in zip(np.atleast_1d(axes), counts, strict=True):
        turns = {name: measured(rows, objects, name) for name in named(rows)}
        left = np.zeros(len(turns))
        for stage, colour in COLOURS.items():
            values = np.array(
                [
                    _median(some, lambda row, n=name, s=stage: _spent(row[n], s)) if some else 0.0
                    for name, some in turns.items()
                ]
            )
            axis.barh(list(turns), values, left=left, label=stage, color=colour)
            left += values
        for place, total in enumerate(left):
            axis.text(total, place, f" {total:.2f}" if total else " not measured", va="center", fontsize=8)
        axis.set_xlim(0, left.max() * 1.15)
        axis.invert_yaxis()
        axis.set_title(f"{objects} object{'s' * (objects > 1)}")
        axis.set_xlabel("seconds a frame")
        if objects != counts[0]:
            axis.set_yticks([])
    np.atleast_1d(axes)[-1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="t", choices=["t", "s", "b+", "l"])
    parser.add_argument("--image", type=int, default=1024)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--names", nargs="+", default=list(USUAL), choices=CONTENDERS)
    parser.add_argument(
        "--graphs", type=Path, help="folder that keeps the exported graphs; a temporary one if not given"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--stem", help="of the files that are written; video_SIZE when not given")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / (options.stem or f"video_{options.size.replace('+', '_plus')}")
    same = {"size": options.size, "image": options.image, "threads": options.threads}
    rows: list[dict[str, Any]] = []
    if stem.with_suffix(".json").exists():
        before = json.loads(stem.with_suffix(".json").read_text())
        if before["options"] != same:
            parser.error(f"{stem}.json was measured with {before['options']}: --stem NAME keeps both")
        rows = before["rows"]
        told(f"going on with {len(rows)} rounds of {stem.name}.json")

    def save() -> None:
        stem.with_suffix(".json").write_text(json.dumps({"options": same, "rows": rows}, indent=1))

    measure(options, rows, save)
    text = report(options, rows)
    stem.with_suffix(".md").write_text(text)
    plot(rows, stem.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
