"""Attention as a CPU does it against softmax written out and SDPA."""

from __future__ import annotations

import pytest
import torch

from sam2core.ops import attention as plain
from sam2core.ops.attention import attend, attend_projected, merge_heads, split_heads
from sam2core.ops.cpu import attention, products
from tests.ops.test_attention import naive


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("queries", "memories"), [(3, 3), (1, 3), (3, 1)])
@pytest.mark.usefixtures("both_products")
@torch.no_grad()
def test_averaging_tokens_before_projecting_them_changes_nothing(monkeypatch, heads, bias, queries, memories):
    project = torch.nn.Linear(6, 16, bias=bias)
    query, key = torch.randn(queries, heads, 41, 16 // heads), torch.randn(memories, heads, 50, 16 // heads)
    tokens = torch.randn(memories, 50, 6)
    expected = merge_heads(naive(query, key, split_heads(project(tokens), heads)))
    torch.testing.assert_close(attend_projected(query, key, tokens, project), expected)  # too short to bother
    monkeypatch.setattr(plain, "LONG", 0)
    for size in (1, 50 * 4 * 20, 2**20):  # the last block is not full; one block
        monkeypatch.setattr(attention, "BLOCK_BYTES", size)
        assert attention._averages_first(query, key, project)
        torch.testing.assert_close(attend_projected(query, key, tokens, project), expected)


def test_training_keeps_to_sdpa_and_its_gradients(monkeypatch):
    monkeypatch.setattr(plain, "LONG", 0)
    project = torch.nn.Linear(6, 16)
    query, key = torch.randn(1, 1, 9, 16), torch.randn(1, 1, 10, 16)
    attend_projected(query, key, torch.randn(1, 10, 6), project).sum().backward()
    assert project.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_averaging_in_half_precision_stays_close(monkeypatch, dtype):
    monkeypatch.setattr(plain, "LONG", 0)
    monkeypatch.setattr(attention, "_sdpa_is_fast", lambda dtype: False)
    project = torch.nn.Linear(6, 16)
    query, key, tokens = torch.randn(2, 1, 9, 16), torch.randn(2, 1, 10, 16), torch.randn(2, 10, 6)
    exact = attend_projected(query, key, tokens, project)
    found = attend_projected(query.to(dtype), key.to(dtype), tokens.to(dtype), project.to(dtype))
    assert found.dtype == dtype and (found.float() - exact).abs().max() < 0.05


@torch.no_grad()
def test_averaging_under_autocast_takes_tokens_that_no_product_gave(monkeypatch):
    monkeypatch.setattr(plain, "LONG", 0)
    monkeypatch.setattr(attention, "_sdpa_is_fast", lambda dtype: False)
    project = torch.nn.Linear(6, 16)
    query, key, tokens = torch.randn(2, 1, 9, 16), torch.randn(2, 1, 10, 16), torch.randn(2, 10, 6)
    exact = attend_projected(query, key, tokens, project)
    with torch.autocast("cpu", torch.bfloat16):
        for keys in (key.bfloat16(), key):
            found = attend_projected(query.bfloat16(), keys, tokens, project)
            assert (found.float() - exact).abs().max() < 0.05


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_training_on_a_cpu_equals_sdpa_with_its_gradients(masked):
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 3, n, 8, generator=generator, requires_grad=True) for n in (5, 7, 7))
    mask = torch.arange(7) < torch.tensor([7, 4])[:, None, None, None] if masked else None
    weights = torch.randn(2, 3, 5, 8, generator=generator)
    sdpa = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    wanted = torch.autograd.grad((sdpa * weights).sum(), (query, key, value))
    plain = attend(query, key, value, mask)
    found = torch.autograd.grad((plain * weights).sum(), (query, key, value))
    assert plain.grad_fn.name() != sdpa.grad_fn.name()  # so this test compares two things
    torch.testing.assert_close((plain, *found), (sdpa, *wanted), rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_windows_as_plain_products_stay_close_to_sdpa(monkeypatch):
    monkeypatch.setattr(attention, "_sdpa_is_fast", lambda dtype: False)
    monkeypatch.setattr(products, "WIDE", False)
    tokens = torch.randn(6, 49, 3, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    query, key, value = (each.transpose(1, 2) for each in tokens.unbind(2))
    assert attention._products_are_fast(query, key, value)
    expected = torch.nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float())
    found = attend(query, key, value)
    assert found.dtype == torch.bfloat16 and (found.float() - expected).abs().max() < 0.02
    monkeypatch.setattr(plain, "LONG", 0)
    assert (attend(query, key, value).float() - expected).abs().max() < 0.02
    assert not attention._products_are_fast(query, key[:, :, :-1], value[:, :, :-1])
    assert not attention._products_are_fast(*(each.float() for each in (query, key, value)))


@pytest.mark.parametrize("block_bytes", [1, 2**23], ids=["running sums", "whole rows"])
@torch.inference_mode()
def test_long_attention_in_fp32_where_products_are_fast_equals_sdpa(monkeypatch, block_bytes):
    monkeypatch.setattr(products, "WIDE", True)
    monkeypatch.setattr(products, "FUSED_PRODUCTS", 0)
    monkeypatch.setattr(attention, "BLOCK", (16, 20))
    monkeypatch.setattr(attention, "BLOCK_BYTES", block_bytes)
    tokens = torch.randn(2, 50, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    query, key, value = (each.transpose(1, 2) for each in tokens.unbind(2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert not attention._products_are_fast(query, key, value)
    monkeypatch.setattr(plain, "LONG", 0)
    assert attention._products_are_fast(query, key, value)
    torch.testing.assert_close(attend(query, key, value), expected, rtol=1e-5, atol=1e-6)
