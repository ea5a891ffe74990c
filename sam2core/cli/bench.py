"""`sam2core bench`: what this machine does with a model, measured with this library alone."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.options import DEFAULT_MODEL, build_arguments, check_folder, model_options, pairs
from sam2core.cli.progress import Say
from sam2core.cli.table import table

if TYPE_CHECKING:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sam2core.model import Sam2

STAGES = ("decode", "encode", "prompt", "track", "automask")
CLIP, PHOTO = "chair.mp4", "coffee.jpg"
HEAD = ("stage", "parts", "first, s", "then, s", "runs", "GFLOP", "share of peak", "memory, MB")


@dataclass
class Row:
    """One stage, as measured: seconds of the first run and of later ones."""

    stage: str
    parts: str  # eager or compiled
    first: float
    warm: list[float]
    gflop: float | None = None
    memory_mb: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    def share(self, peak: float) -> float | None:
        """Arithmetic done over the time it took and the machine's best; None where none is counted."""
        return self.gflop / statistics.median(self.warm) / peak if self.gflop and self.warm else None


class Objects(click.ParamType):
    """Numbers of objects between commas."""

    name = "N[,N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        words = value.split(",")
        if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
            self.fail(f"{value!r} is not numbers of objects, such as 1,4", param, ctx)
        return tuple(int(word) for word in words)


class Choices(click.ParamType):
    """Stages between commas."""

    name = "STAGE[,STAGE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        words = tuple(word.strip() for word in value.split(","))
        if unknown := [word for word in words if word not in STAGES]:
            self.fail(f"there is no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}", param, ctx)
        return tuple(stage for stage in STAGES if stage in words)


@click.command()
@click.option("--stages", type=Choices(), default=",".join(STAGES), show_default=True)
@click.option("--objects", type=Objects(), default="1,4", show_default=True, help="Objects that are tracked.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs after the first.")
@click.option(
    "--frames", type=click.IntRange(min=2), default=10, show_default=True, help="Frames of the video to track."
)
@click.option("--compile", "compiled", is_flag=True, help="Measure the compiled parts too.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write every measurement here.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it (needs sam2core[plot]).")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@model_options
def command(
    stages: Sequence[str],
    objects: Sequence[int],
    rounds: int,
    frames: int,
    compiled: bool,
    file: Path | None,
    plot: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure this machine: decode, encode, prompt, track and automatic masks, by first run and later ones.

    An image and a video that come with the program are used. The share of the peak is the arithmetic that is really
    done, over the time and the best of this machine's own matrix products, measured in the same run. Side by side with
    other packages: see the folder benchmarks/ of the source.
    """
    if plot is not None:
        import matplotlib  # noqa: F401  # said before the measuring, not after
    for path in (file, plot):
        if path is not None:
            check_folder(path)
    report = measure(stages, objects, rounds, frames, compiled, options, Say(quiet))
    click.echo(show(report))  # first of all, whatever happens to the files
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        draw(report, plot)


def measure(
    stages: Sequence[str],
    objects: Sequence[int],
    rounds: int,
    frames: int,
    compiled: bool,
    options: dict[str, Any],
    say: Say,
) -> dict[str, Any]:
    """Run the stages, eager and perhaps compiled; the report that `show` and `draw` read."""
    import registry
    from sam2core.compile import compile_model

    name = options["model"] or DEFAULT_MODEL
    arguments = build_arguments(options)
    words = pairs(options["overrides"])

    def build() -> Sam2:
        # the counter of operations hooks into what wants gradients
        return registry.build(name, *words, **arguments).requires_grad_(False)

    began = time.perf_counter()
    model = build()
    machine = describe(model)
    say(f"{name}, {machine['image']} px, {machine['dtype']}, {machine['device']}: {machine['peak_gflops']:.0f} GFLOP/s")
    rows: list[Row] = [Row("build", "eager", time.perf_counter() - began, [], memory_mb=memory(model))]
    done = {row.stage: row.gflop for row in rows}
    for parts in ("eager", "compiled") if compiled else ("eager",):
        if parts == "compiled":
            model = compile_model(build().eval())
        for row in run(model, name, stages, objects, rounds, frames):
            row.parts = parts
            if parts == "eager":
                done[row.stage] = row.gflop
            row.gflop = done.get(row.stage)  # compiled parts do the same work, which only eager ones let us count
            rows.append(row)
            say(f"{row.stage}, {parts}: {row.first:.3f} s, then {statistics.median(row.warm):.3f} s")
        if parts == "eager" and compiled and "decode" in stages:
            stages = [stage for stage in stages if stage != "decode"]  # no part of a model takes part in it
    # a machine that others use too may have been slow at first
    machine["peak_gflops"] = max(machine["peak_gflops"], peak(model.device, model.dtype))
    return {
        "model": name,
        **machine,
        "rows": [{**asdict(row), "share": row.share(machine["peak_gflops"])} for row in rows],
    }


def run(
    model: Sam2, name: str, stages: Sequence[str], objects: Sequence[int], rounds: int, frames: int
) -> Iterator[Row]:
    """The rows of one model, stage by stage."""
    import registry
    from sam2core.predictors.image import ImagePredictor

    samples = Path(registry.__file__).parent / "samples"
    if "decode" in stages:
        yield decode(samples / CLIP, frames)
    if "encode" in stages or "prompt" in stages:
        predictor = ImagePredictor(model)
        picture = samples / PHOTO
        handle = predictor.encode(picture) if "encode" not in stages else None
        if handle is None:
            yield timed(model, "encode", lambda: predictor.encode(picture), rounds)
            handle = predictor.encode(picture)
        if "prompt" in stages:
            yield timed(model, "prompt", lambda: handle.predict(points=[[300, 140]], multimask_output=True), 4 * rounds)
    if "track" in stages:
        for count in objects:
            yield track(model, samples / CLIP, count, frames)
    if "automask" in stages:
        yield automask(model, samples / PHOTO, min(rounds, 3))


def decode(clip: Path, frames: int) -> Row:
    """Seconds to open the video and have its first frame, and for each frame after it."""
    from sam2core.media.frames import open_source

    began = time.perf_counter()
    source = open_source(clip, stop=frames)
    spent = []
    for index in range(frames):
        source[index]
        spent.append(time.perf_counter() - began)
        began = time.perf_counter()
    return Row("decode", "eager", spent[0], spent[1:])


def timed(model: Sam2, stage: str, work: Callable[[], Any], rounds: int) -> Row:
    """A first run, some more, and one whose arithmetic is counted."""
    with watched(model) as peak:
        first, *warm = [seconds(model, work) for _ in range(rounds + 1)]
    return Row(stage, "eager", first, warm, counted(model, work), peak())


def track(model: Sam2, clip: Path, objects: int, frames: int) -> Row:
    """Seconds of the first frame that is tracked, and of those in the second half, where the past is longest."""
    import numpy as np

    from sam2core.predictors.video import VideoPredictor

    session = VideoPredictor(model).open(clip, stop=frames + 1)
    height, width = session.size
    places = np.random.default_rng(0).uniform(0.2, 0.8, (objects, 1, 2)) * [width, height]
    for index in range(objects):
        session.prompt(0, index, points=places[index])
    passing = session.propagate()
    next(passing)
    with watched(model) as peak:
        spent = [seconds(model, lambda: next(passing)) for _ in range(frames - 1)]
    gflop = counted(model, lambda: next(passing))
    later = spent[len(spent) // 2 :]
    policy = model.memory_policy
    notes = {"frames": frames, "horizon": getattr(policy, "horizon", None)}
    return Row(f"track {objects}", "eager", spent[0], later, gflop, peak(), notes)


def automask(model: Sam2, photo: Path, rounds: int) -> Row:
    """Everything in a photo, with the model's own options."""
    from sam2core.predictors.automask import MaskGenerator

    spec = getattr(model, "spec", None)
    generator = MaskGenerator(model, **(spec.predictors.get("automask", {}) if spec else {}))
    found: list[int] = []
    row = timed(model, "automask", lambda: found.append(len(generator.generate(photo))), rounds)
    row.notes = {"masks": found[-1]}
    return row


def seconds(model: Sam2, work: Callable[[], Any]) -> float:
    """How long a piece of work takes, the device's share included."""
    began = time.perf_counter()
    work()
    _wait(model.device)
    return time.perf_counter() - began


def counted(model: Sam2, work: Callable[[], Any]) -> float | None:
    """The GFLOP of a piece of work, counted operator by operator; None for compiled parts.

    None, too, where torch does not count in inference mode, before 2.6.
    """
    if model.fixed is not None:
        return None
    with counter() as found:
        work()
    return found.get_total_flops() / 1e9 or None


def counter() -> FlopCounterMode:
    """Torch's counter of arithmetic, told of what is one step to it.

    That is `average_tokens`, a CPU's linear layers, and its attention, which torch itself counts from 2.15 on only.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import sam2core.ops.attention  # noqa: F401 -- defines the operator

    known: dict[Any, Callable[..., int]] = {
        torch.ops.sam2core.average_tokens: _averaging,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attending,
    }
    if linear := getattr(torch.ops.mkldnn, "_linear_pointwise", None):
        known[linear] = _linear
    return FlopCounterMode(display=False, custom_mapping=known)


def _averaging(query: Any, key: Any, tokens: Any, memory_mask: Any = None, *, out_shape: Any = None, **_: Any) -> int:
    """The arithmetic of `average_tokens` by its shapes."""
    batch, heads, queries, narrow = out_shape
    return int(2 * batch * heads * queries * key[2] * (query[3] + narrow))


def _attending(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The arithmetic of SDPA on a CPU by its shapes."""
    batch, heads, queries, narrow = query
    return int(2 * batch * heads * queries * key[2] * (narrow + value[3]))


def _linear(tokens: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The arithmetic of a linear layer by its shapes."""
    return 2 * math.prod(out_shape) * int(weight[1])


def describe(model: Sam2) -> dict[str, Any]:
    """The machine, the model's type and size, and the best matrix product here, in GFLOP/s."""
    import torch

    import sam2core

    device = model.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {_processor()}"
    return {
        "sam2core": sam2core.__version__,
        "torch": str(torch.__version__),
        "device": where,
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "image": "x".join(str(side) for side in model.image_size),
        "peak_gflops": peak(device, model.dtype),
    }


def peak(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """The best GFLOP/s of a square product, 2048 wide on a CPU and 8192 elsewhere."""
    import torch

    from sam2core.ops.cpu.products import product

    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def once() -> float:
        began = time.perf_counter()
        product(a, b)
        _wait(device)
        return time.perf_counter() - began

    with torch.inference_mode():
        return 2 * side**3 / min(once() for _ in range(rounds)) / 1e9


@contextmanager
def watched(model: Sam2) -> Iterator[Callable[[], float]]:
    """Hands out what says the memory a stage needed at most, in MB: of the device, or of the process so far."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    found: list[float] = []
    yield lambda: found[0]
    found.append(memory(model))


def memory(model: Sam2) -> float:
    """The most memory in use so far, in MB; 0.0 where the system does not say."""
    import torch

    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(model.device) / 2**20
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if platform.system() == "Darwin" else used / 2**10


def show(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = []
    for row in report["rows"]:
        lines.append(
            (
                row["stage"],
                row["parts"],
                f"{row['first']:.4f}",
                f"{statistics.median(row['warm']):.4f}" if row["warm"] else "",
                str(len(row["warm"]) or ""),
                f"{row['gflop']:.2f}" if row["gflop"] else "",
                f"{row['share']:.0%}" if row["share"] else "",
                f"{row['memory_mb']:.0f}" if row["memory_mb"] else "",
            )
        )
    title = (
        f"{report['model']}, {report['image']} px, {report['dtype']}; {report['device']}, {report['threads']} threads, "
        f"torch {report['torch']}; best matrix product {report['peak_gflops']:.0f} GFLOP/s"
    )
    return f"{title}\n\n{table(HEAD, lines, right=range(2, len(HEAD)))}"


def draw(report: dict[str, Any], path: Path) -> None:
    """A bar for each stage on a logarithmic scale: the first run behind, later ones in front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in report["rows"] if row["warm"]]
    labels = [row["stage"] + ("" if row["parts"] == "eager" else ", compiled") for row in rows]
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(rows) + 1.6), layout="constrained")
    axes.barh(labels, [row["first"] for row in rows], height=0.7, color="#c9d3dd", label="first run")
    warm = [statistics.median(row["warm"]) for row in rows]
    axes.barh(labels, warm, height=0.4, color="#1f5f99", label="later runs, median")
    for place, (row, value) in enumerate(zip(rows, warm)):
        share = f"  {row['share']:.0%} of peak" if row["share"] else ""
        axes.annotate(f" {value:.3g} s{share}", (max(value, row["first"]), place), va="center", fontsize=8)
    axes.set(xscale="log", xlabel="seconds", title=f"{report['model']}, {report['image']} px, {report['dtype']}")
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _wait(device: torch.device) -> None:
    import torch

    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
