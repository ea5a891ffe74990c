"""The memory encoder: shapes, the two scales, absence, gradients, precision."""

from __future__ import annotations

import pytest
import torch

from sam2core.memory.encoder import ConvMemoryEncoder
from sam2core.ops.position import sine_grid


def encoder(**options):
    made = ConvMemoryEncoder(16, 8, layer_scale=0.5, **options)
    return made.eval()


def inputs(batch=2, grid=(3, 5)):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, 16, *grid, generator=generator)
    return features, torch.rand(batch, 1, 16 * grid[0], 16 * grid[1], generator=generator)


def test_one_block_of_tokens_on_the_features_grid():
    features, mask = inputs()
    (block,) = encoder()(features, mask, torch.ones(2, 1))
    assert block.tokens.shape == (2, 15, 8) and block.grid == (3, 5)
    torch.testing.assert_close(block.position, sine_grid((3, 5), 8).flatten(2).transpose(1, 2))


def test_the_mask_enters_scaled_and_shifted():
    features, mask = inputs()
    scaled = encoder()
    plain = ConvMemoryEncoder(16, 8, mask_scale=1.0, mask_bias=0.0)
    plain.load_state_dict(scaled.state_dict())
    (found,), (expected,) = scaled(features, mask, torch.ones(2, 1)), plain(features, 20 * mask - 10, torch.ones(2, 1))
    torch.testing.assert_close(found.tokens, expected.tokens)


def test_absent_objects_are_marked_at_every_position():
    features, mask = inputs()
    made = encoder()
    torch.nn.init.normal_(made.occlusion_embed)
    (present,) = made(features, mask, torch.ones(2, 1))
    (mixed,) = made(features, mask, torch.tensor([[0.5], [0.0]]))
    torch.testing.assert_close(mixed.tokens[0], present.tokens[0])
    torch.testing.assert_close(mixed.tokens[1], present.tokens[1] + made.occlusion_embed)
    older = encoder(occlusion_embed=False)
    assert older.occlusion_embed is None and "occlusion_embed" not in older.state_dict()
    assert torch.equal(
        older(features, mask, -torch.ones(2, 1))[0].tokens, older(features, mask, torch.ones(2, 1))[0].tokens
    )


def test_one_image_shared_by_all_objects():
    features, mask = inputs()
    made = encoder()
    (shared,) = made(features[:1], mask, torch.ones(2, 1))
    (copied,) = made(features[:1].expand(2, -1, -1, -1), mask, torch.ones(2, 1))
    torch.testing.assert_close(shared.tokens, copied.tokens)


def test_every_parameter_gets_a_gradient():
    made = encoder().train()
    features, mask = inputs()
    made(features, mask, torch.tensor([[1.0], [-1.0]]))[0].tokens.square().sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_needs_no_autocast_and_stays_close(dtype):
    features, mask = inputs()
    made = encoder()
    exact = made(features, mask, torch.ones(2, 1))[0].tokens
    found = made.to(dtype)(features.to(dtype), mask, torch.ones(2, 1, dtype=dtype))[0].tokens
    assert found.dtype == dtype
    assert (found.float() - exact).abs().max() / exact.abs().max() < 0.05
