"""Pointers: absent objects point to one learned vector."""

from __future__ import annotations

import torch

from sam2core.heads.object_pointer import ObjectPointer


def test_absence_is_a_hard_choice_and_zero_is_absent():
    pointer = ObjectPointer(8)
    tokens = torch.randn(3, 2, 8)
    found = pointer(tokens, torch.tensor([[0.1], [0.0], [-3.0]]))
    torch.testing.assert_close(found[0], pointer.proj(tokens[0]))
    assert torch.equal(found[1], pointer.absent.expand(2, -1)) and torch.equal(found[2], found[1])


def test_every_parameter_gets_a_gradient():
    pointer = ObjectPointer(8)
    pointer(torch.randn(2, 1, 8), torch.tensor([[1.0], [-1.0]])).square().sum().backward()
    pointer.mask_stem(torch.randn(1, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in pointer.parameters())
