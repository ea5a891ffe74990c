"""Make a model ready for a device: plain blocks give way to equal ones that are arranged for it."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from sam2core.backbones.hiera import HieraBlock
from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.heads.two_way import TwoWayBlock, TwoWayTransformer
from sam2core.memory.attention import RopeMemoryLayer
from sam2core.model import Sam2
from sam2core.ops.cpu.decoding import DrawsFiltered, ModelInCalls
from sam2core.ops.cpu.hiera import BlockInChunks
from sam2core.ops.cpu.memory import LayerInChunks
from sam2core.ops.cpu.two_way import FoldedBlock, FoldedTransformer
from sam2core.ops.cuda.decoding import DrawsKept, ModelOnCuda

Module = TypeVar("Module", bound=nn.Module)

# By kind of device: a plain class, and what is mixed into it; `replaces` of that names the methods it stands in for.
BLOCKS: dict[str, tuple[tuple[type[nn.Module], Any], ...]] = {
    "cpu": (
        (Sam2, ModelInCalls),
        (HieraBlock, BlockInChunks),
        (RopeMemoryLayer, LayerInChunks),
        (TwoWayBlock, FoldedBlock),
        (TwoWayTransformer, FoldedTransformer),
        (SamMaskDecoder, DrawsFiltered),
    ),
    "cuda": (
        (Sam2, ModelOnCuda),
        (SamMaskDecoder, DrawsKept),
    ),
}


def prepare(model: Module, device: torch.device | str) -> Module:
    """Put the blocks for a device in place of the plain ones, in a model or a part of one, and return it.

    Weights stay, and so do their names; answers are the same up to rounding. A class that extends a plain one keeps
    what it has written anew, and is left alone where a block stands in for that. Where there are gradients, or on
    another device, blocks do what the plain ones do.
    """
    unprepare(model)
    blocks = BLOCKS.get(torch.device(device).type, ())
    for part in model.modules():
        for plain, block in blocks:
            own: Any = type(part)
            if isinstance(part, plain) and all(getattr(own, at) is getattr(plain, at) for at in block.replaces):
                part.__class__ = _ready(own, block)
    return model


def unprepare(model: Module) -> Module:
    """Put the plain blocks back; the same model."""
    for part in model.modules():
        if isinstance(part, _Ready):
            part.__class__ = part.plain_class
    return model


class _Ready:
    """What all blocks that were put in place have: the class that was there before. Copies and pickles keep both."""

    plain_class: type[nn.Module]
    block_class: type

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(max(2, protocol))  # a tuple from protocol 2 on
        return _again, (self.plain_class, self.block_class), *reduced[2:]


@cache
def _ready(plain: Any, block: Any) -> Any:
    """A plain class with a block mixed in, under the plain name."""
    about = {"plain_class": plain, "block_class": block, "__doc__": plain.__doc__, "__module__": plain.__module__}
    return type(plain.__name__, (_Ready, block, plain), about)


def _again(plain: Any, block: Any) -> nn.Module:
    ready = _ready(plain, block)
    return ready.__new__(ready)
