"""The two-way transformer, one block written out."""

from __future__ import annotations

import torch

from sam2core.heads.two_way import TwoWayTransformer


def test_depth_one_written_out():
    transformer = TwoWayTransformer(16, heads=4, hidden=24, depth=1).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    tokens, image, at = torch.randn(2, 5, 16), torch.randn(2, 12, 16), torch.randn(1, 12, 16)
    block = transformer.layers[0]

    x = block.norm1(block.self_attn(tokens, tokens, tokens))  # neither position nor residual
    x = block.norm2(x + block.token_to_image(x + tokens, image + at, image))
    x = block.norm3(x + block.mlp(x))
    y = block.norm4(image + block.image_to_token(image + at, x + tokens, x))
    x = transformer.final_norm(x + transformer.final_token_to_image(x + tokens, y + at, y))

    found, found_image = transformer(tokens, image, at)
    torch.testing.assert_close(found, x)
    torch.testing.assert_close(found_image, y)


def test_the_second_block_adds_position_and_residual_to_its_self_attention():
    transformer = TwoWayTransformer(16, heads=4, hidden=24, depth=2)
    assert [layer.first for layer in transformer.layers] == [True, False]
    first, second = transformer.layers
    tokens, image, at = torch.randn(1, 3, 16), torch.randn(1, 4, 16), torch.zeros(1, 4, 16)
    with torch.no_grad():
        x, y = first(tokens, image, tokens, at, None)
        placed = x + tokens
        expected = second.norm1(x + second.self_attn(placed, placed, x))
        seen = []
        hook = second.norm1.register_forward_hook(lambda _, __, out: seen.append(out))
        transformer(tokens, image, at)
        hook.remove()
    torch.testing.assert_close(seen[0], expected)
