"""Run the model over clips as a predictor would, with simulated prompts, and collect what every step answered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.pixels import normalise
from sam2core.training.clips import ClipBatch
from sam2core.training.losses import LossWeights, hard_iou, mask_loss, soft_target, step_losses
from sam2core.training.prompting import PromptPlan, sample_click, sample_correction
from sam2core.types import HINT_LIMIT, DecoderOutput, ImageFeatures, Label, Prompt

DENSE_CLICKS = 2
SHARPNESS, SAME = 6.0, 0.35  # of the cosine logits in dense supervision: slope, and the cosine of even odds


@dataclass(frozen=True, eq=False)
class StepOutput:
    """One decoder step on all objects: what it was asked, what it answered."""

    prompt: Prompt
    output: DecoderOutput
    several: Tensor  # (M,) bool: one click, so masks 1 to 3 answer

    def chosen(self) -> Tensor:
        """The logits (M, h, w) a user would see: the best of three by predicted IoU after one click, else mask 0."""
        best = self.output.iou[:, 1:].argmax(1) + 1
        index = torch.where(self.several, best, torch.zeros_like(best))
        return self.output.masks[torch.arange(len(index)), index]


def resize_model(model: nn.Module, size: int) -> None:
    """Let a model work on pictures of (size, size) from now on; weights do not depend on the size."""
    model.image_size = (size, size)  # type: ignore[assignment]
    model.prompt_encoder.image_size = (size, size)  # type: ignore[union-attr,assignment]


class Rollout(nn.Module):
    """One training step's forward pass: encode the frames once, prompt every object, correct, and return the losses.

    Clips of one frame for now: images. All objects of all pictures are one batch of the decoder.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self,
        batch: ClipBatch,
        plan: PromptPlan | None,
        weights: LossWeights,
        *,
        dense: float,
        corrections: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Named losses; "total" is the one to minimise. `dense` weighs the dense supervision of the trunk.

        Without a plan there is nothing else, and the decoder's attention is not run at all.
        """
        if batch.frames.shape[1] != 1:
            raise ValueError(f"image training takes clips of one frame, got {batch.frames.shape[1]}")
        pictures, masks = batch.frames[:, 0], batch.masks[:, 0]
        features, embedding = self.encode(pictures)
        named: dict[str, Tensor] = {"total": embedding.new_zeros(())}
        if dense > 0:
            named["dense"], named["dense_iou"] = self.affinity(features, embedding, masks, weights, generator)
            named["total"] = dense * named["dense"]
        if plan is None:
            return named
        flat_masks = masks.flatten(0, 1)
        flat_target = soft_target(flat_masks, (masks.shape[-2] // 4, masks.shape[-1] // 4))
        steps = self.steps(features, embedding, flat_masks, plan, corrections, generator)
        for step in steps:
            output = step.output
            losses = step_losses(output.masks, output.iou, output.presence, flat_target, step.several, weights)
            for name, value in losses.items():
                named[name] = named.get(name, 0) + value / len(steps)
        return named

    def encode(self, pictures: Tensor) -> tuple[ImageFeatures, Tensor]:
        """uint8 pictures (B, 3, H, W) to features and the embedding masks are read from."""
        features = self.model.encode(normalise(pictures.float() / 255))
        return features, self.model.condition(features, None)

    def steps(
        self,
        features: ImageFeatures,
        embedding: Tensor,
        masks: Tensor,
        plan: PromptPlan,
        corrections: int,
        generator: torch.Generator,
    ) -> list[StepOutput]:
        """Prompt and correct every object; masks (B * N, H, W) are ordered picture by picture."""
        pictures = embedding.shape[0]
        owner = torch.arange(pictures).repeat_interleave(masks.shape[0] // pictures)
        features, embedding = features.rows(owner), embedding[owner]
        prompt = plan.first(masks, generator)
        steps = [self._decode(features, embedding, prompt)]
        for _ in range(corrections):
            logits = steps[-1].chosen().detach().clamp(-HINT_LIMIT, HINT_LIMIT)
            answer = (
                F.interpolate(logits[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
            )
            clicks, labels = sample_correction(answer, masks, generator)
            prompt = Prompt(
                torch.cat([prompt.points, clicks], 1), torch.cat([prompt.labels, labels], 1), mask=logits[:, None]
            )
            steps.append(self._decode(features, embedding, prompt))
        return steps

    def _decode(self, features: ImageFeatures, embedding: Tensor, prompt: Prompt) -> StepOutput:
        # the decoder is most of a step; half precision halves it and more, while small-channelled trunks gain nothing
        with torch.autocast(embedding.device.type, torch.bfloat16):
            half = self.model.decode(features, embedding, prompt)
        output = DecoderOutput(half.masks.float(), half.iou.float(), half.tokens.float(), half.presence.float())
        meant = (prompt.labels != Label.IGNORED).sum(1)
        return StepOutput(prompt, output, meant == 1)

    def affinity(
        self,
        features: ImageFeatures,
        embedding: Tensor,
        masks: Tensor,
        weights: LossWeights,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Dense supervision without the decoder's attention: what lies under a click against every pixel.

        Three comparisons share the clicks: the upscaled map and the embedding each with itself, by cosine, which works
        from the first step on; and the mask filters made from the embedding under the click with the upscaled map,
        as if the mask tokens' attention were already perfect. Returns the loss and the IoU of the first comparison.
        """
        decoder = self.model.mask_decoder
        pictures, count = masks.shape[:2]
        objects = masks.flatten(0, 1)
        points = [sample_click(objects, generator, centre=0.5).view(pictures, count, 2) for _ in range(DENSE_CLICKS)]
        size = embedding.new_tensor([masks.shape[-1], masks.shape[-2]])
        places = ((torch.cat(points, 1) + 0.5) / size * 2 - 1)[:, :, None]

        maps = F.layer_norm(embedding.permute(0, 2, 3, 1), embedding.shape[1:2]).permute(0, 3, 1, 2)
        widen, norm, activation, widen_again, activation_again = decoder.upscale
        fine = activation(norm(widen(maps) + features.skips[1]))
        fine = activation_again(widen_again(fine) + features.skips[0])
        target = soft_target(masks, (fine.shape[-2], fine.shape[-1])).repeat(1, DENSE_CLICKS, 1, 1)

        alike = _alike(fine, places)
        coarse = F.interpolate(_alike(embedding, places), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        content = F.grid_sample(maps, places, align_corners=False)[..., 0].transpose(1, 2)
        mlp = decoder.mask_mlps[int(torch.randint(len(decoder.mask_mlps), (), generator=generator))]
        filtered = (mlp(content) @ fine.flatten(2)).unflatten(2, fine.shape[-2:])
        losses = [mask_loss(logits, target, weights).mean() for logits in (alike, coarse, filtered)]
        return losses[0] + 0.5 * losses[1] + 0.5 * losses[2], hard_iou(alike.detach(), target).mean()


def _alike(maps: Tensor, places: Tensor) -> Tensor:
    """Cosine of a map (B, C, h, w) at places (B, P, 1, 2) in [-1, 1] with all of it, as logits (B, P, h, w)."""
    directions = F.normalize(maps - maps.mean((0, 2, 3), keepdim=True), dim=1)
    under = F.normalize(F.grid_sample(directions, places, align_corners=False)[..., 0].transpose(1, 2), dim=-1)
    return SHARPNESS * ((under @ directions.flatten(2)).unflatten(2, maps.shape[-2:]) - SAME)
