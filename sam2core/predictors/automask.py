"""MaskGenerator: every mask of an image from a grid of clicks; filtered, without duplicates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from sam2core.heads.select import candidates
from sam2core.media.images import ImageLike, at_hand, read_values
from sam2core.media.rasters import open_raster
from sam2core.model import Sam2
from sam2core.older import takes_our_words
from sam2core.ops import masks as mask_ops
from sam2core.ops import regions, rle
from sam2core.ops.cuda.uploads import upload
from sam2core.predictors.automask_record import FORMS as FORMS
from sam2core.predictors.automask_record import AutoMask as AutoMask
from sam2core.predictors.automask_record import AutoMasks as AutoMasks
from sam2core.predictors.crops import Crop, crops, point_grids, read_grids
from sam2core.predictors.image import ImagePredictor
from sam2core.predictors.object_masks import named
from sam2core.predictors.postprocess import Cleaning, Clicks
from sam2core.predictors.tiles import stream_tiles
from sam2core.predictors.transforms import to_model_points
from sam2core.types import MASK_INPUT_LIMIT, Batch, ImageFeatures, Label, Prompt

CHUNK_BYTES = 512 * 2**20  # of full-size logits looked at together on a device with memory of its own
CPU_POINTS = 32

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class _Found(Batch):
    """K masks of one crop that passed the filters: low-resolution logits on the device, the rest on the host."""

    logits: Tensor  # (K, h, w)
    iou: Tensor  # (K,)
    points: Tensor  # (K, 2) in pixels of the crop
    boxes: Tensor  # (K, 4) in pixels of the crop


class MaskGenerator:
    """Finds every mask in an image: a grid of clicks, each answered with several masks; bad ones and duplicates go.

    Points: `points_per_side` for an even grid, or `point_grids`, one per layer, as shares of the image (x, y).
    `points_per_batch` is how many the model is asked at once; "auto" goes by the memory that is free and the cache.
    Filters: `iou_threshold` on the model's own estimate, which must be above it; `stability_threshold` on how little
    the mask depends on its cut at `mask_threshold`, moved by `stability_offset` both ways, measured at the image's
    size, which must reach it; 0 turns either off. `nms_threshold` is the box IoU above which the mask of lower estimate
    is a duplicate.
    Crops: `crop_layers` further layers of 2 x 2, 4 x 4, ... crops, overlapping by `crop_overlap` of the shorter side,
    with `crop_points_downscale` times sparser grids; `crop_nms_threshold` between crops, where small crops win.
    `multimask_output` asks for three masks a click instead of one; `refine` gives every mask back to the model as a
    mask input and takes the answer. `cleaning` holds steps of `Cleaning` (Meta's ``min_mask_region_area`` sets
    `fill_holes` and `drop_islands`); `min_region_area` cleans smaller regions at the image's size and looks for
    duplicates again (SAM 1's meaning of that name).
    Source: Meta's ``SAM2AutomaticMaskGenerator``, with its defaults; same masks in the same order.
    """

    @takes_our_words
    def __init__(
        self,
        model: Sam2,
        *,
        points_per_side: int | None = 32,
        point_grids: Sequence[Any] | None = None,
        points_per_batch: int | str = "auto",
        iou_threshold: float = 0.8,
        stability_threshold: float = 0.95,
        stability_offset: float = 1.0,
        mask_threshold: float = 0.0,
        nms_threshold: float = 0.7,
        crop_layers: int = 0,
        crop_nms_threshold: float = 0.7,
        crop_overlap: float = 512 / 1500,
        crop_points_downscale: int = 1,
        multimask_output: bool = True,
        refine: bool = False,
        cleaning: Mapping[str, Any] | None = None,
        min_region_area: int = 0,
    ) -> None:
        if points_per_batch != "auto" and (not isinstance(points_per_batch, int) or points_per_batch < 1):
            raise ValueError(f'points_per_batch is a number from 1 on, or "auto", not {points_per_batch!r}')
        if crop_layers < 0 or crop_points_downscale < 1:
            raise ValueError(
                f"crop_layers is 0 or more and crop_points_downscale 1 or more, not {crop_layers} and "
                f"{crop_points_downscale}"
            )
        if not 0 <= crop_overlap < 1:
            raise ValueError(f"crop_overlap is a share of the shorter side from 0 to below 1, not {crop_overlap}")
        if min_region_area < 0:
            raise ValueError(f"min_region_area is an area in pixels, 0 or more, not {min_region_area}")
        if (points_per_side is None) == (point_grids is None):
            raise ValueError("give points_per_side, or point_grids with points_per_side=None; one of them")
        if point_grids is not None:
            self.grids = read_grids(point_grids, crop_layers)
        elif points_per_side is not None:
            if points_per_side < 1:
                raise ValueError(f"points_per_side is 1 or more, not {points_per_side}")
            self.grids = _even_grids(points_per_side, crop_layers, crop_points_downscale)
        self.model = model.eval()
        self.points_per_batch = points_per_batch
        self.iou_threshold = iou_threshold
        self.stability_threshold = stability_threshold
        self.stability_offset = stability_offset
        self.mask_threshold = mask_threshold
        self.nms_threshold = nms_threshold
        self.crop_layers = crop_layers
        self.crop_nms_threshold = crop_nms_threshold
        self.crop_overlap = crop_overlap
        self.multimask_output = multimask_output
        self.refine = refine
        self.min_region_area = min_region_area
        self.cleaning = Cleaning(threshold=mask_threshold).edited(cleaning)
        self._images = ImagePredictor(model)

    @overload
    def generate(self, images: list[Any] | tuple[Any, ...], *, progress: Progress | None = None) -> list[AutoMasks]: ...
    @overload
    def generate(self, images: ImageLike, *, progress: Progress | None = None) -> AutoMasks: ...

    @takes_our_words
    def generate(self, images: Any, *, progress: Progress | None = None) -> Any:
        """The masks of an image, best estimate first; for a list of images of any sizes, a list of such lists.

        An image is what `ImagePredictor.encode` takes. `progress(done, total)` is called with the number of clicks
        answered, of all images. Raises ValueError for what is no image.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images, progress=progress))
        return next(self.stream([images], progress=progress))

    def __call__(self, images: Any, **options: Any) -> Any:
        """`generate`."""
        return self.generate(images, **options)

    def __repr__(self) -> str:
        return f"<MaskGenerator of {named(self.model)}, {sum(map(len, self.grids))} clicks>"

    @takes_our_words
    def stream(self, images: Iterable[Any], *, progress: Progress | None = None) -> Iterator[AutoMasks]:
        """The masks of one image after the other, as they are done; images are read when their turn comes."""
        pictures = len(images) if isinstance(images, Sequence) else 1
        done = 0
        for image in images:
            picture = at_hand(image)
            values = read_values(picture)
            size = (values.shape[1], values.shape[2])
            plan = crops(size, self.crop_layers, self.crop_overlap)
            clicks = sum(len(self.grids[layer]) for _, layer in plan)

            def report(count: int, before: int = done, total: int = clicks * pictures) -> None:
                if progress is not None:
                    progress(before + count, max(total, before + clicks))  # noqa: B023

            found = self._picture(values, plan, report)
            yield AutoMasks([replace(one, picture=picture) for one in found], size, picture)
            done += clicks

    @takes_our_words
    def tiles(
        self, source: Any, *, tile: int = 1024, overlap: int | None = None, progress: Progress | None = None
    ) -> Iterator[AutoMask]:
        """The masks of an image of any size, tile by tile and as they are done: `stream_tiles` over `open_raster`.

        Options, crops too, apply to each tile; memory does not depend on the image's size. `progress` counts tiles.
        """
        return stream_tiles(self.generate, open_raster(source), tile=tile, overlap=overlap, progress=progress)

    @torch.inference_mode()
    def _picture(
        self, values: Tensor, plan: Sequence[tuple[Crop, int]], report: Callable[[int], None]
    ) -> list[AutoMask]:
        size = (values.shape[1], values.shape[2])
        found: list[AutoMask] = []
        done = 0
        for crop, layer in plan:
            x0, y0, x1, y1 = crop
            handle = self._images.encode(values[:, y0:y1, x0:x1])
            points = (self.grids[layer] * np.array([x1 - x0, y1 - y0])).astype(np.float32)
            parts = []
            for start, stop in self._batches(handle.features, len(points), (y1 - y0, x1 - x0)):
                part = self._batch(handle.features, points[start:stop], handle.size)
                cut = mask_ops.near_cut(part.boxes.numpy() + np.array([x0, y0, x0, y0]), crop, size)
                parts.append(part.rows(torch.from_numpy(np.flatnonzero(~cut))))
                report(done + stop)
            done += len(points)
            together = _Found.join(parts)
            kept = mask_ops.nms(together.boxes.numpy(), together.iou.numpy(), self.nms_threshold)
            found += self._drawn(together.rows(torch.from_numpy(kept)), crop, size)
        if len(plan) > 1:
            boxes, areas = _boxes(found), [1 / ((m.crop[2] - m.crop[0]) * (m.crop[3] - m.crop[1])) for m in found]
            found = [found[index] for index in mask_ops.nms(boxes, np.array(areas), self.crop_nms_threshold)]
        return self._cleaned(found) if self.min_region_area else found

    def _batches(self, features: ImageFeatures, count: int, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        step = self.points_per_batch
        if step == "auto":
            step = CPU_POINTS
            if features.embedding.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(features.embedding.device)
                token_map = features.embedding[0].numel() * features.embedding.element_size()
                step = int(min(1024, max(8, free // 4 // (40 * token_map))))
        assert isinstance(step, int)
        for start in range(0, count, step):
            yield start, min(start + step, count)

    def _batch(self, features: ImageFeatures, points: np.ndarray, size: tuple[int, int]) -> _Found:
        """The masks of some clicks on one crop that pass the filters; points (P, 2) and size in the crop's pixels."""
        device = features.embedding.device
        xy = upload(to_model_points(torch.from_numpy(points).unsqueeze(1), size, self.model.image_size), device)
        marks = torch.full(xy.shape[:2], int(Label.POSITIVE), dtype=torch.int32, device=device)
        prompt = Prompt(xy, marks)
        if self.multimask_output:  # scores are known before masks: those that a filter would drop are not drawn
            drawn = self.model.decode_filtered(features, features.embedding, prompt, self._keep)
            row, logits, iou = drawn.row, drawn.logits.float(), drawn.iou.float()
            mask_ops.refuse_nan(logits)
        else:
            logits, iou = self._single(features, prompt)
            row = torch.arange(len(points), device=device)
        if self.refine:
            mask_input = logits.unsqueeze(1).clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
            logits, iou = self._single(features, Prompt(xy[row], marks[row], mask_input=mask_input))
        if self.iou_threshold > 0 and (self.refine or not self.multimask_output):  # otherwise `_keep` was asked
            chosen = torch.nonzero(iou > self.iou_threshold).flatten()
            row, logits, iou = row[chosen], logits[chosen], iou[chosen]
        clicks = Clicks(xy[row], marks[row], self.model.image_size)
        logits = self.cleaning(logits.unsqueeze(1), clicks).squeeze(1)
        stability, boxes = self._measure(logits, size)
        told = torch.column_stack([row.float(), iou, stability, boxes.float()]).cpu()
        found = _Found(logits, told[:, 1], torch.from_numpy(points)[told[:, 0].long()], told[:, 3:].long())
        if self.stability_threshold > 0:
            found = found.rows(torch.nonzero(told[:, 2] >= self.stability_threshold).flatten())
        return found

    def _keep(self, iou: Tensor) -> Tensor:
        """Which of the scores (B, 4) belong to masks that can still be found: not the single mask's, nor bad ones."""
        mask_ops.refuse_nan(iou)  # which is above no threshold, and would pass for an image without objects
        wanted = (torch.arange(iou.shape[1], device=iou.device) > 0).expand(iou.shape)
        if self.iou_threshold > 0 and not self.refine:
            wanted = wanted & (iou.float() > self.iou_threshold)
        return wanted

    def _single(self, features: ImageFeatures, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The single masks (B, h, w) of prompts and their scores (B,), fp32."""
        output = self.model.decode(features, features.embedding, prompt)
        logits, iou, _ = candidates(output, multimask_output=False, stability=self.model.mask_decoder.stability)
        mask_ops.refuse_nan(iou, logits)
        return logits[:, 0].float(), iou[:, 0].float()

    def _measure(self, logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The stability (K,) and boxes (K, 4) of logits (K, h, w) seen at `size`, a few at a time."""
        stability = [logits.new_zeros(0)]
        boxes = [logits.new_zeros(0, 4, dtype=torch.long)]
        for full, (x0, y0) in self._resized(logits, size):
            stability.append(self._stability(full))
            inside = full > self.mask_threshold
            box = mask_ops.boxes(inside)
            if x0 or y0:
                box = box + torch.tensor([x0, y0, x0, y0]) * inside.flatten(1).any(dim=1, keepdim=True)
            boxes.append(box)
        return torch.cat(stability), torch.cat(boxes)

    def _resized(self, logits: Tensor, size: tuple[int, int]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Logits (K, h, w) at `size`: parts (K', H', W') with the place x, y of their first pixel, in order.

        Outside of a part there is nothing above the lower threshold. On a CPU a part is one mask and its surroundings;
        elsewhere as many whole masks as fit the memory meant for them.
        """
        if logits.device.type == "cpu":
            near = self._windows(logits, size)
            for mask, window in zip(logits, near):
                x0, y0, x1, y1 = window
                if 2 * (x1 - x0) * (y1 - y0) > size[0] * size[1]:
                    yield mask_ops.resize(mask[None, None], size)[0], (0, 0)
                else:
                    yield mask_ops.resize_window(mask, size, window).unsqueeze(0), (x0, y0)
            return
        step = max(1, CHUNK_BYTES // (4 * size[0] * size[1]))
        for start in range(0, len(logits), step):
            yield mask_ops.resize(logits[start : start + step].unsqueeze(1), size).squeeze(1), (0, 0)

    def _windows(self, logits: Tensor, size: tuple[int, int]) -> list[Crop]:
        """For each of the logits (K, h, w), where at `size` it can be above the lower threshold."""
        height, width = logits.shape[-2:]
        down, along = size[0] / height, size[1] / width
        found = mask_ops.boxes(logits > self.mask_threshold - self.stability_offset).tolist()
        return [
            (
                max(0, math.floor((x0 - 1) * along)),
                max(0, math.floor((y0 - 1) * down)),
                min(size[1], math.ceil((x1 + 2) * along) + 1),
                min(size[0], math.ceil((y1 + 2) * down) + 1),
            )
            for x0, y0, x1, y1 in found
        ]

    def _stability(self, full: Tensor) -> Tensor:
        inner = torch.count_nonzero(full > self.mask_threshold + self.stability_offset, dim=(1, 2))
        outer = torch.count_nonzero(full > self.mask_threshold - self.stability_offset, dim=(1, 2))
        return inner / outer

    def _drawn(self, found: _Found, crop: Crop, size: tuple[int, int]) -> list[AutoMask]:
        """What was found in a crop, as masks of the whole image."""
        x0, y0, x1, y1 = crop
        drawn = []
        row = 0
        for full, (at_x, at_y) in self._resized(found.logits, (y1 - y0, x1 - x0)):
            stability = self._stability(full).tolist()
            inside = (full > self.mask_threshold).cpu().numpy()
            for mask, stable in zip(inside, stability):
                left, top, right, bottom = (int(side) for side in found.boxes[row])
                part = mask[max(0, top - at_y) : bottom + 1 - at_y, max(0, left - at_x) : right + 1 - at_x]
                drawn.append(
                    AutoMask(
                        size=size,
                        runs=rle.runs_within(part, (x0 + left, y0 + top), size),
                        box=(x0 + left, y0 + top, x0 + right, y0 + bottom),
                        iou=float(found.iou[row]),
                        stability=stable,
                        point=(float(found.points[row, 0] + x0), float(found.points[row, 1] + y0)),
                        crop=crop,
                    )
                )
                row += 1
        return drawn

    def _cleaned(self, found: list[AutoMask]) -> list[AutoMask]:
        """The masks without small regions, and without those that have become duplicates of untouched ones."""
        results, untouched = [], []
        for mask in found:
            before = torch.from_numpy(mask.mask)
            after = regions.without_small(before, self.min_region_area)
            untouched.append(torch.equal(before, after))
            if not untouched[-1]:
                x0, y0, x1, y1 = mask_ops.boxes(after).tolist()
                mask = replace(mask, runs=rle.runs(after.numpy()), box=(x0, y0, x1, y1))
            results.append(mask)
        threshold = max(self.nms_threshold, self.crop_nms_threshold)
        kept = mask_ops.nms(_boxes(results), np.array(untouched, np.float32), threshold)
        return [results[index] for index in kept]


_even_grids = point_grids


def _boxes(found: Sequence[AutoMask]) -> np.ndarray:
    return np.array([mask.box for mask in found], dtype=np.float32).reshape(-1, 4)
