"""The attention kernel against the plain definition, in the interpreter where no GPU is."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="torch's builds for GPUs bring triton")

from sam2core_cuda import average
from sam2core_cuda.average import averages

from sam2core.ops.attention import average_tokens, means_like


def tensors(batch, heads, queries, keys, dim, width, *, dtype=torch.float32, shared=False, device="cpu"):
    generator = torch.Generator().manual_seed(queries + keys)

    def made(*shape):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    rows = 1 if shared else batch
    query = made(batch, queries, heads, dim).transpose(1, 2)  # as heads are split: no row lies next to the one before
    return query, made(rows, keys, heads, dim).transpose(1, 2), made(rows, keys, width).unsqueeze(1)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch, device):
    if device == "cpu":  # the interpreter's time goes by programs
        monkeypatch.setattr(average, "ROWS", 16)
        monkeypatch.setattr(average, "COLUMNS", 16)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 16, 16, 32, 16), (2, 1, 37, 53, 32, 16), (1, 2, 5, 70, 64, 32), (3, 1, 20, 33, 64, 16)], ids=str
)
def test_means_are_those_of_the_definition(shape, masked, device):
    query, key, tokens = tensors(*shape, device=device)
    mask = None
    if masked:
        mask = torch.rand(key.shape[0], key.shape[2], generator=torch.Generator().manual_seed(0)).to(device) < 0.5
        mask[0, :16] = False  # a whole tile that nobody may read
        mask[:, -1] = True
    expected = average_tokens.portable(query, key, tokens, mask)
    found = averages(query, key, tokens, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.stride() == means_like(query, key, tokens).stride()


def test_a_batch_of_one_is_shared_by_all_rows(device):
    query, key, tokens = tensors(3, 1, 20, 40, 32, 16, shared=True, device=device)
    mask = (torch.arange(40) % 3 > 0)[None].to(device)
    torch.testing.assert_close(
        averages(query, key, tokens, mask), average_tokens.portable(query, key, tokens, mask), atol=1e-5, rtol=1e-4
    )


def test_half_precision_and_large_scores(device):
    dtype = torch.bfloat16 if device == "cuda" else torch.float16  # the interpreter's products know no bfloat16
    query, key, tokens = tensors(1, 1, 20, 40, 32, 16, dtype=dtype, device=device)
    found = averages(30 * query, key, tokens)
    expected = average_tokens.portable(30 * query.float(), key.float(), tokens.float(), None)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("shape", [(1, 1, 9, 12, 24, 16), (1, 2, 9, 12, 32, 64)], ids=str)
def test_widths_that_the_kernel_is_not_for_are_computed_all_the_same(shape, device, monkeypatch):
    monkeypatch.setattr(average, "_average", None)
    query, key, tokens = tensors(*shape, device=device)
    expected = average_tokens.portable(query, key, tokens, None)
    torch.testing.assert_close(averages(query, key, tokens), expected, atol=1e-5, rtol=1e-4)
