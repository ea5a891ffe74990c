"""Meta's `.pt` files: how they name tensors. Where the published ones lie, and their checksums, the specs say."""

from __future__ import annotations

from sam2core.checkpoints.layout import Layout, Rename, Unused

__all__ = ["FACEBOOK"]

# Meta numbers the neck's levels coarsest first, we finest first.
_FINEST_FIRST = {"0": "3", "1": "2", "2": "1", "3": "0"}

FACEBOOK = Layout(
    name="facebook",
    probe=("image_encoder.trunk.pos_embed_window", "maskmem_tpos_enc"),
    tables=(
        (
            Rename("image_encoder.trunk.{rest}", "backbone.{rest}"),
            Rename("image_encoder.neck.convs.{m}.conv.{p}", "neck.lateral.{m}.{p}", {"m": _FINEST_FIRST}),
            Rename(
                "memory_attention.layers.{n}.cross_attn_image.{rest}", "memory_attention.layers.{n}.cross_attn.{rest}"
            ),
            Rename("memory_attention.{rest}", "memory_attention.{rest}"),
            Rename("memory_encoder.mask_downsampler.encoder.{rest}", "memory_encoder.mask_stem.{rest}"),
            Rename("memory_encoder.pix_feat_proj.{p}", "memory_encoder.feature_proj.{p}"),
            Rename("memory_encoder.fuser.layers.{rest}", "memory_encoder.fuser.{rest}"),
            Rename("memory_encoder.out_proj.{p}", "memory_encoder.out_proj.{p}"),
            Rename("no_obj_embed_spatial", "memory_encoder.occlusion_embed"),
            Rename("maskmem_tpos_enc", "memory_readout.slot_embed"),
            Rename("no_mem_embed", "memory_readout.no_memory"),
            Rename("obj_ptr_tpos_proj.{p}", "memory_readout.pointer_time.{p}"),
            Rename("obj_ptr_proj.{rest}", "object_pointer.proj.{rest}"),
            Rename("no_obj_ptr", "object_pointer.absent"),
            Rename("mask_downsample.{p}", "object_pointer.mask_stem.{p}"),
            Rename("sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "prompt_encoder.frequencies"),
            Rename("sam_prompt_encoder.point_embeddings.{n}.weight", "prompt_encoder.label_embed.{n}.weight"),
            Rename("sam_prompt_encoder.not_a_point_embed.weight", "prompt_encoder.padding_embed.weight"),
            Rename("sam_prompt_encoder.mask_downscaling.{n}.{p}", "prompt_encoder.mask_stem.{n}.{p}"),
            Rename("sam_prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask.weight"),
            Rename("sam_mask_decoder.conv_s0.{p}", "mask_decoder.skip_stride4.{p}"),
            Rename("sam_mask_decoder.conv_s1.{p}", "mask_decoder.skip_stride8.{p}"),
            Rename("sam_mask_decoder.output_hypernetworks_mlps.{rest}", "mask_decoder.mask_mlps.{rest}"),
            Rename("sam_mask_decoder.output_upscaling.{rest}", "mask_decoder.upscale.{rest}"),
            Rename("sam_mask_decoder.iou_prediction_head.{rest}", "mask_decoder.iou_head.{rest}"),
            Rename("sam_mask_decoder.pred_obj_score_head.{rest}", "mask_decoder.presence_head.{rest}"),
            Rename("sam_mask_decoder.obj_score_token.{p}", "mask_decoder.presence_token.{p}"),
            Rename(
                "sam_mask_decoder.transformer.layers.{n}.cross_attn_token_to_image.{rest}",
                "mask_decoder.transformer.layers.{n}.token_to_image.{rest}",
            ),
            Rename(
                "sam_mask_decoder.transformer.layers.{n}.cross_attn_image_to_token.{rest}",
                "mask_decoder.transformer.layers.{n}.image_to_token.{rest}",
            ),
            Rename(
                "sam_mask_decoder.transformer.final_attn_token_to_image.{rest}",
                "mask_decoder.transformer.final_token_to_image.{rest}",
            ),
            Rename("sam_mask_decoder.transformer.norm_final_attn.{p}", "mask_decoder.transformer.final_norm.{p}"),
            Rename("sam_mask_decoder.{rest}", "mask_decoder.{rest}"),
            # Read by Meta's code only under an option that no published model sets.
            Unused("no_mem_pos_enc", like="memory_readout.no_memory"),
        ),
    ),
)
