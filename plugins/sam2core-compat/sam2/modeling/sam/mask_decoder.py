"""A model's mask decoder, called as upstream's is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.heads.select import Stability, candidates
from sam2core.types import DecoderOutput

_NAMES = {
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


class MaskDecoder(nn.Module):
    """Four mask tokens to masks, scores and object score, with upstream's call and attribute names.

    The stability fallback can be switched through upstream's ``dynamic_multimask_*`` attributes. A forward hook sees
    upstream's tuple, with all four masks in it, one object per call.
    """

    def __init__(self, inner: SamMaskDecoder) -> None:
        super().__init__()
        self.inner = inner
        self.watched = 0
        """How many forward hooks are registered."""

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return getattr(self.inner, _NAMES[name])
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

    def register_forward_hook(self, hook: Callable[..., Any], **options: Any) -> Any:
        """Call `hook(decoder, arguments, outputs)` after every decoding, the predictors' too; it cannot change them.

        Outputs are upstream's four: masks, IoU, tokens, object score.
        """

        def told(_: nn.Module, arguments: Any, output: DecoderOutput) -> None:
            hook(self, arguments, (output.masks, output.iou, output.tokens, output.object_score))

        handle = self.inner.register_forward_hook(told, **options)
        self.watched += 1
        remove = handle.remove

        def forget() -> None:
            remove()
            self.watched -= 1

        handle.remove = forget  # type: ignore[method-assign]
        return handle


def stability_of(extra: dict[str, Any] | None) -> dict[str, float] | None:
    """The options of the stability fallback in upstream's ``sam_mask_decoder_extra_args``; None when it is off."""
    extra = dict(extra or {})
    on = extra.pop("dynamic_multimask_via_stability", False)
    delta = extra.pop("dynamic_multimask_stability_delta", 0.05)
    threshold = extra.pop("dynamic_multimask_stability_thresh", 0.98)
    if extra:
        raise ValueError(
            f"sam_mask_decoder_extra_args has {', '.join(extra)}; known are dynamic_multimask_via_stability, "
            "dynamic_multimask_stability_delta and dynamic_multimask_stability_thresh"
        )
    return {"delta": float(delta), "threshold": float(threshold)} if on else None
