"""Meta's dictionaries of frame outputs, read and written as an object's memories."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import MemoryPolicy
from sam2core.ops.position import sine_tokens
from sam2core.types import FrameMemory, TokenBlock


class FrameOutput(dict):
    """One object's output on one frame, with Meta's keys; and what Meta's sam2 does not keep."""

    iou: Tensor | None = None
    """The predicted IoU (B,)."""
    blocks: tuple[TokenBlock, ...] | None = None
    """The memory itself, where it is more than one map."""


def maps_of(memory: FrameMemory) -> tuple[Tensor, list[Tensor]]:
    """A memory's map (B, Cm, h, w) and the list of its position map, as Meta's sam2 keeps them."""
    assert memory.blocks is not None
    block = next(block for block in memory.blocks if block.grid is not None)
    assert block.grid is not None

    def unflatten(tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, block.grid)

    position = unflatten(block.position).expand(block.tokens.shape[0], -1, -1, -1)
    return unflatten(block.tokens), [position]


def memory_of(out: MutableMapping[str, Any], frame: int, device: torch.device) -> FrameMemory:
    """A frame's output as a memory on a device."""
    features = out["maskmem_features"]
    blocks = getattr(out, "blocks", None)
    if blocks is None and features is not None:
        grid = (features.shape[-2], features.shape[-1])
        # Tokens stay where they are stored until they are read. Every frame's position is the same table.
        position = sine_tokens(grid, features.shape[1], out["maskmem_pos_enc"][-1].dtype, device)
        blocks = (TokenBlock(features.flatten(2).transpose(1, 2), position, grid),)
    logits, object_score = out["pred_masks"], out["object_score_logits"]
    iou = getattr(out, "iou", None)
    return FrameMemory(
        frame=frame,
        blocks=blocks,
        object_pointer=out["obj_ptr"].to(device),
        logits=logits,
        object_score=object_score,
        iou=logits.new_zeros(logits.shape[0]) if iou is None else iou,
    )


def output_of(memory: FrameMemory, storage: torch.device) -> FrameOutput:
    """A memory as a frame's output, its large tensors on the storage device."""
    features, position = (None, None) if memory.blocks is None else maps_of(memory)
    out = FrameOutput(
        maskmem_features=None if features is None else features.to(storage, non_blocking=True),
        maskmem_pos_enc=position,
        pred_masks=memory.logits.float().to(storage, non_blocking=True),
        obj_ptr=memory.object_pointer,
        object_score_logits=memory.object_score,
    )
    out.iou = memory.iou
    if memory.blocks is not None and len(memory.blocks) > 1:
        out.blocks = memory.blocks
    return out


class _Outputs(MutableMapping[int, FrameMemory]):
    """One of Meta's ``{frame: output}`` dictionaries as ``{frame: memory}``; both change together."""

    def __init__(self, outputs: dict[int, Any], device: torch.device, storage: torch.device) -> None:
        self.outputs = outputs
        self.device = device
        self.storage = storage

    def __getitem__(self, frame: int) -> FrameMemory:
        return memory_of(self.outputs[frame], frame, self.device)

    def __setitem__(self, frame: int, memory: FrameMemory) -> None:
        self.outputs[frame] = output_of(memory, self.storage)

    def __delitem__(self, frame: int) -> None:
        del self.outputs[frame]

    def __contains__(self, frame: object) -> bool:
        return frame in self.outputs

    def __iter__(self) -> Iterator[int]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


class RememberedOutputs(MemoryBank):
    """A memory bank over one object's ``output_dict``: policies read it and write into it."""

    def __init__(self, output_dict: dict[str, Any], device: torch.device, storage: torch.device | None = None) -> None:
        storage = device if storage is None else storage
        self.output_dict = output_dict
        self.prompted = _Outputs(output_dict["cond_frame_outputs"], device, storage)  # type: ignore[assignment]
        self.recent = _Outputs(output_dict["non_cond_frame_outputs"], device, storage)  # type: ignore[assignment]

    def state(self, policy: MemoryPolicy) -> Any:
        """The policy's own state for this object, kept beside its outputs."""
        if "policy_state" not in self.output_dict:
            started = policy.start()
            if started is None:
                return None
            self.output_dict["policy_state"] = started
        return self.output_dict["policy_state"]
