"""Mask tokens become masks, their scores and the object's score, as Meta's sam2 has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sam2.modeling.sam2_utils import MLP, LayerNorm2d
from sam2.untouched import written


class MaskDecoder(nn.Module):
    """One mask that is meant and `num_multimask_outputs` that could be, by a two-way transformer."""

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: nn.Module,
        num_multimask_outputs: int = 3,
        activation: type[nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        use_high_res_features: bool = False,
        iou_prediction_use_sigmoid=False,
        dynamic_multimask_via_stability=False,
        dynamic_multimask_stability_delta=0.05,
        dynamic_multimask_stability_thresh=0.98,
        pred_obj_scores: bool = False,
        pred_obj_scores_mlp: bool = False,
        use_multimask_token_for_obj_ptr: bool = False,
    ) -> None:
        super().__init__()
        dim = transformer_dim
        self.transformer_dim = dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.iou_token = nn.Embedding(1, dim)
        self.num_mask_tokens = num_multimask_outputs + 1
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, dim)
        self.pred_obj_scores = pred_obj_scores
        if pred_obj_scores:
            self.obj_score_token = nn.Embedding(1, dim)
        self.use_multimask_token_for_obj_ptr = use_multimask_token_for_obj_ptr
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            activation(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            activation(),
        )
        self.use_high_res_features = use_high_res_features
        if use_high_res_features:
            self.conv_s0 = nn.Conv2d(dim, dim // 8, kernel_size=1, stride=1)
            self.conv_s1 = nn.Conv2d(dim, dim // 4, kernel_size=1, stride=1)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, dim // 8, 3) for _ in range(self.num_mask_tokens))
        self.iou_prediction_head = MLP(
            dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth, sigmoid_output=iou_prediction_use_sigmoid
        )
        if pred_obj_scores:
            self.pred_obj_score_head = MLP(dim, dim, 1, 3) if pred_obj_scores_mlp else nn.Linear(dim, 1)
        self.dynamic_multimask_via_stability = dynamic_multimask_via_stability
        self.dynamic_multimask_stability_delta = dynamic_multimask_stability_delta
        self.dynamic_multimask_stability_thresh = dynamic_multimask_stability_thresh

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
        """Masks (B, M, h, w), their IoU (B, M), tokens (B, M or 1, C) and object score (B, 1); M is 3 or 1.

        One image is shared by all prompts whether `repeat_image` is said or not.
        """
        masks, iou, tokens, object_score = self.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
            repeat_image=repeat_image,
            high_res_features=high_res_features,
        )
        # The token of the single mask is the object's memory unless the three are asked for and their tokens, too.
        kept = tokens[:, 1:] if multimask_output and self.use_multimask_token_for_obj_ptr else tokens[:, :1]
        if multimask_output:
            return masks[:, 1:], iou[:, 1:], kept, object_score
        if self.dynamic_multimask_via_stability and not self.training:
            return *self._dynamic_multimask_via_stability(masks, iou), kept, object_score
        return masks[:, :1], iou[:, :1], kept, object_score

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        repeat_image: bool,
        high_res_features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All masks (B, 4, h, w), their IoU (B, 4) and tokens (B, 4, C), and object score (B, 1)."""
        own = [self.iou_token.weight, self.mask_tokens.weight]
        if self.pred_obj_scores:
            own.insert(0, self.obj_score_token.weight)
        prompts = sparse_prompt_embeddings
        tokens = torch.cat([torch.cat(own).unsqueeze(0).expand(prompts.shape[0], -1, -1), prompts], dim=1)
        image = image_embeddings
        if image.shape[0] != tokens.shape[0]:
            image = image.repeat_interleave(tokens.shape[0], dim=0)
        image = image + dense_prompt_embeddings
        batch, _, height, width = image.shape
        tokens, image = self.transformer(image, image_pe[:1].repeat_interleave(batch, dim=0), tokens)
        first = int(self.pred_obj_scores)
        mask_tokens = tokens[:, first + 1 : first + 1 + self.num_mask_tokens]
        maps = image.transpose(1, 2).unflatten(2, (height, width))
        if self.use_high_res_features:
            assert high_res_features is not None, "this decoder reads the finer two maps"
            widen, norm, activation, widen_again, activation_again = self.output_upscaling
            maps = activation(norm(widen(maps) + high_res_features[1]))
            maps = activation_again(widen_again(maps) + high_res_features[0])
        else:
            maps = self.output_upscaling(maps)
        filters = [mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
        masks = (torch.stack(filters, dim=1) @ maps.flatten(2)).unflatten(2, maps.shape[-2:])
        iou = self.iou_prediction_head(tokens[:, first])
        object_score = self.pred_obj_score_head(tokens[:, 0]) if first else 10.0 * iou.new_ones(batch, 1)
        return masks, iou, mask_tokens, object_score

    def _get_stability_scores(self, mask_logits: Tensor) -> Tensor:
        """How much of the area at -delta masks (..., h, w) still have at +delta; 1 where there is none."""
        delta = self.dynamic_multimask_stability_delta
        inner, outer = ((mask_logits > edge).flatten(-2).sum(-1).float() for edge in (delta, -delta))
        return torch.where(outer > 0, inner / outer, 1.0)

    def _dynamic_multimask_via_stability(
        self, all_mask_logits: Tensor, all_iou_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The single mask (B, 1, h, w) and its IoU (B, 1), or the best of three where the single one is unstable."""
        row = torch.arange(all_iou_scores.shape[0], device=all_iou_scores.device)
        best = all_iou_scores[:, 1:].argmax(dim=-1) + 1
        masks, iou = all_mask_logits[:, :1], all_iou_scores[:, :1]
        stable = self._get_stability_scores(masks) >= self.dynamic_multimask_stability_thresh
        return (
            torch.where(stable[..., None, None], masks, all_mask_logits[row, best].unsqueeze(1)),
            torch.where(stable, iou, all_iou_scores[row, best].unsqueeze(1)),
        )


written(globals())
