"""Values are cut and joined by rows: what is taken apart and joined again is what it was."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sam2core.types import (
    Batch,
    DecoderOutput,
    FrameMemory,
    ImageFeatures,
    Label,
    MaskCandidates,
    MaskPrediction,
    Prompt,
    TokenBlock,
)


def made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def features() -> ImageFeatures:
    return ImageFeatures(made(3, 4, 2, 2), made(1, 4, 2, 2), (made(3, 2, 8, 8), made(3, 2, 4, 4)))


def output() -> DecoderOutput:
    return DecoderOutput(made(3, 4, 8, 8), made(3, 4), made(3, 4, 5), made(3, 1))


def candidates() -> MaskCandidates:
    return MaskCandidates(made(3, 3, 8, 8), made(3, 3), made(3, 3, 5), made(3, 1))


def prompt(*, masks: bool = True) -> Prompt:
    labels = torch.tensor([[1, 0], [2, 3], [1, -2]], dtype=torch.int32)
    return Prompt(made(3, 2, 2), labels, mask_input=made(3, 1, 8, 8) if masks else None, ragged=True)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for one in value for tensor in tensors(one)]
    return tensors(tuple(getattr(value, one.name) for one in fields(value))) if isinstance(value, Batch) else []


def equal(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return bool(pairs) and all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in pairs)


def memory(*, places: int = 3) -> FrameMemory:
    blocks = (TokenBlock(made(3, 6, 4), made(places, 6, 4), (2, 3)), TokenBlock(made(3, 2, 4), made(1, 2, 4), None))
    return FrameMemory(7, blocks, made(3, 5), made(3, 1, 8, 8), made(3, 1), made(3))


VALUES = [features(), output(), candidates(), prompt(), prompt(masks=False), memory(), memory(places=1)]


@pytest.mark.parametrize("value", VALUES, ids=type)
def test_rows_that_were_cut_are_joined_again(value: Any) -> None:
    parts = [value.rows(slice(0, 1)), value.rows(slice(1, 3))]
    assert equal(type(value).join(parts), value)
    order = torch.tensor([2, 0, 0])
    again = type(value).join([value.rows(slice(at, at + 1)) for at in order.tolist()])
    assert equal(value.rows(order), again)


def test_an_answer_is_cut_with_its_candidates_and_joined_without() -> None:
    answer = candidates().take(torch.tensor([2, 0, 1]))
    parts = [answer.rows(slice(at, at + 1)) for at in range(3)]
    assert equal(parts[1].candidates, answer.candidates.rows(slice(1, 2)))
    joined = MaskPrediction.join(parts)
    assert equal(joined.values(), answer.values())
    assert joined.candidates.logits.shape == (3, 1, 8, 8)


def test_prompts_of_other_lengths_and_with_and_without_masks_are_joined() -> None:
    short = Prompt(made(1, 1, 2), torch.ones(1, 1, dtype=torch.int32))
    joined = Prompt.join([short, prompt()])
    assert joined.labels.tolist() == [[1, Label.IGNORED], [1, 0], [2, 3], [1, Label.IGNORED]] and joined.ragged
    assert joined.has_mask_input is not None and joined.has_mask_input.tolist() == [False, True, True, True]
    assert joined.mask_input is not None and not joined.mask_input[0].any()
    assert torch.equal(joined.mask_input[1:], made(3, 1, 8, 8))
    assert Prompt.join([prompt(), prompt()]).has_mask_input is None  # every row has one
    assert Prompt.join([short, short]).mask_input is None and not Prompt.join([short, short]).ragged
    partly = joined.rows(slice(0, 2))
    assert Prompt.join([partly, prompt()]).has_mask_input.tolist() == [False, True, True, True, True]  # type: ignore[union-attr]


def test_parts_in_another_precision_are_joined_in_the_first_ones() -> None:
    half = DecoderOutput(*(value.bfloat16() for value in vars(output()).values()))
    assert DecoderOutput.join([half, output()]).masks.dtype == torch.bfloat16


@pytest.mark.parametrize("shared", [True, False])
def test_a_memory_is_cut_and_keeps_what_its_rows_share(shared: bool) -> None:
    block = TokenBlock(made(3, 6, 5), made(1 if shared else 3, 6, 5), (2, 3), key_scale=0.5)
    memory = FrameMemory(7, (block,), made(3, 5), made(3, 1, 8, 8), made(3, 1), made(3), {"kept": 1.0})
    one = memory.rows(slice(2, 3))
    assert one.blocks is not None and one.frame == 7 and one.notes == {"kept": 1.0}
    assert torch.equal(one.blocks[0].tokens, block.tokens[2:])
    assert (one.blocks[0].position is block.position) == shared and one.blocks[0].position.shape == (1, 6, 5)
    assert one.blocks[0].key_scale == 0.5 and torch.equal(one.logits, memory.logits[2:])


def test_rows_apart_are_the_rows_one_by_one_by_one_operator_a_tensor():
    position = torch.randn(1, 5, 2)
    block = TokenBlock(torch.randn(3, 5, 2), position, grid=None)
    memory = FrameMemory(
        4, (block,), torch.randn(3, 6), torch.randn(3, 1, 4, 4), torch.randn(3, 1), torch.randn(3), notes={"a": 1.0}
    )
    for row, one in enumerate(memory.apart(3)):
        same = memory.rows(slice(row, row + 1))
        for name in ("object_pointer", "logits", "object_score", "iou"):
            assert torch.equal(getattr(one, name), getattr(same, name))
            assert getattr(one, name).data_ptr() == getattr(same, name).data_ptr()
        assert torch.equal(one.blocks[0].tokens, block.tokens[row : row + 1]) and one.blocks[0].position is position
        assert (one.frame, one.notes) == (4, {"a": 1.0})
    several = TokenBlock(torch.randn(2, 5, 2), torch.randn(2, 5, 2), grid=None)
    assert [one.position.shape[0] for one in several.apart(2)] == [1, 1]
    assert [one.blocks for one in replace(memory, blocks=None).apart(3)] == [None] * 3
