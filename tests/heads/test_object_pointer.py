"""Object pointers: absent objects point to one learned vector."""

from __future__ import annotations

import torch

from sam2core.heads.object_pointer import ObjectPointer


def test_absence_is_a_hard_choice_and_zero_is_absent():
    object_pointer = ObjectPointer(8)
    tokens = torch.randn(3, 2, 8)
    found = object_pointer(tokens, torch.tensor([[0.1], [0.0], [-3.0]]))
    torch.testing.assert_close(found[0], object_pointer.proj(tokens[0]))
    assert torch.equal(found[1], object_pointer.absent.expand(2, -1)) and torch.equal(found[2], found[1])


def test_every_parameter_gets_a_gradient():
    object_pointer = ObjectPointer(8)
    object_pointer(torch.randn(2, 1, 8), torch.tensor([[1.0], [-1.0]])).square().sum().backward()
    object_pointer.mask_stem(torch.randn(1, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in object_pointer.parameters())
