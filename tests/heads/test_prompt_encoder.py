"""Prompts become tokens and a map."""

from __future__ import annotations

import math

import pytest
import torch

from sam2core.heads.prompt_encoder import PromptEncoder
from sam2core.types import Label, Prompt

SIZE = (64, 128)


@pytest.fixture
def encoder():
    encoder = PromptEncoder(16, SIZE)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def prompt(points, labels, **more):
    return Prompt(torch.tensor(points, dtype=torch.float32), torch.tensor(labels, dtype=torch.int32), **more)


def code(encoder, x, y):
    """The Fourier code of a pixel's centre, written out."""
    x, y = 2 * (x + 0.5) / SIZE[1] - 1, 2 * (y + 0.5) / SIZE[0] - 1
    angle = 2 * math.pi * (x * encoder.frequencies[0] + y * encoder.frequencies[1])
    return torch.cat([angle.sin(), angle.cos()])


def test_a_point_is_its_place_plus_its_label_and_a_padding_token_follows(encoder):
    labels = [0, 1, 2, 3]
    points = [[0.0, 0.0], [127.0, 63.0], [10.0, 20.0], [90.0, 50.0]]
    sparse, _, token_mask = encoder(prompt([points], [labels]))
    assert sparse.shape == (1, 5, 16) and token_mask is None  # all count
    for row, (label, point) in enumerate(zip(labels, points)):
        expected = code(encoder, *point) + encoder.label_embed[label].weight[0]
        torch.testing.assert_close(sparse[0, row], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sparse[0, 4], encoder.padding_embed.weight[0])


def test_padding_replaces_the_place_and_an_unknown_label_adds_nothing(encoder):
    sparse, *_ = encoder(prompt([[[3.0, 4.0], [3.0, 4.0]]], [[-1, 7]]))
    torch.testing.assert_close(sparse[0, 0], encoder.padding_embed.weight[0])
    torch.testing.assert_close(sparse[0, 1], code(encoder, 3, 4), rtol=1e-4, atol=1e-4)


def test_no_point_at_all_is_no_token(encoder):
    sparse, dense, _ = encoder(Prompt(torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.int32)))
    assert sparse.shape == (2, 0, 16)
    torch.testing.assert_close(dense.expand(2, -1, 4, 8)[1, :, 3, 2], encoder.no_mask.weight[0])


def test_ragged_rows_are_filled_with_tokens_that_do_not_count(encoder):
    ignored = int(Label.IGNORED)
    sparse, _, token_mask = encoder(
        prompt(
            [[[5.0, 6.0], [7.0, 8.0]], [[5.0, 6.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]],
            [[1, 0], [1, ignored], [ignored, ignored]],
            ragged=True,
        )
    )
    assert token_mask.tolist() == [[True, True, True], [True, False, True], [False, False, False]]
    alone, *_ = encoder(prompt([[[5.0, 6.0]]], [[1]]))
    torch.testing.assert_close(sparse[1][token_mask[1]], alone[0])


def test_a_mask_input_becomes_a_map_at_stride_16_per_row(encoder):
    mask = torch.randn(2, 1, 16, 32)
    _, dense, _ = encoder(prompt([[[5.0, 6.0]]] * 2, [[1]] * 2, mask_input=mask))
    assert dense.shape == (2, 16, 4, 8)
    torch.testing.assert_close(dense, encoder.mask_stem(mask))
    _, mixed, _ = encoder(
        prompt([[[5.0, 6.0]]] * 2, [[1]] * 2, mask_input=mask, has_mask_input=torch.tensor([True, False]))
    )
    torch.testing.assert_close(mixed[0], dense[0])
    torch.testing.assert_close(mixed[1, :, 2, 3], encoder.no_mask.weight[0])


def test_the_dense_position_is_the_code_of_the_cells_centres(encoder):
    found = encoder.position((4, 8))
    assert found.shape == (1, 16, 4, 8)
    torch.testing.assert_close(found[0, :, 3, 1], code(encoder, 16 * 1.5 - 0.5, 16 * 3.5 - 0.5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_places_stay_exact_in_half_precision(encoder, dtype):
    given = prompt([[[101.25, 33.5]]], [[1]])
    exact, *_ = encoder(given)
    half = encoder.to(dtype)
    assert half.frequencies.dtype == torch.float32
    found, dense, _ = half(given)
    assert found.dtype == dense.dtype == dtype
    assert (found.float() - exact).abs().max() < 0.02


def test_every_parameter_gets_a_gradient(encoder):
    points = prompt([[[5.0, 6.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]] * 2, [[0, 1, 2, 3]] * 2)
    mask_input = Prompt(points.points, points.labels, torch.randn(2, 1, 16, 32), torch.tensor([True, False]))
    sparse, dense, _ = encoder(mask_input)
    (sparse.square().sum() + dense.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
