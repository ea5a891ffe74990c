"""Assembly: a spec becomes a model. All the wiring there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from registry.components import Components, call
from registry.errors import SpecError
from registry.spec import ModelSpec
from sam2core.annotations import dtype_name
from sam2core.heads.object_pointer import ObjectPointer
from sam2core.memory.readout import MemoryReadout, check_policy
from sam2core.model import Sam2
from sam2core.protocols import MakesStrides
from sam2core.types import Multimask


def assemble(spec: ModelSpec, components: Components) -> Sam2:
    """Build the parts in the order data meets them, handing each the widths it shares with its neighbours."""
    make = components.make
    size = (spec.image_size[0], spec.image_size[1])
    widths = {"dim": spec.dim, "memory_dim": spec.memory_dim}
    backbone = make("backbone", spec.backbone)
    _check_levels(spec, backbone)
    neck = make("neck", spec.neck, channels=backbone.channels, strides=backbone.strides, dim=spec.dim)
    prompt_encoder = make("prompt_encoder", spec.prompt_encoder, dim=spec.dim, image_size=size)
    mask_decoder = make("mask_decoder", spec.mask_decoder, dim=spec.dim)
    _check_read(spec, backbone, neck, mask_decoder)
    memory_readout = call("memory_readout", MemoryReadout, spec.memory_readout, **widths)
    memory_policy = make("memory_policy", spec.memory_policy)
    try:
        check_policy(memory_policy, memory_readout.slots)
    except ValueError as error:
        raise SpecError(str(error)) from error
    return Sam2(
        backbone=backbone,
        neck=neck,
        prompt_encoder=prompt_encoder,
        mask_decoder=mask_decoder,
        object_pointer=ObjectPointer(spec.dim),
        memory_encoder=make("memory_encoder", spec.memory_encoder, **widths),
        memory_readout=memory_readout,
        memory_attention=make("memory_attention", spec.memory_attention, **widths),
        memory_policy=memory_policy,
        image_size=size,
        multimask=Multimask(**dataclasses.asdict(spec.multimask)),
    )


def _check_levels(spec: ModelSpec, backbone: Any) -> None:
    """Raise SpecError for a pyramid that no neck can use."""
    name, strides, channels = spec.backbone["type"], list(backbone.strides), list(backbone.channels)
    if len(strides) != len(channels) or strides != sorted(set(strides)):
        raise SpecError(
            f"backbone {name!r} says strides {strides} and channels {channels}; "
            "a map has one of each, the finest map first: mend the backbone"
        )
    if 16 not in strides:
        raise SpecError(
            f"neck {spec.neck['type']!r} and all behind it work at stride 16, and backbone {name!r} has maps at "
            f"strides {strides}: give it one at 16, or name another backbone"
        )


def _check_read(spec: ModelSpec, backbone: Any, neck: Any, mask_decoder: Any) -> None:
    """Raise SpecError for a mask decoder that reads maps which neither the backbone nor the neck makes."""
    wanted = getattr(mask_decoder, "high_res_strides", ())
    made = neck.made_strides if isinstance(neck, MakesStrides) else backbone.strides
    if absent := [stride for stride in wanted if stride not in made]:
        raise SpecError(
            f"mask_decoder {spec.mask_decoder['type']!r} reads maps at strides {list(wanted)}, and backbone "
            f"{spec.backbone['type']!r} has none at {absent[0]}: turn off mask_decoder.high_res_features, or name a "
            "neck that makes them"
        )


class _WithoutRandom(TorchFunctionMode):
    """Leaves tensors without storage unfilled. Filling one with random numbers imports torch's compiler: seconds.

    It counts what is made, too: ``layers: 100000000`` in a spec would otherwise never end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors = self.numbers = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        if func in _RANDOM:
            func, kwargs = torch.empty, {key: value for key, value in kwargs.items() if key != "generator"}
        made = func(*args, **kwargs)
        if func in _MAKES:
            self.tensors += 1
            self.numbers += made.numel()
            if self.tensors > TENSORS_LIMIT or self.numbers > NUMBERS_LIMIT:
                raise SpecError(
                    f"this model would have more than {TENSORS_LIMIT} tensors or {NUMBERS_LIMIT:.0e} numbers, "
                    "which no model here needs: look at its layers, stages and widths"
                )
        return made


TENSORS_LIMIT = 20_000
NUMBERS_LIMIT = 20_000_000_000
_MAKES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.randn, torch.rand}
_FILLS = {torch.Tensor.normal_, torch.Tensor.uniform_}
_FILLS |= {init.normal_, init.uniform_, init.kaiming_uniform_}  # what reaches this mode before Tensor's methods do
_RANDOM = {torch.randn, torch.rand}


@contextmanager
def init_empty_weights() -> Iterator[None]:
    """Within it, models are built without storage: in milliseconds, to be filled from a file or to be counted."""
    with torch.device("meta"), _WithoutRandom():
        yield


def device_of(device: str | torch.device | None) -> torch.device:
    """A device by name: None is the CPU, "auto" the first of cuda, mps, cpu that is there. Raises ValueError."""
    if device is None:
        return torch.device("cpu")
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"no device is called {device!r}; write auto, cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device!r} is not here: torch sees no Metal device")
    return chosen


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device is a GPU with units for bfloat16; one that only imitates the type has none."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A floating type by name; None is what models run in on a device where nobody says. Raises ValueError."""
    if dtype is None:
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    return getattr(torch, dtype_name(str(dtype).removeprefix("torch.")))
