"""A recall becomes token blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sam2core.ops.position import sine_time
from sam2core.ops.tables import from_host
from sam2core.protocols import MemoryPolicy, RecallsSlots
from sam2core.types import FrameMemory, Recall, TokenBlock


class MemoryReadout(nn.Module):
    """Adds to each recalled memory the code of its slot, and to each object pointer the code of its age.

    Options: `slots` is the number of recent frames plus one for prompted frames, which take the last row;
    `pointer_time` is ``"signed"`` (SAM 2.1) or ``"none"`` (SAM 2). `no_memory` stands for an empty past.
    Source: Meta's ``maskmem_tpos_enc``, ``obj_ptr_tpos_proj`` and ``no_mem_embed`` of ``SAM2Base``.
    """

    POINTER_TIMES = ("signed", "none")

    def __init__(self, dim: int, memory_dim: int, *, slots: int = 7, pointer_time: str = "signed") -> None:
        super().__init__()
        if pointer_time not in self.POINTER_TIMES:
            raise ValueError(f"pointer_time is one of {', '.join(self.POINTER_TIMES)}, not {pointer_time!r}")
        if dim % memory_dim:
            raise ValueError(f"an object pointer of width {dim} cannot be cut into tokens of width {memory_dim}")
        self.dim = dim
        self.memory_dim = memory_dim
        self.slot_embed = nn.Parameter(torch.empty(slots, 1, 1, memory_dim))
        self.no_memory = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.slot_embed, std=0.02)
        nn.init.trunc_normal_(self.no_memory, std=0.02)
        self.pointer_time = nn.Linear(dim, memory_dim) if pointer_time == "signed" else None

    @property
    def slots(self) -> int:
        """How many slots have a code."""
        return self.slot_embed.shape[0]

    def forward(self, recall: Recall | Sequence[Recall]) -> list[TokenBlock]:
        """The blocks to attend to, in Meta's order: the slots as recalled, then all object pointers as one block.

        One recall serves all rows of its memories; several recalls of equal `memory_shape` are stacked along the batch.
        Raises ValueError for a slot that has no code.
        """
        recalls = [recall] if isinstance(recall, Recall) else list(recall)
        assert len({memory_shape(one) for one in recalls}) == 1, "recalls of different shapes cannot be stacked"
        for one in recalls:
            check_slots(one, self.slots)
        dtype, device = self.slot_embed.dtype, self.slot_embed.device
        blocks = []
        for place in range(len(recalls[0].slots)):
            slots = [one.slots[place][0] for one in recalls]
            codes = [self.slot_embed[slot] for slot in (slots[:1] if len(set(slots)) == 1 else slots)]
            code = codes[0] if len(codes) == 1 else torch.cat(codes)
            memories = [_blocks(one.slots[place][1]) for one in recalls]
            for parts in zip(*memories, strict=True):
                block = TokenBlock.join([replace(part, tokens=part.tokens.to(device, dtype)) for part in parts])
                blocks.append(replace(block, position=block.position.to(dtype) + code))
        if recalls[0].object_pointers:
            blocks.append(self._pointers(recalls))
        return blocks

    def _pointers(self, recalls: Sequence[Recall]) -> TokenBlock:
        dtype, device = self.slot_embed.dtype, self.slot_embed.device
        object_pointers = torch.cat(
            [torch.stack([memory.object_pointer for _, memory in recall.object_pointers], dim=1) for recall in recalls]
        )
        pieces = self.dim // self.memory_dim
        tokens = object_pointers.to(dtype).unflatten(2, (pieces, self.memory_dim)).flatten(1, 2)
        position: Tensor = tokens.new_zeros(1, 1, self.memory_dim).expand(1, tokens.shape[1], -1)
        if self.pointer_time is not None:
            # a video of one frame has a horizon of 0: its only object pointer has age 0 then, whatever the scale
            ages = [[age / max(recall.horizon, 1) for age, _ in recall.object_pointers] for recall in recalls]
            if all(row == ages[0] for row in ages):
                ages = ages[:1]
            age = from_host(ages, device)
            code = sine_time(age.flatten(), self.dim).to(dtype)
            position = self.pointer_time(code).repeat_interleave(pieces, dim=0).unflatten(0, (len(ages), -1))
        return TokenBlock(tokens, position, grid=None)


def memory_shape(recall: Recall) -> tuple[object, ...]:
    """What two recalls must share to be read in one batch: their blocks, in order, and how many object pointers."""
    blocks = tuple(
        (block.grid, block.tokens.shape[1], block.key_scale) for _, memory in recall.slots for block in _blocks(memory)
    )
    return blocks, len(recall.slots), len(recall.object_pointers), recall.horizon


def rows_of(recall: Recall) -> int:
    """How many objects a recall is of: its memories have a row for each."""
    return recall.object_pointers[0][1].logits.shape[0] if recall.object_pointers else 1


def check_policy(policy: MemoryPolicy, slots: int) -> None:
    """Raise ValueError for a policy that says it recalls more slots than the `slots` that a readout has codes for."""
    if isinstance(policy, RecallsSlots) and policy.recalled_slots > slots:
        raise ValueError(
            f"the memory policy {type(policy).__name__} recalls {policy.recalled_slots} slots, and memory_readout has "
            f"codes for {slots}: let the policy recall fewer frames, such as memory_policy.frames={slots - 1}, or "
            f"train a model with memory_readout.slots={policy.recalled_slots}"
        )


def check_slots(recall: Recall, slots: int) -> None:
    """Raise ValueError unless every recalled memory is in one of the `slots` that a readout has codes for."""
    for slot, memory in recall.slots:
        if not 0 <= slot < slots:
            raise ValueError(
                f"the memory policy recalls frame {memory.frame} in slot {slot}, and this model has codes for slots 0 "
                f"to {slots - 1} (recent frames from 0 on, prompted frames in the last): let the policy recall fewer "
                f"frames, such as memory_policy.frames={slots - 1}"
            )


def _blocks(memory: FrameMemory) -> tuple[TokenBlock, ...]:
    assert memory.blocks is not None, f"frame {memory.frame} was trimmed but is recalled"
    return memory.blocks
