"""The readout: which code each recalled token gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sam2core.memory.policy import MemoryPolicy, RecentFrames
from sam2core.memory.readout import MemoryReadout
from sam2core.ops.position import sine_time
from sam2core.predictors.video import VideoPredictor
from sam2core.testing import tiny_model
from sam2core.types import FrameMemory, Recall, TokenBlock


def memory(frame, batch=2):
    generator = torch.Generator().manual_seed(frame)
    block = TokenBlock(torch.randn(batch, 6, 4, generator=generator), torch.randn(1, 6, 4, generator=generator), (2, 3))
    object_pointer = torch.randn(batch, 16, generator=generator)
    return FrameMemory(
        frame, (block,), object_pointer, torch.zeros(batch, 1), torch.zeros(batch, 1), torch.zeros(batch)
    )


def recall():
    prompted, recent = memory(0), memory(8)
    return Recall(slots=((6, prompted), (1, recent)), object_pointers=((10, prompted), (2, recent)), horizon=15)


def test_slots_add_their_code_to_positions_and_keep_tokens():
    readout, given = MemoryReadout(16, 4), recall()
    blocks = readout(given)
    assert [block.grid for block in blocks] == [(2, 3), (2, 3), None]
    for block, (slot, kept) in zip(blocks, given.slots):
        assert torch.equal(block.tokens, kept.blocks[0].tokens)
        torch.testing.assert_close(block.position, kept.blocks[0].position + readout.slot_embed[slot, 0])


@pytest.mark.parametrize("places", [(2, 2), (2, 4)])
@pytest.mark.parametrize("shared", [True, False])
def test_recalls_of_several_objects_are_joined(places, shared):
    """Each row is what its own recall gives alone; a position that all share is added to once."""
    readout = MemoryReadout(16, 4)
    frames = [memory(frame, batch=1) for frame in (3, 5)]
    if shared:
        blocks = tuple(replace(block, position=frames[0].blocks[0].position) for block in frames[1].blocks)
        frames[1] = replace(frames[1], blocks=blocks)
    recalls = [Recall(((place, kept),), ((1, kept),), 15) for place, kept in zip(places, frames)]
    together = readout(recalls)
    assert together[0].position.shape[0] == (1 if shared and len(set(places)) == 1 else 2)
    for row, one in enumerate(recalls):
        for block, alone in zip(together, readout(one), strict=True):
            mine = block.rows(slice(row, row + 1))
            assert torch.equal(mine.tokens, alone.tokens) and torch.equal(mine.position, alone.position)


def test_object_pointers_are_cut_into_consecutive_tokens_that_share_an_age():
    readout, given = MemoryReadout(16, 4), recall()
    block = readout(given)[-1]
    assert block.tokens.shape == (2, 8, 4)
    assert torch.equal(block.tokens[:, 5], given.object_pointers[1][1].object_pointer[:, 4:8])
    for row, (distance, _) in enumerate(given.object_pointers):
        age = readout.pointer_time(sine_time(torch.tensor([distance / 15]), 16))
        torch.testing.assert_close(block.position[0, 4 * row : 4 * row + 4], age.expand(4, -1))


def test_without_a_time_code_object_pointers_have_no_position():
    readout = MemoryReadout(16, 4, pointer_time="none")
    assert not readout(recall())[-1].position.any()
    assert not any("pointer_time" in name for name in readout.state_dict())


def test_no_object_pointer_is_no_block():
    given = recall()
    assert len(MemoryReadout(16, 4)(Recall(given.slots, (), 15))) == 2


@pytest.mark.parametrize("slot", [7, -1])
def test_a_slot_without_a_code_is_said(slot):
    given = recall()
    wrong = Recall((*given.slots, (slot, memory(3))), given.object_pointers, given.horizon)
    said = rf"frame 3 in slot {slot}, and this model has codes for slots 0 to 6 .* such as memory_policy\.frames=6"
    for asked in (wrong, [wrong, wrong]):
        with pytest.raises(ValueError, match=said):
            MemoryReadout(16, 4)(asked)


TOO_MANY = r"memory policy RecentFrames recalls 7 slots, and memory_readout has codes for 3: .*memory_policy\.frames=2"


def test_a_policy_that_says_it_recalls_more_than_the_model_has_codes_for_is_refused_when_it_is_built():
    with pytest.raises(ValueError, match=TOO_MANY):
        tiny_model(memory_policy={"frames": 6}, memory_readout={"slots": 3})
    model = tiny_model(memory_policy={"frames": 2}, memory_readout={"slots": 3})
    with pytest.raises(ValueError, match=TOO_MANY):
        VideoPredictor(model, policy=RecentFrames(frames=6))


class SaysNothing(MemoryPolicy):
    """A policy that does not say how many slots it recalls."""

    def __init__(self):
        self.horizon, self.clearing = 6, 6

    def recall(self, bank, frame, **about):
        return RecentFrames(frames=6).recall(bank, frame, **about)


def test_one_that_does_not_say_is_refused_when_it_tracks():
    model = tiny_model(memory_policy={"frames": 2}, memory_readout={"slots": 3})
    session = VideoPredictor(model, policy=SaysNothing()).open([torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()] * 2)
    session.prompt(0, "a", box=[4, 4, 20, 20])
    with pytest.raises(ValueError, match="slot 6, and this model has codes for slots 0 to 2"):
        list(session.propagate())


def test_a_video_of_one_frame_gives_no_nan():
    given = recall()
    block = MemoryReadout(16, 4)(Recall((), ((0, given.slots[0][1]),), horizon=0))[-1]
    assert block.position.isfinite().all()


def test_memories_kept_in_half_precision_are_read_in_the_models_own():
    half = memory(0)
    block = TokenBlock(half.blocks[0].tokens.bfloat16(), half.blocks[0].position.bfloat16(), (2, 3))
    kept = FrameMemory(0, (block,), half.object_pointer.bfloat16(), half.logits, half.object_score, half.iou)
    for block in MemoryReadout(16, 4)(Recall(((6, kept),), ((1, kept),), 15)):
        assert block.tokens.dtype == block.position.dtype == torch.float32


def test_every_parameter_but_no_memory_gets_a_gradient():
    readout = MemoryReadout(16, 4)
    sum(block.position.square().sum() for block in readout(recall())).backward()
    assert [name for name, p in readout.named_parameters() if p.grad is None] == ["no_memory"]
    assert readout.slot_embed.grad[[1, 6]].abs().sum() > 0 and not readout.slot_embed.grad[[0, 2, 3, 4, 5]].any()


def test_widths_and_words_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="16.*5"):
        MemoryReadout(16, 5)
    with pytest.raises(ValueError, match="signed.*none.*unsigned"):
        MemoryReadout(16, 4, pointer_time="unsigned")
