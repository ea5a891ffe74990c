"""transformers' `Sam2VideoModel` and `Sam2Model`: how their files name tensors, and the JSON that lies beside them.

The rules lead to Meta's names, and Meta's table leads on to ours: one table less to get wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.layout import Copy, Layout, Rename, Split

__all__ = ["HUGGINGFACE", "HUGGINGFACE_IMAGE", "TO_FACEBOOK", "config", "processor_config"]

_TWO = {"proj_in": "0", "proj_out": "1"}
_THREE = {"proj_in": "0", "layers.0": "1", "proj_out": "2"}
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "out_proj"}

TO_FACEBOOK = (
    Rename("vision_encoder.backbone.patch_embed.projection.{p}", "image_encoder.trunk.patch_embed.proj.{p}"),
    Rename("vision_encoder.backbone.{m:pos_embed|pos_embed_window}", "image_encoder.trunk.{m}"),
    Rename("vision_encoder.backbone.blocks.{n}.layer_norm{m:1|2}.{p}", "image_encoder.trunk.blocks.{n}.norm{m}.{p}"),
    Rename(
        "vision_encoder.backbone.blocks.{n}.{m:attn.qkv|attn.proj|proj}.{p}", "image_encoder.trunk.blocks.{n}.{m}.{p}"
    ),
    Rename(
        "vision_encoder.backbone.blocks.{n}.mlp.{m}.{p}",
        "image_encoder.trunk.blocks.{n}.mlp.layers.{m}.{p}",
        {"m": _TWO},
    ),
    Rename("vision_encoder.neck.convs.{n}.{p}", "image_encoder.neck.convs.{n}.conv.{p}"),
    Rename(
        "prompt_encoder.shared_embedding.positional_embedding",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    Copy("shared_image_embedding.positional_embedding", of="prompt_encoder.shared_embedding.positional_embedding"),
    Split(
        "prompt_encoder.point_embed.weight",
        tuple(f"sam_prompt_encoder.point_embeddings.{label}.weight" for label in range(4)),
    ),
    Rename("prompt_encoder.{m:not_a_point_embed|no_mask_embed}.weight", "sam_prompt_encoder.{m}.weight"),
    Rename(
        "prompt_encoder.mask_embed.{m}.{p}",
        "sam_prompt_encoder.mask_downscaling.{m}.{p}",
        {"m": {"conv1": "0", "layer_norm1": "1", "conv2": "3", "layer_norm2": "4", "conv3": "6"}},
    ),
    Rename("mask_decoder.{m:iou_token|mask_tokens|obj_score_token}.weight", "sam_mask_decoder.{m}.weight"),
    Rename(
        "mask_decoder.transformer.layers.{n}.{a:self_attn|cross_attn_token_to_image|cross_attn_image_to_token}.{m}.{p}",
        "sam_mask_decoder.transformer.layers.{n}.{a}.{m}.{p}",
        {"m": _ATTENTION},
    ),
    Rename(
        "mask_decoder.transformer.layers.{n}.layer_norm{m:1|2|3|4}.{p}",
        "sam_mask_decoder.transformer.layers.{n}.norm{m}.{p}",
    ),
    Rename(
        "mask_decoder.transformer.layers.{n}.mlp.{m}.{p}",
        "sam_mask_decoder.transformer.layers.{n}.mlp.layers.{m}.{p}",
        {"m": _TWO},
    ),
    Rename(
        "mask_decoder.transformer.final_attn_token_to_image.{m}.{p}",
        "sam_mask_decoder.transformer.final_attn_token_to_image.{m}.{p}",
        {"m": _ATTENTION},
    ),
    Rename(
        "mask_decoder.transformer.layer_norm_final_attn.{p}",
        "sam_mask_decoder.transformer.norm_final_attn.{p}",
    ),
    Rename(
        "mask_decoder.{m}.{p}",
        "sam_mask_decoder.output_upscaling.{m}.{p}",
        {"m": {"upscale_conv1": "0", "upscale_layer_norm": "1", "upscale_conv2": "3"}},
    ),
    Rename("mask_decoder.{m:conv_s0|conv_s1}.{p}", "sam_mask_decoder.{m}.{p}"),
    Rename(
        "mask_decoder.output_hypernetworks_mlps.{n}.{m}.{p}",
        "sam_mask_decoder.output_hypernetworks_mlps.{n}.layers.{m}.{p}",
        {"m": _THREE},
    ),
    Rename(
        "mask_decoder.{h:iou_prediction_head|pred_obj_score_head}.{m}.{p}",
        "sam_mask_decoder.{h}.layers.{m}.{p}",
        {"m": _THREE},
    ),
    Rename("object_pointer_proj.{m}.{p}", "obj_ptr_proj.layers.{m}.{p}", {"m": _THREE}),
    Rename(
        "memory_attention.layers.{n}.{a:self_attn|cross_attn_image}.{m}.{p}",
        "memory_attention.layers.{n}.{a}.{m}.{p}",
        {"m": _ATTENTION},
    ),
    Rename("memory_attention.layers.{n}.{m:linear1|linear2}.{p}", "memory_attention.layers.{n}.{m}.{p}"),
    Rename("memory_attention.layers.{n}.layer_norm{m:1|2|3}.{p}", "memory_attention.layers.{n}.norm{m}.{p}"),
    Rename("memory_attention.layer_norm.{p}", "memory_attention.norm.{p}"),
    Rename(
        "memory_encoder.mask_downsampler.{m}.{p}",
        "memory_encoder.mask_downsampler.encoder.{m}.{p}",
        {
            "m": {
                "layers.0.conv": "0",
                "layers.0.layer_norm": "1",
                "layers.1.conv": "3",
                "layers.1.layer_norm": "4",
                "layers.2.conv": "6",
                "layers.2.layer_norm": "7",
                "layers.3.conv": "9",
                "layers.3.layer_norm": "10",
                "final_conv": "12",
            }
        },
    ),
    Rename("memory_encoder.feature_projection.{p}", "memory_encoder.pix_feat_proj.{p}"),
    Rename("memory_encoder.projection.{p}", "memory_encoder.out_proj.{p}"),
    Rename("memory_encoder.memory_fuser.layers.{n}.scale", "memory_encoder.fuser.layers.{n}.gamma"),
    Rename(
        "memory_encoder.memory_fuser.layers.{n}.{m}.{p}",
        "memory_encoder.fuser.layers.{n}.{m}.{p}",
        {
            "m": {
                "depthwise_conv": "dwconv",
                "layer_norm": "norm",
                "pointwise_conv1": "pwconv1",
                "pointwise_conv2": "pwconv2",
            }
        },
    ),
    Rename("memory_temporal_positional_encoding", "maskmem_tpos_enc"),
    Rename("no_memory_embedding", "no_mem_embed"),
    Rename("no_memory_positional_encoding", "no_mem_pos_enc"),
    Rename("no_object_pointer", "no_obj_ptr"),
    Rename("occlusion_spatial_embedding_parameter", "no_obj_embed_spatial"),
    Rename("mask_downsample.{p}", "mask_downsample.{p}"),
    Rename("temporal_positional_encoding_projection_layer.{p}", "obj_ptr_tpos_proj.{p}"),
)

HUGGINGFACE = Layout(
    name="huggingface",
    probe=("vision_encoder.backbone.pos_embed", "memory_temporal_positional_encoding"),
    tables=(TO_FACEBOOK, *FACEBOOK.tables),
)

HUGGINGFACE_IMAGE = Layout(
    name="huggingface-image",
    probe=("vision_encoder.backbone.pos_embed",),
    tables=HUGGINGFACE.tables,
    without=(
        "memory_",
        "mask_downsample.",
        "no_memory_positional_encoding",
        "no_object_pointer",
        "object_pointer_proj.",
        "occlusion_spatial_embedding_parameter",
        "temporal_positional_encoding_projection_layer.",
    ),
)


def config(
    *,
    spec: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
    trunk: Mapping[str, Any],
    head_hidden: int,
    image_only: bool = False,
) -> dict[str, Any]:
    """transformers' `config.json` for a model: every field that a spec can change, as plain values.

    spec          the resolved spec as a tree
    options       all options, defaults included, of the parts: `neck`, `mask_decoder`, `memory_encoder`,
                  `memory_attention`, `memory_readout`, `memory_policy`
    trunk         Hiera's numbers: embed_dim, heads, stages, windows, global_blocks, background, mlp_ratio
    head_hidden   width of the hidden layers of the IoU head
    image_only    for `Sam2Model` instead of `Sam2VideoModel`
    """
    height, width = spec["image_size"]
    size = height if height == width else [height, width]
    family = "sam2" if image_only else "sam2_video"
    image = {
        "architectures": ["Sam2Model" if image_only else "Sam2VideoModel"],
        "model_type": family,
        "dtype": "float32",
        "vision_config": _vision_config(spec, options["neck"], trunk),
        "prompt_encoder_config": {
            "model_type": f"{family}_prompt_encoder",
            "hidden_size": spec["dim"],
            "image_size": size,
        },
        "mask_decoder_config": {
            "model_type": f"{family}_mask_decoder",
            **_mask_decoder_fields(spec, options["mask_decoder"], head_hidden),
        },
    }
    return image if image_only else {**image, "image_size": size, **_video_fields(spec, options)}


def _vision_config(spec: Mapping[str, Any], neck: Mapping[str, Any], trunk: Mapping[str, Any]) -> dict[str, Any]:
    height, width = spec["image_size"]
    widths = [trunk["embed_dim"] * 2**stage for stage in range(4)]
    strides = (4, 8, 16, 32)
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": trunk["embed_dim"],
            "num_attention_heads": trunk["heads"],
            "image_size": [height, width],
            "window_positional_embedding_background_size": list(trunk["background"]),
            "blocks_per_stage": list(trunk["stages"]),
            "embed_dim_per_stage": widths,
            "num_attention_heads_per_stage": [trunk["heads"] * 2**stage for stage in range(4)],
            "window_size_per_stage": list(trunk["windows"]),
            "global_attention_blocks": list(trunk["global_blocks"]),
            "mlp_ratio": float(trunk["mlp_ratio"]),
        },
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": [[height // stride, width // stride] for stride in strides[:3]],
        "fpn_hidden_size": spec["dim"],
        # The coarsest level always takes part there; ours names only those that receive.
        "fpn_top_down_levels": sorted({strides.index(stride) for stride in neck["top_down"]} | {3}),
    }


def _mask_decoder_fields(spec: Mapping[str, Any], decoder: Mapping[str, Any], head_hidden: int) -> dict[str, Any]:
    stability = decoder["stability"]
    fields = {
        "hidden_size": spec["dim"],
        "mlp_dim": decoder["hidden"],
        "num_attention_heads": decoder["heads"],
        "iou_head_hidden_dim": head_hidden,
        "dynamic_multimask_via_stability": stability is not None,
    }
    if stability is not None:
        fields["dynamic_multimask_stability_delta"] = float(stability["delta"])
        fields["dynamic_multimask_stability_thresh"] = float(stability["threshold"])
    return fields


def _video_fields(spec: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `Sam2VideoModel` has at the top of its config beside the image model's: memories and how they are read."""
    (height, width), dim = spec["image_size"], spec["dim"]
    encoder, attention = options["memory_encoder"], options["memory_attention"]
    readout, policy, multimask = options["memory_readout"], options["memory_policy"], spec["multimask"]
    return {
        "num_maskmem": readout["slots"],
        "sigmoid_scale_for_mem_enc": float(encoder["mask_scale"]),
        "sigmoid_bias_for_mem_enc": float(encoder["mask_bias"]),
        "enable_occlusion_spatial_embedding": bool(encoder["occlusion_embed"]),
        "enable_temporal_pos_encoding_for_object_pointers": readout["pointer_time"] == "signed",
        "multimask_min_pt_num": multimask["min_points"],
        "multimask_max_pt_num": multimask["max_points"],
        "multimask_output_for_tracking": bool(multimask["while_tracking"]),
        "max_object_pointers_in_encoder": policy["object_pointers"],
        "max_cond_frame_num": -1 if policy["prompted"] is None else policy["prompted"],
        "memory_attention_hidden_size": dim,
        "memory_attention_num_layers": attention["layers"],
        "memory_attention_num_attention_heads": attention["heads"],
        "memory_attention_feed_forward_hidden_size": attention["hidden"],
        "memory_attention_dropout": float(attention["dropout"]),
        "memory_attention_rope_dropout": float(attention["dropout"]),
        "memory_attention_rope_feat_sizes": [width // 16, height // 16],
        "rope_parameters": {"rope_theta": float(attention["theta"]), "rope_type": "axial"},
        "memory_encoder_hidden_size": dim,
        "memory_encoder_output_channels": spec["memory_dim"],
        "mask_downsampler_embed_dim": dim,
        "memory_fuser_num_layers": encoder["blocks"],
        "memory_fuser_embed_dim": dim,
        "memory_fuser_intermediate_dim": 4 * dim,
        "memory_fuser_layer_scale_init_value": float(encoder["layer_scale"]),
    }


def processor_config(image_size: tuple[int, int] | list[int], *, image_only: bool = False) -> dict[str, Any]:
    """transformers' `processor_config.json` for an image size (height, width): how images become pixels there."""
    height, width = image_size
    pixels = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": height, "width": width},
    }
    out: dict[str, Any] = {
        "processor_class": "Sam2Processor" if image_only else "Sam2VideoProcessor",
        "image_processor": pixels
        | {
            "image_processor_type": "Sam2ImageProcessor",
            "mask_size": {"height": height // 4, "width": width // 4},
        },
        "point_pad_value": -10,
        "target_size": height,
    }
    if not image_only:
        out["video_processor"] = pixels | {"video_processor_type": "Sam2VideoVideoProcessor", "return_metadata": False}
    return out
