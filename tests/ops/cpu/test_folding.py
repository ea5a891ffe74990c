"""Folded attention equals the plain one, for tokens that read an image and for an image that reads tokens."""

import pytest
import torch

from sam2core.heads.two_way import TwoWayTransformer
from sam2core.ops.attention import Attention
from sam2core.ops.cpu import folding
from sam2core.prepare import prepare

pytestmark = pytest.mark.usefixtures("both_products")


def layer(heads=4, dim=32, inner=16):
    attention = Attention(dim, heads=heads, inner=inner)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return attention.eval()


@torch.no_grad()
def test_gather_is_attention_of_few_to_many():
    attention, few, place, image = layer(), torch.randn(3, 4, 32), torch.randn(1, 50, 32), torch.randn(3, 50, 32)
    expected = attention(few, image + place, image)
    torch.testing.assert_close(folding.gather(attention, few, image + place, image), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_scatter_is_the_residual_plus_attention_of_many_to_few(shared, ragged):
    attention, few, value = layer(), torch.randn(3, 4, 32), torch.randn(3, 4, 32)
    image, place = torch.randn(1 if shared else 3, 50, 32), torch.randn(1, 50, 32)
    counts = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]]).bool()[:, None, None] if ragged else None
    expected = image + attention(image + place, few, value, counts)
    projected = attention.q_proj(image + place)[0] if shared else None
    found = folding.scatter(attention, image, image + place, few, value, counts, projected=projected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("images", [1, 3])
def test_the_transformer_is_the_same_folded_or_not(images):
    transformer = TwoWayTransformer(32, heads=2, hidden=48).eval()
    tokens, image, place = torch.randn(3, 7, 32), torch.randn(images, 400, 32), torch.randn(1, 400, 32)
    assert not folding.folds(transformer.final_token_to_image, tokens, image)  # gradients are on
    expected = transformer(tokens, image, place)
    prepare(transformer, "cpu")
    with torch.no_grad():
        assert folding.folds(transformer.final_token_to_image, tokens, image)
        for found, plain in zip(transformer(tokens, image, place), expected, strict=True):
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
        if images == 1:
            shared = transformer.share(image, place)
            for found, plain in zip(transformer(tokens, image, place, shared=shared), expected, strict=True):
                torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


def test_many_tokens_are_not_folded():
    with torch.no_grad():
        assert not folding.folds(layer(), torch.zeros(1, 5, 32), torch.zeros(1, 400, 32))  # 20 rows, 16 wide
        assert not folding.folds(layer(), torch.zeros(1, 4, 32), torch.zeros(1, 20, 32))


@torch.no_grad()
def test_attention_with_an_adapter_is_not_folded():
    attention, few, many = layer(), torch.zeros(1, 4, 32), torch.zeros(1, 400, 32)
    assert folding.folds(attention, few, many)

    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    attention.v_proj = Adapted(32, 16)
    assert not folding.folds(attention, few, many)
