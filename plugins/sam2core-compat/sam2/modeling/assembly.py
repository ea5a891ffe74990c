"""sam2core's model of one of Meta's, over the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sam2.modeling.backbones.hieradet import Hiera, MultiScaleAttention, MultiScaleBlock
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.backbones.utils import PatchEmbed
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import Attention, RoPEAttention, TwoWayAttentionBlock, TwoWayTransformer
from sam2.modeling.sam2_utils import MLP, DropPath, LayerNorm2d
from sam2core.backbones.fpn import Fpn
from sam2core.backbones.hiera import Hiera as Trunk
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.heads.object_pointer import ObjectPointer
from sam2core.heads.prompt_encoder import PromptEncoder as CorePromptEncoder
from sam2core.memory.attention import RopeMemoryAttention
from sam2core.memory.encoder import ConvMemoryEncoder
from sam2core.memory.policy import RecentFrames
from sam2core.memory.readout import MemoryReadout
from sam2core.model import Sam2
from sam2core.types import Multimask

_KINDS = (
    {ImageEncoder, FpnNeck, Hiera, MultiScaleBlock, MultiScaleAttention, PatchEmbed, DropPath, MLP, LayerNorm2d}
    | {MemoryAttention, MemoryAttentionLayer, RoPEAttention, MemoryEncoder, MaskDownSampler, Fuser, CXBlock}
    | {PromptEncoder, PositionEmbeddingSine, PositionEmbeddingRandom, MaskDecoder}
    | {TwoWayTransformer, TwoWayAttentionBlock, Attention, nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm}
    | {nn.Embedding, nn.GELU, nn.ReLU, nn.MaxPool2d, nn.Dropout, nn.Identity, nn.Sequential, nn.ModuleList}
)
"""What a model that sam2core computes may be made of."""


class Unsupported(ValueError):
    """A model that sam2core has no words for; the message says what of it."""


def assemble(model: Any) -> Sam2:
    """The model, without storage, that computes what one of Meta's does, as its options are now.

    Raises Unsupported for what no released model has and sam2core does not compute.
    """
    encoder, attention, memory = model.image_encoder, model.memory_attention, model.memory_encoder
    for name, part, kind in (
        ("image_encoder", encoder, ImageEncoder),
        ("memory_attention", attention, MemoryAttention),
        ("memory_encoder", memory, MemoryEncoder),
    ):
        _a(kind, part, name)
    _options(model)
    for place, part in model.named_modules():
        if type(part) not in _KINDS and part is not model:
            raise Unsupported(f"{place} is a {type(part).__name__}")
    dim, size = int(model.hidden_dim), int(model.image_size)
    with torch.device("meta"):
        backbone = _trunk(encoder.trunk)
        core = Sam2(
            backbone=backbone,
            neck=_neck(encoder, backbone),
            prompt_encoder=CorePromptEncoder(dim, (size, size)),
            mask_decoder=SamMaskDecoder(dim, high_res_features=True, stability=_stability(model.sam_mask_decoder)),
            object_pointer=ObjectPointer(dim),
            memory_encoder=_memory_encoder(memory, dim, model),
            memory_readout=MemoryReadout(
                dim, int(model.mem_dim), slots=int(model.num_maskmem), pointer_time=_pointer_time(model)
            ),
            memory_attention=_memory_attention(attention, dim, int(model.mem_dim)),
            memory_policy=policy(vars(model)),
            image_size=(size, size),
            multimask=multimask(vars(model)),
        )
    return core.eval()


def shared(model: nn.Module, core: Sam2) -> list[tuple[dict[str, Any], str, dict[str, Any], str]]:
    """Where each weight of `core` is kept, and where the model keeps the same one: (holder, key) twice."""
    theirs = dict(_places(model))
    names: Any = {name: name for name in theirs}
    ours = dict(_places(core))
    renamed = FACEBOOK.rename(names)
    if unknown := sorted(set(renamed) ^ set(ours)):
        raise Unsupported(f"there are other weights than in released models: {', '.join(unknown[:3])}")
    return [(*ours[name], *theirs[their_name]) for name, their_name in renamed.items()]  # type: ignore[index,misc]


def _places(module: nn.Module) -> Any:
    for prefix, part in module.named_modules():
        for held in (part._parameters, part._buffers):
            for key, value in held.items():
                if value is not None:
                    yield f"{prefix}.{key}" if prefix else key, (held, key)


def _only(place: str, options: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise Unsupported for an option whose value no released model has, and which sam2core does not compute."""
    for name, (given, allowed) in options.items():
        value = tuple(given) if isinstance(given, list | tuple) or type(given).__name__ == "ListConfig" else given
        if value != allowed:
            raise Unsupported(f"{place}.{name} is {value!r} and not {allowed!r} as in all released models")


def _a(kind: type, part: Any, place: str) -> None:
    if type(part) is not kind:
        raise Unsupported(f"{place} is a {type(part).__name__}")


def _options(model: Any) -> None:
    always = (
        "use_high_res_features_in_sam",
        "use_obj_ptrs_in_encoder",
        "use_mlp_for_obj_ptr_proj",
        "pred_obj_scores",
        "pred_obj_scores_mlp",
        "fixed_no_obj_ptr",
        "use_mask_input_as_output_without_sam",
        "directly_add_no_mem_embed",
        "iou_prediction_use_sigmoid",
        "use_multimask_token_for_obj_ptr",
    )
    _only("the model", {name: (bool(getattr(model, name)), True) for name in always})
    side = model.sam_mask_decoder.transformer_dim, model.sam_image_embedding_size * 16, model.sam_prompt_embed_dim
    _only(
        "the model",
        {
            "soft_no_obj_ptr": (bool(model.soft_no_obj_ptr), False),
            "backbone_stride": (model.backbone_stride, 16),
            "num_feature_levels": (model.num_feature_levels, 3),
            "hidden_dim, sam_image_embedding_size, sam_prompt_embed_dim": (
                side,
                (model.hidden_dim, model.image_size, model.hidden_dim),
            ),
            "image_size": (tuple(model.sam_prompt_encoder.input_image_size), (model.image_size, model.image_size)),
        },
    )
    if model.num_maskmem < 1 or model.maskmem_tpos_enc.shape[0] < model.num_maskmem:
        raise Unsupported(f"num_maskmem is {model.num_maskmem}")
    if model.mem_dim != model.maskmem_tpos_enc.shape[-1] or model.hidden_dim % model.mem_dim:
        raise Unsupported(f"mem_dim is {model.mem_dim}")


def _trunk(trunk: Hiera) -> Trunk:
    _a(Hiera, trunk, "image_encoder.trunk")
    _only(
        "image_encoder.trunk",
        {
            "q_stride": (trunk.q_stride, (2, 2)),
            "q_pool_blocks": (trunk.q_pool_blocks, tuple(end + 1 for end in trunk.stage_ends[:-1])),
            "return_interm_layers": (trunk.return_interm_layers, True),
        },
    )
    if len(trunk.stage_ends) != len(Trunk.strides):
        raise Unsupported(f"image_encoder.trunk has {len(trunk.stage_ends)} stages")
    first, blocks = trunk.blocks[0], list(trunk.blocks)
    starts = [-1, *trunk.stage_ends]
    built = Trunk(
        first.dim,
        heads=first.attn.num_heads,
        stages=tuple(end - start for start, end in zip(starts, trunk.stage_ends, strict=False)),
        windows=tuple(trunk.window_spec),
        global_blocks=tuple(index for index, block in enumerate(blocks) if block.window_size == 0),
        background=tuple(trunk.pos_embed.shape[-2:]),
    )
    for index, (ours, theirs) in enumerate(zip(built.blocks, blocks, strict=True)):
        made = ours.window, ours.attn.heads, ours.attn.qkv.weight.shape, ours.mlp.layers[0].weight.shape
        wanted = (
            theirs.window_size,
            theirs.attn.num_heads,
            theirs.attn.qkv.weight.shape,
            theirs.mlp.layers[0].weight.shape,
        )
        if made != wanted or type(theirs.mlp.act) is not nn.GELU or type(theirs.norm1) is not nn.LayerNorm:
            raise Unsupported(f"image_encoder.trunk.blocks.{index} is of another shape")
    return built


def _neck(encoder: ImageEncoder, backbone: Trunk) -> Fpn:
    neck = encoder.neck
    _a(FpnNeck, neck, "image_encoder.neck")
    _positions(neck.position_encoding, neck.d_model, "image_encoder.neck.position_encoding")
    _only("image_encoder", {"scalp": (encoder.scalp, 1)})
    _only(
        "image_encoder.neck",
        {
            "fpn_interp_model": (neck.fpn_interp_model, "nearest"),
            "fuse_type": (neck.fuse_type, "sum"),
            "backbone_channel_list": (neck.backbone_channel_list, backbone.channels[::-1]),
        },
    )
    for level, lateral in enumerate(neck.convs):
        conv = lateral.conv
        shape = conv.kernel_size, conv.stride, conv.padding, conv.out_channels
        _only(f"image_encoder.neck.convs.{level}", {"conv": (shape, ((1, 1), (1, 1), (0, 0), neck.d_model))})
    top_down = [backbone.strides[int(level)] for level in neck.fpn_top_down_levels]
    return Fpn(backbone.channels, backbone.strides, neck.d_model, top_down=top_down)


def _positions(part: Any, dim: int, place: str) -> None:
    _a(PositionEmbeddingSine, part, place)
    full_circle = PositionEmbeddingSine(4).scale
    said = part.num_pos_feats * 2, part.temperature, part.normalize, part.scale
    _only(place, {"options": (said, (dim, 10000, True, full_circle))})


def _memory_encoder(encoder: MemoryEncoder, dim: int, options: Any) -> ConvMemoryEncoder:
    stem, fuser = encoder.mask_downsampler, encoder.fuser
    _a(MaskDownSampler, stem, "memory_encoder.mask_downsampler")
    _a(Fuser, fuser, "memory_encoder.fuser")
    _positions(encoder.position_encoding, options.mem_dim, "memory_encoder.position_encoding")
    _only("memory_encoder.fuser", {"proj": (type(fuser.proj), nn.Identity)})
    for index, block in enumerate(fuser.layers):
        _a(CXBlock, block, f"memory_encoder.fuser.layers.{index}")
        shape = block.dwconv.kernel_size, block.dwconv.padding, block.dwconv.groups, type(block.drop_path), block.gamma
        if shape[:4] != ((7, 7), (3, 3), dim, nn.Identity) or shape[4] is None:
            raise Unsupported(f"memory_encoder.fuser.layers.{index} is of another shape")
    convs = [layer for layer in stem.encoder if isinstance(layer, nn.Conv2d)]
    shapes = [(conv.kernel_size, conv.stride, conv.padding) for conv in convs[:-1]]
    if shapes != [((3, 3), (2, 2), (1, 1))] * 4 or any(type(act) is not nn.GELU for act in list(stem.encoder)[2::3]):
        raise Unsupported("memory_encoder.mask_downsampler is of another shape")
    return ConvMemoryEncoder(
        dim,
        int(options.mem_dim),
        mask_scale=float(options.sigmoid_scale_for_mem_enc),
        mask_bias=float(options.sigmoid_bias_for_mem_enc),
        occlusion_embed=options.no_obj_embed_spatial is not None,
        blocks=len(fuser.layers),
    )


def _memory_attention(attention: MemoryAttention, dim: int, memory_dim: int) -> RopeMemoryAttention:
    _only(
        "memory_attention",
        {
            "pos_enc_at_input": (attention.pos_enc_at_input, True),
            "batch_first": (attention.batch_first, True),
        },
    )
    first = attention.layers[0].self_attn
    theta = _theta(first)
    for index, layer in enumerate(attention.layers):
        place = f"memory_attention.layers.{index}"
        _a(MemoryAttentionLayer, layer, place)
        _only(
            place,
            {
                "activation": (layer.activation, F.relu),
                "pos_enc_at_attn": (bool(layer.pos_enc_at_attn), False),
                "pos_enc_at_cross_attn_keys": (bool(layer.pos_enc_at_cross_attn_keys), True),
                "pos_enc_at_cross_attn_queries": (bool(layer.pos_enc_at_cross_attn_queries), False),
            },
        )
        for name, part, key_dim in (
            ("self_attn", layer.self_attn, dim),
            ("cross_attn_image", layer.cross_attn_image, memory_dim),
        ):
            _a(RoPEAttention, part, f"{place}.{name}")
            said = part.internal_dim, part.kv_in_dim, part.num_heads, _theta(part)
            _only(f"{place}.{name}", {"widths": (said, (dim, key_dim, first.num_heads, theta))})
        _only(f"{place}.cross_attn_image", {"rope_k_repeat": (bool(layer.cross_attn_image.rope_k_repeat), True)})
    return RopeMemoryAttention(
        dim,
        memory_dim,
        layers=len(attention.layers),
        heads=int(first.num_heads),
        hidden=int(attention.layers[0].dim_feedforward),
        theta=theta,
    )


def _theta(attention: Any) -> float:
    return float(attention.compute_cis.keywords["theta"])


def _stability(decoder: Any) -> dict[str, float] | None:
    if not decoder.dynamic_multimask_via_stability:
        return None
    return {
        "delta": float(decoder.dynamic_multimask_stability_delta),
        "threshold": float(decoder.dynamic_multimask_stability_thresh),
    }


def _pointer_time(model: Any) -> str:
    names = ("add_tpos_enc_to_obj_ptrs", "proj_tpos_enc_in_obj_ptrs", "use_signed_tpos_enc_to_obj_ptrs")
    given = [bool(getattr(model, name)) for name in names]
    if given[0] and not all(given):
        told = ", ".join(f"{name} {value}" for name, value in zip(names, given, strict=True))
        raise Unsupported(f"object pointers get no time code, as in SAM 2, or a signed, projected one; here {told}")
    if not given[0] and given[1]:
        raise Unsupported("proj_tpos_enc_in_obj_ptrs is True without add_tpos_enc_to_obj_ptrs")
    return "signed" if given[0] else "none"


def multimask(options: Mapping[str, Any]) -> Multimask:
    """When a prompt is answered with three masks, by Meta's four options."""
    if not options["multimask_output_in_sam"]:
        return Multimask(min_points=1, max_points=0)
    return Multimask(
        min_points=int(options["multimask_min_pt_num"]),
        max_points=int(options["multimask_max_pt_num"]),
        while_tracking=bool(options["multimask_output_for_tracking"]),
    )


def policy(options: Mapping[str, Any]) -> RecentFrames:
    """What is remembered, by Meta's options."""
    limit = int(options["max_cond_frames_in_attn"])
    if 0 <= limit < 2:
        raise Unsupported(f"max_cond_frames_in_attn is {limit}, and not -1 or at least 2")
    return RecentFrames(
        frames=int(options["num_maskmem"]) - 1,
        stride=int(options["memory_temporal_stride_for_eval"]),
        object_pointers=int(options["max_obj_ptrs_in_encoder"]),
        prompted=None if limit < 0 else limit,
        future_object_pointers=not options["only_obj_ptrs_in_the_past_for_eval"],
    )
