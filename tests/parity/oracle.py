"""The two reference implementations, built small enough to run beside ours, with every tensor re-randomised.

Freshly initialised models hide mistakes: position embeddings are zero, layer scales 1e-6, norms the identity, cloned
layers equal, and object scores flip at random. So `randomise` overwrites every parameter and buffer, and the
`force_*` functions push the model into each branch that the selection rules have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes that describe one model, in no implementation's words."""

    embed: int
    heads: int
    stages: tuple[int, ...]
    windows: tuple[int, ...]
    global_blocks: tuple[int, ...]
    background: tuple[int, int]
    image: int = 256
    dim: int = 256
    memory_dim: int = 64
    hidden: int = 2048
    decoder_heads: int = 8
    attention_layers: int = 4
    family: str = "2.1"

    def at(self, **changes: Any) -> Shape:
        return replace(self, **changes)


SHAPES = {
    "t": Shape(96, 1, (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), (7, 7)),
    "s": Shape(96, 1, (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), (7, 7)),
    "b+": Shape(112, 2, (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), (14, 14)),
    "l": Shape(144, 2, (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), (7, 7)),
    # Every mechanism of the large ones in a third of a million parameters: for the recorded files and long runs.
    "mini": Shape(
        8,
        1,
        (1, 2, 3, 1),
        (8, 4, 6, 3),
        (4,),
        (5, 5),
        image=128,
        dim=32,
        memory_dim=8,
        hidden=48,
        decoder_heads=4,
        attention_layers=2,
    ),
}


def upstream(shape: Shape, *, stability: bool = True, hard_prompt_masks: bool = True, video: bool = False) -> Any:
    """Meta's model (``SAM2Base``, or ``SAM2VideoPredictor`` when ``video``) in eval mode, assembled without Hydra.

    ``stability`` and ``hard_prompt_masks`` are the two flags that Meta's builder calls postprocessing.
    """
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer
    from sam2.modeling.sam2_base import SAM2Base
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    dim, newer = shape.dim, shape.family == "2.1"
    grid = shape.image // 16
    trunk = Hiera(
        embed_dim=shape.embed,
        num_heads=shape.heads,
        stages=list(shape.stages),
        window_spec=list(shape.windows),
        global_att_blocks=list(shape.global_blocks),
        window_pos_embed_bkg_spatial_size=list(shape.background),
    )
    neck = FpnNeck(
        PositionEmbeddingSine(dim),
        d_model=dim,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    rope = {"rope_theta": 10000.0, "feat_sizes": (grid, grid), "embedding_dim": dim, "num_heads": 1, "dropout": 0.1}
    layer = MemoryAttentionLayer(
        activation="relu",
        cross_attention=RoPEAttention(rope_k_repeat=True, kv_in_dim=shape.memory_dim, **rope),
        d_model=dim,
        dim_feedforward=shape.hidden,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(**rope),
    )
    decoder_extra = {
        "dynamic_multimask_via_stability": stability,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    options: dict[str, Any] = {"add_tpos_enc_to_obj_ptrs": newer}
    if newer:
        options |= {"no_obj_embed_spatial": True}
        options |= {"proj_tpos_enc_in_obj_ptrs": True, "use_signed_tpos_enc_to_obj_ptrs": True}
    if video:
        options |= {"fill_hole_area": 0}
    model = (SAM2VideoPredictor if video else SAM2Base)(
        image_encoder=ImageEncoder(trunk, neck, scalp=1),
        memory_attention=MemoryAttention(
            d_model=dim, pos_enc_at_input=True, layer=layer, num_layers=shape.attention_layers
        ),
        memory_encoder=MemoryEncoder(
            out_dim=shape.memory_dim,
            mask_downsampler=MaskDownSampler(dim, kernel_size=3, stride=2, padding=1),
            fuser=Fuser(CXBlock(dim, layer_scale_init_value=1e-6, use_dwconv=True), num_layers=2),
            position_encoding=PositionEmbeddingSine(shape.memory_dim),
            in_dim=dim,
        ),
        num_maskmem=7,
        image_size=shape.image,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        binarize_mask_from_pts_for_mem_enc=hard_prompt_masks,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
        sam_mask_decoder_extra_args=decoder_extra,
        **options,
    )
    if dim != 256:  # SAM2Base fixes the decoder's inner widths, so a small model gets a decoder of its own
        model.sam_mask_decoder = MaskDecoder(
            transformer_dim=dim,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=dim, num_heads=shape.decoder_heads, mlp_dim=shape.hidden
            ),
            iou_head_hidden_dim=dim,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            use_multimask_token_for_obj_ptr=True,
            **decoder_extra,
        )
    return model.eval()


def upstream_predictor(model: Any) -> Any:
    """Meta's image predictor, told the feature sizes of this model (it only knows those of 1024 pixels)."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // s, model.image_size // s) for s in (4, 8, 16)]
    return predictor


def transformers_model(shape: Shape, *, video: bool = False) -> Any:
    """transformers' ``Sam2Model``, or ``Sam2VideoModel`` when ``video``, in eval mode with its own initialisation."""
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VideoConfig,
        Sam2VideoMaskDecoderConfig,
        Sam2VideoModel,
        Sam2VideoPromptEncoderConfig,
        Sam2VisionConfig,
    )

    widths = [shape.embed * 2**i for i in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=shape.embed,
        num_attention_heads=shape.heads,
        image_size=[shape.image, shape.image],
        window_positional_embedding_background_size=list(shape.background),
        blocks_per_stage=list(shape.stages),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[shape.heads * 2**i for i in range(4)],
        window_size_per_stage=list(shape.windows),
        global_attention_blocks=list(shape.global_blocks),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[shape.image // s] * 2 for s in (4, 8, 16)],
        fpn_hidden_size=shape.dim,
    )
    decoder = {
        "hidden_size": shape.dim,
        "mlp_dim": shape.hidden,
        "num_attention_heads": shape.decoder_heads,
        "iou_head_hidden_dim": shape.dim,
    }
    prompt = {"hidden_size": shape.dim, "image_size": shape.image}
    if not video:
        config = Sam2Config(
            vision_config=vision,
            prompt_encoder_config=Sam2PromptEncoderConfig(**prompt),
            mask_decoder_config=Sam2MaskDecoderConfig(**decoder),
        )
        model = Sam2Model._from_config(config, attn_implementation="sdpa")
    else:
        newer = shape.family == "2.1"
        config = Sam2VideoConfig(
            vision_config=vision,
            prompt_encoder_config=Sam2VideoPromptEncoderConfig(**prompt),
            mask_decoder_config=Sam2VideoMaskDecoderConfig(**decoder),
            image_size=shape.image,
            enable_occlusion_spatial_embedding=newer,
            enable_temporal_pos_encoding_for_object_pointers=newer,
            memory_attention_hidden_size=shape.dim,
            memory_attention_num_layers=shape.attention_layers,
            memory_attention_feed_forward_hidden_size=shape.hidden,
            memory_attention_rope_feat_sizes=[shape.image // 16] * 2,
            memory_encoder_hidden_size=shape.dim,
            memory_encoder_output_channels=shape.memory_dim,
            mask_downsampler_embed_dim=shape.dim,
            memory_fuser_embed_dim=shape.dim,
            memory_fuser_intermediate_dim=4 * shape.dim,
        )
        model = Sam2VideoModel._from_config(config, attn_implementation="sdpa")
    return model.eval()


def ours(shape: Shape, state: dict[str, Tensor] | None = None, *, stability: bool = True) -> Any:
    """Our model of the same shape in eval mode, with ``state`` (our names) loaded strictly when given."""
    from sam2core.backbones.fpn import Fpn
    from sam2core.backbones.hiera import Hiera
    from sam2core.heads.mask_decoder import SamMaskDecoder
    from sam2core.heads.object_pointer import ObjectPointer
    from sam2core.heads.prompt_encoder import PromptEncoder
    from sam2core.memory.attention import RopeMemoryAttention
    from sam2core.memory.encoder import ConvMemoryEncoder
    from sam2core.memory.policy import RecentFrames
    from sam2core.memory.readout import MemoryReadout
    from sam2core.model import Sam2

    dim, memory_dim, newer, size = shape.dim, shape.memory_dim, shape.family == "2.1", (shape.image, shape.image)
    with torch.device("meta" if state is not None else "cpu"):
        backbone = Hiera(
            shape.embed,
            heads=shape.heads,
            stages=shape.stages,
            windows=shape.windows,
            global_blocks=shape.global_blocks,
            background=shape.background,
        )
        model = Sam2(
            backbone=backbone,
            neck=Fpn(backbone.channels, backbone.strides, dim),
            prompt_encoder=PromptEncoder(dim, size),
            mask_decoder=SamMaskDecoder(
                dim,
                heads=shape.decoder_heads,
                hidden=shape.hidden,
                stability={"delta": 0.05, "threshold": 0.98} if stability else None,
            ),
            object_pointer=ObjectPointer(dim),
            memory_encoder=ConvMemoryEncoder(dim, memory_dim, occlusion_embed=newer),
            memory_readout=MemoryReadout(dim, memory_dim, pointer_time="signed" if newer else "none"),
            memory_attention=RopeMemoryAttention(dim, memory_dim, layers=shape.attention_layers, hidden=shape.hidden),
            memory_policy=RecentFrames(),
            image_size=size,
        )
    if state is not None:
        model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


@torch.no_grad()
def randomise(module: nn.Module, seed: int, *, half: bool = False) -> nn.Module:
    """Overwrite every parameter and buffer in place so that no two layers agree and activations keep an ordinary size.

    Matrices and kernels get a deviation of 1/sqrt(fan in), norm weights 1 +- 0.2, layer scales and biases 0.3, free
    tables 0.5. With ``half`` all values are exact in float16, so that a recording can be stored in half the space
    without rounding.
    """
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: Tensor, mean: float, std: float) -> None:
        value = mean + std * torch.randn(tensor.shape, generator=generator)
        tensor.copy_(value.half() if half else value)

    for part in module.modules():
        matrix = isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if not tensor.is_floating_point():
                continue
            if "gaussian" in name or "positional_embedding" == name:
                fill(tensor, 0.0, 1.0)
            elif name == "bias" or name in ("gamma", "scale"):
                fill(tensor, 0.0, 0.3)
            elif matrix:
                fan_in = tensor.shape[0] if isinstance(part, nn.ConvTranspose2d) else tensor[0].numel()
                fill(tensor, 0.0, 1.0 / math.sqrt(fan_in))
            elif name == "weight" and tensor.ndim == 1:
                fill(tensor, 1.0, 0.2)
            else:
                fill(tensor, 0.0, 0.5)
    return module


@torch.no_grad()
def force_object_score(model: Any, value: float) -> None:
    """Make Meta's object scores about ``value`` (+5: always there, -5: never) whatever the image."""
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    head.weight.mul_(0.05)
    head.bias.fill_(value)


@torch.no_grad()
def force_best(model: Any, index: int) -> None:
    """Make Meta's IoU head prefer mask ``index`` of the four by a clear margin."""
    head = model.sam_mask_decoder.iou_prediction_head.layers[-1]
    head.weight.mul_(0.1)
    head.bias.zero_()
    head.bias[index] = 1.0


@torch.no_grad()
def force_stability(model: Any, stable: bool) -> None:
    """Make mask 0 of Meta's decoder clearly stable (large logits) or clearly not (logits in the band of +-0.05)."""
    head = model.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1]
    scale = 1e3 if stable else 1e-2
    head.weight.mul_(scale)
    head.bias.mul_(scale)


def to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's names to ours, through the checkpoint table that users get."""
    from sam2core.checkpoints.facebook import FACEBOOK

    return FACEBOOK.rename({name: tensor.clone() for name, tensor in state.items()})


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names to transformers', through the checkpoint table that users get."""
    from sam2core.checkpoints.huggingface import HUGGINGFACE

    return HUGGINGFACE.inverse({name: tensor.clone() for name, tensor in state.items()})


def error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest expected magnitude."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    if expected.numel() == 0:
        return 0.0
    scale = expected.detach().abs().max().clamp_min(1e-12)
    return float((actual.detach().float() - expected.detach().float()).abs().max() / scale)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Fail unless `error` stays below ``tolerance``; NaN always fails."""
    found = error(actual, expected)
    assert found <= tolerance, f"relative error {found:.2e} is above {tolerance:.0e}"
