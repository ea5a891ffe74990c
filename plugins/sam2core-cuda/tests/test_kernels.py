"""Both kernels against SciPy: random masks, awkward sizes, awkward shapes; and through the operators."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

pytest.importorskip("triton", reason="torch's builds for GPUs bring triton")

from sam2core_cuda import components
from sam2core_cuda.components import label_regions
from sam2core_cuda.distance import distances

EIGHT = np.ones((3, 3))
# none a multiple of the kernels' blocks, nor of 2
SIZES = [(1, 1), (1, 77), (53, 1), (2, 3), (7, 9), (15, 66), (33, 31), (41, 65), (29, 130), (64, 64)]
MANY_BLOCKS = (15, 66)  # the size at which labels cross the borders of programs in the interpreter too
PER_SIZE = 20


def random_masks(size: tuple[int, int]) -> torch.Tensor:
    """Noise of many densities, every other mask smoothed into blobs."""
    random = np.random.default_rng(size[0] * 1000 + size[1])
    masks = []
    for number in range(PER_SIZE):
        noise = random.random(size)
        if number % 2:
            noise = ndimage.gaussian_filter(noise, 1.5, mode="nearest")
        masks.append(noise < np.quantile(noise, random.uniform(0.1, 0.9)))
    return torch.from_numpy(np.stack(masks))


def spiral(size: int) -> np.ndarray:
    """One line, one pixel wide, that winds inwards without touching itself."""
    mask = np.zeros((size, size), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    for length in [size - 1, *(n for n in range(size - 1, 1, -2) for _ in range(2))]:
        for _ in range(length):
            if not (0 <= y + dy < size and 0 <= x + dx < size):
                break
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
    return mask


def checkerboard(size: int) -> np.ndarray:
    return np.indices((size, size)).sum(0) % 2 == 0


def comb(size: int) -> np.ndarray:
    """Teeth that meet in the last row alone: labels must travel the whole way back."""
    mask = np.zeros((size, size), dtype=bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


SHAPES: dict[str, Callable[[], np.ndarray]] = {
    "empty": lambda: np.zeros((37, 45), dtype=bool),
    "full": lambda: np.ones((37, 45), dtype=bool),
    "one pixel off": lambda: np.pad(np.zeros((1, 1), dtype=bool), ((30, 6), (2, 40)), constant_values=True),
    "a row": lambda: (np.arange(99) % 7 < 4)[None],
    "a column": lambda: (np.arange(99) % 7 < 4)[:, None],
    "checkerboard": lambda: checkerboard(35),
    "other checkerboard": lambda: ~checkerboard(34),
    "spiral": lambda: spiral(45),
    "between the spiral": lambda: ~spiral(45),
    "comb": lambda: comb(41),
    "diagonal": lambda: np.eye(43, dtype=bool),
    "other diagonal": lambda: np.eye(43, dtype=bool)[::-1].copy(),
}


def equal_regions(masks: torch.Tensor, labels: torch.Tensor, areas: torch.Tensor) -> None:
    """Labels and areas (N, H, W) are SciPy's, up to the names of the labels; no label serves two masks."""
    assert labels.dtype == areas.dtype == torch.int32
    used: set[int] = set()
    for mask, label, area in zip(masks.numpy(), labels.cpu().numpy(), areas.cpu().numpy(), strict=True):
        expected, count = ndimage.label(mask, structure=EIGHT)
        pairs = np.unique(np.stack([expected.ravel(), label.ravel()]), axis=1).T
        names = {int(ours) for theirs, ours in pairs if theirs}
        assert len(pairs) - int((~mask).any()) == count == len(names) and not names & (used | {0})
        assert not label[~mask].any()
        used |= names
        sizes = np.bincount(expected.ravel(), minlength=count + 1)
        sizes[0] = 0
        np.testing.assert_array_equal(area, sizes[expected])


def exact(mask: np.ndarray) -> np.ndarray:
    if mask.all():
        return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return ndimage.distance_transform_edt(mask)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_regions_of_random_masks(size, device, monkeypatch):
    if device == "cpu" and size != MANY_BLOCKS:  # the interpreter's time goes by programs, not by pixels
        monkeypatch.setattr(components, "BLOCK", 4096)
    masks = random_masks(size)
    equal_regions(masks, *label_regions(masks.to(device)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_distances_in_random_masks(size, device):
    masks = random_masks(size) if device == "cuda" else random_masks(size)[:5]
    expected = np.stack([exact(mask) for mask in masks.numpy()])
    found = distances(masks.to(device))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_awkward_shapes(shape, device):
    mask = torch.from_numpy(SHAPES[shape]())
    labels, areas = label_regions(mask.to(device))
    equal_regions(mask[None], labels[None], areas[None])
    np.testing.assert_allclose(distances(mask.to(device)).cpu().numpy(), exact(mask.numpy()), rtol=1e-6)


def test_the_spiral_is_one_line():
    assert ndimage.label(spiral(45), structure=EIGHT)[1] == 1 and spiral(45).sum() > 900


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6), (2, 3, 5, 6), (0, 5, 6), (2, 0, 6), (3, 5, 0)])
def test_any_leading_dimensions(shape, device):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device) < 0.5
    labels, areas = label_regions(mask)
    found = distances(mask)
    assert labels.shape == areas.shape == found.shape == shape
    if mask.numel():
        parts = [label_regions(one)[1] for one in mask.reshape(-1, *shape[-2:])]
        assert torch.equal(areas.reshape(-1, *shape[-2:]), torch.stack(parts))


def test_views_and_other_types_are_read(device):
    mask = random_masks((33, 31))[:3].to(device)
    turned = mask.transpose(1, 2)
    equal_regions(turned.cpu(), *label_regions(turned))
    assert torch.equal(label_regions(mask.int())[1], label_regions(mask)[1])
    assert torch.equal(distances(turned), distances(turned.contiguous()))


def test_what_is_too_large_is_refused(device):
    with pytest.raises(ValueError, match="16384 a side"):
        distances(torch.ones(1, 16385, dtype=torch.bool, device=device))


OPERATORS = """
import torch
from sam2core.ops import distance, regions
torch.manual_seed(0)
logits = torch.nn.functional.avg_pool2d(torch.randn(3, 2, 41, 50), 3, 1).to(DEVICE)
def answers():
    return [
        regions.connected_components(logits > 0)[1], regions.holes(logits, 8), regions.islands(logits, 8),
        regions.largest(logits > 0), distance.distance_transform(logits > 0),
    ]
before = [x.cpu() for x in answers()]
if DEVICE == "cuda":
    import sam2core_cuda
    sam2core_cuda.register_kernels()
else:
    from sam2core_cuda.components import label_regions
    from sam2core_cuda.distance import distances
    calls = []
    regions.connected_components.register_kernel("cpu")(lambda mask: (calls.append(1), label_regions(mask))[1])
    distance.distance_transform.register_kernel("cpu")(lambda mask: (calls.append(1), distances(mask))[1])
after = [x.cpu() for x in answers()]
assert DEVICE == "cuda" or len(calls) == 5, calls
for one, other in zip(before, after):
    torch.testing.assert_close(one, other)
    assert one.dtype == other.dtype
"""


def test_through_the_operators_results_are_those_of_the_portable_kernels(device):
    """In another process: a kernel stays once it is attached."""
    places = [str(Path(__file__).parents[1]), *(place for place in sys.path if place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    script = f"DEVICE = {device!r}\n{OPERATORS}"
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_without_a_gpu_nothing_is_attached_and_nothing_fails(device):
    if device == "cuda":
        pytest.skip("there is a GPU")
    from sam2core import registry
    from sam2core.ops.distance import distance_transform
    from sam2core.ops.regions import connected_components
    from sam2core.testing import isolated

    with isolated("sam2core_cuda"):
        registry.current().ask_once("register_kernels")
        records = {record.name: record.status for record in registry.plugins()}
    assert records == {"sam2core": "ok", "nano": "ok", "sam2core_cuda": "ok"}  # two come with the core
    assert not any(("cuda", None) in operator._kernels for operator in (connected_components, distance_transform))
