"""EfficientTAM as models of the registry, and its masks beside those recorded from the original."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from sam2core_efficienttam.attention import PooledMemoryAttention, pool
from sam2core_efficienttam.layouts import EFFICIENTTAM
from sam2core_efficienttam.neck import SingleLevelNeck

import registry
from registry.assemble import assemble, init_empty_weights
from registry.plugins import current
from sam2core.cli.train import command as train
from sam2core.cli.train import read_recipe
from sam2core.media.images import read_image
from sam2core.predictors.transforms import to_model
from sam2core.predictors.video import VideoPredictor
from sam2core.testing import check
from sam2core.training.optim import parameter_groups
from sam2core.training.recipe import Recipe
from sam2core.types import TokenBlock

HERE = Path(__file__).parent
MODELS = {
    "efficienttam_s": 34055586,
    "efficienttam_s_1": 34055586,
    "efficienttam_s_2": 34055586,
    "efficienttam_s_512x512": 34055586,
    "efficienttam_ti": 17865762,
    "efficienttam_ti_1": 17865762,
    "efficienttam_ti_2": 17865762,
    "efficienttam_ti_512x512": 17865762,
}


@cache
def recorder():
    spec = importlib.util.spec_from_file_location("efficienttam_recorder", HERE / "recorder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference relative to the spread of what is expected."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / (expected.max() - expected.min()).clamp_min(1e-12))


@cache
def model(variant: str):
    """Our model with the tensors that the original was recorded with."""
    ours = registry.build(f"efficienttam_{variant}", weights=False, image_size=recorder().SIDE)
    theirs = EFFICIENTTAM.inverse(ours.state_dict())
    made = {name: recorder().values(name, tensor.shape) for name, tensor in theirs.items()}
    ours.load_state_dict(EFFICIENTTAM.rename(made))
    return ours


def test_every_model_has_the_published_size_and_its_layout_is_a_bijection():
    assert {name for name in registry.models() if name.startswith("efficienttam")} == set(MODELS)
    for name, parameters in MODELS.items():
        with init_empty_weights():
            built = assemble(registry.spec(name), current().components)
        assert sum(parameter.numel() for parameter in built.parameters()) == parameters
        theirs = EFFICIENTTAM.inverse(built.state_dict())
        assert len(theirs) == 455 and EFFICIENTTAM.fits(theirs)
        assert set(EFFICIENTTAM.rename(theirs)) == set(built.state_dict())


@pytest.mark.parametrize("variant", ["ti", "ti_1", "ti_2"])
@torch.inference_mode()
def test_masks_are_those_of_the_original(variant):
    """Clicks, tracking of two objects together, and a correction that tracking forgets again, as the original does."""
    expected = load_file(HERE / "recording.safetensors")
    ours, clip = model(variant), recorder().clip().numpy()
    embedding = ours.encode(to_model(read_image(clip[0]), ours.image_size)).embedding[:, ::8]
    assert error(embedding, expected[f"{variant}.embedding"]) < 1e-4
    session = VideoPredictor(ours, cleaning={"fill_holes": 0}, keep_corrections=False).open(list(clip))
    for frame, number, points, labels in recorder().PROMPTS:
        session.prompt(frame=frame, object=number, points=points, labels=labels)
    compared = 0
    for result in session.propagate():
        for row, number in enumerate(result.objects):
            name = f"{variant}.logits.{number}.{result.frame}"
            assert error(result.logits[row], expected[name]) < 1e-3, name
            compared += 1
    assert compared == 2 * len(clip)


def test_the_two_ways_to_count_differ_and_pooling_matters():
    expected = load_file(HERE / "recording.safetensors")
    masks = [expected[f"{variant}.logits.1.2"] for variant in ("ti", "ti_1", "ti_2")]
    assert error(masks[1], masks[0]) > 1e-2 and error(masks[2], masks[1]) > 1e-2


@pytest.mark.parametrize(
    "kind, name, more",
    [
        ("backbone", "efficienttam.vit_ti", {}),
        ("backbone", "efficienttam.vit_s", {}),
        ("neck", "efficienttam.single", {"given": {"channels": (8,), "strides": (16,)}}),
        ("memory_attention", "efficienttam.pooled", {}),
        ("memory_attention", "efficienttam.pooled", {"options": {"count": "logits"}}),
    ],
)
def test_the_parts_keep_their_contracts(kind, name, more):
    check(kind, name, **more)


def test_the_layout_keeps_its_contract():
    check("layout", "efficienttam", state=model("ti").state_dict())


def blocks(*grids, batch=2, dim=8):
    generator = torch.Generator().manual_seed(1)
    return [
        TokenBlock(
            torch.randn(batch, length, dim, generator=generator),
            torch.randn(1, length, dim, generator=generator),
            grid=grid,
        )
        for grid, length in ((grid, grid[0] * grid[1]) if isinstance(grid, tuple) else (None, grid) for grid in grids)
    ]


def test_pool_takes_means_of_windows_and_leaves_object_pointers():
    given = blocks((4, 6), 3)
    tokens = torch.cat([block.tokens for block in given], dim=1)
    pooled = pool(tokens, given)
    assert pooled.shape == (2, 6 + 3, 8)
    first = tokens[:, [0, 1, 6, 7]].mean(dim=1)
    assert torch.allclose(pooled[:, 0], first)
    assert torch.equal(pooled[:, 6:], tokens[:, 24:])


@pytest.mark.parametrize("count", ["logits", "keys"])
def test_a_single_memory_is_read_in_full_and_more_are_pooled(count):
    attention = PooledMemoryAttention(32, 8, layers=1, hidden=16, dropout=0.0, count=count).eval()
    features, position = torch.randn(1, 32, 4, 4), torch.randn(1, 32, 4, 4)
    plain = super(PooledMemoryAttention, attention).forward
    one, two = blocks((4, 4), 4), blocks((4, 4), (4, 4), 4)
    assert torch.equal(attention(features, position, one), plain(features, position, one))
    assert not torch.allclose(attention(features, position, two), plain(features, position, two), atol=1e-4)
    all_of_two = torch.ones(1, 36, dtype=torch.bool)
    assert torch.allclose(attention(features, position, two, all_of_two), attention(features, position, two), atol=1e-5)
    one_of_two = torch.cat([all_of_two[:, :16], ~all_of_two[:, :16], all_of_two[:, :4]], dim=1)
    alone = [two[0], two[2]]
    assert torch.allclose(attention(features, position, two, one_of_two), plain(features, position, alone), atol=1e-5)


def test_equal_tokens_in_every_window_pool_to_the_full_attention():
    """Four equal keys weigh four times one of them: counted in the logits, pooling is exact then."""
    attention = PooledMemoryAttention(32, 8, layers=1, hidden=16, dropout=0.0, count="logits", theta=1e30).eval()
    features, position = torch.randn(1, 32, 4, 4), torch.randn(1, 32, 4, 4)
    coarse = torch.randn(1, 4, 8).unflatten(1, (2, 2))
    tokens = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    memory = TokenBlock(tokens, torch.zeros(1, 16, 8), grid=(4, 4))
    with torch.no_grad():
        for parameter in attention.layers[0].cross_attn.k_proj.parameters():
            parameter.view(-1, *parameter.shape[1:])[0:2] = 0.0  # the pair that still turns, at frequency 1
            parameter[16:18] = 0.0
        found = attention(features, position, [memory, memory])
        expected = super(PooledMemoryAttention, attention).forward(features, position, [memory, memory])
    assert torch.allclose(found, expected, atol=1e-5)


def test_wrong_options_say_what_is_allowed():
    with pytest.raises(ValueError, match="logits, keys"):
        PooledMemoryAttention(32, 8, count="values")
    with pytest.raises(ValueError, match="stride 16"):
        SingleLevelNeck((8, 16), (8, 16), 32)


def test_gradients_reach_every_part():
    ours = registry.build("efficienttam_ti_2", weights=False, image_size=256)
    features = ours.encode(torch.randn(1, 3, 256, 256))
    memory = ours.memory_encoder(features.embedding, torch.rand(1, 1, 256, 256), torch.ones(1, 1))
    out = ours.memory_attention(features.embedding, features.position, [*memory, *memory])
    out.square().mean().backward()
    for part in (ours.backbone, ours.neck, ours.memory_attention):
        silent = [name for name, parameter in part.named_parameters() if parameter.grad is None]
        assert not silent, silent


def test_layer_ids_grow_with_depth():
    backbone = model("ti").backbone
    ids = {name: backbone.layer_id(name) for name, _ in backbone.named_parameters()}
    assert ids["pos_embed"] == 0 and ids["blocks.11.mlp.layers.0.weight"] == 12


def test_metas_recipe_for_clips_trains_it(tmp_path):
    """From fresh parts, with the recipe's drop path and a learning rate for each depth of the trunk."""
    for folder in ("JPEGImages/one", "Annotations/one"):
        (tmp_path / folder).mkdir(parents=True)
    for frame in range(3):
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 8 + 4 * frame : 40 + 4 * frame] = 1
        Image.fromarray(mask * 200).convert("RGB").save(tmp_path / f"JPEGImages/one/{frame:05d}.jpg")
        Image.fromarray(mask).save(tmp_path / f"Annotations/one/{frame:05d}.png")
    small = ("steps=1", "size=64", "frames=2", "batch=1", "objects=1", "prompts.corrections=1")
    words = f"--recipe finetune_video --data {tmp_path} -o {tmp_path / 'run'} --workers 0 --device cpu"
    given = [*words.split(), "model=efficienttam_ti", "start=fresh", *(f"stages.0.{word}" for word in small)]
    result = CliRunner().invoke(train, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    trained = registry.build("efficienttam_ti", weights=tmp_path / "run" / "weights.safetensors")
    assert all(parameter.isfinite().all() for parameter in trained.parameters())

    optim = Recipe.read(read_recipe("finetune_video", ("model=efficienttam_ti",))).optim
    rates = {id(p): group["multiplier"] for group in parameter_groups(trained, optim) for p in group["params"]}
    backbone = trained.backbone
    assert rates[id(backbone.blocks[11].norm1.weight)] == pytest.approx(0.6 * 0.9)
    assert rates[id(backbone.blocks[0].norm1.weight)] == pytest.approx(0.6 * 0.9**12)
    assert rates[id(backbone.patch_embed.proj.weight)] == pytest.approx(0.6 * 0.9**13)
    assert rates[id(backbone.pos_embed)] == pytest.approx(0.6)
