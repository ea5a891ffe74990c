"""Which parts torch.compile wraps, and in which shapes they meet what changes from frame to frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sam2core.memory.attention import RopeMemoryAttention
from sam2core.ops.shapes import FixedShapes

if TYPE_CHECKING:
    from sam2core.model import Sam2

PARTS = ("backbone", "neck", "mask_decoder", "memory_attention", "memory_encoder")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
GRAPHS = ("reduce-overhead", "max-autotune")
"""The modes that record CUDA graphs."""
BUCKETS = (1, 2, 4, 8, 16)
"""How many objects a recorded call takes; fewer are filled up."""


def compile_model(model: Sam2, parts: bool | str | Sequence[str] = True, **options: Any) -> Sam2:
    """Compile a model's parts in place, and let it fill up their inputs to fixed shapes; the same model.

    `parts` are names out of PARTS (True: all), or one of torch's MODES for all of them. Each part compiles at its first
    call, once for one object and once for any other number; after that neither the number of points, of objects nor of
    memories compiles anything. On a GPU pasts are not filled up: the layers of memory attention are compiled one by
    one, for any length. With a mode of GRAPHS shapes are fixed there too, objects go in BUCKETS, and what a part gives
    is copied, since the next replay writes over it. `options` go to ``torch.compile``. Raises ValueError for an unknown
    part or mode.
    """
    if isinstance(parts, str) and parts not in PARTS:
        parts, options["mode"] = True, parts
    names = PARTS if parts is True else (parts,) if isinstance(parts, str) else tuple(parts or ())
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"there is no part {unknown[0]!r} to compile; the parts are {', '.join(PARTS)}")
    mode = options.get("mode")
    if mode is not None and mode not in MODES:
        near = get_close_matches(str(mode), (*MODES, *PARTS), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no mode {mode!r} of torch.compile; the modes are {', '.join(MODES)}{hint}")
    graphs = mode in GRAPHS
    slots: int | None = model.memory_readout.slots
    for name in names:
        part = getattr(model, name)
        if model.device.type == "cuda" and isinstance(part, RopeMemoryAttention) and not graphs:
            slots = None
            for layer in part.layers:
                layer.compile(**options)
            continue
        part.compile(**options)
        if graphs:
            _copy_at_border(part)
    model.fixed = FixedShapes(slots=slots, objects=BUCKETS if graphs else ())
    return model


def _copy_at_border(part: nn.Module) -> None:
    """Let a compiled part give copies: a CUDA graph's own outputs last until it, or another one, is replayed."""
    inner: Any = part
    run: Callable[..., Any] = inner._compiled_call_impl

    def call(*arguments: Any, **options: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # nothing of an earlier call is held any more
        return _copied(run(*arguments, **options))

    inner._compiled_call_impl = call


def _copied(value: Any) -> Any:
    """A value with every tensor in it copied."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple | list):
        return type(value)(_copied(one) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{name: _copied(one) for name, one in vars(value).items()})
    return value
