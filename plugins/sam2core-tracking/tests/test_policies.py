"""The policies on their own: what they believe, keep and recall for scripted decoder answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sam2core_tracking.boxes import boxes
from sam2core_tracking.distractor import DistractorAware
from sam2core_tracking.kalman import NOTHING, Motion, overlap
from sam2core_tracking.motion import MotionAware
from script import script

from sam2core.memory.bank import MemoryBank
from sam2core.types import NO_OBJECT, FrameMemory, Keep, MaskCandidates, TokenBlock

RECORDING = json.loads(Path(__file__).with_name("recording.json").read_text())


def offer(masks, ious, object_score) -> MaskCandidates:
    gated = masks if object_score > 0 else torch.full_like(masks, NO_OBJECT)
    return MaskCandidates(gated[None], ious[None], torch.zeros(1, len(ious), 4), torch.tensor([[object_score]]))


def remember(frame, answer) -> FrameMemory:
    block = TokenBlock(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), grid=(2, 2))
    return FrameMemory(frame, (block,), answer.object_pointer, answer.logits, answer.object_score, answer.iou)


def track(policy, answers, *, order=None, bank=None, state=None):
    """Run a policy over answers as a session does; gives what was believed and what was recalled, and the bank."""
    bank, state = bank or MemoryBank(), policy.start() if state is None else state
    order = list(range(len(answers))) if order is None else order
    chosen, recalled, sizes = [], [], []
    for at in order:
        candidates = offer(*answers[at])
        backwards = order[-1] < order[0]
        if bank.prompted:
            recall = policy.recall(bank, at, backwards=backwards, length=len(answers), state=state)
            recalled.append(recall)
        index = policy.choose(candidates, state)
        chosen.append(int(index))
        answer = candidates.take(index)
        memory = remember(at, answer)
        keep = policy.keep(answer, memory, bank, state) if bank.prompted else Keep.PROMPTED
        if keep is not None:
            bank.put(memory, keep)
        bank.trim(at, policy.horizon)
        sizes.append(len(bank))
    return chosen, recalled, bank, sizes


@pytest.mark.parametrize("seed", RECORDING)
def test_motion_believes_and_recalls_what_the_original_does(seed):
    chosen, recalled, _, _ = track(MotionAware(weight=0.25), script(int(seed)))  # the tiny model's weight
    assert chosen == RECORDING[seed]["chosen"]
    assert [[memory.frame for _, memory in recall.slots] for recall in recalled] == RECORDING[seed]["recalled"]


def test_the_recording_has_all_that_the_policy_decides():
    believed = [RECORDING[seed]["chosen"] for seed in RECORDING]
    recalled = [RECORDING[seed]["recalled"] for seed in RECORDING]
    plain = [[int(offer(*answer).iou.argmax()) for answer in script(int(seed))] for seed in RECORDING]
    assert sum(a != b for one, other in zip(believed, plain) for a, b in zip(one, other)) > 10, "motion decides"
    gaps = [list(range(frames[-1] - len(frames) + 1, frames[-1] + 1)) != frames for one in recalled for frames in one]
    assert sum(gaps) > 20, "frames are passed over"


def test_slots_count_from_the_newest_and_prompted_frames_take_the_last():
    _, recalled, _, _ = track(MotionAware(frames=3), script(0)[:12])
    assert [slot for slot, _ in recalled[-1].slots] == [3, 2, 1, 0]


def test_memory_stays_constant_and_an_old_confident_frame_is_not_forgotten():
    good, poor = script(1)[0], script(1)[0]
    good = (good[0], torch.full((3,), 0.9), 3.0)
    poor = (good[0], torch.full((3,), 0.2), -3.0)
    policy = MotionAware()
    _, recalled, bank, sizes = track(policy, [good] * 10 + [poor] * 200)
    assert max(sizes) <= 1 + 2 * policy.object_pointers + policy.frames and sizes[-1] == sizes[-50]
    frames = [memory.frame for _, memory in recalled[-1].slots]
    assert frames == [0, 5, 6, 7, 8, 9, 208][:1] + [5, 6, 7, 8, 9, 208]
    assert sum(at < 10 for at in bank.recent) >= 5


def test_motion_works_backwards_and_keeps_objects_apart():
    answers = script(2)[:20]
    policy = MotionAware()
    forward, _, _, _ = track(policy, answers)
    backward, recalled, _, _ = track(policy, answers, order=list(range(19, -1, -1)))
    assert len(backward) == 20
    assert all(memory.frame > at for at, recall in zip(range(18, -1, -1), recalled) for _, memory in recall.slots)
    again, _, _, _ = track(policy, answers)
    assert again == forward


def test_a_batch_has_a_filter_per_row():
    policy, both = MotionAware(), MotionAware().start()
    one, two = policy.start(), policy.start()
    for first, second in zip(script(4), script(5)):
        a, b = offer(*first), offer(*second)
        joined = MaskCandidates(
            torch.cat([a.logits, b.logits]),
            torch.cat([a.iou, b.iou]),
            torch.cat([a.object_pointers, b.object_pointers]),
            torch.cat([a.object_score, b.object_score]),
        )
        expected = [int(policy.choose(a, one)), int(policy.choose(b, two))]
        assert policy.choose(joined, both).tolist() == expected


def test_motion_state_is_plain_numbers():
    policy = MotionAware()
    state = policy.start()
    for answer in script(6)[:20]:
        policy.choose(offer(*answer), state)
    again = json.loads(json.dumps(state))
    for answer in script(6)[20:30]:
        assert policy.choose(offer(*answer), state).tolist() == policy.choose(offer(*answer), again).tolist()


def test_wrong_options_say_what_is_allowed():
    with pytest.raises(ValueError, match="between 0 and 1"):
        MotionAware(weight=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        MotionAware(settle=0)
    with pytest.raises(ValueError, match="more than the 4 prompted frames"):
        DistractorAware(slots=4)


# boxes and their motion


def test_boxes_are_tight_and_inclusive():
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2:5, 3:7] = True
    masks[2, 5, 7] = True
    assert boxes(masks) == [(3.0, 2.0, 6.0, 4.0), NOTHING, (7.0, 5.0, 7.0, 5.0)]


def test_a_filter_learns_a_steady_motion():
    box = (10.0, 20.0, 30.0, 60.0)
    motion = Motion.start(box)
    for step in range(1, 30):
        moved = tuple(value + 2 * step for value in box)
        motion = motion.step().corrected(moved)
    ahead = motion.step().box
    assert all(abs(found - (value + 60)) < 0.5 for found, value in zip(ahead, box))
    assert overlap(ahead, tuple(value + 60 for value in box)) > 0.95
    assert overlap(box, NOTHING) == 0.0 and overlap(box, box) == 1.0


# distractors


def disc(y, x, radius, side=32):
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return radius - ((rows - y) ** 2 + (columns - x) ** 2).float().sqrt()


def frame(*masks, iou=0.9, object_score=3.0):
    ious = torch.tensor([iou] + [iou - 0.1] * (len(masks) - 1))
    return (torch.stack(masks), ious, object_score)


CALM = frame(disc(10, 10, 4), disc(10, 10, 3.5), disc(10, 10, 3))
DISTRACTED = frame(disc(10, 10, 4), torch.maximum(disc(10, 10, 4), disc(22, 24, 4)), disc(10, 10, 3))


def test_a_frame_on_which_a_distractor_was_told_apart_becomes_a_prompted_frame():
    _, _, bank, _ = track(DistractorAware(), [CALM] * 8 + [DISTRACTED] + [CALM] * 4)
    assert list(bank.prompted) == [0, 8]


@pytest.mark.parametrize(
    "odd",
    [
        (DISTRACTED[0], torch.tensor([0.75, 0.7, 0.6]), 3.0),
        frame(disc(10, 10, 6), torch.maximum(disc(10, 10, 6), disc(22, 24, 4)), disc(10, 10, 5)),
        CALM,
    ],
    ids=["not sure", "another size", "no distractor"],
)
def test_other_frames_do_not(odd):
    _, _, bank, _ = track(DistractorAware(), [CALM] * 8 + [odd] + [CALM] * 4)
    assert list(bank.prompted) == [0]


def test_prompted_frames_are_added_with_pauses_and_stay_few():
    policy = DistractorAware()
    _, recalled, bank, sizes = track(policy, [CALM] * 3 + [DISTRACTED] * 240)
    added = [at for at in bank.prompted if at]
    assert len(added) <= policy.prompted and all(b - a > policy.pause for a, b in zip(added, added[1:]))
    assert 0 in bank.prompted and max(sizes[150:]) <= max(sizes[:150])
    for recall in recalled[40:]:
        assert len(recall.slots) <= policy.slots
        assert recall.slots[0][1].frame == 0


def test_a_frame_without_the_object_is_forgotten():
    absent = (CALM[0], CALM[1], -3.0)
    _, recalled, bank, _ = track(DistractorAware(stride=1), [CALM] * 4 + [absent] * 3 + [CALM] * 2)
    assert not {4, 5, 6} & set(bank.recent)
    assert all(memory.frame not in (4, 5, 6) for _, memory in (*recalled[-1].slots, *recalled[-1].object_pointers))


def test_the_previous_frame_is_no_prompted_frame_of_the_next():
    policy = DistractorAware()
    bank = MemoryBank()
    for at in (0, 6, 12):
        bank.put(replace(remember(at, offer(*CALM).take(torch.tensor([0])))), Keep.PROMPTED)
    recall = policy.recall(bank, 13, backwards=False, length=None, state=policy.start())
    assert [memory.frame for slot, memory in recall.slots if slot == policy.frames] == [0, 6]
