"""Image segmentation on a CPU or GPU, side by side with `sam2` and `transformers`: start-up, encode, prompts, memory.

    python benchmarks/image.py --size t --rounds 5
    python benchmarks/image.py --names ours sam2 transformers onnxruntime openvino

`onnxruntime` and `openvino` are this library's predictor over the graphs of plugins/sam2core-export, from the first
mask on.

Every implementation runs in processes of its own with the same weights, image, prompts and thread count. Where
start-up matters each measurement is a fresh process; the rest runs in one long-lived process per implementation, asked
in turn (A B C A B C ...), so that a slow minute of the machine hits all alike. Ratios are taken within a round; medians
over rounds are printed. A measurement is kept with its CPU time: on a busy machine the ratio of CPU times is the
steadier figure. Results go to ``benchmarks/results/`` as JSON, a table and a plot. Rounds are written as they are
measured, to ``*.partial.json``: a run that was stopped resumes, if it is called with the same options.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("ours", "sam2", "transformers")
GRAPHS = ("onnxruntime", "openvino")
CONFIGS = {"t": "hiera_t", "s": "hiera_s", "b+": "hiera_b+", "l": "hiera_l"}
STARTUP = ("import", "build", "load", "first_answer")
GRAPH_TASKS = ("first_answer", "encode", "one_point", "box", "prompts_16", "memory")
STEADY = ("encode", "one_point", "box", "prompts_16")
CALLS = {"one_point": 5, "box": 5, "prompts_16": 3}  # a round has the median of so many; 0.07 s are soon disturbed
WORDS = {
    "import": "import, beyond torch's own",
    "build": "build with fresh weights",
    "load": "build and load a file",
    "first_answer": "process start to first mask",
    "encode": "encode an image",
    "one_point": "one click, three masks",
    "box": "one box, one mask",
    "prompts_16": "16 clicks in one call",
    "load_rss": "memory to load, MB",
    "peak_rss": "peak memory, MB",
}


# ---------------------------------------------------------------------------------------------------------------------
# the implementations, in the words of this file


class Ours:
    """This repository, as a user calls it."""

    def imports(self) -> None:
        import sam2core.predictors.image  # noqa: F401
        from sam2core import registry  # noqa: F401

    def build(self, size: str, file: Path, *, fresh: bool = False) -> Any:
        from sam2core import registry

        if fresh:
            return registry.build(f"sam2.1_{CONFIGS[size]}", weights=False)
        return registry.build(f"sam2.1_{CONFIGS[size]}", weights=file)

    def ready(self, model: Any, size: str) -> None:
        from sam2core.predictors.image import ImagePredictor

        self.predictor = ImagePredictor(model)

    def encode(self, picture: Any) -> None:
        self.handle = self.predictor.encode(picture)

    def clicks(self, points: Any, labels: Any, multimask_output: bool) -> Any:
        result = self.handle.predict(points=points, labels=labels, multimask_output=multimask_output)
        return result.masks, result.iou

    def box(self, box: Any) -> Any:
        result = self.handle.predict(box=box, multimask_output=False)
        return result.masks, result.iou


class Graphs(Ours):
    """The same predictor over exported graphs, on another engine."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    def imports(self) -> None:
        importlib.import_module(self.engine)
        import sam2core_export.runner  # noqa: F401

    def build(self, size: str, file: Path, *, fresh: bool = False) -> Any:
        from benchmarks.graphs import load

        return load(file, self.engine)


class Upstream:
    """Meta's package."""

    def imports(self) -> None:
        import sam2.build_sam
        import sam2.sam2_image_predictor  # noqa: F401

    def build(self, size: str, file: Path, *, fresh: bool = False) -> Any:
        from sam2.build_sam import build_sam2

        config = f"configs/sam2.1/sam2.1_{CONFIGS[size]}.yaml"
        return build_sam2(config, ckpt_path=None if fresh else str(file), device="cpu")

    def ready(self, model: Any, size: str) -> None:
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self.predictor = SAM2ImagePredictor(model)

    def encode(self, picture: Any) -> None:
        import torch

        with torch.inference_mode():
            self.predictor.set_image(picture)

    def clicks(self, points: Any, labels: Any, multimask_output: bool) -> Any:
        import torch

        with torch.inference_mode():
            masks, iou, _ = self.predictor.predict(points, labels, multimask_output=multimask_output)
        return torch.from_numpy(masks), torch.from_numpy(iou)

    def box(self, box: Any) -> Any:
        import torch

        with torch.inference_mode():
            masks, iou, _ = self.predictor.predict(box=box, multimask_output=False)
        return torch.from_numpy(masks), torch.from_numpy(iou)


class Transformers:
    """transformers' image model, which leaves the memory parts out."""

    def imports(self) -> None:
        from transformers import Sam2ImageProcessor, Sam2Model, Sam2Processor  # noqa: F401

    def build(self, size: str, file: Path, *, fresh: bool = False) -> Any:
        from transformers import Sam2Config, Sam2Model

        if fresh:
            return Sam2Model(Sam2Config.from_pretrained(file)).eval()
        return Sam2Model.from_pretrained(file, local_files_only=True).eval()

    def ready(self, model: Any, size: str) -> None:
        from transformers import Sam2ImageProcessor, Sam2Processor

        self.model, self.processor = model, Sam2Processor(Sam2ImageProcessor())

    def encode(self, picture: Any) -> None:
        import torch

        with torch.inference_mode():
            inputs = self.processor(images=picture, return_tensors="pt")
            self.sizes = inputs["original_sizes"]
            self.embeddings = self.model.get_image_embeddings(inputs["pixel_values"])

    def _answer(self, multimask_output: bool, **prompts: Any) -> Any:
        import torch

        with torch.inference_mode():
            inputs = self.processor(**prompts, original_sizes=self.sizes, return_tensors="pt")
            inputs.pop("original_sizes")
            output = self.model(image_embeddings=self.embeddings, multimask_output=multimask_output, **inputs)
            masks = self.processor.post_process_masks(output.pred_masks, self.sizes)
        return masks[0], output.iou_scores[0]

    def clicks(self, points: Any, labels: Any, multimask_output: bool) -> Any:
        points, labels = points.tolist(), labels.tolist()
        if not isinstance(labels[0], list):
            points, labels = [points], [labels]
        return self._answer(multimask_output, input_points=[points], input_labels=[labels])

    def box(self, box: Any) -> Any:
        return self._answer(False, input_boxes=[[box.tolist()]])


IMPLEMENTATIONS: dict[str, Callable[[], Any]] = {
    "ours": Ours,
    "sam2": Upstream,
    "transformers": Transformers,
    **{engine: partial(Graphs, engine) for engine in GRAPHS},
}


def takes(name: str, task: str) -> bool:
    """Whether an implementation has such a task: graphs are neither built nor loaded as weights."""
    return name not in GRAPHS or task in GRAPH_TASKS


# ---------------------------------------------------------------------------------------------------------------------
# workers


def memory() -> dict[str, float]:
    """Resident memory now and at its highest, and the part of it that is private, in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    megabytes = {name: int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}
    return {"rss": megabytes["VmRSS"], "peak": megabytes["VmHWM"], "private": megabytes["RssAnon"]}


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}, value


def prompts() -> dict[str, Any]:
    import numpy as np

    from_seed = np.random.default_rng(0)
    return {
        "one": (np.array([[500.0, 375.0]]), np.array([1])),
        "box": np.array([425.0, 200.0, 900.0, 875.0]),
        "many": (from_seed.uniform((0, 0), (1799, 1199), (16, 1, 2)), np.ones((16, 1), dtype=int)),
    }


def picture() -> Any:
    """A photograph-sized image (1200 x 1800) that needs no file."""
    import numpy as np

    y, x = np.mgrid[0:1200, 0:1800]
    waves = [128 + 100 * np.sin(x / (40 + 9 * c) + c) * np.cos(y / (70 - 8 * c)) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def gemm() -> float:
    """The best GFLOP/s of a 2048 x 2048 fp32 product, now."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = min(timed(lambda: a @ b)[0]["wall"] for _ in range(3))
    return 2 * 2048**3 / best / 1e9


def startup(task: str, name: str, size: str, files: dict[str, str], threads: int) -> dict[str, Any]:
    """One measurement in this fresh process."""
    began = time.time() - float(os.environ["BENCHMARK_STARTED"])
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(threads)
    chosen = IMPLEMENTATIONS[name]()
    file = Path(files[name])
    if task == "import":
        return timed(chosen.imports)[0]
    if task == "first_answer":
        shown, points = picture(), prompts()["one"]

        def answer() -> None:
            chosen.imports()
            chosen.ready(chosen.build(size, file), size)
            chosen.encode(shown)
            chosen.clicks(*points, multimask_output=True)

        spent, _ = timed(answer)
        return {"wall": spent["wall"] + began, "cpu": time.process_time(), **memory()}
    chosen.imports()
    if task == "meta":
        from sam2core import registry

        return timed(lambda: registry.build(f"sam2.1_{CONFIGS[size]}", weights=False, device="meta"))[0]
    before = memory()
    spent, model = timed(lambda: chosen.build(size, file, fresh=task == "build"))
    middle = memory()
    # touch every weight: what is mapped from a file is not in memory before
    total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
    after = memory()
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    return {
        **spent,
        "weights": weights,
        "checksum": total,
        "added": after["rss"] - before["rss"],
        "peak_added": max(middle["peak"], after["peak"]) - before["rss"],
        "private_added": after["private"] - before["private"],
    }


def serve(name: str, size: str, files: dict[str, str], threads: int) -> None:
    """Answer tasks from standard input, one JSON line each, until it closes."""
    out, sys.stdout = sys.stdout, sys.stderr
    import torch

    torch.set_num_threads(threads)
    chosen, given, shown = IMPLEMENTATIONS[name](), prompts(), picture()
    chosen.imports()
    chosen.ready(chosen.build(size, Path(files[name])), size)
    work = {
        "encode": lambda: chosen.encode(shown),
        "one_point": lambda: chosen.clicks(*given["one"], multimask_output=True),
        "box": lambda: chosen.box(given["box"]),
        "prompts_16": lambda: chosen.clicks(*given["many"], multimask_output=True),
    }
    for line in sys.stdin:
        task = line.strip()
        if task == "gemm":
            answer: dict[str, Any] = {"gflops": gemm()}
        elif task == "memory":
            answer = memory()
        else:
            calls = [timed(work[task]) for _ in range(CALLS.get(task, 1))]
            answer = {key: statistics.median(spent[key] for spent, _ in calls) for key in ("wall", "cpu")}
            value = calls[-1][1]
            if value is not None:
                masks, iou = value
                answer |= {"iou": iou.flatten().tolist(), "area": masks.float().mean().item()}
        out.write(json.dumps(answer) + "\n")
        out.flush()


# ---------------------------------------------------------------------------------------------------------------------
# the parent


def prepare(size: str, folder: Path, names: list[str]) -> dict[str, str]:
    """The same random weights in each implementation's own format."""
    import torch

    from sam2core import registry
    from sam2core.checkpoints import files as checkpoints
    from sam2core.checkpoints.facebook import FACEBOOK
    from sam2core.checkpoints.huggingface import HUGGINGFACE_IMAGE

    torch.manual_seed(0)
    model = registry.build(f"sam2.1_{CONFIGS[size]}", weights=False)
    state = model.state_dict()
    where = {"ours": folder / "ours.safetensors", "sam2": folder / "sam2.pt", "transformers": folder / "transformers"}
    checkpoints.write(where["ours"], state)
    if "sam2" in names:
        torch.save({"model": FACEBOOK.inverse(state)}, where["sam2"])
    if "transformers" in names:
        from tests.parity.oracle import SHAPES, transformers_model

        theirs = transformers_model(SHAPES[size].at(image=1024))
        theirs.load_state_dict(HUGGINGFACE_IMAGE.inverse(state), strict=True)
        theirs.save_pretrained(where["transformers"])
    for engine in set(GRAPHS) & set(names):
        from benchmarks.graphs import written

        where[engine] = written(model.eval(), folder / "graphs")
    return {name: str(where[name]) for name in names}


def call(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """A worker's one answer."""
    environment = {**environment, "BENCHMARK_STARTED": repr(time.time())}
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"worker {arguments} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ratios(rows: list[dict[str, Any]], task: str, other: str, key: str) -> list[float]:
    return [row["ours"][key] / row[other][key] for row in rows if row["task"] == task and other in row]


def median(rows: list[dict[str, Any]], task: str, name: str, key: str) -> float | None:
    found = [row[name][key] for row in rows if row["task"] == task and name in row]
    return statistics.median(found) if found else None


def seconds(rows: list[dict[str, Any]], task: str, name: str) -> str:
    """The median of the rounds; their range behind it where the slowest took half as long again as the fastest."""
    found = [row[name]["wall"] for row in rows if row["task"] == task and name in row]
    if not found:
        return ""
    low, high = min(found), max(found)
    return f"{statistics.median(found):.3f} s" + (f" ({low:.3f} to {high:.3f})" if high > 1.5 * low else "")


def cell(value: float | None, form: str) -> str:
    """A number in a table; nothing where nothing was measured."""
    return "" if value is None else form.format(value)


def ratio(rows: list[dict[str, Any]], task: str, other: str, key: str) -> str:
    """The median of the ratios of rounds, as the table has it."""
    found = ratios(rows, task, other, key)
    return cell(statistics.median(found) if found else None, "{:.2f}")


def processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def table(result: dict[str, Any]) -> str:
    """The medians and ratios as markdown."""
    names, rows = result["names"], result["rows"]
    others = [name for name in names if name != "ours"]
    head = ["", *names, *(f"ours / {name}" for name in others), *(f"CPU time, ours / {name}" for name in others)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for task in (*STARTUP, *STEADY):
        if not any(row["task"] == task for row in rows):
            continue
        cells = [WORDS[task], *(seconds(rows, task, name) for name in names)]
        for key in ("wall", "cpu"):
            cells += [ratio(rows, task, other, key) for other in others]
        lines.append("| " + " | ".join(cells) + " |")
    for label, task, key in (("load_rss", "load", "peak_added"), ("peak_rss", "memory", "peak")):
        if not any(row["task"] == task for row in rows):
            continue
        cells = [WORDS[label], *(cell(median(rows, task, name, key), "{:.0f}") for name in names)]
        cells += [ratio(rows, task, other, key) for other in others] + [""] * len(others)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    machine, goals = result["machine"], result["goals"]
    calls = "; a prompt's round is the median of 3 to 5 calls" if "calls" in result else ""
    lines = [
        f"# Image benchmark, size {result['size']}, {result['threads']} thread(s)",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f". fp32 GEMM peak during the run: {result['gemm']['median']:.0f} GFLOP/s median, "
        f"{result['gemm']['low']:.0f} to {result['gemm']['high']:.0f}. Load average {machine['load']:.1f}.",
        "",
        f"Random weights, the same in all; image 1200 x 1800; medians of {result['rounds']} rounds, ratios within a "
        f"round{calls}. Below 1.00 ours is faster or smaller. transformers' image model leaves the memory parts out.",
        "",
        table(result),
        "",
        f"torch and torchvision themselves take {result['torch_import']:.2f} s to import. "
        f"Building large without weights (meta device): {goals['meta_large']:.3f} s. "
        f"Loading holds {goals['load_copies']:.2f} times the weights at its peak.",
        "",
        f"They agree: largest difference of predicted IoU {result['agreement']:.1e}.",
        "",
    ]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, others = result["rows"], [name for name in result["names"] if name != "ours"]
    tasks = [task for task in (*STARTUP, *STEADY) if any(row["task"] == task for row in rows)]
    figure, axis = plt.subplots(figsize=(9, 0.6 * len(tasks) + 1.5), layout="constrained")
    for offset, other in enumerate(others):
        for place, task in enumerate(tasks):
            found = ratios(rows, task, other, "wall")
            if not found:
                continue
            y = place + 0.18 * (2 * offset - len(others) + 1)
            axis.plot(found, [y] * len(found), ".", color=f"C{offset}", alpha=0.35)
            axis.plot(statistics.median(found), y, "D", color=f"C{offset}")
    axis.axvline(1.0, color="0.4", linewidth=1)
    axis.set_yticks(range(len(tasks)), [WORDS[task] for task in tasks])
    axis.set_xscale("log")
    ticks = [0.1, 0.2, 0.33, 0.5, 0.75, 1.0, 1.5, 2.0]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.invert_yaxis()
    axis.set_xlabel("time, relative (left of 1: ours is faster); dots are rounds, diamonds medians")
    axis.set_title(
        f"size {result['size']}, {result['threads']} thread(s), {result['machine']['processor']}", fontsize=9
    )
    marks = [plt.Line2D([], [], marker="D", linestyle="", color=f"C{offset}") for offset in range(len(others))]
    axis.legend(marks, [f"ours / {other}" for other in others], loc="lower left")
    figure.savefig(path, dpi=120)


def versions(names: list[str]) -> dict[str, str]:
    from importlib.metadata import version

    packages = ["torch", "torchvision", *(name for name in names if name != "ours")]
    return {package: version(package) for package in packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="t", choices=list(CONFIGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--startup-rounds", type=int, help="rounds of the start-up part; as --rounds when not given")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=[*NAMES, *GRAPHS])
    parser.add_argument("--tasks", nargs="+", default=[*STARTUP, *STEADY], choices=[*STARTUP, *STEADY])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--stem", help="of the files that are written; image_SIZE when not given")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--implementation", help=argparse.SUPPRESS)
    parser.add_argument("--files", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = json.loads(options.files)
    if options.worker == "serve":
        serve(options.implementation, options.size, files, options.threads)
        return
    if options.worker:
        found = startup(options.worker, options.implementation, options.size, files, options.threads)
        print(json.dumps(found))
        return

    names = options.names
    assert "ours" in names, "ratios are ours to others"
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error", "SAM2CORE_PLUGINS": ""}
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / (options.stem or f"image_{options.size.replace('+', '_plus')}")
    partial = stem.with_suffix(".partial.json")
    about = {"size": options.size, "threads": options.threads, "names": names, "versions": versions(names)}
    earlier = json.loads(partial.read_text()) if partial.exists() else {}
    rows: list[dict[str, Any]] = earlier["rows"] if earlier.get("about") == about else []

    def done(task: str, number: int) -> bool:
        return any(row["task"] == task and row["round"] == number for row in rows)

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        partial.write_text(json.dumps({"about": about, "rows": rows}))

    def say(text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        sys.path.insert(0, str(ROOT))
        say("writing the same weights for each")
        files = prepare(options.size, Path(temporary), names)
        common = ["--size", options.size, "--threads", str(options.threads), "--files", json.dumps(files)]

        def fresh(task: str, name: str, size: str | None = None) -> dict[str, Any]:
            extra = [] if size is None else ["--size", size]
            return call([*common, *extra, "--worker", task, "--implementation", name], environment)

        for task in STARTUP:
            if task not in options.tasks:
                continue
            for number in range(options.startup_rounds or options.rounds):
                if done(task, number):
                    continue
                say(f"{task}, round {number + 1}")
                keep(
                    {"task": task, "round": number, **{name: fresh(task, name) for name in names if takes(name, task)}}
                )
        meta = statistics.median(fresh("meta", "ours", "l")["wall"] for _ in range(3))
        imported = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch, torchvision"], env=environment, check=True)
            imported.append(time.perf_counter() - began)

        workers = {
            name: subprocess.Popen(
                [sys.executable, __file__, *common, "--worker", "serve", "--implementation", name],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in names
        }

        def ask(name: str, task: str) -> dict[str, Any]:
            worker = workers[name]
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(task + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"the worker of {name} died with {worker.poll()}")
            return json.loads(line)

        try:
            steady = [task for task in STEADY if task in options.tasks]
            if steady:
                say("warming up")
                for name in names:
                    for task in ("encode", "one_point"):
                        ask(name, task)
            for number in range(options.rounds if steady else 0):
                if not done("gemm", number):
                    keep({"task": "gemm", "round": number, "ours": ask(names[number % len(names)], "gemm")})
                for task in steady:
                    if done(task, number):
                        continue
                    say(f"{task}, round {number + 1}")
                    order = names[number % len(names) :] + names[: number % len(names)]
                    answers = {name: ask(name, task) for name in order}
                    keep({"task": task, "round": number, **answers})
            if steady and not done("memory", 0):
                keep({"task": "memory", "round": 0, **{name: ask(name, "memory") for name in names}})
        finally:
            for worker in workers.values():
                assert worker.stdin is not None
                worker.stdin.close()
                worker.wait()

    peaks = [row["ours"]["gflops"] for row in rows if row["task"] == "gemm"]
    differences = [
        abs(a - b)
        for row in rows
        if "iou" in row["ours"]
        for name in names
        if name in row
        for a, b in zip(row["ours"]["iou"], row[name]["iou"])
    ]
    loads = [row["ours"]["peak_added"] / row["ours"]["weights"] for row in rows if row["task"] == "load"]
    result = {
        "size": options.size,
        "names": names,
        "rounds": options.rounds,
        "calls": CALLS,
        "threads": options.threads,
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "versions": versions(names),
            "load": os.getloadavg()[0],
        },
        "gemm": {
            "median": statistics.median(peaks) if peaks else float("nan"),
            "low": min(peaks, default=float("nan")),
            "high": max(peaks, default=float("nan")),
        },
        "goals": {"meta_large": meta, "load_copies": statistics.median(loads) if loads else float("nan")},
        "torch_import": statistics.median(imported),
        "agreement": max(differences, default=float("nan")),
        "peak_of_parent": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "rows": rows,
    }
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1))
    stem.with_suffix(".md").write_text(report(result))
    plot(result, stem.with_suffix(".png"))
    partial.unlink(missing_ok=True)
    print(report(result))


if __name__ == "__main__":
    main()
