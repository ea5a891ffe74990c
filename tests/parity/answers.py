"""What our model makes of each stage in `stages.py`, under the same names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sam2core.heads.select import candidates
from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import RecentFrames
from sam2core.types import FrameMemory, ImageFeatures, MaskCandidates, MaskPrediction, Prompt, TokenBlock
from tests.parity.stages import PASTS


def as_prompt(points: tuple[Tensor, Tensor] | None, mask: Tensor | None, batch: int = 1) -> Prompt:
    """A prompt; with neither points nor mask it is tracking's, with a mask alone it holds no point."""
    if points is not None:
        return Prompt(points[0], points[1], mask_input=mask)
    if mask is None:
        return Prompt.nothing(batch)
    return Prompt(torch.zeros(batch, 0, 2), torch.zeros(batch, 0, dtype=torch.int32), mask_input=mask)


def as_features(embedding: Tensor, high_res_features: list[Tensor], position: Tensor | None = None) -> ImageFeatures:
    """Features made of Meta's tensors, so that a stage is compared on equal inputs."""
    return ImageFeatures(
        embedding, torch.zeros_like(embedding[:1]) if position is None else position, tuple(high_res_features)
    )


@torch.no_grad()
def encode(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    out = {}
    patches = model.backbone.patch_embed(pixels)
    out["patches"] = patches.permute(0, 3, 1, 2)
    out["positioned"] = (patches + model.backbone.position(tuple(patches.shape[1:3]))).permute(0, 3, 1, 2)
    maps = model.backbone(pixels)
    for index, map_ in enumerate(maps):
        out[f"trunk.{index}"] = map_
    for index, level in enumerate(model.neck(maps)):
        out[f"neck.{index}"] = level
    features = model.encode(pixels)
    out |= {"position": features.position, "embedding": features.embedding}
    out |= {"skip.0": features.high_res_features[0], "skip.1": features.high_res_features[1]}
    return out | {"conditioned": model.condition(features, None)}


@torch.no_grad()
def prompt(model: Any, points: tuple[Tensor, Tensor] | None, mask: Tensor | None, grid: Any) -> dict[str, Tensor]:
    sparse, dense, _ = model.prompt_encoder(as_prompt(points, mask))
    return {"sparse": sparse, "dense": dense.expand(-1, -1, *grid), "grid": model.prompt_encoder.position(grid)}


@torch.no_grad()
def decode(
    model: Any,
    embedding: Tensor,
    high_res_features: list[Tensor],
    points: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
) -> dict[str, Tensor]:
    output = model.decode(
        as_features(embedding, high_res_features), embedding, as_prompt(points, mask, embedding.shape[0])
    )
    out = {"masks": output.masks, "iou": output.iou, "tokens": output.tokens, "presence": output.object_score}
    for name, multimask_output in (("several", True), ("single", False)):
        masks, iou, tokens = candidates(
            output, multimask_output=multimask_output, stability=model.mask_decoder.stability
        )
        out |= {f"{name}.masks": masks, f"{name}.iou": iou, f"{name}.tokens": tokens}
    return out


@torch.no_grad()
def segment(
    model: Any,
    embedding: Tensor,
    high_res_features: list[Tensor],
    points: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
) -> dict[str, Tensor]:
    count = 0 if points is None else points[1].shape[1]
    multimask_output = model.multimask.applies(count, tracking=False)
    given = as_prompt(points, mask, embedding.shape[0])
    if points is None and mask is not None:
        given = Prompt(
            Prompt.nothing(embedding.shape[0]).points, Prompt.nothing(embedding.shape[0]).labels, mask_input=mask
        )
    offered = model.segment(
        as_features(embedding, high_res_features), embedding, given, multimask_output=multimask_output
    )
    best = offered.take(model.memory_policy.choose(offered, None))
    out = {"candidates": offered.logits, "iou": offered.iou, "best": best.logits}
    return out | {"pointer": best.object_pointer, "presence": best.object_score}


@torch.no_grad()
def mask_as_output(model: Any, embedding: Tensor, high_res_features: list[Tensor], mask: Tensor) -> dict[str, Tensor]:
    offered = model.mask_as_output(as_features(embedding, high_res_features), mask)
    out = {"logits": offered.logits, "iou": offered.iou, "pointer": offered.object_pointers[:, 0]}
    return out | {"presence": offered.object_score}


@torch.no_grad()
def memory_encoder(model: Any, embedding: Tensor, full: Tensor, object_score: Tensor, hard: bool) -> dict[str, Tensor]:
    mask = (full > 0).float() if hard else full.sigmoid()
    (block,) = model.memory_encoder(embedding, mask, object_score)
    return {"tokens": block.tokens, "position": block.position.expand_as(block.tokens)}


@torch.no_grad()
def memorize(model: Any, embedding: Tensor, logits: Tensor, object_score: Tensor, hard: bool) -> dict[str, Tensor]:
    """The same from low-resolution logits, as a session does it: upsampling included."""
    offered = MaskCandidates(logits, torch.zeros(logits.shape[:2]), torch.zeros(*logits.shape[:2], 1), object_score)
    answer: MaskPrediction = offered.take(torch.zeros(logits.shape[0], dtype=torch.long))
    memory = model.memorize(as_features(embedding, []), answer, frame=0, hard=hard)
    (block,) = memory.blocks
    return {"tokens": block.tokens, "position": block.position.expand_as(block.tokens)}


@torch.no_grad()
def past(
    model: Any, name: str, embedding: Tensor, position: Tensor, memories: Tensor, object_pointers: Tensor, where: Tensor
) -> dict[str, Tensor]:
    case, bank, batch = PASTS[name], MemoryBank(), embedding.shape[0]
    grid = (embedding.shape[-2], embedding.shape[-1])
    for group, frames in ((bank.prompted, case["anchors"]), (bank.recent, case["trail"])):
        for frame in frames:
            block = TokenBlock(memories[frame], where, grid)
            nothing = torch.zeros(batch, 1)
            group[frame] = FrameMemory(frame, (block,), object_pointers[frame], nothing, nothing, nothing[:, 0])
    policy = RecentFrames(stride=case.get("stride", 1), prompted=case.get("limit"))
    recall = policy.recall(
        bank, case["frame"], backwards=case.get("backwards", False), length=case["length"], state=policy.start()
    )
    blocks = model.memory_readout(recall)
    return {
        "memory": torch.cat([block.tokens for block in blocks], dim=1),
        "memory_position": torch.cat([block.position.expand_as(block.tokens) for block in blocks], dim=1),
        "unrotated": torch.tensor(sum(block.tokens.shape[1] for block in blocks if block.grid is None)),
        "attended": model.condition(as_features(embedding, [], position), recall),
    }
