"""Position codes against their formulas, written as loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sam2core.ops.position import bicubic, cell_centres, fourier, sine_grid, sine_time


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_sine_grid_counts_from_one_y_first_interleaved(grid):
    dim = 16
    found = sine_grid(grid, dim)
    assert found.shape == (1, dim, *grid)
    expected = torch.empty(dim, *grid)
    half = dim // 2
    for row in range(grid[0]):
        for column in range(grid[1]):
            for start, along, size in ((0, row, grid[0]), (half, column, grid[1])):
                angle = (along + 1) / (size + 1e-6) * 2 * math.pi
                for channel in range(half):
                    scaled = angle / 10000 ** (2 * (channel // 2) / half)
                    expected[start + channel, row, column] = math.cos(scaled) if channel % 2 else math.sin(scaled)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


def test_sine_time_is_all_sines_then_all_cosines():
    dim, times = 8, [0.0, 0.25, -1.0, 3.0]
    found = sine_time(torch.tensor(times), dim)
    for row, time in enumerate(times):
        for channel in range(dim // 2):
            angle = time / 10000 ** (2 * (channel // 2) / (dim // 2))
            assert math.isclose(found[row, channel], math.sin(angle), abs_tol=1e-6)
            assert math.isclose(found[row, dim // 2 + channel], math.cos(angle), abs_tol=1e-6)


def test_fourier_takes_x_then_y():
    frequencies = torch.randn(2, 6)
    point = torch.tensor([0.3, 0.9])
    angle = 2 * math.pi * ((2 * 0.3 - 1) * frequencies[0] + (2 * 0.9 - 1) * frequencies[1])
    torch.testing.assert_close(fourier(point, frequencies), torch.cat([angle.sin(), angle.cos()]), rtol=1e-5, atol=1e-5)


def test_fourier_is_computed_in_fp32_whatever_the_model():
    frequencies, points = torch.randn(2, 6).bfloat16(), torch.rand(5, 2)
    assert fourier(points, frequencies).dtype == torch.float32
    torch.testing.assert_close(fourier(points, frequencies), fourier(points, frequencies.float()))


def test_cell_centres_are_x_y_in_the_unit_square():
    centres = cell_centres((2, 4))
    assert centres.shape == (2, 4, 2)
    assert centres[0, 0].tolist() == [0.125, 0.25] and centres[1, 3].tolist() == [0.875, 0.75]


def test_tables_first_made_in_inference_mode_serve_a_backward_pass():
    with torch.inference_mode():
        sine_grid((3, 9), 8), cell_centres((3, 9))
    weight = torch.ones(1, 8, 3, 9, requires_grad=True)
    (weight * sine_grid((3, 9), 8)).sum().backward()
    torch.testing.assert_close(weight.grad, sine_grid((3, 9), 8))
    frequencies = torch.randn(2, 4, requires_grad=True)
    fourier(cell_centres((3, 9)), frequencies).square().sum().backward()
    assert frequencies.grad is not None


def test_a_width_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        sine_grid((2, 2), 6)


@pytest.mark.parametrize("size", [(4, 4), (64, 32), (5, 7), (3, 2)])
def test_bicubic_is_the_same_in_two_products(size):
    grid = torch.randn(5, 7, 3)
    expected = F.interpolate(grid.permute(2, 0, 1)[None], size=size, mode="bicubic")[0].permute(1, 2, 0)
    torch.testing.assert_close(bicubic(grid, size), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert bicubic(grid, size).dtype == torch.float32
