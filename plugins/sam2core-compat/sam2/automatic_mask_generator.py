"""``SAM2AutomaticMaskGenerator``: every mask of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.amg import MaskData, build_all_layer_point_grids, mask_to_rle_pytorch, remove_small_regions, rle_to_mask
from sam2core.ops import masks as mask_ops
from sam2core.predictors.automask import FORMS, MaskGenerator
from sam2core.predictors.postprocess import Postprocess


class SAM2AutomaticMaskGenerator:
    """A grid of clicks on a picture, each answered with masks; bad ones and duplicates go.

    Options as upstream's, and changeable between pictures. `min_mask_region_area` cleans low-resolution masks, as it
    does upstream where the CUDA extension is built. No output mode needs pycocotools or OpenCV.
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
        engine = MaskGenerator(
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
        )
        # upstream cleans at zero whatever the threshold of the masks is
        rules = self.predictor._transforms
        engine.postprocess = Postprocess(
            fill_holes=int(rules.max_hole_area),
            drop_islands=int(rules.max_sprinkle_area),
            threshold=rules.mask_threshold,
        )
        return engine

    @torch.no_grad()
    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """The masks of a picture (H, W, 3) of bytes, best estimate first.

        Dictionaries with ``segmentation``, ``area``, ``bbox`` (x, y, width, height), ``predicted_iou``,
        ``point_coords``, ``stability_score`` and ``crop_box``.
        """
        return [mask.record(self.output_mode) for mask in self._engine.generate(image)]

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
        kept = mask_ops.nms(boxes.numpy(), np.array(untouched, np.float32), nms_thresh)
        for index in (index for index in kept if not untouched[index]):
            mask_data["rles"][index] = mask_to_rle_pytorch(masks[index : index + 1])[0]
            mask_data["boxes"][index] = boxes[index]
        mask_data.filter(torch.as_tensor(np.array(kept)))
        return mask_data
