"""The kinds: words under which parts are interchangeable, each with its contract and what `assemble` passes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Kind:
    """A word under which parts are interchangeable.

    protocol  the contract, "module:Protocol"; a string, so that naming it imports no torch
    passes    the keywords the registry hands to every part of this kind; the others are the part's own options
    called    False: the target is the part itself (a layout is a value), not something that makes one
    """

    name: str
    protocol: str
    passes: tuple[str, ...] = ()
    called: bool = True


def _table(*kinds: Kind) -> Mapping[str, Kind]:
    return MappingProxyType({kind.name: kind for kind in kinds})


KINDS: Mapping[str, Kind] = _table(
    Kind("backbone", "sam2core.protocols:Backbone"),
    Kind("neck", "sam2core.protocols:Neck", ("channels", "strides", "dim")),
    Kind("mask_decoder", "sam2core.protocols:MaskDecoder", ("dim",)),
    Kind("memory_encoder", "sam2core.protocols:MemoryEncoder", ("dim", "memory_dim")),
    Kind("memory_attention", "sam2core.protocols:MemoryAttention", ("dim", "memory_dim")),
    Kind("memory_policy", "sam2core.protocols:MemoryPolicy"),
    Kind("predictor", "sam2core.protocols:Predictor", ("model",)),
    Kind("layout", "sam2core.protocols:Layout", called=False),
)
