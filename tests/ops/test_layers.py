"""Small layers against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sam2core.ops.layers import ConvNextBlock, DropPath, LayerNorm2d, Mlp, linear_act


def test_layer_norm_2d_normalises_channels_with_a_small_epsilon():
    layer = LayerNorm2d(6)
    with torch.no_grad():
        layer.weight.normal_(), layer.bias.normal_()
    x = 1e-3 * torch.randn(2, 6, 3, 5)  # a low variance, where the epsilon shows
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (variance + 1e-6).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)


def test_mlp_has_no_activation_behind_its_last_layer():
    mlp = Mlp(4, 8, 3, layers=3, activation=F.gelu)
    x = torch.randn(5, 4)
    first, second, last = mlp.layers
    torch.testing.assert_close(mlp(x), last(F.gelu(second(F.gelu(first(x))))))


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    layer = DropPath(0.25).train()
    x = torch.ones(4000, 3, 2)
    torch.manual_seed(0)
    kept = layer(x)[:, 0, 0]
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert (layer(x).flatten(1).std(1) == 0).all()
    assert layer.eval()(x) is x
    assert DropPath(0.0).train()(x) is x


def test_conv_next_block_is_the_identity_at_layer_scale_zero():
    block = ConvNextBlock(4, layer_scale=0.0)
    x = torch.randn(1, 4, 6, 5)
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.gamma.fill_(1.0)
    y = F.layer_norm(block.dwconv(x).permute(0, 2, 3, 1), (4,), block.norm.weight, block.norm.bias, 1e-6)
    y = block.pwconv2(F.gelu(block.pwconv1(y))).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), x + y)


def test_a_linear_layer_and_its_activation():
    layer, x = torch.nn.Linear(6, 10), torch.randn(2, 5, 6)
    torch.testing.assert_close(linear_act(x, layer), layer(x))
    torch.testing.assert_close(linear_act(x, layer, F.gelu), F.gelu(layer(x)))
