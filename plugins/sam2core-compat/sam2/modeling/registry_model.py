"""Models of sam2core's registry under Meta's names: what they are made of, called as Meta's parts are.

Such a model is computed by sam2core alone, whatever its parts are; nothing of it can be overridden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.heads.prompt_encoder import PromptEncoder as CorePromptEncoder
from sam2core.heads.select import Stability, candidates
from sam2core.memory.policy import RecentFrames
from sam2core.model import Sam2
from sam2core.ops.position import fourier, sine_grid
from sam2core.types import DecoderOutput, Label, Prompt

_DECODER = {
    "conv_s0": "skip_stride4",
    "conv_s1": "skip_stride8",
    "transformer": "transformer",
    "iou_token": "iou_token",
    "mask_tokens": "mask_tokens",
    "obj_score_token": "presence_token",
    "output_upscaling": "upscale",
    "output_hypernetworks_mlps": "mask_mlps",
    "iou_prediction_head": "iou_head",
    "pred_obj_score_head": "presence_head",
}
_PROMPT_ENCODER = {
    "point_embeddings": "label_embed",
    "not_a_point_embed": "padding_embed",
    "mask_downscaling": "mask_stem",
    "no_mask_embed": "no_mask",
}


REGISTRY_NAMES = {
    "maskmem_tpos_enc": ("memory_readout", "slot_embed"),
    "no_mem_embed": ("memory_readout", "no_memory"),
    "no_obj_ptr": ("object_pointer", "absent"),
    "memory_attention": ("memory_attention",),
    "memory_encoder": ("memory_encoder",),
    "obj_ptr_proj": ("object_pointer", "proj"),
    "mask_downsample": ("object_pointer", "mask_stem"),
    "obj_ptr_tpos_proj": ("memory_readout", "pointer_time"),
}
"""What Meta's sam2 calls some parts of a model of the registry."""


class RegistryImageEncoder(nn.Module):
    """A model's trunk and neck, called as Meta's ``ImageEncoder`` is."""

    def __init__(self, core: Sam2) -> None:
        super().__init__()
        self.trunk = core.backbone
        self.neck = core.neck

    def forward(self, sample: Tensor) -> dict[str, Any]:
        """Normalised pixels (B, 3, H, W) to maps and their sine positions, finest first; the last is repeated."""
        maps = self.neck(self.trunk(sample))
        positions = [
            sine_grid((x.shape[-2], x.shape[-1]), maps[-1].shape[1], x.device)
            .to(x.dtype)
            .expand(x.shape[0], -1, -1, -1)
            for x in maps
        ]
        return {"vision_features": maps[-1], "vision_pos_enc": positions, "backbone_fpn": list(maps)}


class RegistryPositions(nn.Module):
    """The random Fourier code of places."""

    def __init__(self, inner: CorePromptEncoder) -> None:
        super().__init__()
        self.inner = inner

    @property
    def positional_encoding_gaussian_matrix(self) -> Tensor:
        return self.inner.frequencies

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """The code (..., C) of x, y places (..., 2) in [0, 1]."""
        return fourier(coords, self.inner.frequencies)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """The code (C, H, W) of a grid's cells."""
        return self.inner.position((size[0], size[1]))[0]

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The code (B, N, C) of places (B, N, 2) in pixels of an image of (H, W)."""
        return self._pe_encoding(coords_input / coords_input.new_tensor([image_size[1], image_size[0]]))


class RegistryPromptEncoder(nn.Module):
    """Points, boxes and masks to sparse and dense embeddings, with Meta's call and attribute names."""

    def __init__(self, inner: CorePromptEncoder) -> None:
        super().__init__()
        self.inner = inner
        self.pe_layer = RegistryPositions(inner)

    def __getattr__(self, name: str) -> Any:
        if name in _PROMPT_ENCODER:
            return getattr(self.inner, _PROMPT_ENCODER[name])
        return super().__getattr__(name)

    @property
    def embed_dim(self) -> int:
        return self.inner.no_mask.embedding_dim

    @property
    def input_image_size(self) -> tuple[int, int]:
        return self.inner.image_size

    @property
    def image_embedding_size(self) -> tuple[int, int]:
        return self.inner.image_size[0] // 16, self.inner.image_size[1] // 16

    @property
    def mask_input_size(self) -> tuple[int, int]:
        return self.inner.mask_input_size

    def get_dense_pe(self) -> Tensor:
        """The code (1, C, H, W) of the embedding's cells."""
        return self.inner.position(self.image_embedding_size)

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sparse (B, N, C) and dense (B, C, H, W) embeddings.

        Points (B, P, 2) with labels (B, P) come before boxes (B, 4), all in model pixels; a padding point follows when
        there is no box. `masks` (B, 1, h, w) are logits.
        """
        device = self.inner.no_mask.weight.device
        given = [
            part.shape[0] for part in (points[0] if points is not None else None, boxes, masks) if part is not None
        ]
        batch = given[0] if given else 1
        xy, labels = [], []
        if points is not None:
            xy.append(points[0])
            labels.append(points[1])
        if boxes is not None:
            xy.append(boxes.reshape(-1, 2, 2))
            corners = [int(Label.TOP_LEFT), int(Label.BOTTOM_RIGHT)]
            labels.append(torch.tensor([corners], dtype=torch.int32, device=device).expand(boxes.shape[0], -1))
        if xy:
            prompt = Prompt(torch.cat(xy, dim=1), torch.cat([part.to(torch.int32) for part in labels], dim=1), masks)
        else:
            prompt = Prompt(
                torch.zeros(batch, 0, 2, device=device),
                torch.zeros(batch, 0, dtype=torch.int32, device=device),
                masks,
            )
        sparse, dense, _ = self.inner(prompt)
        if boxes is not None:
            sparse = sparse[:, :-1]
        if masks is None:
            dense = dense.expand(batch, -1, *self.image_embedding_size)
        return sparse, dense


class RegistryMaskDecoder(nn.Module):
    """Four mask tokens to masks, scores and object score, with Meta's call and attribute names.

    The stability fallback can be switched through Meta's ``dynamic_multimask_*`` attributes.
    """

    def __init__(self, inner: SamMaskDecoder) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in _DECODER:
            return getattr(self.inner, _DECODER[name])
        return super().__getattr__(name)

    @property
    def num_mask_tokens(self) -> int:
        return SamMaskDecoder.MASKS

    @property
    def num_multimask_outputs(self) -> int:
        return SamMaskDecoder.MASKS - 1

    @property
    def dynamic_multimask_via_stability(self) -> bool:
        return self.inner.stability is not None

    @dynamic_multimask_via_stability.setter
    def dynamic_multimask_via_stability(self, value: bool) -> None:
        self.inner.stability = (self.inner.stability or Stability()) if value else None

    @property
    def dynamic_multimask_stability_delta(self) -> float:
        return (self.inner.stability or Stability()).delta

    @dynamic_multimask_stability_delta.setter
    def dynamic_multimask_stability_delta(self, value: float) -> None:
        if self.inner.stability is not None:
            self.inner.stability = replace(self.inner.stability, delta=float(value))

    @property
    def dynamic_multimask_stability_thresh(self) -> float:
        return (self.inner.stability or Stability()).threshold

    @dynamic_multimask_stability_thresh.setter
    def dynamic_multimask_stability_thresh(self, value: float) -> None:
        if self.inner.stability is not None:
            self.inner.stability = replace(self.inner.stability, threshold=float(value))

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        repeat_image: bool,
        high_res_features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four masks (B, 4, h, w), their IoU (B, 4) and tokens (B, 4, C), and object score (B, 1)."""
        output = self._decode(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, high_res_features
        )
        return output.masks, output.iou, output.tokens, output.object_score

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        repeat_image: bool,
        high_res_features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Three masks or one, their IoU, the tokens that object pointers are made of, and object score.

        One image is shared by all prompts whether `repeat_image` is said or not.
        """
        output = self._decode(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, high_res_features
        )
        stability = None if self.inner.training else self.inner.stability
        masks, iou, tokens = candidates(output, multimask_output=multimask_output, stability=stability)
        return masks, iou, tokens, output.object_score

    def _decode(
        self,
        embedding: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res_features: Sequence[Tensor] | None,
    ) -> DecoderOutput:
        return self.inner(embedding, position[:1], sparse, dense, tuple(high_res_features or ()))

    def _dynamic_multimask_via_stability(
        self, all_mask_logits: Tensor, all_iou_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The single mask (B, 1, h, w) and its IoU (B, 1), or the best of three where the single one is unstable."""
        tokens = all_mask_logits.new_zeros(*all_iou_scores.shape, 1)
        output = DecoderOutput(all_mask_logits, all_iou_scores, tokens, all_iou_scores[:, :1])
        masks, iou, _ = candidates(output, multimask_output=False, stability=self.inner.stability or Stability())
        return masks, iou


def options_of(core: Sam2) -> dict[str, Any]:
    """A model's values of Meta's options."""
    rule = core.multimask
    recent = core.memory_policy if isinstance(core.memory_policy, RecentFrames) else RecentFrames()
    return {
        "image_size": core.image_size[0],
        "num_maskmem": recent.frames + 1,
        "memory_temporal_stride_for_eval": recent.stride,
        "max_obj_ptrs_in_encoder": recent.object_pointers,
        "max_cond_frames_in_attn": -1 if recent.prompted is None else recent.prompted,
        "only_obj_ptrs_in_the_past_for_eval": not recent.future_object_pointers,
        "multimask_output_in_sam": rule.min_points <= rule.max_points,
        "multimask_min_pt_num": rule.min_points,
        "multimask_max_pt_num": rule.max_points,
        "multimask_output_for_tracking": rule.while_tracking,
        "use_high_res_features_in_sam": getattr(core.mask_decoder, "skip_stride4", None) is not None,
        "directly_add_no_mem_embed": True,
        "use_mask_input_as_output_without_sam": True,
        "use_obj_ptrs_in_encoder": True,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "fixed_no_obj_ptr": True,
        "use_mlp_for_obj_ptr_proj": True,
        "use_multimask_token_for_obj_ptr": True,
        "iou_prediction_use_sigmoid": True,
    }
