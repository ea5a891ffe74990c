"""Averaging narrow tokens before projecting them equals projecting first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sam2core.ops import attention as plain
from sam2core.ops.cpu import attention


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("batches", [(1, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("block", [(7, 11), (40, 90), (1024, 2048)])
def test_averaging_first_equals_projecting_first(monkeypatch, heads, batches, block):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(batches[0], heads, 40, 16, generator=generator)
    key = torch.randn(batches[1], heads, 90, 16, generator=generator)
    tokens = torch.randn(batches[1], 90, 8, generator=generator)
    project = nn.Linear(8, 16 * heads)
    value = plain.split_heads(project(tokens), heads)
    expected = plain.merge_heads(plain.attend(query, key, value))
    monkeypatch.setattr(plain, "LONG", 0)
    monkeypatch.setattr(attention, "BLOCK", block)
    with torch.inference_mode():
        assert attention._averages_first(query, key, project)
        got = plain.attend_projected(query, key, tokens, project)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [(7, 11), (40, 90)])
def test_running_sums_survive_scores_beyond_what_exponentials_hold(monkeypatch, block):
    monkeypatch.setattr(attention, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    query, key, tokens = (torch.randn(n, d, generator=generator) for n, d in ((40, 16), (90, 16), (90, 8)))
    query *= 100  # scores of several hundred, the largest anywhere
    expected = (query.double() @ key.double().T).softmax(dim=1) @ tokens.double()
    torch.testing.assert_close(attention._mean(query, key, tokens), expected.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bytes_", [1, 700, 10**9])
def test_half_precision_takes_whole_rows(monkeypatch, bytes_):
    monkeypatch.setattr(attention, "BLOCK_BYTES", bytes_)
    generator = torch.Generator().manual_seed(0)
    query, key, tokens = (torch.randn(n, d, generator=generator).bfloat16() for n, d in ((40, 16), (90, 16), (90, 8)))
    expected = (query.float() @ key.float().T).softmax(dim=1) @ tokens.float()
    torch.testing.assert_close(attention._mean_of_rows(query, key, tokens).float(), expected, rtol=0.1, atol=0.05)


def test_training_and_small_attention_take_one_call():
    project = nn.Linear(8, 16)
    query, key = torch.randn(1, 1, 40, 16), torch.randn(1, 1, 90, 16)
    with torch.inference_mode():
        assert not attention._averages_first(query, key, project)
    large = torch.empty(1, 1, 4096, 16)
    assert not attention._averages_first(large, large, project)  # gradients are wanted
    with torch.inference_mode():
        assert attention._averages_first(large, large, project)
        assert not attention._averages_first(large, large, nn.Linear(16, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_do_not_count_are_left_out(dtype):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 1, n, 16, generator=generator).to(dtype) for n in (20, 30))
    tokens = torch.randn(2, 30, 8, generator=generator).to(dtype)
    memory_mask = torch.rand(2, 30, generator=generator) < 0.5
    tokens = tokens.unsqueeze(1)
    expected = attention.attend(query.float(), key.float(), tokens.float(), memory_mask[:, None, None])
    key[~memory_mask.unsqueeze(1)] = torch.nan
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.05}
    torch.testing.assert_close(attention.average_tokens(query, key, tokens, memory_mask).float(), expected, **close)


def test_an_attached_kernel_is_met_by_its_type_in_prediction_alone(monkeypatch):
    calls = []

    def kernel(query, key, tokens, memory_mask=None):
        calls.append(memory_mask)
        return attention.average_tokens.portable(query, key, tokens, memory_mask)

    monkeypatch.setattr(attention.average_tokens, "_kernels", {})
    monkeypatch.setattr(plain, "LONG", 0)
    monkeypatch.setattr(attention, "_sdpa_is_fast", lambda dtype: dtype != torch.float32)
    attention.average_tokens.register_kernel("cpu", torch.bfloat16)(kernel)
    project = nn.Linear(8, 16)
    mask = torch.arange(10)[None, None, None] < 7
    query, key, tokens = torch.randn(2, 1, 9, 16), torch.randn(2, 1, 10, 16), torch.randn(2, 10, 8)
    plain.attend_projected(query, key, tokens, project).sum().backward()
    with torch.no_grad():
        plain.attend_projected(query, key, tokens, project)
        expected = plain.attend_projected(query, key, tokens, project, mask)
        assert not calls
        low = (query.bfloat16(), key.bfloat16(), tokens.bfloat16(), project.bfloat16())
        found = plain.attend_projected(*low, mask)
        assert len(calls) == 1 and torch.equal(calls[0], mask[:, 0, 0])
        plain.attend_projected(*low, mask.bfloat16())  # numbers that scores get added
        plain.attend_projected(*low, dropout=0.1)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)
    with torch.no_grad():  # values as they come meet it as well
        found = attention.attend(low[0], low[1], low[1][:, :, :, :5], mask)
        expected = attention.attend(query, key, key[:, :, :, :5], mask)
        assert len(calls) == 2
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)
        attention.attend(low[0], low[1], low[1], torch.ones(1, 1, 9, 10, dtype=torch.bool))  # a mask by query too
    assert len(calls) == 2
    plain.attend_projected(*low, mask).sum().backward()
    assert len(calls) == 2
