"""transformers' `Sam2VideoModel` and `Sam2Model`: how their files name tensors, and the JSON that lies beside them.

The rules lead to Meta's names, and Meta's table leads on to ours: one table less to get wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.layout import Copy, Layout, Rename, Split

__all__ = ["HUGGINGFACE", "HUGGINGFACE_IMAGE", "config", "processor_config"]

_TWO = {"proj_in": "0", "proj_out": "1"}
_THREE = {"proj_in": "0", "layers.0": "1", "proj_out": "2"}
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "out_proj"}

_TO_FACEBOOK = (
    Rename("vision_encoder.backbone.patch_embed.projection.{p}", "image_encoder.trunk.patch_embed.proj.{p}"),
    Rename("vision_encoder.backbone.{m:pos_embed|pos_embed_window}", "image_encoder.trunk.{m}"),
    Rename("vision_encoder.backbone.blocks.{n}.layer_norm{m:1|2}.{p}", "image_encoder.trunk.blocks.{n}.norm{m}.{p}"),
    Rename("vision_encoder.backbone.blocks.{n}.{m:attn.qkv|attn.proj|proj}.{p}", "image_encoder.trunk.blocks.{n}.{m}.{p}"),
    Rename(
        "vision_encoder.backbone.blocks.{n}.mlp.{m}.{p}", "image_encoder.trunk.blocks.{n}.mlp.layers.{m}.{p}", {"m": _TWO}
    ),
    Rename("vision_encoder.neck.convs.{n}.{p}", "image_encoder.neck.convs.{n}.conv.{p}"),
    Rename(
        "prompt_encoder.shared_embedding.positional_embedding",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    Copy("shared_image_embedding.positional_embedding", of="prompt_encoder.shared_embedding.positional_embedding"),
    Split("prompt_encoder.point_embed.weight", "sam_prompt_encoder.point_embeddings.{n}.weight", count=4),
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
    tables=(_TO_FACEBOOK, *FACEBOOK.tables),
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
