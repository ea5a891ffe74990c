"""Point grids, crops, run lengths and boxes, under Meta's names."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.ops import masks as mask_ops
from sam2core.ops import regions
from sam2core.ops import rle as _rle
from sam2core.predictors.crops import crops, point_grid

Column = list | np.ndarray | Tensor


class MaskData:
    """Lists, arrays and tensors of one length, one row per mask; filtered and joined together."""

    def __init__(self, **kwargs) -> None:
        self._stats: dict[str, Any] = {}
        for key, column in kwargs.items():
            self[key] = column

    def __setitem__(self, key: str, item: Column) -> None:
        assert isinstance(item, list | np.ndarray | Tensor), (
            f"MaskData holds lists, arrays and tensors, not {type(item).__name__}"
        )
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        return self._stats.items()

    def filter(self, keep: Tensor) -> None:
        """Only the rows that `keep` marks (bool) or names (numbers), in that order."""
        index = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        for key, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[key] = column[index.to(column.device)]
            elif isinstance(column, np.ndarray):
                self._stats[key] = column[index.cpu().numpy()]
            elif isinstance(column, list):
                self._stats[key] = [column[row] for row in index.tolist()]

    def cat(self, new_stats: MaskData) -> None:
        """Append the rows of another."""
        for key, column in new_stats.items():
            here = self._stats.get(key)
            if here is None:
                self._stats[key] = deepcopy(column)
            elif isinstance(column, Tensor):
                self._stats[key] = torch.cat([here, column])
            elif isinstance(column, np.ndarray):
                self._stats[key] = np.concatenate([here, column])
            else:
                self._stats[key] = here + deepcopy(column)

    def to_numpy(self) -> None:
        """Tensors as arrays."""
        for key, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[key] = column.float().detach().cpu().numpy()


def is_box_near_crop_edge(boxes: Tensor, crop_box: list[int], orig_box: list[int], atol: float = 20.0) -> Tensor:
    """Which boxes (N, 4), in pixels of a crop, end near the crop's edge where that is not the image's."""
    placed = uncrop_boxes_xyxy(boxes, crop_box).float()

    def near(edges: list[int]) -> Tensor:
        return (placed - placed.new_tensor(edges)).abs() <= atol

    return (near(crop_box) & ~near(orig_box)).any(dim=1)


def box_xyxy_to_xywh(box_xyxy: Tensor) -> Tensor:
    """A box (4,) of corners as corner, width and height."""
    box = deepcopy(box_xyxy)
    box[2:4] = box[2:4] - box[0:2]
    return box


def batch_iterator(batch_size: int, *args) -> Iterator[list[Any]]:
    """The arguments, which have one length, in parts of `batch_size`."""
    assert args and all(len(part) == len(args[0]) for part in args), "what is batched together must have one length"
    for start in range(0, len(args[0]), batch_size):
        yield [part[start : start + batch_size] for part in args]


def mask_to_rle_pytorch(tensor: Tensor) -> list[dict[str, Any]]:
    """Masks (B, H, W) as COCO's uncompressed run lengths."""
    height, width = tensor.shape[-2:]
    return [{"size": [height, width], "counts": _rle.runs(mask).tolist()} for mask in tensor.detach().cpu().numpy()]


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """The mask (H, W) of uncompressed run lengths."""
    height, width = rle["size"]
    return _rle.fill(np.asarray(rle["counts"]), (height, width))


def area_from_rle(rle: dict[str, Any]) -> int:
    """The pixels inside."""
    return sum(rle["counts"][1::2])


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """The area of logits (..., H, W) above the threshold plus the offset, over that above the threshold minus it.

    NaN where both are empty.
    """
    inner = (masks > mask_threshold + threshold_offset).flatten(-2).sum(-1)
    outer = (masks > mask_threshold - threshold_offset).flatten(-2).sum(-1)
    return inner / outer


def build_point_grid(n_per_side: int) -> np.ndarray:
    """An even grid (n * n, 2) of x, y in [0, 1]."""
    return point_grid(n_per_side)


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: int) -> list[np.ndarray]:
    """A grid per layer of crops, the sparser the deeper."""
    return [point_grid(int(n_per_side / scale_per_layer**layer)) for layer in range(n_layers + 1)]


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """The crops of an image of (H, W), as corners, and the layer of each."""
    plan = crops((im_size[0], im_size[1]), n_layers, overlap_ratio)
    return [list(crop) for crop, _ in plan], [layer for _, layer in plan]


def _moved(places: Tensor, offset: list[int]) -> Tensor:
    return places + torch.tensor(offset, device=places.device)


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: list[int]) -> Tensor:
    """Boxes (..., 4) of a crop in the image's pixels."""
    x0, y0, _, _ = crop_box
    return _moved(boxes, [x0, y0, x0, y0])


def uncrop_points(points: Tensor, crop_box: list[int]) -> Tensor:
    """Points (..., 2) of a crop in the image's pixels."""
    return _moved(points, list(crop_box[:2]))


def uncrop_masks(masks: Tensor, crop_box: list[int], orig_h: int, orig_w: int) -> Tensor:
    """Masks (..., h, w) of a crop in an image of (H, W)."""
    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1), value=0)


def remove_small_regions(mask: np.ndarray, area_thresh: float, mode: str) -> tuple[np.ndarray, bool]:
    """A mask (H, W) without the holes or islands below so many pixels, and whether it changed; OpenCV is not needed.

    When every island is small the largest stays.
    """
    assert mode in ("holes", "islands"), f"mode is 'holes' or 'islands', not {mode!r}"
    inside = torch.from_numpy(np.ascontiguousarray(mask, dtype=bool))
    looked_at = ~inside if mode == "holes" else inside
    labels, areas = regions.connected_components(looked_at)
    small = (labels > 0) & (areas < area_thresh)
    if not small.any():
        return mask, False
    if mode == "holes":
        return (inside | small).numpy(), True
    kept = inside & ~small
    return (kept if kept.any() else regions.largest(inside)).numpy(), True


def coco_encode_rle(uncompressed_rle: dict[str, Any]) -> dict[str, Any]:
    """Uncompressed run lengths as COCO's text; pycocotools is not needed."""
    counts = np.asarray(uncompressed_rle["counts"])
    return {"size": list(uncompressed_rle["size"]), "counts": _rle.compress(counts)}


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """The boxes (..., 4) of boolean masks (..., H, W), the last corner inclusive; zeros for an empty mask."""
    if masks.numel() == 0:
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    return mask_ops.boxes(masks)
