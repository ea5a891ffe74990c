"""The image encoder, side by side with `sam2` and with our own graphs on OpenVINO and ONNX Runtime.

    python benchmarks/encoder.py --sizes t l --rounds 7
    python benchmarks/encoder.py --sizes t --names "ours bfloat16" "ours bfloat16 compiled" "sam2 bfloat16"
    python benchmarks/encoder.py --sizes t --names "ours float32" "openvino float32" --graphs /tmp/graphs

All have the same random weights and see the same pixels, 1024 x 1024: fp32 and bfloat16, eager and compiled, for each
size of the model. Ours is made ready for the CPU, as `registry.build` does. `sam2` runs bfloat16 under autocast, ours
with weights in it, OpenVINO by its precision hint. In a round each takes a turn, each round begun by another; ratios
are taken within rounds, medians over them. Beside the times: the share of the fastest 2048 x 2048 product of the type
that the encoder's arithmetic reaches, and how far the masks of 36 clicks (three candidates each) that follow from each
encoder agree with those of ours in fp32, decoded by the same fp32 heads. Sizes and contenders that are measured replace
those in ``benchmarks/results/STEM.{json,md}``, written after every round; others stay; a machine of another kind gets a
stem of its own. Graphs that `--graphs` holds already are not written again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks import graphs  # noqa: E402
from benchmarks.image import processor_name, timed, versions  # noqa: E402
from benchmarks.video import told  # noqa: E402
from sam2core.cli.bench import counter, peak  # noqa: E402
from sam2core.model import Sam2  # noqa: E402
from sam2core.prepare import prepare  # noqa: E402
from sam2core.types import ImageFeatures, Prompt  # noqa: E402
from tests.parity import oracle  # noqa: E402

SIDE = 1024
USUAL = ("ours float32", "sam2 float32", "ours bfloat16", "sam2 bfloat16", "ours bfloat16 compiled")
CONTENDERS = (*USUAL, "ours float32 compiled", "openvino float32", "openvino bfloat16", "onnxruntime float32")
GOALS = (
    ("ours float32", "sam2 float32"),
    ("ours float32", "openvino float32"),
    ("ours float32 compiled", "openvino float32"),
    ("ours float32", "onnxruntime float32"),
    ("ours bfloat16", "openvino bfloat16"),
    ("ours bfloat16", "sam2 bfloat16"),
    ("ours bfloat16 compiled", "sam2 bfloat16"),
    ("ours bfloat16", "sam2 float32"),
)

Encode = Callable[[], ImageFeatures]


def contenders(size: str, names: list[str], pixels: torch.Tensor, folder: Path) -> tuple[Sam2, dict[str, Encode]]:
    """Our fp32 model, and what each contender does to the pixels; graphs are written below `folder`."""
    from sam2core.checkpoints.facebook import FACEBOOK

    shape = oracle.SHAPES[size].at(image=SIDE)
    torch.manual_seed(0)
    exact = prepare(oracle.ours(shape), "cpu")
    state = exact.state_dict()
    theirs = None
    found: dict[str, Encode] = {}
    for name in names:
        package, dtype, *compiled = name.split()
        if package == "ours":
            model = exact
            if dtype != "float32" or compiled:
                model = prepare(oracle.ours(shape), "cpu")
                model.load_state_dict(state)
            if dtype != "float32":
                model.to_mixed_precision(getattr(torch, dtype))
            if compiled:
                model.backbone.compile()
                model.neck.compile()
            found[name] = lambda model=model: model.encode(pixels)
        elif package in graphs.ENGINES:
            made = graphs.load(graphs.written(oracle.ours(shape, state), folder / size), package, dtype)
            found[name] = lambda made=made: made.encode(pixels)
        else:
            if theirs is None:
                theirs = oracle.upstream(shape, video=True)
                theirs.load_state_dict(FACEBOOK.inverse(state))
            found[name] = lambda theirs=theirs, half=dtype != "float32": upstream(theirs, exact, pixels, half)
    return exact, found


def upstream(theirs: Any, exact: Sam2, pixels: torch.Tensor, half: bool) -> ImageFeatures:
    """Meta's features in our terms."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        finest, finer, embedding = theirs.forward_image(pixels)["backbone_fpn"]
    position = torch.zeros_like(embedding[:1])
    return ImageFeatures(embedding.float(), position, (finest.float(), finer.float()))


@torch.no_grad()
def masks(model: Sam2, features: ImageFeatures) -> torch.Tensor:
    """Three masks for each of 36 clicks, decoded in fp32."""
    high_res_features = tuple(level.float() for level in features.high_res_features)
    features = ImageFeatures(features.embedding.float(), features.position.float(), high_res_features)
    ticks = (torch.arange(6) + 0.5) * SIDE / 6
    points = torch.cartesian_prod(ticks, ticks).view(-1, 1, 2)
    prompt = Prompt(points, torch.ones(36, 1, dtype=torch.long))
    return model.segment(features, model.condition(features, None), prompt, multimask_output=True).logits > 0


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    """The mean IoU of masks, over those that either shows at all."""
    both, either = ((which).flatten(0, 1).flatten(1).sum(1) for which in (one & other, one | other))
    return float((both / either)[either > 0].mean())


@torch.no_grad()
def measure(size: str, names: list[str], rounds: int, folder: Path, save: Callable[[dict[str, Any]], None]) -> None:
    """Seconds of each contender, given to `save` after every round."""
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    exact, found = contenders(size, names, pixels, folder)
    with counter() as counted:
        encoded = exact.encode(pixels)
    expected = masks(exact, encoded)
    row: dict[str, Any] = {name: {"seconds": [], "cpu": []} for name in names}
    row["gflop"] = counted.get_total_flops() / 1e9
    row["peak"] = {dtype: [] for dtype in dict.fromkeys(name.split()[1] for name in names)}
    row["date"] = time.strftime("%Y-%m-%d")
    for name, encode in found.items():
        row[name]["first"] = timed(encode)[0]["wall"]
        row[name]["iou"] = agreement(masks(exact, encode()), expected)
        told(f"{size}: {name} is warm, {row[name]['first']:.1f} s")
    for number in range(rounds):
        for dtype, values in row["peak"].items():
            values.append(peak(torch.device("cpu"), getattr(torch, dtype)))
        for name in names[number % len(names) :] + names[: number % len(names)]:
            spent, _ = timed(found[name])
            row[name]["seconds"].append(spent["wall"])
            row[name]["cpu"].append(spent["cpu"])
        save(row)


def share(row: dict[str, Any], name: str) -> str:
    """The part of the products' peak that the encoder's arithmetic reached; rows of before counted none."""
    if "gflop" not in row:
        return "-"
    pairs = zip(row[name]["seconds"], row["peak"][name.split()[1]])
    return f"{100 * statistics.median(row['gflop'] / spent / best for spent, best in pairs):.0f} %"


def report(result: dict[str, Any]) -> str:
    lines = [
        f"# Image encoder, {SIDE} px, {result['threads']} thread(s)",
        "",
        f"{result['processor']}, torch {result['torch']}, {result.get('peers', 'sam2 1.1.0')}; random weights; "
        "`benchmarks/encoder.py`.",
        "",
        "| size | | seconds (median) | share of the peak | mask IoU with ours float32 | rounds | GFLOP/s of products |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, row in result["sizes"].items():
        best = ", ".join(f"{dtype} {statistics.median(values):.0f}" for dtype, values in row["peak"].items())
        for name in (name for name in CONTENDERS if name in row):
            seconds = statistics.median(row[name]["seconds"])
            lines.append(
                f"| {size} | {name} | {seconds:.3f} | {share(row, name)} | {row[name]['iou']:.4f} "
                f"| {len(row[name]['seconds'])} | {best} |"
            )
    lines += ["", "| size | ours | beside | times as fast, wall | CPU time |", "|---|---|---|---|---|"]
    for size, row in result["sizes"].items():
        for mine, other in GOALS:
            if mine in row and other in row:
                wall, cpu = (
                    statistics.median(b / a for a, b in zip(row[mine][kind], row[other][kind]))
                    for kind in ("seconds", "cpu")
                )
                lines.append(f"| {size} | {mine} | {other} | {wall:.2f} | {cpu:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["t"], choices=["t", "s", "b+", "l"])
    parser.add_argument("--names", nargs="+", default=list(USUAL), choices=CONTENDERS)
    parser.add_argument(
        "--graphs", type=Path, help="folder that keeps the exported graphs; a temporary one if not given"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--stem", default="encoder", help="of the files that are written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out / f"{options.stem}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"sizes": {}}
    result |= {"threads": options.threads, "processor": processor_name(), "torch": torch.__version__}
    peers = versions(list(dict.fromkeys(name.split()[0] for name in options.names)))
    result["peers"] = ", ".join(f"{name} {number}" for name, number in peers.items() if not name.startswith("torch"))
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:

            def save(row: dict[str, Any], size: str = size) -> None:
                result["sizes"][size] = row
                path.write_text(json.dumps(result, indent=1) + "\n")
                path.with_suffix(".md").write_text(report(result))

            measure(size, options.names, options.rounds, options.graphs or Path(temporary), save)
    print(report(result))


if __name__ == "__main__":
    main()
