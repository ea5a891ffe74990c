"""The neck, written out."""

from __future__ import annotations

import pytest
import torch

from sam2core.backbones.fpn import Fpn

CHANNELS, STRIDES = (4, 8, 16, 32), (4, 8, 16, 32)


def pyramid(size=(64, 96), batch=2):
    return [torch.randn(batch, c, size[0] // s, size[1] // s) for c, s in zip(CHANNELS, STRIDES)]


def test_only_stride_16_receives_the_coarsest_level_and_stride_32_is_dropped():
    neck, maps = Fpn(CHANNELS, STRIDES, 12), pyramid()
    found = neck(maps)
    lateral = [convolution(m) for convolution, m in zip(neck.lateral, maps)]
    doubled = lateral[3].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert len(found) == 3
    torch.testing.assert_close(found[0], lateral[0])
    torch.testing.assert_close(found[1], lateral[1])
    torch.testing.assert_close(found[2], lateral[2] + doubled)


def test_other_strides_can_receive_the_sum():
    neck, maps = Fpn(CHANNELS, STRIDES, 12, top_down=(8, 16)), pyramid()
    found = neck(maps)
    doubled = found[2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(found[1], neck.lateral[1](maps[1]) + doubled)


def test_a_stride_the_backbone_lacks_is_refused():
    with pytest.raises(ValueError, match=r"\[12\].*\[4, 8, 16, 32\]"):
        Fpn(CHANNELS, STRIDES, 12, top_down=(12,))


def test_every_parameter_gets_a_gradient():
    neck = Fpn(CHANNELS, STRIDES, 12)
    sum(m.square().sum() for m in neck(pyramid())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type(dtype):
    neck, maps = Fpn(CHANNELS, STRIDES, 12), pyramid()
    exact = neck(maps)
    for found, expected in zip(neck.to(dtype)([m.to(dtype) for m in maps]), exact):
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
