"""``SAM2AutomaticMaskGenerator``: every mask of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.untouched import overridden, written
from sam2.utils.amg import (
    MaskData,
    area_from_rle,
    batch_iterator,
    batched_mask_to_box,
    box_xyxy_to_xywh,
    build_all_layer_point_grids,
    calculate_stability_score,
    coco_encode_rle,
    generate_crop_boxes,
    is_box_near_crop_edge,
    mask_to_rle_pytorch,
    remove_small_regions,
    rle_to_mask,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)
from sam2.utils.transforms import SAM2Transforms
from sam2core.ops import masks as mask_ops
from sam2core.predictors.automask import FORMS, MaskGenerator

_METHODS = ("_generate_masks", "_process_crop", "_process_batch", "refine_with_m2m")
_PREDICTOR_METHODS = ("set_image", "reset_predictor", "_predict", "_encode", "_by_core", "_by_parts")
_TRANSFORMS_METHODS = ("to_tensor", "transforms", "__call__", "transform_coords", "postprocess_masks")
"""What sam2core's generator stands in for."""


class SAM2AutomaticMaskGenerator:
    """A grid of clicks on an image, each answered with masks; bad ones and duplicates go.

    Options as Meta's, and changeable between images. `min_mask_region_area` cleans low-resolution masks, as it
    does Meta's sam2 where the CUDA extension is built. No output mode needs pycocotools or OpenCV.
    """

    def __init__(
        self,
        model: SAM2Base,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
        **kwargs,
    ) -> None:
        assert (points_per_side is None) != (point_grids is None), "give points_per_side or point_grids, one of them"
        assert output_mode in FORMS, f"output_mode is one of {', '.join(FORMS)}, not {output_mode!r}"
        if point_grids is None:
            point_grids = build_all_layer_point_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        self.point_grids = point_grids
        self.predictor = SAM2ImagePredictor(
            model, max_hole_area=min_mask_region_area, max_sprinkle_area=min_mask_region_area
        )
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.mask_threshold = mask_threshold
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.use_m2m = use_m2m
        self.multimask_output = multimask_output

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs) -> SAM2AutomaticMaskGenerator:
        """A generator over a model of the hub; the arguments are those of `build_sam2` and of the generator."""
        from sam2.build_sam import build_sam2_hf

        return cls(build_sam2_hf(model_id, **kwargs), **kwargs)

    @property
    def _engine(self) -> MaskGenerator:
        """What finds the masks: sam2core's generator, with this one's options as they are now."""
        rules = self.predictor._transforms
        return MaskGenerator(
            self.predictor.model.core,
            points_per_side=None,
            point_grids=self.point_grids,
            points_per_batch=self.points_per_batch,
            iou_threshold=self.pred_iou_thresh,
            stability_threshold=self.stability_score_thresh,
            stability_offset=self.stability_score_offset,
            mask_threshold=self.mask_threshold,
            nms_threshold=self.box_nms_thresh,
            crop_layers=self.crop_n_layers,
            crop_nms_threshold=self.crop_nms_thresh,
            crop_overlap=self.crop_overlap_ratio,
            multimask_output=self.multimask_output,
            refine=self.use_m2m,
            cleaning={
                "fill_holes": int(rules.max_hole_area),
                "drop_islands": int(rules.max_sprinkle_area),
                "threshold": rules.mask_threshold,  # Meta's sam2 cleans at zero whatever the threshold of the masks is
            },
        )

    @torch.no_grad()
    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """The masks of an image (H, W, 3) of bytes, best estimate first.

        Dictionaries with ``segmentation``, ``area``, ``bbox`` (x, y, width, height), ``predicted_iou``,
        ``point_coords``, ``stability_score`` and ``crop_box``.
        """
        if self._untouched():
            return [mask.record(self.output_mode) for mask in self._engine.generate(image)]
        data = self._generate_masks(image)
        if self.output_mode == "coco_rle":
            data["segmentations"] = [coco_encode_rle(rle) for rle in data["rles"]]
        elif self.output_mode == "binary_mask":
            data["segmentations"] = [rle_to_mask(rle) for rle in data["rles"]]
        else:
            data["segmentations"] = data["rles"]
        return [
            {
                "segmentation": data["segmentations"][index],
                "area": area_from_rle(data["rles"][index]),
                "bbox": box_xyxy_to_xywh(data["boxes"][index]).tolist(),
                "predicted_iou": data["iou_preds"][index].item(),
                "point_coords": [data["points"][index].tolist()],
                "stability_score": data["stability_score"][index].item(),
                "crop_box": box_xyxy_to_xywh(data["crop_boxes"][index]).tolist(),
            }
            for index in range(len(data["segmentations"]))
        ]

    def _untouched(self) -> bool:
        """Whether sam2core's generator may do what this one's methods would."""
        predictor, model = self.predictor, self.predictor.model
        return (
            overridden(self, SAM2AutomaticMaskGenerator, _METHODS) is None
            and type(predictor) is SAM2ImagePredictor
            and overridden(predictor, SAM2ImagePredictor, _PREDICTOR_METHODS) is None
            and type(predictor._transforms) is SAM2Transforms
            and overridden(predictor._transforms, SAM2Transforms, _TRANSFORMS_METHODS) is None
            and predictor._transforms.resolution == model.image_size
            and predictor._bb_feat_sizes == [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
            and model.core is not None
        )

    # Meta's way, for a generator whose methods, predictor or model are touched

    def _generate_masks(self, image: np.ndarray) -> MaskData:
        """The masks of an image, crop by crop."""
        size = image.shape[:2]
        crops, layers = generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        data = MaskData()
        for crop, layer in zip(crops, layers, strict=True):
            data.cat(self._process_crop(image, crop, layer, size))
        if len(crops) > 1 and len(data["rles"]):  # of equal masks that of the smaller crop stays
            smaller = 1 / box_area(data["crop_boxes"].float())
            data.filter(_kept(data["boxes"], smaller, self.crop_nms_thresh))
        data.to_numpy()
        return data

    def _process_crop(
        self, image: np.ndarray, crop_box: list[int], crop_layer_idx: int, orig_size: tuple[int, ...]
    ) -> MaskData:
        """The masks of a crop x0, y0, x1, y1, in the image's pixels."""
        x0, y0, x1, y1 = crop_box
        part = image[y0:y1, x0:x1]
        size = part.shape[:2]
        self.predictor.set_image(part)
        places = self.point_grids[crop_layer_idx] * np.array(size)[None, ::-1]
        data = MaskData()
        for (points,) in batch_iterator(self.points_per_batch, places):
            data.cat(self._process_batch(points, size, crop_box, orig_size, normalize=True))
        self.predictor.reset_predictor()
        data.filter(_kept(data["boxes"], data["iou_preds"], self.box_nms_thresh))
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box for _ in data["rles"]]).reshape(-1, 4)
        return data

    def _process_batch(
        self,
        points: np.ndarray,
        im_size: tuple[int, ...],
        crop_box: list[int],
        orig_size: tuple[int, ...],
        normalize=False,
    ) -> MaskData:
        """The good masks that points (N, 2) in a crop's pixels are answered with."""
        height, width = orig_size
        places = torch.as_tensor(points, dtype=torch.float32, device=self.predictor.device)

        def clicks(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            at = self.predictor._transforms.transform_coords(at, normalize=normalize, orig_hw=im_size)
            return at, torch.ones(at.shape[0], dtype=torch.int, device=at.device)

        at, labels = clicks(places)
        masks, iou, low = self.predictor._predict(
            at[:, None], labels[:, None], multimask_output=self.multimask_output, return_logits=True
        )
        data = MaskData(
            masks=masks.flatten(0, 1),
            iou_preds=iou.flatten(0, 1),
            points=places.repeat_interleave(masks.shape[1], dim=0),
            low_res_masks=low.flatten(0, 1),
        )
        if self.use_m2m:
            masks, iou = self.refine_with_m2m(*clicks(data["points"]), data["low_res_masks"], self.points_per_batch)
            data["masks"], data["iou_preds"] = masks.squeeze(1), iou.squeeze(1)
        if self.pred_iou_thresh > 0.0:
            data.filter(data["iou_preds"] > self.pred_iou_thresh)
        data["stability_score"] = calculate_stability_score(
            data["masks"], self.mask_threshold, self.stability_score_offset
        )
        if self.stability_score_thresh > 0.0:
            data.filter(data["stability_score"] >= self.stability_score_thresh)
        data["masks"] = data["masks"] > self.mask_threshold
        data["boxes"] = batched_mask_to_box(data["masks"])
        inside = ~is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, width, height])
        if not inside.all():
            data.filter(inside)
        data["rles"] = mask_to_rle_pytorch(uncrop_masks(data["masks"], crop_box, height, width))
        del data["masks"]
        return data

    def refine_with_m2m(self, points, point_labels, low_res_masks, points_per_batch):
        """Masks (N, 1, H, W) of logits and their IoU (N, 1), of points (N, 2) asked again with masks (N, h, w)."""
        masks, ious = [], []
        for at, labels, low in batch_iterator(points_per_batch, points, point_labels, low_res_masks):
            answer = self.predictor._predict(
                at[:, None], labels[:, None], mask_input=low[:, None], multimask_output=False, return_logits=True
            )
            masks.append(answer[0])
            ious.append(answer[1])
        return torch.cat(masks), torch.cat(ious)

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """Masks (``rles``, ``boxes``) without small holes and islands; what has become a duplicate goes. In place."""
        if not mask_data["rles"]:
            return mask_data
        cleaned, untouched = [], []
        for rle in mask_data["rles"]:
            mask, filled = remove_small_regions(rle_to_mask(rle), min_area, mode="holes")
            mask, dropped = remove_small_regions(mask, min_area, mode="islands")
            cleaned.append(torch.as_tensor(mask))
            untouched.append(not (filled or dropped))
        masks = torch.stack(cleaned)
        boxes = mask_ops.boxes(masks)
        kept = _kept(boxes, torch.tensor(untouched, dtype=torch.float32), nms_thresh)
        for index in (index for index in kept.tolist() if not untouched[index]):
            mask_data["rles"][index] = mask_to_rle_pytorch(masks[index : index + 1])[0]
            mask_data["boxes"][index] = boxes[index]
        mask_data.filter(kept)
        return mask_data


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    """The areas (N,) of boxes (N, 4) x0, y0, x1, y1."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _kept(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The places of boxes of one category that stay, best first."""
    return batched_nms(boxes, scores, torch.zeros_like(boxes[:, 0]), iou_threshold=iou_threshold)


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The places of boxes (N, 4) that stay, best first; boxes of other categories `idxs` (N,) do not meet."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    boxes = boxes.float()
    apart = boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]
    kept = mask_ops.nms(apart.cpu().numpy(), scores.float().cpu().numpy(), iou_threshold)
    return torch.as_tensor(np.asarray(kept), dtype=torch.long, device=boxes.device)


written(globals())
