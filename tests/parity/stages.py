"""Every stage of Meta's model as named tensors, so that ours can be compared stage by stage, live or recorded.

Each function here runs Meta's sam2 on given inputs and returns plain tensors in our conventions: batch first, (B, C, H,
W) maps and (B, N, C) tokens. The counterparts for our model are in `answers.py`; both produce the same names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PROMPTS = {
    # points in model pixels as fractions of the image side, labels; None: the prompt has no point at all
    "tracking": None,
    "one": ([(0.31, 0.42)], [1]),
    "negative": ([(0.31, 0.42)], [0]),
    "two": ([(0.31, 0.42), (0.8, 0.15)], [1, 0]),
    "five": ([(0.31, 0.42), (0.8, 0.15), (0.0, 0.0), (0.999, 0.999), (0.5, 0.7)], [1, 0, 0, 1, 1]),
    "box": ([(0.2, 0.1), (0.7, 0.9)], [2, 3]),
    "box_and_point": ([(0.2, 0.1), (0.7, 0.9), (0.4, 0.4)], [2, 3, 1]),
}


def prompt_tensors(name: str, image: int, batch: int = 1) -> tuple[Tensor, Tensor] | None:
    """Points (B, P, 2) in model pixels and labels (B, P) of a prompt above; later rows of a batch are shifted."""
    chosen = PROMPTS[name]
    if chosen is None:
        return None
    points = torch.tensor(chosen[0]) * image
    points = torch.stack([(points * (1.0 - 0.1 * row)).half().float() for row in range(batch)])
    labels = torch.tensor(chosen[1], dtype=torch.int32).repeat(batch, 1)
    return points, labels


def _tokens(map_: Tensor) -> Tensor:
    return map_.flatten(2).transpose(1, 2)


@torch.no_grad()
def encode(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Trunk stages (finest first), neck levels, position, skips and the map that prompts see on a first frame."""
    trunk, out = model.image_encoder.trunk, {}
    patches = trunk.patch_embed(pixels)
    out["patches"] = patches.permute(0, 3, 1, 2)
    out["positioned"] = (patches + trunk._get_pos_embed(patches.shape[1:3])).permute(0, 3, 1, 2)
    maps = trunk(pixels)
    for index, map_ in enumerate(maps):
        out[f"trunk.{index}"] = map_
    levels, positions = model.image_encoder.neck(maps)
    for index in range(3):
        out[f"neck.{index}"] = levels[index]
    out["position"] = positions[2][:1]
    features = model.forward_image(pixels)
    out["skip.0"], out["skip.1"] = features["backbone_fpn"][0], features["backbone_fpn"][1]
    out["embedding"] = features["backbone_fpn"][2]
    out["conditioned"] = out["embedding"] + model.no_mem_embed.reshape(1, -1, 1, 1)
    return out


@torch.no_grad()
def prompt(model: Any, points: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> dict[str, Tensor]:
    """Sparse tokens, the dense map, and the dense position of the grid."""
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=mask)
    return {"sparse": sparse, "dense": dense, "grid": model.sam_prompt_encoder.get_dense_pe()}


@torch.no_grad()
def decode(
    model: Any,
    embedding: Tensor,
    high_res_features: list[Tensor],
    points: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
) -> dict[str, Tensor]:
    """All four masks, their scores and tokens, object score; and what the selection rules make of them."""
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=mask)
    inputs = {
        "image_embeddings": embedding,
        "image_pe": model.sam_prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": sparse,
        "dense_prompt_embeddings": dense,
        "repeat_image": False,
        "high_res_features": high_res_features,
    }
    masks, iou, tokens, object_score = model.sam_mask_decoder.predict_masks(**inputs)
    out = {"masks": masks, "iou": iou, "tokens": tokens, "presence": object_score}
    for name, multimask_output in (("several", True), ("single", False)):
        masks, iou, tokens, _ = model.sam_mask_decoder(multimask_output=multimask_output, **inputs)
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
    """Gated candidates, the believed mask and its object pointer, by Meta's own rule for one mask or three."""
    inputs = None if points is None else {"point_coords": points[0], "point_labels": points[1]}
    multimask_output = model._use_multimask(True, inputs)
    candidates, _, iou, best, best_full, object_pointer, object_score = model._forward_sam_heads(
        embedding, inputs, mask, high_res_features, multimask_output=multimask_output
    )
    out = {"candidates": candidates, "iou": iou, "best": best, "pointer": object_pointer, "presence": object_score}
    return out | {"full": best_full}


@torch.no_grad()
def mask_as_output(model: Any, embedding: Tensor, high_res_features: list[Tensor], mask: Tensor) -> dict[str, Tensor]:
    """A mask prompt (B, 1, H, W) of zeros and ones as its own answer."""
    logits, _, iou, _, _, object_pointer, object_score = model._use_mask_as_output(embedding, high_res_features, mask)
    return {"logits": logits, "iou": iou, "pointer": object_pointer, "presence": object_score}


@torch.no_grad()
def memorize(model: Any, embedding: Tensor, full: Tensor, object_score: Tensor, hard: bool) -> dict[str, Tensor]:
    """Memory tokens and their position (no time code) from a raw stride-16 map and logits at model size."""
    size = embedding.shape[-2:]
    tokens, position = model._encode_new_memory(
        [embedding.flatten(2).permute(2, 0, 1)], [size], full, object_score, is_mask_from_pts=hard
    )
    return {"tokens": _tokens(tokens), "position": _tokens(position[-1])}


def output_dict(
    prompted: dict[int, Any], recent: dict[int, Any], grid: tuple[int, int], position: Tensor
) -> dict[str, Any]:
    """Meta's bank. Memories are (tokens (B, N, Cm), object pointer (B, C)) by frame; ``position`` is (1, N, Cm)."""

    def entry(memory: tuple[Tensor, Tensor]) -> dict[str, Any]:
        def as_map(tokens: Tensor) -> Tensor:
            return tokens.transpose(1, 2).unflatten(2, grid)

        where = as_map(position).expand(memory[0].shape[0], -1, -1, -1)
        return {"maskmem_features": as_map(memory[0]), "maskmem_pos_enc": [where], "obj_ptr": memory[1]}

    return {
        "cond_frame_outputs": {frame: entry(memory) for frame, memory in prompted.items()},
        "non_cond_frame_outputs": {frame: entry(memory) for frame, memory in recent.items()},
    }


@torch.no_grad()
def condition(
    model: Any,
    embedding: Tensor,
    position: Tensor,
    bank: dict[str, Any],
    frame: int,
    length: int | None,
    backwards: bool,
) -> dict[str, Tensor]:
    """What memory attention is given (tokens, positions, how many are not rotated) and what comes out."""
    seen: dict[str, Any] = {}
    hook = model.memory_attention.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    batch = embedding.shape[0]
    try:
        out = model._prepare_memory_conditioned_features(
            frame_idx=frame,
            is_init_cond_frame=False,
            current_vision_feats=[embedding.flatten(2).permute(2, 0, 1)],
            current_vision_pos_embeds=[position.expand(batch, -1, -1, -1).flatten(2).permute(2, 0, 1)],
            feat_sizes=[tuple(embedding.shape[-2:])],
            output_dict=bank,
            num_frames=length,
            track_in_reverse=backwards,
        )
    finally:
        hook.remove()
    return {
        "memory": seen["memory"].transpose(0, 1),
        "memory_position": seen["memory_pos"].transpose(0, 1),
        "unrotated": torch.tensor(seen["num_obj_ptr_tokens"]),
        "attended": out,
    }


# Pasts to recall: which frames hold memories, where we are, and Meta's two options that matter for it.
PASTS: dict[str, dict[str, Any]] = {
    "second_frame": {"anchors": [0], "trail": [], "frame": 1, "length": 20},
    "third_frame": {"anchors": [0], "trail": [1], "frame": 2, "length": 20},
    "steady": {"anchors": [0], "trail": range(1, 10), "frame": 10, "length": 20},
    "gaps": {"anchors": [0], "trail": [2, 5, 6, 8], "frame": 10, "length": 20},
    "five_frames": {"anchors": [0], "trail": [1, 2, 3], "frame": 4, "length": 5},
    "eight_frames": {"anchors": [0, 3], "trail": [1, 2, 4, 5], "frame": 6, "length": 8},
    "two_anchors": {"anchors": [0, 7], "trail": [1, 2, 3, 4, 5, 6, 8, 9], "frame": 10, "length": 20},
    "anchor_ahead": {"anchors": [0, 15], "trail": range(1, 10), "frame": 10, "length": 20},
    "only_ahead": {"anchors": [15], "trail": [], "frame": 10, "length": 20},
    "backwards": {"anchors": [16, 2], "trail": range(11, 16), "frame": 10, "length": 20, "backwards": True},
    "nearest_two": {"anchors": [0, 3, 8, 14], "trail": [4, 5, 6, 7, 9], "frame": 10, "length": 20, "limit": 2},
    "every_third": {"anchors": [0], "trail": range(1, 17), "frame": 17, "length": 20, "stride": 3},
    "every_third_backwards": {
        "anchors": [19],
        "trail": range(3, 19),
        "frame": 2,
        "length": 20,
        "stride": 3,
        "backwards": True,
    },
    "all_pointers": {"anchors": [0], "trail": range(1, 19), "frame": 19, "length": 20},
}
FRAMES = 20


def past(
    model: Any, name: str, embedding: Tensor, position: Tensor, memories: Tensor, object_pointers: Tensor, where: Tensor
) -> dict[str, Tensor]:
    """`condition` for a past above: memories (FRAMES, B, N, Cm), object pointers (FRAMES, B, C), where (1, N, Cm)."""
    case = PASTS[name]
    model.max_cond_frames_in_attn = case.get("limit", -1)
    model.memory_temporal_stride_for_eval = case.get("stride", 1)
    bank = output_dict(
        {frame: (memories[frame], object_pointers[frame]) for frame in case["anchors"]},
        {frame: (memories[frame], object_pointers[frame]) for frame in case["trail"]},
        tuple(embedding.shape[-2:]),
        where,
    )
    return condition(model, embedding, position, bank, case["frame"], case["length"], case.get("backwards", False))
