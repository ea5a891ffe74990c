"""From upstream's descriptions to sam2core's model."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import stability_of
from sam2.modeling.sam.transformer import RoPEAttention
from sam2core.backbones.fpn import Fpn
from sam2core.backbones.hiera import Hiera as Trunk
from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.heads.object_pointer import ObjectPointer
from sam2core.heads.prompt_encoder import PromptEncoder
from sam2core.memory.attention import RopeMemoryAttention
from sam2core.memory.encoder import ConvMemoryEncoder
from sam2core.memory.policy import RecentFrames
from sam2core.memory.readout import MemoryReadout
from sam2core.model import Sam2
from sam2core.types import Multimask

_PARTS: tuple[type, ...] = (
    Hiera,
    FpnNeck,
    ImageEncoder,
    PositionEmbeddingSine,
    MemoryAttention,
    MemoryAttentionLayer,
    RoPEAttention,
    MemoryEncoder,
    MaskDownSampler,
    Fuser,
    CXBlock,
)
PARTS = {f"{part.__module__}.{part.__qualname__}": part for part in _PARTS}
"""What a configuration's ``_target_`` may name; nothing else is ever imported or called."""


def describe(value: Any, place: str) -> Any:
    """A configuration's mappings with ``_target_`` as descriptions, recursively.

    Raises ValueError for a target that is not one of `PARTS` and for options it does not have, naming their place.
    """
    if not isinstance(value, Mapping):
        return value
    options = {key: describe(item, f"{place}.{key}") for key, item in value.items() if key != "_target_"}
    if "_target_" not in value:
        return options
    target = value["_target_"]
    if target not in PARTS:
        raise ValueError(f"{place}._target_ is {target!r}; what can be built: {', '.join(PARTS)}")
    part = PARTS[target]
    known = [field.name for field in fields(part)]
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"{place} has no option {unknown[0]!r}{near(unknown[0], known)}; known: {', '.join(known)}")
    try:
        return part(**options)
    except TypeError as error:
        raise ValueError(f"{place}: {error}") from error


def near(name: str, known: Collection[str]) -> str:
    """ ", did you mean 'x'" when something known looks like the name."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {found[0]!r}?" if found else ""


def _only(place: str, options: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise ValueError for an option whose value no released model has, and which sam2core does not compute."""
    for name, (given, allowed) in options.items():
        value = tuple(given) if isinstance(given, list | tuple) else given
        if value != allowed:
            raise ValueError(f"{place}.{name} is {given!r}: only {allowed!r} is supported, as in all released models")


def _a(part: type, value: Any, place: str) -> Any:
    value = describe(value, place)
    if not isinstance(value, part):
        raise ValueError(f"{place} must be described by {part.__module__}.{part.__qualname__}, not {value!r}")
    return value


def assemble(image_encoder: Any, memory_attention: Any, memory_encoder: Any, options: Mapping[str, Any]) -> Sam2:
    """The model that upstream's constructor arguments describe, freshly initialised.

    Raises ValueError for what sam2core does not compute, naming the option and what is supported.
    """
    encoder = _a(ImageEncoder, image_encoder, "image_encoder")
    trunk, neck = _a(Hiera, encoder.trunk, "image_encoder.trunk"), _a(FpnNeck, encoder.neck, "image_encoder.neck")
    size, dim = int(options["image_size"]), int(neck.d_model)
    memory, memory_dim = _memory_encoder(memory_encoder, dim, options)
    backbone = _trunk(trunk)
    return Sam2(
        backbone=backbone,
        neck=_neck(encoder, neck, backbone),
        prompt_encoder=PromptEncoder(dim, (size, size)),
        mask_decoder=SamMaskDecoder(
            dim,
            high_res_features=bool(options["use_high_res_features_in_sam"]),
            stability=stability_of(options["sam_mask_decoder_extra_args"]),
        ),
        object_pointer=_pointer(dim, options),
        memory_encoder=memory,
        memory_readout=MemoryReadout(
            dim, memory_dim, slots=int(options["num_maskmem"]), pointer_time=_pointer_time(options)
        ),
        memory_attention=_memory_attention(memory_attention, dim, memory_dim),
        memory_policy=policy(options),
        image_size=(size, size),
        multimask=multimask(options),
    )


def _trunk(trunk: Hiera) -> Trunk:
    _only(
        "image_encoder.trunk",
        {
            "q_pool": (trunk.q_pool, 3),
            "q_stride": (trunk.q_stride, (2, 2)),
            "dim_mul": (trunk.dim_mul, 2.0),
            "head_mul": (trunk.head_mul, 2.0),
            "weights_path": (trunk.weights_path, None),
            "return_interm_layers": (trunk.return_interm_layers, True),
        },
    )
    return Trunk(
        trunk.embed_dim,
        heads=trunk.num_heads,
        stages=tuple(trunk.stages),
        windows=tuple(trunk.window_spec),
        global_blocks=tuple(trunk.global_att_blocks),
        background=tuple(trunk.window_pos_embed_bkg_spatial_size),
        drop_path=trunk.drop_path_rate,
    )


def _neck(encoder: ImageEncoder, neck: FpnNeck, backbone: Trunk) -> Fpn:
    _only("image_encoder", {"scalp": (encoder.scalp, 1)})
    _only(
        "image_encoder.neck",
        {
            "kernel_size": (neck.kernel_size, 1),
            "stride": (neck.stride, 1),
            "padding": (neck.padding, 0),
            "fpn_interp_model": (neck.fpn_interp_model, "nearest"),
            "fuse_type": (neck.fuse_type, "sum"),
            "backbone_channel_list": (neck.backbone_channel_list, backbone.channels[::-1]),
        },
    )
    levels = range(len(backbone.strides)) if neck.fpn_top_down_levels is None else neck.fpn_top_down_levels
    return Fpn(
        backbone.channels, backbone.strides, neck.d_model, top_down=[backbone.strides[int(level)] for level in levels]
    )


def _memory_encoder(value: Any, dim: int, options: Mapping[str, Any]) -> tuple[ConvMemoryEncoder, int]:
    encoder = _a(MemoryEncoder, value, "memory_encoder")
    stem = _a(MaskDownSampler, encoder.mask_downsampler, "memory_encoder.mask_downsampler")
    fuser = _a(Fuser, encoder.fuser, "memory_encoder.fuser")
    block = _a(CXBlock, fuser.layer, "memory_encoder.fuser.layer")
    _only(
        "memory_encoder.mask_downsampler",
        {
            "kernel_size": (stem.kernel_size, 3),
            "stride": (stem.stride, 2),
            "padding": (stem.padding, 1),
            "total_stride": (stem.total_stride, 16),
            "embed_dim": (stem.embed_dim, dim),
        },
    )
    _only("memory_encoder.fuser", {"input_projection": (fuser.input_projection, False)})
    _only(
        "memory_encoder.fuser.layer",
        {
            "dim": (block.dim, dim),
            "kernel_size": (block.kernel_size, 7),
            "padding": (block.padding, 3),
            "drop_path": (block.drop_path, 0.0),
            "use_dwconv": (block.use_dwconv, True),
        },
    )
    _only("memory_encoder", {"in_dim": (encoder.in_dim, dim)})
    built = ConvMemoryEncoder(
        dim,
        int(encoder.out_dim),
        mask_scale=float(options["sigmoid_scale_for_mem_enc"]),
        mask_bias=float(options["sigmoid_bias_for_mem_enc"]),
        occlusion_embed=bool(options["no_obj_embed_spatial"]),
        blocks=int(fuser.num_layers),
        layer_scale=float(block.layer_scale_init_value),
    )
    return built, int(encoder.out_dim)


def _memory_attention(value: Any, dim: int, memory_dim: int) -> RopeMemoryAttention:
    attention = _a(MemoryAttention, value, "memory_attention")
    layer = _a(MemoryAttentionLayer, attention.layer, "memory_attention.layer")
    own = _a(RoPEAttention, layer.self_attention, "memory_attention.layer.self_attention")
    cross = _a(RoPEAttention, layer.cross_attention, "memory_attention.layer.cross_attention")
    _only(
        "memory_attention",
        {"d_model": (attention.d_model, dim), "pos_enc_at_input": (attention.pos_enc_at_input, True)},
    )
    _only(
        "memory_attention.layer",
        {
            "activation": (layer.activation, "relu"),
            "d_model": (layer.d_model, dim),
            "pos_enc_at_attn": (layer.pos_enc_at_attn, False),
            "pos_enc_at_cross_attn_keys": (layer.pos_enc_at_cross_attn_keys, True),
            "pos_enc_at_cross_attn_queries": (layer.pos_enc_at_cross_attn_queries, False),
        },
    )
    for name, part in (("self_attention", own), ("cross_attention", cross)):
        _only(
            f"memory_attention.layer.{name}",
            {
                "embedding_dim": (part.embedding_dim, dim),
                "downsample_rate": (part.downsample_rate, 1),
                "rope_theta": (float(part.rope_theta), float(own.rope_theta)),
                "num_heads": (part.num_heads, own.num_heads),
            },
        )
    _only(
        "memory_attention.layer.cross_attention",
        {"kv_in_dim": (cross.kv_in_dim, memory_dim), "rope_k_repeat": (cross.rope_k_repeat, True)},
    )
    return RopeMemoryAttention(
        dim,
        memory_dim,
        layers=int(attention.num_layers),
        heads=int(own.num_heads),
        hidden=int(layer.dim_feedforward),
        theta=float(own.rope_theta),
        dropout=float(layer.dropout),
    )


def _pointer(dim: int, options: Mapping[str, Any]) -> ObjectPointer:
    always = (
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
    _only("model", {name: (options[name], True) for name in always})
    _only("model", {"soft_no_obj_ptr": (options["soft_no_obj_ptr"], False)})
    _only("model", {"backbone_stride": (options["backbone_stride"], 16)})
    return ObjectPointer(dim)


def _pointer_time(options: Mapping[str, Any]) -> str:
    names = ("add_tpos_enc_to_obj_ptrs", "proj_tpos_enc_in_obj_ptrs", "use_signed_tpos_enc_to_obj_ptrs")
    given = [bool(options[name]) for name in names]
    if given[0] and not all(given):
        told = ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=True))
        raise ValueError(f"object pointers get no time code (SAM 2), or a signed, projected one (SAM 2.1); not {told}")
    return "signed" if given[0] else "none"


def multimask(options: Mapping[str, Any]) -> Multimask:
    """When a prompt is answered with three masks, by upstream's four options."""
    if not options["multimask_output_in_sam"]:
        return Multimask(min_points=1, max_points=0)
    return Multimask(
        min_points=int(options["multimask_min_pt_num"]),
        max_points=int(options["multimask_max_pt_num"]),
        while_tracking=bool(options["multimask_output_for_tracking"]),
    )


def policy(options: Mapping[str, Any]) -> RecentFrames:
    """What is remembered, by upstream's options."""
    limit = int(options["max_cond_frames_in_attn"])
    return RecentFrames(
        frames=int(options["num_maskmem"]) - 1,
        stride=int(options["memory_temporal_stride_for_eval"]),
        object_pointers=int(options["max_obj_ptrs_in_encoder"]),
        prompted=None if limit < 0 else limit,
        future_object_pointers=not options["only_obj_ptrs_in_the_past_for_eval"],
    )
