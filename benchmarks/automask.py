"""Automatic masks on a CPU, side by side with `sam2` and `transformers`: time, stages, peak memory, same masks.

    python benchmarks/automask.py --points 12 --rounds 2

Every implementation runs in a process of its own, in turn, with the same random weights of SAM 2.1 tiny, image and
grid. Random weights give masks of noise, so each runs its real encoder and decoder, and what the decoder answered is
then replaced, in all alike, by seeded discs around the click with seeded scores: a realistic share passes each filter,
and all must find the same. `--nano` compares on a photo with the embedded model instead, in fp32 and bf16:
its memory parts are left out, which images do not need.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("ours", "ours bf16", "sam2", "sam2 bf16", "transformers")
SIZE = (1200, 1800)
THRESHOLDS = {"iou": 0.8, "stability": 0.9, "nms": 0.7}

STAGES: dict[str, float] = {}


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    STAGES[name] = STAGES.get(name, 0.0) + time.perf_counter() - began


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        with stage(name):
            return function(*arguments, **keywords)

    return call


class Discs:
    """Seeded answers: for click n and mask m a disc around the click, with a score."""

    def __init__(self, side: int, masks: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        count = side * side
        line = (torch.arange(side) + 0.5) * (256 / side)
        self.centres = torch.stack([line.repeat(side), line.repeat_interleave(side)], dim=1)
        self.radii = 6 + 30 * torch.rand(count, masks, generator=generator) ** 3
        self.slopes = torch.where(torch.rand(count, masks, generator=generator) < 0.7, 8.0, 1.0)
        self.scores = 0.5 + 0.49 * torch.rand(count, masks, generator=generator)

    def masks(self, click: Any, mask: Any) -> Any:
        """Logits (K, 256, 256)."""
        import torch

        with stage("discs"):
            grid = torch.arange(256) + 0.5
            x, y = (self.centres[click][:, axis].view(-1, 1, 1) for axis in (0, 1))
            away = ((grid.view(1, 1, -1) - x) ** 2 + (grid.view(1, -1, 1) - y) ** 2).sqrt()
            return (self.radii[click, mask].view(-1, 1, 1) - away) * self.slopes[click, mask].view(-1, 1, 1)


def picture() -> Any:
    import numpy as np

    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (SIZE[0] // 40, SIZE[1] // 40, 3), dtype=np.uint8)
    return coarse.repeat(40, axis=0).repeat(40, axis=1)


def ours(weights: Path, side: int, half: bool) -> Callable[[Any], list[Any]]:
    import torch

    from sam2core import registry
    from sam2core.types import FilteredMasks

    generator = registry.predictor(
        "sam2.1_hiera_t",
        "automask",
        weights=weights,
        dtype="bfloat16" if half else "float32",
        points_per_side=side,
        iou_threshold=THRESHOLDS["iou"],
        stability_threshold=THRESHOLDS["stability"],
    )
    discs, decoder = Discs(side, 4), generator.model.mask_decoder
    clicks = [0]
    head, decode = decoder.iou_head.forward, decoder.decode_filtered

    def scores(tokens: Any) -> Any:
        head(tokens)
        first = clicks[0]
        clicks[0] += len(tokens)
        return torch.logit(discs.scores[first : clicks[0]])

    def decode_filtered(*arguments: Any, **keywords: Any) -> Any:
        first = clicks[0]
        found = decode(*arguments, **keywords)
        drawn = discs.masks(found.row + first, found.mask)
        return FilteredMasks(row=found.row, mask=found.mask, logits=drawn, iou=found.iou)

    generator._images.encode(picture())
    decoder.iou_head.forward = scores
    decoder.decode_filtered = timed("decoder", decode_filtered)
    generator._images.encode = timed("encoder", generator._images.encode)
    generator._measure = timed("stability, boxes", generator._measure)
    generator._drawn = timed("masks, RLE", generator._drawn)

    def run(image: Any) -> list[Any]:
        clicks[0] = 0
        return [mask.record("binary_mask") for mask in generator.generate(image)]

    return run


def sam2(weights: Path, side: int, half: bool) -> Callable[[Any], list[Any]]:
    import sam2.automatic_mask_generator as module
    import torch
    from sam2.build_sam import build_sam2

    model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", ckpt_path=str(weights), device="cpu")
    generator = module.SAM2AutomaticMaskGenerator(
        model,
        points_per_side=side,
        pred_iou_thresh=THRESHOLDS["iou"],
        stability_score_thresh=THRESHOLDS["stability"],
    )
    discs, decoder = Discs(side, 4), model.sam_mask_decoder
    clicks = [0]
    forward = decoder.forward

    def answer(*arguments: Any, **keywords: Any) -> Any:
        masks, iou, *rest = forward(*arguments, **keywords)
        row = torch.arange(clicks[0], clicks[0] + len(iou)).repeat_interleave(3)
        kind = torch.tensor([1, 2, 3]).repeat(len(iou))
        clicks[0] += len(iou)
        scores = discs.scores[row, kind].sigmoid().logit().view(-1, 3)
        return discs.masks(row, kind).view(masks.shape), scores, *rest

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        generator.predictor.set_image(picture())
    decoder.forward = timed("decoder", answer)
    generator.predictor.set_image = timed("encoder", generator.predictor.set_image)
    transforms = generator.predictor._transforms
    transforms.postprocess_masks = timed("full-size logits", transforms.postprocess_masks)
    module.calculate_stability_score = timed("stability, boxes", module.calculate_stability_score)
    module.batched_mask_to_box = timed("stability, boxes", module.batched_mask_to_box)
    module.mask_to_rle_pytorch = timed("masks, RLE", module.mask_to_rle_pytorch)
    module.rle_to_mask = timed("masks, RLE", module.rle_to_mask)
    module.MaskData.filter = timed("copies", module.MaskData.filter)
    module.MaskData.cat = timed("copies", module.MaskData.cat)

    def run(image: Any) -> list[Any]:
        clicks[0] = 0
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return generator.generate(image)

    return run


def transformers(weights: Path, side: int, half: bool) -> Callable[[Any], list[Any]]:
    import torch
    from PIL import Image
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, pipeline

    model = Sam2Model(Sam2Config()).eval()
    finder = pipeline("mask-generation", model=model, image_processor=Sam2ImageProcessor(), device="cpu")
    discs, clicks = Discs(side, 4), [0]
    forward = model.mask_decoder.forward
    with torch.inference_mode():
        model.get_image_embeddings(torch.zeros(1, 3, 1024, 1024))

    def answer(*arguments: Any, **keywords: Any) -> Any:
        masks, iou, *rest = forward(*arguments, **keywords)
        count = iou.shape[1]
        row = torch.arange(clicks[0], clicks[0] + count).repeat_interleave(iou.shape[2])
        kind = torch.arange(4 - iou.shape[2], 4).repeat(count)
        clicks[0] += count
        return discs.masks(row, kind).view(masks.shape), discs.scores[row, kind].view(iou.shape), *rest

    model.mask_decoder.forward = timed("decoder", answer)
    model.get_image_embeddings = timed("encoder", model.get_image_embeddings)

    def run(image: Any) -> list[Any]:
        clicks[0] = 0
        found = finder(
            Image.fromarray(image),
            points_per_batch=64,
            points_per_crop=side,
            pred_iou_thresh=THRESHOLDS["iou"],
            stability_score_thresh=THRESHOLDS["stability"],
            crops_nms_thresh=THRESHOLDS["nms"],
        )
        return [{"segmentation": mask} for mask in found["masks"]]

    return run


def work(name: str, weights: Path, side: int, threads: int) -> dict[str, Any]:
    """One run in this process: seconds, by stage, peak memory, and the masks as areas and boxes to compare."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    kind, _, half = name.partition(" ")
    run = {"ours": ours, "sam2": sam2, "transformers": transformers}[kind](weights, side, bool(half))
    image = picture()
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    STAGES.clear()
    began, cpu = time.perf_counter(), time.process_time()
    found = run(image)
    seconds = time.perf_counter() - began
    areas = sorted(int(np.asarray(record["segmentation"]).sum()) for record in found)
    discs = STAGES.pop("discs")
    if "decoder" in STAGES:
        STAGES["decoder"] -= discs
    return {
        "name": name,
        "seconds": seconds - discs,
        "cpu": time.process_time() - cpu - discs,
        "masks": len(found),
        "areas": areas,
        "stages": dict(STAGES),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loaded_mb": loaded / 1024,
    }


def prepare(folder: Path) -> Path:
    """Random weights of tiny, in Meta's layout; object score and norms as they are made."""
    import torch

    from sam2core import registry
    from sam2core.checkpoints.facebook import FACEBOOK

    torch.manual_seed(0)
    model = registry.build("sam2.1_hiera_t", weights=False)
    path = folder / "tiny.pt"
    torch.save({"model": FACEBOOK.inverse(model.state_dict())}, path)
    return path


def nano() -> dict[str, Any]:
    """The embedded model on photos: what bf16 changes of fp32's masks."""
    import numpy as np
    import torch

    from sam2core import registry
    from sam2core.media.images import read_rgb
    from sam2core.predictors.image import ImagePredictor

    found: dict[str, Any] = {}
    options = {"points_per_side": 24}
    for sample in ("coffee", "cat"):
        image = read_rgb(ROOT / "registry" / "samples" / f"{sample}.jpg")
        expected: list[Any] = []
        drawn: Any = None
        height, width = image.shape[:2]
        clicks = [[[(x + 0.5) * width / 12, (y + 0.5) * height / 12]] for y in range(12) for x in range(12)]
        row: dict[str, Any] = {}
        kinds = {"ours": torch.float32, "ours bf16": torch.bfloat16, "ours fp16": torch.float16}
        for name, dtype in {**kinds, "ours fp32, all of it under bf16 autocast": torch.float32}.items():
            generator = registry.predictor("sam2core_nano", "automask", dtype=dtype, **options)
            with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in name):
                generator.generate(image[:64, :64])
                began = time.perf_counter()
                masks = [mask.mask for mask in generator.generate(image)]
                seconds = time.perf_counter() - began
                answers = ImagePredictor(generator.model).encode(image)
                logits = answers.predict(
                    points=clicks, labels=[[1]] * len(clicks), multimask_output=True
                ).logits.float()
            shown = logits > generator.mask_threshold
            drawn = shown if drawn is None else drawn
            both, either = ((which).flatten(2).sum(2) for which in (shown & drawn, shown | drawn))
            expected = expected or masks
            best = np.array([max((a & b).sum() / (a | b).sum() for b in masks) for a in expected])
            row[name] = {"seconds": seconds, "masks": len(masks), "miou": float(best.mean())}
            row[name] |= {"pairs": int((best > 0.7).sum()), "pairs_miou": float(best[best > 0.7].mean())}
            row[name]["candidates_miou"] = float((both / either)[either > 0].mean())
        found[sample] = row
    return found


def report(result: dict[str, Any]) -> str:
    lines = [
        f"# Automatic masks: SAM 2.1 tiny, {result['points']}² clicks, {SIZE[1]}x{SIZE[0]}",
        "",
        f"{result['processor']}, {result['threads']} threads; medians of {result['rounds']} rounds; warm encoder; "
        "masks are seeded discs (see benchmarks/automask.py).",
        "",
        "| | seconds | ms a click | slower than ours | masks | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    mine = result["summary"]["ours"]["seconds"]
    for name, row in result["summary"].items():
        each = 1000 * row["seconds"] / result["points"] ** 2
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {each:.1f} | {row['seconds'] / mine:.2f} | {row['masks']} "
            f"| {row['peak_mb']:.0f} |"
        )
    lines += ["", "Seconds by stage (the rest is loops, filters and suppression):", ""]
    for name, row in result["summary"].items():
        told = ", ".join(
            f"{key} {value:.2f}" for key, value in sorted(row["stages"].items(), key=lambda item: -item[1])
        )
        lines.append(f"* {name}: {told}")
    if "nano" in result:
        lines += [
            "",
            "The embedded model (24² clicks) on photos. A mask whose score lies at a threshold may be kept in one "
            "type and dropped in the other; pairs are masks that overlap by more than 0.7. Before choosing: "
            "the three candidates of each of 12² clicks.",
            "",
        ]
        lines += ["| image | | seconds | masks | mean IoU with fp32's | pairs | their mean IoU | before choosing |"]
        lines += ["|---" * 8 + "|"]
        for sample, row in result["nano"].items():
            for name, one in row.items():
                cells = f"{one['seconds']:.2f} | {one['masks']} | {one['miou']:.4f}"
                cells += f" | {one['pairs']} | {one['pairs_miou']:.4f} | {one['candidates_miou']:.4f}"
                lines.append(f"| {sample} | {name} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--nano", action="store_true", help="compare on photos as well")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--stem", default="automask_t", help="of the files that are written")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from benchmarks.image import processor_name

    if options.worker:
        found = (
            nano()
            if options.worker == "nano"
            else work(options.worker, options.weights, options.points, options.threads)
        )
        print(json.dumps(found))
        return
    path = options.out / f"{options.stem}.json"
    partial = options.out / f"{options.stem}.partial.json"
    rows = json.loads(partial.read_text()) if partial.exists() else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
    environment |= {"PYTHONPATH": str(ROOT), "SAM2CORE_PLUGINS": "", "HF_HUB_OFFLINE": "1"}

    def call(name: str, weights: Path) -> Any:
        words = [sys.executable, __file__, "--worker", name, "--weights", str(weights)]
        words += ["--points", str(options.points), "--threads", str(options.threads)]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    with tempfile.TemporaryDirectory() as folder:
        weights = prepare(Path(folder))
        for number in range(options.rounds):
            for name in options.names:
                if any(row["name"] == name and row["round"] == number for row in rows):
                    continue
                rows.append({**call(name, weights), "round": number})
                told = {key: value for key, value in rows[-1].items() if key != "areas"}
                print(json.dumps(told), file=sys.stderr, flush=True)
                partial.write_text(json.dumps(rows))
    result: dict[str, Any] = {
        "points": options.points,
        "threads": options.threads,
        "rounds": options.rounds,
        "processor": processor_name(),
        "rows": rows,
        "summary": {
            name: {
                "seconds": statistics.median(row["seconds"] for row in mine),
                "masks": mine[0]["masks"],
                "peak_mb": max(row["peak_mb"] for row in mine),
                "stages": mine[0]["stages"],
            }
            for name in options.names
            if (mine := [row for row in rows if row["name"] == name])
        },
        "same_masks": {name: next(r["areas"] for r in rows if r["name"] == name) == rows[0]["areas"] for name in NAMES
                       if any(r["name"] == name for r in rows)},
    }  # fmt: skip
    if options.nano:
        result["nano"] = call("nano", weights)
    path.write_text(json.dumps(result, indent=1))
    path.with_suffix(".md").write_text(report(result))
    partial.unlink(missing_ok=True)
    print(report(result))


if __name__ == "__main__":
    main()
