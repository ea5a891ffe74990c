"""A recall becomes token blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2core.ops.position import sine_time
from sam2core.types import Recall, TokenBlock


class MemoryReadout(nn.Module):
    """Adds to each recalled memory the code of its slot, and to each pointer the code of its age.

    Options: `slots` is the number of recent frames plus one for anchors, which take the last row; `pointer_time` is
    ``"signed"`` (SAM 2.1) or ``"none"`` (SAM 2). `no_memory` stands for an empty past.
    Source: upstream ``maskmem_tpos_enc``, ``obj_ptr_tpos_proj`` and ``no_mem_embed`` of ``SAM2Base``.
    """

    POINTER_TIMES = ("signed", "none")

    def __init__(self, dim: int, memory_dim: int, *, slots: int = 7, pointer_time: str = "signed") -> None:
        super().__init__()
        if pointer_time not in self.POINTER_TIMES:
            raise ValueError(f"pointer_time is one of {', '.join(self.POINTER_TIMES)}, not {pointer_time!r}")
        if dim % memory_dim:
            raise ValueError(f"a pointer of width {dim} cannot be cut into tokens of width {memory_dim}")
        self.dim = dim
        self.memory_dim = memory_dim
        self.slot_embed = nn.Parameter(torch.empty(slots, 1, 1, memory_dim))
        self.no_memory = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.slot_embed, std=0.02)
        nn.init.trunc_normal_(self.no_memory, std=0.02)
        self.pointer_time = nn.Linear(dim, memory_dim) if pointer_time == "signed" else None

    def forward(self, recall: Recall) -> list[TokenBlock]:
        """The blocks to attend to, in upstream's order: the slots as recalled, then all pointers as one block."""
        slot_embed = self.slot_embed[:, 0]
        dtype = slot_embed.dtype
        blocks = []
        for slot, memory in recall.slots:
            assert memory.blocks is not None, f"frame {memory.frame} was trimmed but is recalled"
            for block in memory.blocks:
                position = block.position.to(dtype) + slot_embed[slot]
                blocks.append(TokenBlock(block.tokens.to(dtype), position, block.grid, block.key_scale))
        if recall.pointers:
            blocks.append(self._pointers(recall))
        return blocks

    def _pointers(self, recall: Recall) -> TokenBlock:
        dtype, device = self.slot_embed.dtype, self.slot_embed.device
        pointers = torch.stack([memory.pointer for _, memory in recall.pointers], dim=1).to(dtype)
        pieces = self.dim // self.memory_dim
        tokens = pointers.unflatten(2, (pieces, self.memory_dim)).flatten(1, 2)
        position: Tensor = tokens.new_zeros(1, 1, self.memory_dim).expand(1, tokens.shape[1], -1)
        if self.pointer_time is not None:
            age = torch.tensor([distance for distance, _ in recall.pointers], dtype=torch.float32, device=device)
            # a video of one frame has a horizon of 0: its only pointer has age 0 then, whatever the scale
            code = sine_time(age / max(recall.horizon, 1), self.dim).to(dtype)
            position = self.pointer_time(code).repeat_interleave(pieces, dim=0).unsqueeze(0)
        return TokenBlock(tokens, position, grid=None)
