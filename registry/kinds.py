"""The kinds: words under which parts are interchangeable, each with its contract and what `assemble` passes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Kind:
    """A word under which parts are interchangeable.

    summary   what it does, in a few words
    protocol  the contract, "module:Protocol"; a string, so that naming it imports no torch
    passes    the keywords the registry hands to every part of this kind; the others are the part's own options
    called    False: the target is the part itself (a layout is a value), not something that makes one
    """

    name: str
    summary: str
    protocol: str
    passes: tuple[str, ...] = ()
    called: bool = True


def _table(*kinds: Kind) -> Mapping[str, Kind]:
    return MappingProxyType({kind.name: kind for kind in kinds})


KINDS: Mapping[str, Kind] = _table(
    Kind("backbone", "an image becomes a pyramid of maps", "sam2core.protocols:Backbone"),
    Kind(
        "neck", "the pyramid becomes three maps of one width", "sam2core.protocols:Neck", ("channels", "strides", "dim")
    ),
    Kind(
        "prompt_encoder", "a prompt becomes tokens and a map", "sam2core.protocols:PromptEncoder", ("dim", "image_size")
    ),
    Kind("mask_decoder", "a prompt and an image become four masks", "sam2core.protocols:MaskDecoder", ("dim",)),
    Kind(
        "memory_encoder",
        "an image and a mask become memory tokens",
        "sam2core.protocols:MemoryEncoder",
        ("dim", "memory_dim"),
    ),
    Kind(
        "memory_attention",
        "an image is conditioned on memories",
        "sam2core.protocols:MemoryAttention",
        ("dim", "memory_dim"),
    ),
    Kind("memory_policy", "what to believe, to keep and to recall", "sam2core.protocols:MemoryPolicy"),
    Kind("initialisation", "fresh weights to begin training with", "sam2core.protocols:Initialisation"),
    Kind("predictor", "a tool over a model", "sam2core.protocols:Predictor", ("model",)),
    Kind("engine", "where the videos of a data set are worked on", "sam2core.protocols:Engine", ("workers",)),
    Kind("detector", "an image becomes boxes", "sam2core.protocols:Detector"),
    Kind("writer", "what a run found becomes labels for other tools", "sam2core.protocols:Writer"),
    Kind("layout", "how a file names its tensors", "sam2core.protocols:Layout", called=False),
)
