"""Memory attention: one layer written out, objects that share an image, key scales, gradients, precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sam2core.memory.attention import RopeMemoryAttention
from sam2core.ops import rope
from sam2core.types import TokenBlock

GRID = (3, 4)


def attention(layers=2, **options):
    made = RopeMemoryAttention(16, 8, layers=layers, hidden=24, **options)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def inputs(batch=2, maps=2, object_pointers=3):
    generator = torch.Generator().manual_seed(0)

    def noise(*size):
        return torch.randn(size, generator=generator)

    blocks = [TokenBlock(noise(batch, 12, 8), noise(1, 12, 8), GRID) for _ in range(maps)]
    if object_pointers:
        blocks.append(TokenBlock(noise(batch, object_pointers, 8), noise(1, object_pointers, 8), None))
    return noise(batch, 16, *GRID), noise(1, 16, *GRID), blocks


def test_one_layer_written_out():
    made = attention(layers=1)
    features, position, blocks = inputs()
    layer, table = made.layers[0], rope.table(GRID, 16, 10000.0, "cpu")

    def attend(part, query, key, value, repeats, still):
        q, k, v = part.q_proj(query), part.k_proj(key), part.v_proj(value)
        rotary = torch.cat([table] * repeats + [torch.tensor([1.0, 0.0]).expand(still, 8, 2)])
        q, k = rope.apply_rotary(q, table), rope.apply_rotary(k, rotary)
        return part.out_proj((q @ k.transpose(1, 2) / 16**0.5).softmax(-1) @ v)

    x = (features + 0.1 * position).flatten(2).transpose(1, 2)
    y = layer.norm1(x)
    x = x + attend(layer.self_attn, y, y, y, 1, 0)
    values = torch.cat([block.tokens for block in blocks], dim=1)
    keys = torch.cat([block.tokens + block.position for block in blocks], dim=1)
    x = x + attend(layer.cross_attn, layer.norm2(x), keys, values, 2, 3)
    x = x + layer.linear2(F.relu(layer.linear1(layer.norm3(x))))
    expected = made.norm(x).transpose(1, 2).unflatten(2, GRID)
    torch.testing.assert_close(made(features, position, blocks), expected, rtol=1e-4, atol=1e-4)


def test_one_image_shared_by_all_objects_equals_one_by_one():
    made = attention()
    features, position, blocks = inputs()
    together = made(features[:1], position, blocks)
    for row in range(2):
        own = [TokenBlock(block.tokens[row : row + 1], block.position, block.grid) for block in blocks]
        torch.testing.assert_close(together[row : row + 1], made(features[:1], position, own), rtol=1e-4, atol=1e-4)


def test_the_order_of_blocks_does_not_matter_but_their_place_on_the_grid_does():
    made = attention()
    features, position, blocks = inputs()
    expected = made(features, position, blocks)
    torch.testing.assert_close(made(features, position, blocks[::-1]), expected, rtol=1e-4, atol=1e-4)
    moved = [TokenBlock(blocks[0].tokens.roll(1, dims=1), blocks[0].position.roll(1, dims=1), GRID), *blocks[1:]]
    assert (made(features, position, moved) - expected).abs().max() > 1e-3
    still = [TokenBlock(b.tokens.roll(1, 1), b.position.roll(1, 1), None) if b.grid is None else b for b in blocks]
    torch.testing.assert_close(made(features, position, still), expected, rtol=1e-4, atol=1e-4)


def test_a_key_scale_weighs_a_block():
    made = attention()
    features, position, blocks = inputs()
    plain = made(features, position, blocks)
    weighed = [TokenBlock(b.tokens, b.position, b.grid, key_scale=0.5) for b in blocks]
    assert (made(features, position, weighed) - plain).abs().max() > 1e-4
    same = [TokenBlock(b.tokens, b.position, b.grid, key_scale=1.0) for b in blocks]
    assert torch.equal(made(features, position, same), plain)


def test_a_past_without_object_pointers_and_one_with_object_pointers_alone():
    made = attention()
    features, position, blocks = inputs()
    for chosen in (blocks[:2], blocks[2:]):
        assert made(features, position, chosen).isfinite().all()


def test_dropout_acts_in_training_only():
    made = attention(dropout=0.5)
    given = inputs()
    assert torch.equal(made(*given), made(*given))
    made.train()
    assert not torch.equal(made(*given), made(*given))


def test_every_parameter_and_every_memory_gets_a_gradient():
    made = attention().train()
    features, position, blocks = inputs()
    tokens = [block.tokens.requires_grad_() for block in blocks]
    made(features, position, blocks).square().sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None] == []
    assert all(token.grad is not None and token.grad.any() for token in tokens)


def test_prediction_in_inference_mode_does_not_poison_training():
    made = attention(theta=123.0)
    given = inputs()
    with torch.inference_mode():
        made(*given)
    made.train()(*given).sum().backward()
    assert made.norm.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_needs_no_autocast_and_stays_close(dtype):
    made = attention()
    features, position, blocks = inputs()
    exact = made(features, position, blocks)
    half = [TokenBlock(b.tokens.to(dtype), b.position.to(dtype), b.grid) for b in blocks]
    found = made.to(dtype)(features.to(dtype), position.to(dtype), half)
    assert found.dtype == dtype
    assert (found.float() - exact).abs().max() / exact.abs().max() < 0.05
