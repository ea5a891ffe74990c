"""How fast are the kernels on this GPU, beside the portable ones (to the host and back) and beside cc_torch?

    python plugins/sam2core-cuda/benchmarks/regions_and_distances.py [--sizes 256,1024] [--batch 1,16] [--rounds 30]

Prints a row for each size and batch: median milliseconds of every way, measured in turn, after a check that results
agree. `cc_torch` is measured when it is installed; it takes (N, 1, H, W) masks with even sides.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from sam2core.ops.distance import distance_transform
from sam2core.ops.regions import connected_components


def masks(batch: int, size: int) -> torch.Tensor:
    """Blobs with specks and holes, as thresholded logits have them."""
    torch.manual_seed(0)
    coarse = torch.randn(batch, 1, size // 16, size // 16, device="cuda")
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return (smooth + 0.3 * torch.randn_like(smooth) > 0)[:, 0]


def milliseconds(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    for way in ways.values():
        for _ in range(3):
            way()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            way()
            torch.cuda.synchronize()
            spent[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="256,1024")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is here: there is nothing to measure")
    from sam2core_cuda.components import label_regions
    from sam2core_cuda.distance import distances

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; median of {given.rounds} rounds, ms")
    for size in map(int, given.sizes.split(",")):
        for batch in map(int, given.batch.split(",")):
            mask = masks(batch, size)
            # The operators are not attached here: theirs are the portable kernels, with both copies.
            torch.testing.assert_close(label_regions(mask)[1], connected_components(mask)[1])
            torch.testing.assert_close(distances(mask), distance_transform(mask))
            ways: dict[str, Callable[[], Any]] = {
                "regions": lambda mask=mask: label_regions(mask),
                "regions, portable": lambda mask=mask: connected_components(mask),
                "copy to the host": lambda mask=mask: mask.cpu(),
                "distances": lambda mask=mask: distances(mask),
                "distances, portable": lambda mask=mask: distance_transform(mask),
            }
            if importlib.util.find_spec("cc_torch") is not None:
                from cc_torch import connected_components_labeling

                ways["cc_torch, labels alone"] = lambda mask=mask: [
                    connected_components_labeling(one.to(torch.uint8)) for one in mask
                ]
            row = milliseconds(ways, given.rounds)
            print(f"{batch:3} x {size}^2  " + "  ".join(f"{name} {ms:.3f}" for name, ms in row.items()))


if __name__ == "__main__":
    main()
