"""``SAM2ImagePredictor``: set an image, then ask for masks."""

from __future__ import annotations

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from sam2.modeling.sam2_base import SAM2Base
from sam2.untouched import written
from sam2.utils.transforms import SAM2Transforms
from sam2core.heads.select import candidates
from sam2core.ops.position import sine_grid
from sam2core.types import MASK_INPUT_LIMIT, ImageFeatures, Label, Prompt


class SAM2ImagePredictor:
    """Masks from points, boxes and earlier logits on the image, or the images, that were set last.

    `mask_threshold` is on the logits; holes and sprinkles of up to the given low-resolution pixels are cleaned up.
    """

    def __init__(
        self,
        sam_model: SAM2Base,
        mask_threshold=0.0,
        max_hole_area=0.0,
        max_sprinkle_area=0.0,
        **kwargs,
    ) -> None:
        super().__init__()
        self.model = sam_model
        self._transforms = SAM2Transforms(
            resolution=self.model.image_size,
            mask_threshold=mask_threshold,
            max_hole_area=max_hole_area,
            max_sprinkle_area=max_sprinkle_area,
        )
        self.mask_threshold = mask_threshold
        self._bb_feat_sizes = [
            (self.model.image_size // stride, self.model.image_size // stride) for stride in (4, 8, 16)
        ]
        self.reset_predictor()

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs) -> SAM2ImagePredictor:
        """A predictor over a model of the hub; the arguments are those of `build_sam2` and of the predictor."""
        from sam2.build_sam import build_sam2_hf

        return cls(build_sam2_hf(model_id, **kwargs), **kwargs)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def reset_predictor(self) -> None:
        """Forget the image."""
        self._is_image_set = False
        self._features: dict | None = None
        self._orig_hw: list[tuple[int, int]] | None = None
        self._is_batch = False

    @torch.no_grad()
    def set_image(self, image: np.ndarray | Image) -> None:
        """Encode an RGB image: an array (H, W, 3) of bytes, or a PIL image. NotImplementedError for anything else."""
        self.reset_predictor()
        if isinstance(image, np.ndarray):
            self._orig_hw = [image.shape[:2]]
        elif isinstance(image, Image):
            self._orig_hw = [(image.height, image.width)]
        else:
            raise NotImplementedError(f"an image is an array (H, W, 3) or a PIL image, not {type(image).__name__}")
        self._encode(self._transforms(image)[None])

    @torch.no_grad()
    def set_image_batch(self, image_list: list[np.ndarray]) -> None:
        """Encode several RGB images, arrays (H, W, 3) of any sizes, in one call of the encoder."""
        self.reset_predictor()
        assert isinstance(image_list, list), f"images are given as a list, not {type(image_list).__name__}"
        assert all(isinstance(image, np.ndarray) for image in image_list), "images in a batch are arrays (H, W, 3)"
        self._orig_hw = [image.shape[:2] for image in image_list]
        self._encode(self._transforms.forward_batch(image_list))
        self._is_batch = True

    def _encode(self, pixels: Tensor) -> None:
        _, feats, _, _ = self.model._prepare_backbone_features(self.model.forward_image(pixels.to(self.device)))
        if self.model.directly_add_no_mem_embed:
            feats[-1] = feats[-1] + self.model.no_mem_embed
        sizes = self._bb_feat_sizes[-len(feats) :]
        maps = [one.permute(1, 2, 0).unflatten(2, tuple(size)) for one, size in zip(feats, sizes, strict=True)]
        self._features = {"image_embed": maps[-1], "high_res_feats": maps[:-1]}
        self._is_image_set = True

    def _needs_image(self, how: str) -> None:
        if not self._is_image_set:
            raise RuntimeError(f"no image is set: call .{how}(...) first")

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords=True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks (M, H, W), their IoU (M,) and low-resolution logits (M, h, w); with a batch of B prompts (B, M, ...).

        Points (N, 2) or (B, N, 2) with labels, a box (4,) or boxes (B, 4), in the image's pixels, or in [0, 1] without
        `normalize_coords`; `mask_input` (1, h, w) are logits of an earlier answer. M is 3 with `multimask_output`,
        otherwise 1. Masks are floats of 0 and 1, or logits with `return_logits`.
        """
        self._needs_image("set_image")
        prompts = self._prep_prompts(point_coords, point_labels, box, mask_input, normalize_coords)
        mask, points, labels, boxes = prompts
        return _arrays(self._predict(points, labels, boxes, mask, multimask_output, return_logits=return_logits))

    def predict_batch(
        self,
        point_coords_batch: list[np.ndarray] | None = None,
        point_labels_batch: list[np.ndarray] | None = None,
        box_batch: list[np.ndarray] | None = None,
        mask_input_batch: list[np.ndarray] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords=True,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """`predict` for every image that `set_image_batch` was given: a list of masks, of IoU, and of logits."""
        assert self._is_batch, "predict_batch is for images that were set with set_image_batch"
        self._needs_image("set_image_batch")
        answers = []
        for index in range(len(self._features["image_embed"])):
            given = [
                None if part is None else part[index]
                for part in (point_coords_batch, point_labels_batch, box_batch, mask_input_batch)
            ]
            mask, points, labels, boxes = self._prep_prompts(*given, normalize_coords, img_idx=index)
            answers.append(
                _arrays(
                    self._predict(
                        points, labels, boxes, mask, multimask_output, return_logits=return_logits, img_idx=index
                    )
                )
            )
        masks, ious, logits = ([answer[part] for answer in answers] for part in range(3))
        return masks, ious, logits

    def _prep_prompts(self, point_coords, point_labels, box, mask_logits, normalize_coords, img_idx=-1):
        """Mask, points, labels and boxes as tensors in model pixels, with a batch dimension; None where not given."""
        size = self._orig_hw[img_idx]
        points = labels = boxes = mask = None
        if point_coords is not None:
            assert point_labels is not None, "points need labels: point_labels must be given with point_coords"
            points = torch.as_tensor(point_coords, dtype=torch.float, device=self.device)
            points = self._transforms.transform_coords(points, normalize=normalize_coords, orig_hw=size)
            labels = torch.as_tensor(point_labels, dtype=torch.int, device=self.device)
            if points.ndim == 2:
                points, labels = points[None], labels[None]
        if box is not None:
            boxes = torch.as_tensor(box, dtype=torch.float, device=self.device)
            boxes = self._transforms.transform_boxes(boxes, normalize=normalize_coords, orig_hw=size)
        if mask_logits is not None:
            mask = torch.as_tensor(mask_logits, dtype=torch.float, device=self.device)
            if mask.ndim == 3:
                mask = mask[None]
        return mask, points, labels, boxes

    @torch.no_grad()
    def _predict(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        img_idx: int = -1,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`predict` on tensors that are in model pixels already, answering with tensors (B, M, ...)."""
        self._needs_image("set_image")
        embedding = self._features["image_embed"][img_idx].unsqueeze(0)
        finer = [level[img_idx].unsqueeze(0) for level in self._features["high_res_feats"]]
        given = point_coords, point_labels, boxes, mask_input
        core = self.model.core
        if core is None:
            logits, iou = self._by_parts(given, embedding, finer, multimask_output)
        else:
            logits, iou = self._by_core(core, given, embedding, finer, multimask_output)
        masks = self._transforms.postprocess_masks(logits, self._orig_hw[img_idx])
        if not return_logits:
            masks = masks > self.mask_threshold
        return masks, iou, logits.clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)

    def _by_core(self, core, given, embedding, finer, multimask_output):
        """Logits (B, M, h, w) and their IoU (B, M), as sam2core computes them."""
        position = sine_grid((embedding.shape[-2], embedding.shape[-1]), embedding.shape[1], self.device)
        features = ImageFeatures(embedding=embedding, position=position, high_res_features=tuple(finer))
        stability = None if core.mask_decoder.training else core.mask_decoder.stability
        decoded = core.decode(features, embedding, _prompt(*given, self.device))
        return candidates(decoded, multimask_output=multimask_output, stability=stability)[:2]

    def _by_parts(self, given, embedding, finer, multimask_output):
        """The same, as the model's prompt encoder and mask decoder compute them."""
        points, labels, boxes, mask_input = given
        said = _prompt(points, labels, boxes, None, self.device)
        some = said.points.shape[1] > 0
        sparse, dense = self.model.sam_prompt_encoder(
            points=(said.points, said.labels) if some else None, boxes=None, masks=mask_input
        )
        logits, iou, _, _ = self.model.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
            repeat_image=some and said.points.shape[0] > 1,
            high_res_features=finer,
        )
        return logits, iou

    def get_image_embedding(self) -> Tensor:
        """The embedding (1, C, h, w) of the image."""
        self._needs_image("set_image")
        assert self._features is not None, "an image is set, but its features are gone"
        return self._features["image_embed"]


def _prompt(
    points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, mask: Tensor | None, device: torch.device
) -> Prompt:
    """Boxes first, then points, in one prompt."""
    xy, marks = [], []
    if boxes is not None:
        corners = boxes.reshape(-1, 2, 2)
        said = torch.tensor([[int(Label.TOP_LEFT), int(Label.BOTTOM_RIGHT)]], dtype=torch.int32, device=device)
        xy.append(corners)
        marks.append(said.expand(corners.shape[0], -1))
    if points is not None and labels is not None:
        xy.append(points)
        marks.append(labels.to(torch.int32))
    if not xy:
        batch = 1 if mask is None else mask.shape[0]
        return Prompt(
            torch.zeros(batch, 0, 2, device=device), torch.zeros(batch, 0, dtype=torch.int32, device=device), mask
        )
    places = torch.cat(xy, dim=1)
    if mask is not None and mask.shape[0] == 1:
        mask = mask.expand(places.shape[0], -1, -1, -1)
    return Prompt(places, torch.cat(marks, dim=1), mask)


def _arrays(answer: tuple[Tensor, Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masks, iou, logits = (part.squeeze(0).float().detach().cpu().numpy() for part in answer)
    return masks, iou, logits


written(globals())
