"""Pixels in, masks out: the only place that knows mean, std, resampling and the user's coordinates."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.media.images import ImageLike, read_values, scaled
from sam2core.ops.cuda.uploads import upload
from sam2core.ops.pixels import normalise
from sam2core.predictors.crops import Crop
from sam2core.types import Label


def to_model(values: Tensor, size: tuple[int, int]) -> Tensor:
    """RGB values (3, H, W) in [0, 1] to normalised pixels (1, 3, *size), bilinear with antialiasing.

    The aspect ratio is not kept.
    Same result as torchvision's ``Resize`` and ``Normalize`` in Meta's ``SAM2Transforms``.
    """
    pixels = values.unsqueeze(0)
    if pixels.shape[-2:] != torch.Size(size):
        pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
    return normalise(pixels)


def pixels_of(image: ImageLike, device: torch.device) -> Tensor:
    """Any image as RGB values (3, H, W), fp32 in [0, 1], on a device; bytes travel as bytes."""
    return scaled(upload(read_values(image), device))


def _floats(value: Any) -> Tensor:
    """Numbers of any kind, strides and byte order as fp32."""
    if isinstance(value, Tensor):
        return value.detach().float()
    return torch.from_numpy(np.array(value, dtype=np.float32, order="C"))


def _numbers(value: Any, name: str) -> Tensor:
    try:
        numbers = _floats(value).cpu()
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers of one regular shape, not {value!r}") from None
    if not torch.isfinite(numbers).all():
        raise ValueError(f"{name} has values that are not finite: {numbers.tolist()}")
    return numbers


def check_given(points: Any, labels: Any, box: Any, mask: Any) -> None:
    """Raise ValueError for a prompt that says nothing, or has labels and no points."""
    if labels is not None and points is None:
        raise ValueError("labels were given without points")
    if points is None and box is None and mask is None:
        raise ValueError("a prompt needs points, a box or a mask")


def read_points(points: Any, labels: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Points (B, N, 2) and labels (B, N) of a user, checked against the image's (H, W), in its pixels, on the CPU.

    `points` may be (N, 2) for one object. `labels` default to 1 (on the object); 0 is off the object, -1 fills up a
    row and is ignored. Raises ValueError for other shapes and labels and for points outside the image.
    """
    xy = _numbers(points, "points")
    if xy.ndim == 2:
        xy = xy.unsqueeze(0)
    if xy.ndim != 3 or xy.shape[2] != 2 or xy.shape[1] == 0:
        raise ValueError(
            f"points are (N, 2) for one object or (B, N, 2) for several, as x, y pixels; not {tuple(np.shape(points))}"
        )
    if labels is None:
        marks = torch.ones(xy.shape[:2], dtype=torch.int32)
    else:
        given = _numbers(labels, "labels")
        marks = given.to(torch.int32)
        if not torch.equal(marks.float(), given) or not ((marks >= -1) & (marks <= 1)).all():
            raise ValueError(f"labels are 1 (on the object), 0 (off it) or -1 (no point); got {given.tolist()}")
        if marks.ndim == 1:
            marks = marks.unsqueeze(0)
        if marks.shape != xy.shape[:2]:
            raise ValueError(
                f"there must be one label per point: points are {tuple(xy.shape[:2])}, labels {tuple(marks.shape)}"
            )
    height, width = size
    _check_points(xy[marks >= 0], (0, 0, width, height), f"the image of {width}x{height} pixels")
    return xy, torch.where(marks < 0, int(Label.IGNORED), marks)


def read_boxes(box: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes of a user as two corner points (B, 2, 2) with their labels (B, 2), in the image's pixels, on the CPU.

    `box` is (4,) or (B, 4): x0, y0, x1, y1; B may be 0. It may reach over the edge of the image, but raises ValueError
    when it lies wholly outside or its corners are not in order.
    """
    corners = _numbers(box, "box")
    if corners.ndim == 1:
        corners = corners.unsqueeze(0) if corners.numel() else corners.reshape(0, 4)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"a box is (4,) or (B, 4): x0, y0, x1, y1; not {tuple(np.shape(box))}")
    height, width = size
    for x0, y0, x1, y1 in corners.tolist():
        if x1 <= x0 or y1 <= y0:
            raise ValueError(f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty: it needs x0 < x1 and y0 < y1")
    _check_boxes(corners, (0, 0, width, height), f"the image of {width}x{height} pixels")
    labels = torch.tensor([[int(Label.TOP_LEFT), int(Label.BOTTOM_RIGHT)]], dtype=torch.int32)
    return corners.view(-1, 2, 2), labels.expand(corners.shape[0], -1)


def read_crop(crop: Any, size: tuple[int, int]) -> Crop:
    """A user's x0, y0, x1, y1 as the whole pixels that it touches of an image of (H, W).

    It may reach over the image's edge. Raises ValueError when no pixel is left, and for anything but four numbers.
    """
    corners = _numbers(crop, "crop")
    if corners.shape != (4,):
        raise ValueError(f"a crop is x0, y0, x1, y1; not {crop!r}")
    height, width = size
    x0, y0 = (max(0, math.floor(value)) for value in corners[:2].tolist())
    x1, y1 = (min(side, math.ceil(value)) for value, side in zip(corners[2:].tolist(), (width, height)))
    if x1 <= x0 or y1 <= y0:
        told = ", ".join(f"{value:g}" for value in corners.tolist())
        raise ValueError(
            f"crop ({told}) holds no pixel of {width}x{height}: it is x0, y0, x1, y1 with x0 < x1 and y0 < y1, "
            "some of it in the image"
        )
    return x0, y0, x1, y1


def into_crop(xy: Tensor, marks: Tensor, crop: Crop) -> Tensor:
    """Points (N, 2) of an image, with their labels (N,), in pixels of its crop.

    Raises ValueError for a click outside the crop and for a box that does not touch it.
    """
    where = f"the crop {crop}, which is all that is looked at"
    clicks = (marks == Label.POSITIVE) | (marks == Label.NEGATIVE)
    _check_points(xy[clicks], crop, where)
    _check_boxes(xy[~clicks].view(-1, 4), crop, where)
    return xy - xy.new_tensor(crop[:2])


def _check_points(points: Tensor, area: Crop, where: str) -> None:
    """Raise ValueError for one of the points (N, 2) outside an area; its edges belong to it."""
    low, high = points.new_tensor(area).view(2, 2)
    outside = ((points < low) | (points > high)).any(dim=1)
    if outside.any():
        x, y = points[outside][0].tolist()
        raise ValueError(f"point ({x:g}, {y:g}) lies outside {where}")


def _check_boxes(boxes: Tensor, area: Crop, where: str) -> None:
    """Raise ValueError for one of the boxes (N, 4) that no part of an area lies in."""
    left, top, right, bottom = area
    for x0, y0, x1, y1 in boxes.tolist():
        if x1 <= left or y1 <= top or x0 >= right or y0 >= bottom:
            raise ValueError(f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside {where}")


def drawn_mask(mask: Any, size: tuple[int, int]) -> Tensor:
    """A mask that a user drew on an image of (H, W): boolean, on the CPU.

    `mask` holds booleans, or integers of which 0 is off the object. Raises ValueError for anything else, floating
    values among them, which may be logits or probabilities, and for another size.
    """
    values = mask.detach().cpu() if isinstance(mask, Tensor) else np.asarray(mask)
    kind = str(values.dtype).removeprefix("torch.")
    if not re.fullmatch(r"bool|u?int\d+", kind):
        raise ValueError(
            f"a mask that was drawn is (H, W) of booleans, or of integers of which 0 is off the object, not {kind}; "
            "logits of an earlier answer are a mask_input, probabilities want a threshold"
        )
    shape = tuple(values.shape)
    if shape != tuple(size):
        hint = "; its axes are the wrong way round" if shape == tuple(size)[::-1] else ""
        raise ValueError(
            f"a mask (H, W) is as large as the image, {tuple(size)}, not {shape}{hint}; "
            "logits of an earlier answer are a mask_input"
        )
    return torch.as_tensor(values != 0)


def crop_mask(drawn: Tensor, crop: Crop) -> Tensor:
    """The crop of a mask (H, W). Raises ValueError when it has pixels and none of them in the crop."""
    x0, y0, x1, y1 = crop
    inside = drawn[y0:y1, x0:x1]
    if drawn.any() and not inside.any():
        raise ValueError(f"the mask lies outside the crop {crop}, which is all that is looked at")
    return inside


def read_mask_input(mask: Any, size: tuple[int, int]) -> Tensor:
    """An earlier answer's logits as a mask input (B, 1, h, w), fp32; `size` is the (h, w) that the model wants.

    `mask` may be (h, w), (B, h, w) or (B, 1, h, w). Raises ValueError for other sizes.
    """
    logits = _floats(mask)
    if logits.ndim == 2:
        logits = logits.unsqueeze(0)
    if logits.ndim == 4 and logits.shape[1] == 1:
        logits = logits.squeeze(1)
    if logits.ndim != 3 or tuple(logits.shape[-2:]) != tuple(size):
        raise ValueError(
            f"a mask input is the low-resolution logits of an earlier answer, {tuple(size)} or "
            f"(B, {size[0]}, {size[1]}); not {tuple(np.shape(mask))}"
        )
    if not torch.isfinite(logits).all():
        raise ValueError("the mask input has values that are not finite (NaN or infinity)")
    return logits.unsqueeze(1)


def read_mask(drawn: Tensor, size: tuple[int, int]) -> Tensor:
    """A boolean mask (H, W) as zeros and ones (H, W) at model size, fp32.

    Resized with antialiasing and cut at one half (Meta's ``add_new_mask``).
    """
    values = drawn.float()
    if values.shape == torch.Size(size):
        return values
    resized = F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False, antialias=True)
    return (resized[0, 0] >= 0.5).float()


def to_model_points(points: Tensor, size: tuple[int, int], model_size: tuple[int, int]) -> Tensor:
    """Points (..., 2) in pixels of an image of (H, W) to model pixels."""
    scale = points.new_tensor([model_size[1] / size[1], model_size[0] / size[0]])
    return points * scale
