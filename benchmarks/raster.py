"""Memory while a raster of 20,000 x 20,000 pixels is segmented tile by tile.

    python benchmarks/raster.py                        # a TIFF of 1.2 GB of pixels, some minutes
    python benchmarks/raster.py --side 5000 --points 16

The raster is a mosaic of the two photos that come with the program, turned and mirrored, in a tiled TIFF; masks
are counted and dropped as they come. Beside the peak: the resident set after every tile, which must not grow with the
image. Results go to ``benchmarks/results/raster.{json,md,png}``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.image import processor_name  # noqa: E402
from benchmarks.memory import resident  # noqa: E402

BLOCK = 512
"""Side of a tile of the file."""


def blocks(side: int) -> Iterator[np.ndarray]:
    """The file's tiles (BLOCK, BLOCK, 3) in their order: pieces of the photos, turned and mirrored."""
    from PIL import Image

    from sam2core.media.images import read_rgb

    samples = ROOT / "registry" / "samples"
    pictures = [
        np.asarray(Image.fromarray(read_rgb(samples / name)).resize((BLOCK, BLOCK)))
        for name in ("coffee.jpg", "cat.jpg")
    ]
    generator = np.random.default_rng(0)
    for _ in range((-(-side // BLOCK)) ** 2):
        piece = np.rot90(pictures[generator.integers(2)], generator.integers(4))
        yield np.ascontiguousarray(piece[:, :: generator.choice([-1, 1])])


def write(path: Path, side: int) -> None:
    import tifffile

    shape = (side, side, 3)
    tifffile.imwrite(
        path, blocks(side), shape=shape, dtype=np.uint8, tile=(BLOCK, BLOCK), photometric="rgb", compression="zlib"
    )


def segment(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from sam2core import registry

    torch.set_num_threads(options.threads)
    generator = registry.predictor("sam2core_nano", "automask", points_per_side=options.points)
    generator.generate(np.zeros((64, 64, 3), dtype=np.uint8))  # every weight is touched
    built, memory, began = resident(), [], time.perf_counter()

    def progress(done: int, total: int) -> None:
        memory.append(resident())
        if done % 20 == 0 or done == total:
            print(f"tile {done}/{total}, {memory[-1] - built:.0f} MiB beyond the model", file=sys.stderr, flush=True)

    masks = [mask.area for mask in generator.tiles(path, tile=options.tile, progress=progress)]
    return {
        "processor": processor_name(),
        "threads": options.threads,
        "side": options.side,
        "tile": options.tile,
        "points": options.points,
        "file_mib": path.stat().st_size / 2**20,
        "seconds": time.perf_counter() - began,
        "masks": len(masks),
        "largest": max(masks),
        "built_mib": built,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "memory_mib": memory,
    }


def report(result: dict[str, Any]) -> str:
    memory = result["memory_mib"]
    pixels = 3 * result["side"] ** 2 / 2**20
    cells = [
        f"{result['seconds']:.0f}",
        f"{result['masks']:,}",
        f"{result['built_mib']:.0f}",
        f"{memory[len(memory) // 10]:.0f}",
        f"{memory[-1]:.0f}",
        f"{result['peak_mib']:.0f}",
        f"{result['peak_mib'] - result['built_mib']:.0f}",
    ]
    heads = [
        "seconds",
        "masks",
        "with the model, MiB",
        "after a tenth of the tiles",
        "at the end",
        "peak",
        "beyond the model",
    ]
    lines = [
        f"# A raster of {result['side']:,} x {result['side']:,} pixels",
        "",
        f"{result['processor']}, {result['threads']} threads; `sam2core_nano`, {result['points']}² clicks on each of "
        f"{len(memory)} tiles of {result['tile']} pixels; a TIFF of {result['file_mib']:.0f} MiB, {pixels:.0f} MiB of "
        "pixels (`benchmarks/raster.py`). Memory is the process's resident set.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        f"| {' | '.join(cells)} |",
        "",
        "![Resident memory by tile](raster.png)",
        "",
    ]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    pixels = 3 * result["side"] ** 2 / 2**20
    axes.plot(result["memory_mib"], linewidth=1, label="resident")
    axes.axhline(result["built_mib"], color="0.5", linewidth=1, label="with the model, before the first tile")
    axes.axhline(result["built_mib"] + pixels, color="0.5", linestyle="--", label="with the raster's pixels")
    axes.set(xlabel="tiles done", ylabel="MiB", ylim=(0, None))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--points", type=int, default=8, help="clicks along a side of the grid of a tile")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raster.tif"
        if (child := os.fork()) == 0:  # what writing takes is not counted
            write(path, options.side)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise SystemExit("the raster could not be written")
        result = segment(path, options)
    (options.out / "raster.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (options.out / "raster.md").write_text(report(result), encoding="utf-8")
    plot(result, options.out / "raster.png")
    print(report(result))


if __name__ == "__main__":
    main()
