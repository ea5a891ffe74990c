"""Prompts are drawn into the mask input."""

from __future__ import annotations

import pytest
import torch

from sam2core.nano.prompt_encoder import DrawnPromptEncoder
from sam2core.types import Label, Prompt

SIZE = (64, 128)


@pytest.fixture
def encoder():
    encoder = DrawnPromptEncoder(16, SIZE)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def prompt(points, labels, **more):
    return Prompt(torch.tensor(points, dtype=torch.float32), torch.tensor(labels, dtype=torch.int32), **more)


def test_drawn_prompts_are_a_mask_input(encoder):
    asked = prompt(
        [[[40.0, 20.0], [90.0, 20.0]], [[32.0, 16.0], [63.0, 47.0]], [[0.0, 0.0], [0.0, 0.0]]],
        [[Label.POSITIVE, Label.NEGATIVE], [Label.TOP_LEFT, Label.BOTTOM_RIGHT], [Label.PADDING, Label.IGNORED]],
        ragged=True,
    )
    mask_input, said = encoder.mask_input(asked)
    assert mask_input.shape == (3, 1, 16, 32) and said.tolist() == [True, True, False]
    clicked, box, nothing = mask_input[:, 0]
    assert clicked[5, 10] == 16 and clicked[5, 22] == -16 and (clicked > 0).sum() <= 4
    assert (box[4:12, 8:16] == 2).all() and (box > 0).sum() == 64 and (nothing < 0).all()
    _, dense, _ = encoder(asked)
    assert dense.shape == (3, 16, 4, 8)
    assert torch.equal(dense[2], encoder.no_mask.weight[0].view(-1, 1, 1).expand(16, 4, 8))


def test_later_clicks_are_drawn_over_an_earlier_answer(encoder):
    answer = torch.full((1, 1, 16, 32), -3.0)
    asked = prompt([[[40.0, 20.0], [40.0, 20.0]]], [[Label.NEGATIVE, Label.POSITIVE]], mask_input=answer)
    mask_input, said = encoder.mask_input(asked)
    assert mask_input[0, 0, 5, 10] == 16 and mask_input[0, 0, 0, 0] == -3 and said.tolist() == [True]
    unsaid = Prompt(asked.points[:, :0], asked.labels[:, :0])
    assert encoder(unsaid)[1].shape == (1, 16, 1, 1)
