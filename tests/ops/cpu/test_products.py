"""Products, linear layers in one go and work in chunks against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sam2core.ops.cpu import chunks
from sam2core.ops.cpu import products as products_
from sam2core.ops.cpu.chunks import chunked
from sam2core.ops.cpu.products import product, products
from sam2core.ops.layers import Mlp, linear_act


@pytest.mark.parametrize("shape", [(5, 4), (2, 50, 4), (1, 8, 9, 4)])
def test_tokenwise_cuts_prediction_alone_and_changes_nothing(monkeypatch, shape):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 16 * 8 * 4)
    mlp = Mlp(4, 8, 3, layers=2)
    seen = []

    def watched(x):
        seen.append(x.numel() // 4)
        return mlp(x)

    x = torch.randn(shape)
    whole = chunked(watched, x, 8)
    assert seen == [x.numel() // 4] and whole.requires_grad
    with torch.inference_mode():
        cut = chunked(watched, x, 8)
    assert max(seen[1:]) <= 16 and sum(seen[1:]) == x.numel() // 4
    torch.testing.assert_close(cut, whole.detach())


@pytest.mark.parametrize("activation", [None, F.relu, F.gelu])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
def test_a_linear_layer_in_one_go_is_the_layer_and_its_activation(monkeypatch, activation, bias, narrow):
    monkeypatch.setattr(products_, "FUSED_PRODUCTS", 0)
    monkeypatch.setattr(products_, "NARROW", narrow)
    if products_._fused(torch.float32) is None:
        pytest.skip("this torch has no such operator")
    layer, x = torch.nn.Linear(6, 10, bias=bias), torch.randn(2, 3, 5, 6)
    expected = layer(x) if activation is None else activation(layer(x))
    assert linear_act(x, layer, activation).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(linear_act(x, layer, activation), expected.detach(), rtol=1e-5, atol=1e-6)
        strided = x.transpose(1, 2)
        torch.testing.assert_close(linear_act(strided, layer, activation), expected.detach().transpose(1, 2))


@torch.inference_mode()
@pytest.mark.parametrize("activation", [None, F.relu, F.gelu])
def test_with_short_vectors_an_activation_overwrites_the_product_alone(monkeypatch, activation):
    monkeypatch.setattr(products_, "FUSED_PRODUCTS", 0)
    monkeypatch.setattr(products_, "NARROW", True)
    monkeypatch.setattr(products_, "_fused", lambda dtype: lambda *_: pytest.fail("oneDNN's was taken"))
    layer, x = torch.nn.Linear(6, 10), torch.randn(5, 6)
    before, product = x.clone(), F.linear(x, layer.weight, layer.bias)
    answer = linear_act(x, layer, activation)
    assert torch.equal(answer, product if activation is None else activation(product)) and torch.equal(x, before)


@pytest.mark.usefixtures("both_products")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_tokens_and_transposed_matrices(dtype):
    generator = torch.Generator().manual_seed(0)
    x, weights, onto = (torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 9, 6), (3, 10, 6), (9, 10)))
    expected = x.float() @ weights.float().transpose(1, 2)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
    assert product(x.requires_grad_(), weights[0]).requires_grad
    with torch.inference_mode():
        x = x.detach()
        apart = torch.stack([weights, weights], dim=3)[..., 0]  # of strides between
        for given in (weights, weights.mT.contiguous().mT, apart):
            torch.testing.assert_close(product(x, given[0]).float(), x.float() @ weights[0].float().T, **close)
            torch.testing.assert_close(products(x, given).float(), expected, **close)
            torch.testing.assert_close(products(x, given, onto).float(), expected + onto.float(), **close)
            torch.testing.assert_close(products(x.mT.contiguous().mT, given).float(), expected, **close)


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "wide"),
    [
        ("AuthenticAMD", "26", "fpu avx2 avx512f", True),
        ("AuthenticAMD", "25", "fpu avx2 avx512f", False),
        ("AuthenticAMD", "26", "fpu avx2", False),
        ("GenuineIntel", "26", "fpu avx2 avx512f", False),
    ],
)
def test_the_processors_whose_products_go_to_onednn(vendor, family, flags, wide):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\nbugs\t\t:\n"
    assert products_._wide(f"{one}\n{one}") is wide
    assert not products_._wide("") and not products_._wide("Hardware: another one\n")


@torch.inference_mode()
def test_linear_layers_that_are_watched_or_replaced_are_called_as_they_are(monkeypatch):
    monkeypatch.setattr(products_, "FUSED_PRODUCTS", 0)
    monkeypatch.setattr(products_, "_fused", lambda dtype: pytest.fail("not a plain layer"))
    x = torch.randn(5, 6)
    watched, seen = torch.nn.Linear(6, 4), []
    watched.register_forward_hook(lambda *arguments: seen.append(len(arguments)))
    linear_act(x, watched)
    assert seen == [3]

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    doubled = Doubled(6, 4)
    assert torch.equal(linear_act(x, doubled), doubled(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_act(x, torch.nn.Linear(6, 4)).dtype == torch.bfloat16
    assert linear_act(x, torch.nn.Linear(6, 4), torch.tanh).abs().max() < 1  # an activation of another kind
