"""How EdgeTAM's released file, and transformers' `EdgeTamVideoModel`, name their tensors."""

from __future__ import annotations

from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.huggingface import TO_FACEBOOK
from sam2core.checkpoints.layout import Layout, Rename, Rule, Split

LAYERS = 2
_LAYER = "memory_encoder.perceiver.layers.{n}"
_ATTENTION = {"attn": "cross_attn", "self_attn": "self_attn"}
_MLP = {"0": "norm", "1": "linear1", "3": "linear2"}


def _keys_and_values() -> list[Rule]:
    """Keys and values are one tensor there and two here, as in every other attention."""
    return [
        Split(
            f"spatial_perceiver.layers.{layer}.{theirs}.to_kv.weight",
            tuple(f"memory_encoder.perceiver.layers.{layer}.{ours}.{part}_proj.weight" for part in "kv"),
        )
        for layer in range(LAYERS)
        for theirs, ours in _ATTENTION.items()
    ]


EDGETAM = Layout(
    name="edgetam",
    probe=("spatial_perceiver.latents", "maskmem_tpos_enc"),
    tables=(
        (
            *_keys_and_values(),
            Rename("spatial_perceiver.latents", "memory_encoder.perceiver.latents"),
            Rename("spatial_perceiver.latents_2d", "memory_encoder.perceiver.cell_latents"),
            Rename("spatial_perceiver.norm.{p}", "memory_encoder.perceiver.norm.{p}"),
            Rename("spatial_perceiver.layers.{n}.attn.norm_x.{p}", f"{_LAYER}.source_norm.{{p}}"),
            Rename("spatial_perceiver.layers.{n}.attn.norm_latents.{p}", f"{_LAYER}.cross_norm.{{p}}"),
            Rename("spatial_perceiver.layers.{n}.self_attn.norm.{p}", f"{_LAYER}.self_norm.{{p}}"),
            Rename(
                "spatial_perceiver.layers.{n}.{a}.{m}.weight",
                f"{_LAYER}.{{a}}.{{m}}.weight",
                {"a": _ATTENTION, "m": {"to_q": "q_proj", "to_out": "out_proj"}},
            ),
            Rename(
                "spatial_perceiver.layers.{n}.{a}.{m}.{p}",
                f"{_LAYER}.{{a}}.{{m}}.{{p}}",
                {"a": {"ff": "cross_mlp", "self_ff": "self_mlp"}, "m": _MLP},
            ),
            *FACEBOOK.tables[0],
        ),
    ),
)

_FROM_TRANSFORMERS: tuple[Rule, ...] = (
    Rename("vision_encoder.backbone.timm_model.{rest}", "image_encoder.trunk.body.{rest}"),
    Rename(
        "memory_attention.layers.{n}.mlp.{m}.{p}",
        "memory_attention.layers.{n}.{m}.{p}",
        {"m": {"up_proj": "linear1", "down_proj": "linear2"}},
    ),
    Rename("spatial_perceiver.latents_1d", "memory_encoder.perceiver.latents"),
    Rename("spatial_perceiver.latents_2d", "memory_encoder.perceiver.cell_latents"),
    Rename("spatial_perceiver.layer_norm.{p}", "memory_encoder.perceiver.norm.{p}"),
    Rename(
        "spatial_perceiver.layers.{n}.{m}.{p}",
        f"{_LAYER}.{{m}}.{{p}}",
        {"m": {"layer_norm_input": "source_norm", "layer_norm_latents": "cross_norm", "layer_norm_self": "self_norm"}},
    ),
    Rename(
        "spatial_perceiver.layers.{n}.{a}.{m}.weight",
        f"{_LAYER}.{{a}}.{{m}}.weight",
        {
            "a": {"cross_attention": "cross_attn", "self_attention": "self_attn"},
            "m": {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "out_proj"},
        },
    ),
    Rename(
        "spatial_perceiver.layers.{n}.{a}.{m}.{p}",
        f"{_LAYER}.{{a}}.{{m}}.{{p}}",
        {
            "a": {"mlp": "cross_mlp", "self_mlp": "self_mlp"},
            "m": {"layer_norm": "norm", "up_proj": "linear1", "down_proj": "linear2"},
        },
    ),
)

HUGGINGFACE = Layout(
    name="edgetam-huggingface",
    probe=("spatial_perceiver.latents_1d", "memory_temporal_positional_encoding"),
    tables=(
        # The perceiver's names are ours after the first table already; the second leads the others there.
        (*_FROM_TRANSFORMERS, *TO_FACEBOOK),
        (Rename("memory_encoder.perceiver.{rest}", "memory_encoder.perceiver.{rest}"), *FACEBOOK.tables[0]),
    ),
)
