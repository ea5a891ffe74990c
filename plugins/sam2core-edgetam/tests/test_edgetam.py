"""EdgeTAM as a model of the registry: assembly, names, compressed memories, and what the original cannot do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2core_edgetam.layouts import EDGETAM, HUGGINGFACE
from sam2core_edgetam.perceiver import PerceiverMemoryEncoder

import registry
from registry.assemble import assemble, init_empty_weights
from registry.plugins import current
from sam2core.predictors.video import VideoPredictor
from sam2core.testing import check

SIDE = 256


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return registry.build("edgetam", weights=False, image_size=SIDE)


@pytest.fixture(scope="module")
def clip():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(4)]


def test_the_plugin_offers_its_parts_and_its_model():
    (record,) = [record for record in registry.plugins() if record.name == "edgetam"]
    assert record.status == "ok", record.error
    assert {"backbone:edgetam.repvit_m1", "memory_encoder:edgetam.perceiver", "spec:edgetam"} <= set(record.provides)


def test_the_model_has_the_published_size_and_its_layouts_are_bijections():
    with init_empty_weights():
        model = assemble(registry.spec("edgetam"), current().components)
    assert sum(parameter.numel() for parameter in model.parameters()) == registry.spec("edgetam").parameters
    state = model.state_dict()
    theirs = EDGETAM.inverse(state)
    assert len(theirs) == 982  # tensors of the released file
    assert set(EDGETAM.rename(theirs)) == set(state)
    assert EDGETAM.fits(theirs) and not HUGGINGFACE.fits(theirs)
    assert theirs["spatial_perceiver.layers.1.self_attn.to_kv.weight"].shape == (128, 64)
    theirs = HUGGINGFACE.inverse(state)
    assert set(HUGGINGFACE.rename(theirs)) == set(state)
    assert theirs["spatial_perceiver.layers.1.self_attention.k_proj.weight"].shape == (64, 64)


def test_a_memory_is_two_blocks_of_256_tokens_whatever_the_image_size(model):
    encoder = model.memory_encoder
    for grid in (16, 32):
        features = torch.randn(1, 256, grid, grid)
        everywhere, cells = encoder(features, torch.rand(2, 1, 16 * grid, 16 * grid), torch.ones(2, 1))
        assert everywhere.tokens.shape == cells.tokens.shape == (2, 256, 64)
        assert everywhere.grid is None and cells.grid == (16, 16)
        assert everywhere.position.abs().max() == 0 and cells.position.abs().max() > 0


def test_each_cell_sees_its_window_alone(model):
    encoder = model.memory_encoder
    features = torch.randn(1, 256, 32, 32)
    mask, object_score = torch.rand(1, 1, 512, 512), torch.ones(1, 1)
    block = super(PerceiverMemoryEncoder, encoder).forward(features, mask, object_score)[0]
    changed = block.tokens.clone().unflatten(1, (32, 32))
    changed[0, 30:32, 0:2] += torch.randn(2, 2, 64)  # the window of the last row's first cell
    before = encoder.perceiver(block)
    after = encoder.perceiver(type(block)(changed.flatten(1, 2), block.position, block.grid))
    moved = (before[1].tokens - after[1].tokens).abs().amax(-1)[0].unflatten(0, (16, 16)) > 1e-6
    assert moved.sum() == 1 and moved[15, 0]
    assert ((before[0].tokens - after[0].tokens).abs().amax(-1) > 0).all()


def test_a_map_that_cannot_be_cut_is_refused(model):
    with pytest.raises(ValueError, match="multiples of 256"):
        model.memory_encoder(torch.randn(1, 256, 20, 20), torch.rand(1, 1, 320, 320), torch.ones(1, 1))


@torch.inference_mode()
def test_objects_together_forward_backward_and_streamed(model, clip):
    predictor = VideoPredictor(model)
    session = predictor.open(clip)
    session.prompt(frame=0, object="a", points=[[20, 20]], labels=[1])
    session.prompt(frame=0, object="b", box=[5, 5, 40, 30])
    together = {result.frame: result.logits for result in session.propagate()}
    live = predictor.open()
    for frame, image in enumerate(clip):
        prompts = {}
        if frame == 0:
            prompts = {"a": {"points": [[20, 20]], "labels": [1]}, "b": {"box": [5, 5, 40, 30]}}
        result = live.step(image, prompts=prompts)
        assert torch.allclose(result.logits, together[frame], atol=1e-4)
    assert sorted(together) == [0, 1, 2, 3]


@torch.inference_mode()
def test_any_policy_of_the_registry(clip):
    model = registry.build("edgetam", weights=False, image_size=SIDE, memory_policy={"frames": 2, "object_pointers": 4})
    session = VideoPredictor(model).open(clip)
    session.prompt(frame=3, object=1, points=[[20, 20]])
    assert [result.frame for result in session.propagate(direction="backward")] == [3, 2, 1, 0]


def test_gradients_reach_every_part(model):
    pixels = torch.randn(1, 3, SIDE, SIDE)
    features = model.encode(pixels)
    blocks = model.memory_encoder(features.embedding, torch.rand(1, 1, SIDE, SIDE), torch.ones(1, 1))
    out = model.memory_attention(features.embedding, features.position, blocks)
    out.square().mean().backward()
    for part in (model.backbone, model.memory_encoder.perceiver, model.memory_attention):
        silent = [name for name, parameter in part.named_parameters() if parameter.grad is None]
        assert not silent, silent
    model.zero_grad()


def test_the_parts_keep_their_contracts(model):
    check("backbone", "edgetam.repvit_m1")
    check("memory_encoder", "edgetam.perceiver", image_size=(256, 512))
    check("layout", "edgetam", state=model.state_dict())
    check("layout", "edgetam-huggingface", state=model.state_dict())
