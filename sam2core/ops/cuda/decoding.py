"""A model's verbs in the precision of a GPU, and drawing for those prompts only that keep a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.ops.cuda.precision import rounded
from sam2core.types import DecoderOutput, FilteredMasks, FrameMemory, ImageFeatures, MaskCandidates, Prompt


def predicts_on_cuda(x: Tensor) -> bool:
    """Whether work on `x` is eager prediction on a GPU."""
    return x.device.type == "cuda" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class ModelOnCuda:
    """A `Sam2` of mixed precision whose fp32 products are TF32, and that draws no mask before it is chosen."""

    replaces = ("encode", "condition", "decode", "decode_filtered", "mask_as_output", "memorize")

    @rounded
    def encode(self: Any, pixels: Tensor) -> ImageFeatures:
        return super().encode(pixels)  # type: ignore[misc]

    @rounded
    def condition(self: Any, features: ImageFeatures, recall: Any) -> Tensor:
        return super().condition(features, recall)  # type: ignore[misc]

    @rounded
    def decode(self: Any, features: ImageFeatures, embedding: Tensor, prompt: Prompt) -> DecoderOutput:
        return super().decode(features, embedding, prompt)  # type: ignore[misc]

    @rounded
    def mask_as_output(self: Any, features: ImageFeatures, mask: Tensor) -> MaskCandidates:
        return super().mask_as_output(features, mask)  # type: ignore[misc]

    @rounded
    def memorize(self: Any, features: ImageFeatures, answer: Any, *, frame: int, hard: bool) -> FrameMemory:
        return super().memorize(features, answer, frame=frame, hard=hard)  # type: ignore[misc]

    @rounded
    def decode_filtered(
        self: Any, features: ImageFeatures, embedding: Tensor, prompt: Prompt, keep: Callable[[Tensor], Tensor]
    ) -> FilteredMasks:
        if not (predicts_on_cuda(embedding) and isinstance(self.mask_decoder, DrawsKept) and self.fixed is None):
            return super().decode_filtered(features, embedding, prompt, keep)  # type: ignore[misc]
        embedding = embedding.to(self.head_dtype)
        sparse, dense, token_mask = self.prompt_encoder(prompt)
        position = self.prompt_encoder.position((embedding.shape[-2], embedding.shape[-1]))
        return self.mask_decoder.decode_filtered(
            embedding, position, sparse, dense, features.high_res_features, token_mask, keep=keep
        )


class DrawsKept:
    """A `SamMaskDecoder` that draws the masks of those prompts alone of which one is kept."""

    replaces = ("forward", "enlarge", "attended", "filters")

    def decode_filtered(
        self: Any,
        embedding: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res_features: tuple[Tensor, ...],
        token_mask: Tensor | None,
        *,
        keep: Callable[[Tensor], Tensor],
    ) -> FilteredMasks:
        """The masks of `forward`, for many prompts on one image, whose scores `keep` takes: (B, 4) to booleans (B, 4).

        The host waits for the device once, to learn how many they are.
        """
        tokens, maps = self.attended(embedding, position, sparse, dense, token_mask)
        iou = F.sigmoid(self.iou_head(tokens[:, 1]))
        kept = keep(iou)
        row, mask = torch.nonzero(kept).unbind(1)
        some = kept.any(dim=1)
        prompts = torch.nonzero(some).flatten()
        place = some.cumsum(0)[row] - 1  # of each mask's prompt among those that are drawn
        x = self.enlarge(maps[prompts], high_res_features)
        drawn = (self.filters(tokens[prompts]) @ x.flatten(2)).unflatten(2, x.shape[-2:])
        logits = self.finish(drawn[place, mask].unsqueeze(1), high_res_features).squeeze(1)
        return FilteredMasks(row=row, mask=mask, logits=logits, iou=iou[row, mask])
