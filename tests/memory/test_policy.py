"""What RecentFrames recalls: against a plain restatement of its rules, and for any bank."""

from __future__ import annotations

import random

import pytest
import torch

from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import RecentFrames
from sam2core.types import FrameMemory, Keep, MaskCandidates


def memory(frame, blocks=()):
    nothing = torch.zeros(1, 1)
    return FrameMemory(frame, blocks, nothing, nothing, nothing, nothing[:, 0])


def bank(prompted=(), recent=()):
    made = MemoryBank()
    for frame in prompted:
        made.put(memory(frame), Keep.PROMPTED)
    for frame in recent:
        made.put(memory(frame), Keep.RECENT)
    return made


def slots(recall):
    return [(slot, kept.frame) for slot, kept in recall.slots]


def object_pointers(recall):
    return [(distance, kept.frame) for distance, kept in recall.object_pointers]


def test_prompted_frames_take_the_last_slot_and_recent_frames_follow_oldest_first():
    recall = RecentFrames().recall(bank([0], range(1, 10)), 10, backwards=False, length=None, state=None)
    assert slots(recall) == [(6, 0), (5, 4), (4, 5), (3, 6), (2, 7), (1, 8), (0, 9)]
    assert object_pointers(recall) == [(10, 0)] + [(distance, 10 - distance) for distance in range(1, 10)]
    assert recall.horizon == 15


def test_missing_frames_leave_their_slot_empty():
    recall = RecentFrames().recall(bank([0], [5, 9]), 10, backwards=False, length=None, state=None)
    assert slots(recall) == [(6, 0), (4, 5), (0, 9)]


def test_backwards_mirrors_forwards():
    forwards = RecentFrames().recall(bank([0], range(1, 10)), 10, backwards=False, length=21, state=None)
    mirrored = RecentFrames().recall(bank([20], range(11, 20)), 10, backwards=True, length=21, state=None)
    assert [(slot, 20 - frame) for slot, frame in slots(mirrored)] == slots(forwards)
    assert [(distance, 20 - frame) for distance, frame in object_pointers(mirrored)] == object_pointers(forwards)


def test_object_pointers_of_prompted_frames_ahead_are_for_training_only():
    given = bank([0, 15], [9])
    there = RecentFrames().recall(given, 10, backwards=False, length=20, state=None)
    assert object_pointers(there) == [(10, 0), (1, 9)] and (6, 15) in slots(there)
    training = RecentFrames(future_object_pointers=True).recall(given, 10, backwards=False, length=20, state=None)
    assert object_pointers(training) == [(10, 0), (-5, 15), (1, 9)]


def test_a_short_video_has_a_short_horizon():
    policy = RecentFrames()
    assert policy.recall(bank([0]), 1, backwards=False, length=5, state=None).horizon == 4
    assert policy.recall(bank([0]), 1, backwards=False, length=100, state=None).horizon == 15


def test_a_limit_keeps_the_nearest_before_the_nearest_after_then_by_distance():
    given = bank([0, 3, 8, 14, 19], [9])
    policy = RecentFrames(prompted=3)
    recall = policy.recall(given, 10, backwards=False, length=20, state=None)
    assert [frame for slot, frame in slots(recall) if slot == 6] == [8, 14, 3]
    unselected = RecentFrames(prompted=2).recall(bank([0, 7, 9, 14]), 10, backwards=False, length=20, state=None)
    assert (2, 7) in slots(unselected)  # a prompted frame that was not selected serves as recent frames
    assert (3, 7) in object_pointers(unselected)


def test_a_stride_takes_the_neighbour_and_a_grid():
    recall = RecentFrames(stride=3).recall(bank([0], range(1, 17)), 17, backwards=False, length=20, state=None)
    assert slots(recall) == [(6, 0), (5, 3), (4, 6), (3, 9), (2, 12), (1, 15), (0, 16)]


def test_trimmed_memories_still_lend_their_object_pointers():
    given = bank([0], [8])
    given.recent[9] = memory(9, blocks=None)
    recall = RecentFrames().recall(given, 10, backwards=False, length=None, state=None)
    assert 9 not in [frame for _, frame in slots(recall)] and (1, 9) in object_pointers(recall)


@pytest.mark.parametrize("seed", range(40))
def test_never_beyond_the_horizon_and_bounded(seed):
    rng = random.Random(seed)
    policy = RecentFrames(
        frames=rng.randint(0, 8),
        stride=rng.randint(1, 4),
        object_pointers=rng.randint(1, 20),
        prompted=rng.choice([None, 2, 4]),
    )
    length = rng.randint(1, 120)
    prompted = rng.sample(range(length), min(length, rng.randint(1, 4)))
    recent = [frame for frame in range(length) if frame not in prompted and rng.random() < 0.8]
    given, frame, backwards = bank(prompted, recent), rng.randrange(length), rng.random() < 0.5
    recall = policy.recall(given, frame, backwards=backwards, length=rng.choice([None, length]), state=None)
    recent_at = [kept.frame for _, kept in (*recall.slots, *recall.object_pointers) if kept.frame in given.recent]
    ahead = 1 if backwards else -1
    assert all(0 < (at - frame) * ahead <= policy.horizon for at in recent_at)
    selected = policy.prompted or len(prompted)
    assert len(recall.slots) <= selected + policy.frames
    assert len(recall.object_pointers) <= selected + policy.object_pointers
    assert all(0 <= slot <= policy.frames for slot, _ in recall.slots)

    # what lies beyond the horizon can be dropped without changing anything
    trimmed = given.fork()
    trimmed.trim(frame, policy.horizon)
    again = policy.recall(trimmed, frame, backwards=backwards, length=length, state=None)
    full = policy.recall(given, frame, backwards=backwards, length=length, state=None)
    assert slots(again) == slots(full) and object_pointers(again) == object_pointers(full)


def test_the_first_of_the_best_is_chosen():
    iou = torch.tensor([[0.1, 0.7, 0.7], [0.9, 0.9, 0.9]])
    candidates = MaskCandidates(torch.zeros(2, 3, 1, 1), iou, torch.zeros(2, 3, 1), torch.ones(2, 1))
    assert RecentFrames().choose(candidates, None).tolist() == [1, 0]


@pytest.mark.parametrize(("option", "value"), [("frames", -1), ("stride", 0), ("object_pointers", 0), ("prompted", 1)])
def test_senseless_options_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option}.*{value}"):
        RecentFrames(**{option: value})
