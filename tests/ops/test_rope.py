"""Rotary encoding against complex arithmetic."""

from __future__ import annotations

import pytest
import torch

from sam2core.ops.cpu import rope as chunks
from sam2core.ops.rope import apply_rotary, sequence, table


def complex_rotation(tokens, grid, theta):
    """Channel pairs as complex numbers times exp(i * angle); x turns the first half, y the second."""
    height, width = grid
    dim = tokens.shape[-1]
    frequency = 1.0 / theta ** (torch.arange(0, dim, 4, dtype=torch.float64) / dim)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angle = torch.cat([x.reshape(-1, 1) * frequency, y.reshape(-1, 1) * frequency], dim=1)
    pairs = torch.view_as_complex(tokens.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2).float()


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (6, 2), (1, 1)])
@pytest.mark.parametrize("dim", [4, 16])
def test_rotation_equals_complex_multiplication(grid, dim):
    tokens = torch.randn(2, 3, grid[0] * grid[1], dim)
    found = apply_rotary(tokens, table(grid, dim, 10000.0, "cpu"))
    torch.testing.assert_close(found, complex_rotation(tokens, grid, 10000.0))


def test_unit_vectors_turn_with_x_in_the_first_half_and_y_in_the_second():
    rotary = table((4, 4), 8, 10000.0, "cpu")
    first, second = torch.zeros(16, 8), torch.zeros(16, 8)
    first[:, 0], second[:, 4] = 1.0, 1.0
    cell = torch.arange(16)
    x, y = (cell % 4).float(), (cell // 4).float()
    turned = apply_rotary(first, rotary)
    torch.testing.assert_close(turned[:, 0], x.cos())
    torch.testing.assert_close(turned[:, 1], x.sin())
    turned = apply_rotary(second, rotary)
    torch.testing.assert_close(turned[:, 4], y.cos())
    torch.testing.assert_close(turned[:, 5], y.sin())


def test_scores_depend_on_the_offset_alone():
    grid, dim = (5, 7), 16
    rotary = table(grid, dim, 100.0, "cpu")
    query, key = torch.randn(dim), torch.randn(dim)
    q, k = (apply_rotary(t.expand(35, dim), rotary).view(5, 7, dim) for t in (query, key))
    torch.testing.assert_close(q[1, 2] @ k[3, 5], q[0, 0] @ k[2, 3], rtol=1e-4, atol=1e-4)


def test_a_sequence_turns_each_map_and_leaves_object_pointers_alone():
    rotary = sequence((((2, 3), 6), ((2, 3), 6), (None, 4)), 8, 10000.0, "cpu")
    once = table((2, 3), 8, 10000.0, "cpu")
    assert rotary.shape == (16, 4, 2)
    assert torch.equal(rotary[:6], once) and torch.equal(rotary[6:12], once)
    tokens = torch.randn(1, 16, 8)
    assert torch.equal(apply_rotary(tokens, rotary)[:, 12:], tokens[:, 12:])


def test_it_is_computed_in_fp32_and_cast_back():
    tokens = torch.randn(1, 64, 16)
    rotary = table((8, 8), 16, 10000.0, "cpu")
    for dtype in (torch.bfloat16, torch.float16):
        exact = apply_rotary(tokens.to(dtype).float(), rotary).to(dtype)
        assert torch.equal(apply_rotary(tokens.to(dtype), rotary), exact)


def test_tables_first_made_in_inference_mode_serve_a_backward_pass():
    grid = (3, 11)  # used by no other test
    with torch.inference_mode():
        apply_rotary(torch.randn(1, 33, 8), table(grid, 8, 77.0, "cpu"))
    tokens = torch.randn(1, 33, 8, requires_grad=True)
    apply_rotary(tokens, table(grid, 8, 77.0, "cpu")).square().sum().backward()
    torch.testing.assert_close(tokens.grad, 2 * tokens.detach())  # a rotation keeps lengths


def test_a_width_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        table((2, 2), 6, 10000.0, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_code_turns_alike(monkeypatch, dtype):
    tokens = torch.randn(2, 1, 30, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    rotary = table((5, 6), 8, 10000.0, "cpu")
    expected = apply_rotary(tokens, rotary)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(
        apply_rotary(tokens, rotary), expected, rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-6
    )


def test_half_precision_in_pieces_is_the_same(monkeypatch):
    tokens = torch.randn(2, 1, 30, 8).bfloat16()
    rotary = table((5, 6), 8, 10000.0, "cpu")
    with torch.inference_mode():
        whole = apply_rotary(tokens, rotary)
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 8 * 7)
        assert torch.equal(apply_rotary(tokens, rotary), whole)
