"""Small layers and functions that several parts share, and what training clicks on, under Meta's names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from sam2.untouched import written
from sam2.utils.misc import mask_to_box
from sam2core.memory.policy import RecentFrames
from sam2core.ops import layers
from sam2core.ops.position import sine_time

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}


def select_closest_cond_frames(
    frame_idx: int, cond_frame_outputs: Mapping[int, Any], max_cond_frame_num: int
) -> tuple[dict[int, Any], dict[int, Any]]:
    """The prompted frames to attend to (all for -1; at least 2 otherwise), and the rest."""
    if max_cond_frame_num == -1 or len(cond_frame_outputs) <= max_cond_frame_num:
        return dict(cond_frame_outputs), {}
    if max_cond_frame_num < 2:
        raise ValueError(f"at least 2 prompted frames are attended to, or all (-1), not {max_cond_frame_num}")
    selected = RecentFrames(prompted=max_cond_frame_num)._nearest(dict(cond_frame_outputs), frame_idx)
    return selected, {at: out for at, out in cond_frame_outputs.items() if at not in selected}


def get_1d_sine_pe(pos_inds: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """The code (N, dim) of points in time (N,)."""
    return sine_time(pos_inds, dim, temperature)


def get_activation_fn(activation: str) -> Callable[..., Tensor]:
    """An activation by its name."""
    if activation not in _ACTIVATIONS:
        raise RuntimeError(f"an activation is one of {', '.join(_ACTIVATIONS)}, not {activation!r}")
    return _ACTIVATIONS[activation]


def get_clones(module: nn.Module, N: int) -> nn.ModuleList:
    """N copies of a module, each with weights of its own that are equal at first."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(N))


class DropPath(nn.Module):
    """Drops the branch of whole samples while training, with probability `drop_prob`."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        keep = 1 - self.drop_prob
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (kept.div_(keep) if self.scale_by_keep and keep > 0 else kept)


class MLP(nn.Module):
    """`num_layers` linear layers with an activation between them, and a sigmoid at the end if asked for."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        activation: type[nn.Module] = nn.ReLU,
        sigmoid_output: bool = False,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.sigmoid_output = sigmoid_output
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if place < self.num_layers:
                x = self.act(x)
        return x.sigmoid() if self.sigmoid_output else x


class LayerNorm2d(layers.LayerNorm2d):
    """Layer norm over the channels of a (B, C, H, W) map."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps)


# clicks and boxes for training


def sample_box_points(
    masks: Tensor,
    noise: float = 0.1,
    noise_bound: int = 20,
    top_left_label: int = 2,
    bottom_right_label: int = 3,
) -> tuple[Tensor, Tensor]:
    """The corners (B, 2, 2) of the boxes of boolean masks (B, 1, H, W), moved at random, and their labels (B, 2).

    A corner moves by up to `noise` of the box's side, and by `noise_bound` pixels at most; it stays in the image.
    """
    device = masks.device
    count, _, height, width = masks.shape
    corners = mask_to_box(masks)
    labels = torch.tensor([top_left_label, bottom_right_label], dtype=torch.int, device=device).repeat(count)
    if noise > 0.0:
        sides = corners[..., 2:] - corners[..., :2]
        reach = torch.minimum(sides * noise, torch.as_tensor(noise_bound, device=device))
        shift = 2 * torch.rand(count, 1, 4, device=device) - 1
        last = torch.tensor([width, height, width, height], device=device) - 1
        corners = (corners + shift * reach.repeat(1, 1, 2)).clamp(torch.zeros_like(last), last)
    return corners.reshape(-1, 2, 2), labels.reshape(-1, 2)


def sample_random_points_from_errors(
    gt_masks: Tensor, pred_masks: Tensor | None, num_pt: int = 1
) -> tuple[Tensor, Tensor]:
    """`num_pt` places (B, num_pt, 2), x and y, where masks (B, 1, H, W) are wrong, and what they should be: 1 or 0.

    Where a mask is right everywhere, places of the background.
    """
    assert gt_masks.dtype == torch.bool and gt_masks.shape[1] == 1, "masks are boolean, (B, 1, H, W)"
    pred_masks = torch.zeros_like(gt_masks) if pred_masks is None else pred_masks
    assert pred_masks.dtype == torch.bool and pred_masks.shape == gt_masks.shape, "both masks are alike"
    batch, _, height, width = gt_masks.shape
    right = (gt_masks == pred_masks).flatten(2).all(dim=2)[..., None, None]
    # One draw for both kinds of errors: which is largest decides place and label together.
    draw = torch.rand(batch, num_pt, height, width, 2, device=gt_masks.device)
    draw[..., 0] *= (pred_masks & ~gt_masks) | (right & ~gt_masks)
    draw[..., 1] *= gt_masks & ~pred_masks
    best = draw.flatten(2).argmax(dim=2)
    cell = torch.div(best, 2, rounding_mode="floor")
    y = torch.div(cell, width, rounding_mode="floor")
    return torch.stack([cell % width, y], dim=2).float(), (best % 2).to(torch.int32)


def sample_one_point_from_error_center(
    gt_masks: Tensor, pred_masks: Tensor | None, padding: bool = True
) -> tuple[Tensor, Tensor]:
    """The place (B, 1, 2) that is farthest inside what is wrong of masks (B, 1, H, W), and its label (B, 1).

    With `padding` the image's border bounds a region as its edge does.
    """
    assert gt_masks.dtype == torch.bool and gt_masks.shape[1] == 1, "masks are boolean, (B, 1, H, W)"
    pred_masks = torch.zeros_like(gt_masks) if pred_masks is None else pred_masks
    assert pred_masks.dtype == torch.bool and pred_masks.shape == gt_masks.shape, "both masks are alike"
    places, labels = [], []
    for truth, found in zip(gt_masks[:, 0].cpu().numpy(), pred_masks[:, 0].cpu().numpy(), strict=True):
        missed, wrong = _depth(truth & ~found, padding), _depth(~truth & found, padding)
        positive = missed.max() > wrong.max()
        deepest = missed if positive else wrong
        y, x = np.unravel_index(deepest.argmax(), deepest.shape)
        places.append([[float(x), float(y)]])
        labels.append([int(positive)])
    device = gt_masks.device
    return torch.tensor(places, device=device), torch.tensor(labels, dtype=torch.int32, device=device)


def _depth(region: np.ndarray, padding: bool) -> np.ndarray:
    """How far each pixel of a region is from its outside."""
    if padding:
        return np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]
    return np.asarray(ndimage.distance_transform_edt(region))


def get_next_point(gt_masks: Tensor, pred_masks: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
    """One click on what is wrong: at a random place (``"uniform"``), or deep inside (``"center"``)."""
    if method == "uniform":
        return sample_random_points_from_errors(gt_masks, pred_masks)
    if method == "center":
        return sample_one_point_from_error_center(gt_masks, pred_masks)
    raise ValueError(f"a click is sampled 'uniform' or 'center', not {method!r}")


written(globals())
