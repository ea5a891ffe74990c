"""Sam2: nine parts, four verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.heads.object_pointer import ObjectPointer
from sam2core.heads.select import candidates
from sam2core.memory.policy import MemoryPolicy
from sam2core.memory.readout import MemoryReadout, check_policy, rows_of
from sam2core.ops.masks import resize
from sam2core.ops.position import sine_grid
from sam2core.ops.shapes import FixedShapes
from sam2core.protocols import PromptsTrackedFrames
from sam2core.types import (
    NO_OBJECT,
    DecoderOutput,
    FilteredMasks,
    FrameMemory,
    ImageFeatures,
    MaskCandidates,
    MaskPrediction,
    Multimask,
    Prompt,
    Recall,
)

if TYPE_CHECKING:
    from sam2core.protocols import Backbone, MaskDecoder, MemoryAttention, MemoryEncoder, Neck, PromptEncoder

STRIDE = 16


def finer_features(decoder: Any, maps: Sequence[Tensor], pixels: Tensor) -> tuple[Tensor, ...]:
    """What a mask decoder keeps of an image beside the embedding, made of the neck's maps, and of pixels if it asks.

    See `protocols.MaskDecoder` and `protocols.ReadsPixels`.
    """
    made = decoder.high_res_features(maps)
    return decoder.with_pixels(made, pixels) if hasattr(decoder, "with_pixels") else made


class Sam2(nn.Module):
    """Segment what a prompt points at, in an image or along a video.

    Four verbs: `encode` an image, `condition` it on what was recalled, `segment` it for a prompt, `memorize` the
    answer. The model keeps nothing between calls: memories are arguments, so one model serves any number of sessions.
    `image_size` is (H, W) in model pixels, multiples of 32. Paper: Ravi et al. 2024, "SAM 2: Segment Anything in Images
    and Videos"; Meta's class: ``SAM2Base``.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        object_pointer: ObjectPointer,
        memory_encoder: MemoryEncoder,
        memory_readout: MemoryReadout,
        memory_attention: MemoryAttention,
        memory_policy: MemoryPolicy,
        image_size: tuple[int, int] = (1024, 1024),
        multimask: Multimask | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.object_pointer = object_pointer
        self.memory_encoder = memory_encoder
        self.memory_readout = memory_readout
        self.memory_attention = memory_attention
        self.memory_policy = memory_policy
        self.image_size = image_size
        self.multimask = multimask or Multimask()
        self.fixed: FixedShapes | None = None
        """What prompts and pasts are filled up to; set when the parts are compiled."""
        self.image_only = False
        """True when the loaded weights hold no memory parts: images can be segmented, videos cannot be tracked."""

    @property
    def device(self) -> torch.device:
        return self.memory_readout.no_memory.device

    @property
    def dtype(self) -> torch.dtype:
        return self.memory_readout.no_memory.dtype

    @property
    def head_dtype(self) -> torch.dtype:
        """The type that masks and scores are made in."""
        return self._type_of(self.prompt_encoder)

    def to_mixed_precision(self, dtype: torch.dtype) -> Sam2:
        """To half precision where the time goes; the same model.

        Masks and scores are made in fp32 still: in bfloat16, a logit has eight bits. So is what all of them are made
        from, the first layer and the neck. A part says (`protocols.MixesPrecision`) what of it stays fp32; one
        that does not is cast whole, and if that is the mask decoder, the other heads too.
        ``model.to(dtype)`` casts everything.
        """
        full = hasattr(self.mask_decoder, "to_mixed_precision")
        for name, part in self.named_children():
            if hasattr(part, "to_mixed_precision"):
                part.to_mixed_precision(dtype)
            elif not (full and name in ("prompt_encoder", "object_pointer")):
                part.to(dtype)
        return self

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Normalised pixels (B, 3, H, W) to what every prompt on these images shares.

        Raises ValueError when H or W is no multiple of 32.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % 32 or pixels.shape[3] % 32:
            raise ValueError(f"pixels must be (B, 3, H, W) with H and W multiples of 32, not {tuple(pixels.shape)}")
        found = self.backbone(pixels.to(self._type_of(self.backbone)))
        maps = self.neck([each.to(self._type_of(self.neck)) for each in found])
        embedding = maps[-1]
        grid = (embedding.shape[-2], embedding.shape[-1])
        return ImageFeatures(
            embedding=embedding,
            position=sine_grid(grid, embedding.shape[1], embedding.device).to(embedding.dtype),
            high_res_features=finer_features(self.mask_decoder, [each.to(self.head_dtype) for each in maps], pixels),
        )

    def condition(self, features: ImageFeatures, recall: Recall | Sequence[Recall] | None) -> Tensor:
        """The embedding (B, C, H, W) that masks are read from: the image as seen with this past, or with none.

        A sequence holds one past per object, all of one `layout` (memory.readout), for objects that share the image.
        """
        if recall is None:
            return features.embedding + self.memory_readout.no_memory.view(1, -1, 1, 1)
        self._needs_memory()
        blocks = self.memory_readout(recall)
        embedding, position = features.embedding.to(self.dtype), features.position.to(self.dtype)
        if self.fixed is None:
            return self.memory_attention(embedding, position, blocks)
        blocks, memory_mask = self.fixed.pad_memory(blocks)
        return self.memory_attention(embedding, position, blocks, memory_mask)

    def tracking_prompt(self, recalls: Sequence[Recall], policy: MemoryPolicy | None = None) -> Prompt:
        """The prompt of plain tracking for objects with these pasts: what `policy` or the model's own policy says.

        Nothing, where they say nothing (`protocols.PromptsTrackedFrames`). One recall may serve all rows of its
        memories, as for `condition`.
        """
        for asked in (policy, self.memory_policy):
            if isinstance(asked, PromptsTrackedFrames):
                return asked.tracking_prompt(recalls, self.prompt_encoder.mask_input_size, self.device)
        return Prompt.nothing(sum(map(rows_of, recalls)), self.device)

    def decode(self, features: ImageFeatures, embedding: Tensor, prompt: Prompt) -> DecoderOutput:
        """All four masks (B, 4, h, w) for B prompts, before any choice or gating.

        `features` and `embedding` belong to one image shared by all prompts, or to one image per prompt.
        """
        if self.fixed is not None:
            prompt = self.fixed.pad_prompt(prompt)
        embedding = embedding.to(self.head_dtype)
        sparse, dense, token_mask = self.prompt_encoder(prompt)
        if self.fixed is not None:
            embedding, dense = self.fixed.pad_maps(embedding, dense, prompt.batch)
        position = self.prompt_encoder.position((embedding.shape[-2], embedding.shape[-1]))
        return self.mask_decoder(embedding, position, sparse, dense, features.high_res_features, token_mask)

    def decode_filtered(
        self, features: ImageFeatures, embedding: Tensor, prompt: Prompt, keep: Callable[[Tensor], Tensor]
    ) -> FilteredMasks:
        """Of B prompts on one image, those masks whose scores (B, 4) `keep` takes: it gives booleans (B, 4)."""
        output = self.decode(features, embedding, prompt)
        places = torch.nonzero(keep(output.iou))
        row, mask = places.unbind(1)
        return FilteredMasks(row=row, mask=mask, logits=output.masks[row, mask], iou=output.iou[row, mask])

    def segment(
        self, features: ImageFeatures, embedding: Tensor, prompt: Prompt, *, multimask_output: bool
    ) -> MaskCandidates:
        """The masks on offer for each prompt: three with `multimask_output`, otherwise one. Absent objects are gated
        already.

        In evaluation mode an unstable single mask is replaced by the best of the three.
        """
        return self.select_masks(self.decode(features, embedding, prompt), multimask_output=multimask_output)

    def select_masks(self, output: DecoderOutput, *, multimask_output: bool) -> MaskCandidates:
        """The candidates that `segment` makes of what the decoder put out; training needs both."""
        stability = None if self.training else self.mask_decoder.stability
        masks, iou, tokens = candidates(output, multimask_output=multimask_output, stability=stability)
        present = (output.object_score > 0)[..., None, None]
        return MaskCandidates(
            logits=torch.where(present, masks, NO_OBJECT),
            iou=iou,
            object_pointers=self.object_pointer(tokens, output.object_score),
            object_score=output.object_score,
        )

    def mask_as_output(self, features: ImageFeatures, mask: Tensor) -> MaskCandidates:
        """A mask prompt (B, 1, H, W) of zeros and ones, at model size, as its own only candidate.

        Logits are ±10, the IoU is 1; the object pointer comes from decoding the raw image with the mask as a mask input
        (Meta's ``_use_mask_as_output``).
        """
        mask = mask.to(self.head_dtype)
        logits = F.interpolate(
            (mask * 20.0 - 10.0).float(),
            size=self.prompt_encoder.mask_input_size,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        prompt = replace(Prompt.nothing(mask.shape[0], mask.device), mask_input=self.object_pointer.mask_stem(mask))
        decoded = self.select_masks(self.decode(features, features.embedding, prompt), multimask_output=False)
        object_score = (mask > 0).flatten(1).any(dim=1, keepdim=True).to(mask.dtype) * 20.0 - 10.0
        return MaskCandidates(
            logits=logits.to(mask.dtype),
            iou=torch.ones_like(object_score),
            object_pointers=self.object_pointer.gate(decoded.object_pointers, object_score),
            object_score=object_score,
        )

    def memorize(self, features: ImageFeatures, answer: MaskPrediction, *, frame: int, hard: bool) -> FrameMemory:
        """What this answer leaves behind. `hard` memorizes the thresholded mask, as for frames a user prompted.

        The memory is made of the raw image features, not of the conditioned ones.
        """
        self._needs_memory()
        logits = resize(answer.logits, self.image_size)
        mask = (logits > 0).float() if hard else logits.sigmoid()
        return FrameMemory(
            frame=frame,
            blocks=self.memory_encoder(features.embedding.to(self.dtype), mask, answer.object_score),
            object_pointer=answer.object_pointer,
            logits=answer.logits,
            object_score=answer.object_score,
            iou=answer.iou,
        )

    def check_policy(self, policy: MemoryPolicy) -> None:
        """Raise ValueError for a policy that recalls more slots than this model has codes for."""
        check_policy(policy, self.memory_readout.slots)

    def fingerprint(self) -> dict[str, Any]:
        """What two models must share for one to go on with the other's work: sizes, type, a sample of the weights.

        And what changes masks without a weight of its own: the kind of mask decoder.
        """
        numbers = torch.cat([p.detach().flatten()[:4] for p in self.parameters()]).double().tolist()
        sample = torch.tensor(numbers, dtype=torch.float64).abs()
        place = torch.arange(1, len(sample) + 1, dtype=torch.float64)
        return {
            "image_size": list(self.image_size),
            "dtype": str(self.dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
            "weights": f"{(sample * place).sum().item():.9g}",
            "mask_decoder": type(self.mask_decoder).__name__,
        }

    def _type_of(self, part: nn.Module) -> torch.dtype:
        """The type that a part takes its input in: that of its first weight."""
        for weight in part.parameters():  # no `next` with a default: torch 2.5's export cannot trace it
            return weight.dtype
        return self.dtype

    def _needs_memory(self) -> None:
        if self.image_only:
            raise ValueError(
                "these weights hold no memory parts (an image-only file such as transformers' Sam2Model): "
                "they segment images but cannot track; load weights of the whole model to use memory"
            )
