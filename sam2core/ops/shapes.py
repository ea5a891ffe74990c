"""Fill up prompts and pasts, so that compiled parts meet few shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sam2core.types import Prompt, TokenBlock


@dataclass(frozen=True)
class FixedShapes:
    """Sizes that prompts and pasts are filled up to, in multiples, so that compiled parts meet few shapes.

    What is filled in is masked out: answers are those of the unfilled input, up to rounding.
    """

    points: int = 12
    slots: int | None = 7  # None: pasts stay as long as they are
    object_pointer_tokens: int = 64
    objects: tuple[int, ...] = ()  # sizes of groups that objects are filled up to, smallest first

    def group(self, objects: int) -> int:
        """How many objects a group of so many is filled up to."""
        return next((size for size in self.objects if size >= objects), objects)

    def pad_prompt(self, prompt: Prompt) -> Prompt:
        """The prompt with ignored points up to a multiple of `points`; one without points stays without."""
        count = prompt.labels.shape[1]
        return replace(prompt.padded(count + -count % self.points), ragged=True)

    def pad_maps(self, embedding: Tensor, dense: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """The embedding, and the prompts' map in its full shape, mask input or no mask input."""
        return own_copy(embedding), own_copy(dense.expand(batch, -1, *embedding.shape[-2:]))

    def pad_memory(self, blocks: Sequence[TokenBlock]) -> tuple[list[TokenBlock], Tensor | None]:
        """The blocks with empty ones up to fixed numbers, and which tokens (1, N) may be read; None: all of them.

        A full past needs no mask, and the fastest attention takes none. Blocks on a grid come first, up to a multiple
        of `slots`; the others follow as one, up to a multiple of `object_pointer_tokens`.
        """
        if self.slots is None:
            return list(blocks), None
        placed = [block for block in blocks if block.grid is not None]
        loose = [block for block in blocks if block.grid is None]
        any_block = blocks[0]
        batch, device = any_block.tokens.shape[0], any_block.tokens.device
        filled, memory_mask = [], []
        for block in placed:
            filled.append(
                replace(block, tokens=own_copy(block.tokens), position=own_copy(block.position.expand(batch, -1, -1)))
            )
            memory_mask.append(torch.ones(block.tokens.shape[1], dtype=torch.bool, device=device))
        if placed:
            for _ in range(-len(placed) % self.slots):
                empty = torch.zeros_like(placed[0].tokens, memory_format=torch.contiguous_format)
                filled.append(TokenBlock(empty, empty.clone(), placed[0].grid))
                memory_mask.append(torch.zeros(empty.shape[1], dtype=torch.bool, device=device))
        count = sum(block.tokens.shape[1] for block in loose)
        missing = -count % self.object_pointer_tokens if count else self.object_pointer_tokens
        empty = any_block.tokens.new_zeros(batch, missing, any_block.tokens.shape[2])
        filled.append(
            TokenBlock(
                tokens=torch.cat([*(block.tokens for block in loose), empty], dim=1),
                position=torch.cat([*(block.position.expand(batch, -1, -1) for block in loose), empty], dim=1),
                grid=None,
            )
        )
        memory_mask += [
            torch.ones(count, dtype=torch.bool, device=device),
            torch.zeros(missing, dtype=torch.bool, device=device),
        ]
        if not missing and not -len(placed) % self.slots:
            return filled, None
        return filled, torch.cat(memory_mask).unsqueeze(0)


def own_copy(tensor: Tensor) -> Tensor:
    """A copy with storage and strides of its own: compiled code is specialised on strides and on shared inputs."""
    return tensor.clone(memory_format=torch.contiguous_format)
