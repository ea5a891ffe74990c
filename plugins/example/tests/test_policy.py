"""The contract of memory policies, what this one keeps, and a model that has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2core_example.policy import ConfidentFrames

from sam2core import FrameMemory, Keep, MaskCandidates, registry
from sam2core.memory.bank import MemoryBank
from sam2core.predictors.video import VideoPredictor
from sam2core.testing import check, tiny_model


def test_contract():
    check("memory_policy", ConfidentFrames)
    check("memory_policy", ConfidentFrames, options={"frames": 2, "reach": 5, "min_iou": 0.0})


def memory(frame: int) -> FrameMemory:
    nothing = torch.zeros(1, 1)
    return FrameMemory(frame, (), nothing, nothing, nothing, nothing[0])


def answer(iou: float, object_score: float):
    candidates = MaskCandidates(
        torch.zeros(1, 1, 4, 4), torch.tensor([[iou]]), torch.zeros(1, 1, 8), torch.tensor([[object_score]])
    )
    return candidates.take(torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(("iou", "object_score", "kept"), [(0.9, 3.0, True), (0.4, 3.0, False), (0.9, -3.0, False)])
def test_only_what_is_trusted_is_kept(iou, object_score, kept):
    keep = ConfidentFrames().keep(answer(iou, object_score), memory(3), MemoryBank(), None)
    assert keep is (Keep.RECENT if kept else None)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_latest_kept_frames_fill_the_slots_over_a_gap(backwards):
    policy, bank = ConfidentFrames(frames=3, reach=20), MemoryBank()
    at = (lambda frame: 40 - frame) if backwards else (lambda frame: frame)
    bank.put(memory(at(0)), Keep.PROMPTED)
    for frame in (1, 2, 8, 9, 10):  # hidden from 11 to 20
        bank.put(memory(at(frame)), Keep.RECENT)
    recall = policy.recall(bank, at(21), backwards=backwards, length=None, state=None)
    assert [(slot, one.frame) for slot, one in recall.slots] == [(3, at(0)), (2, at(8)), (1, at(9)), (0, at(10))]
    assert [age for age, _ in recall.object_pointers] == [21, 11, 12, 13]
    far = policy.recall(bank, at(29), backwards=backwards, length=None, state=None)
    assert [one.frame for slot, one in far.slots if slot < 3] == [at(9), at(10)], "frame 8 is out of reach"


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="reach must be at least 1, not 0"):
        ConfidentFrames(reach=0)


def test_a_clip_is_tracked_with_it(isolated_registry):
    isolated_registry("sam2core_example")
    assert registry.spec("example.confident_nano").memory_policy["type"] == "example.confident"
    assert registry.spec("example.confident_nano").weights == registry.spec("sam2core_nano").weights
    model = tiny_model(memory_policy={"type": "example.confident", "frames": 2, "min_iou": 2.0})  # trusts no frame
    clip = list(np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8))
    session = VideoPredictor(model).open(clip, keep="all")
    session.prompt(0, "thing", box=[10, 10, 50, 50])
    assert len([result.masks for result in session.propagate()]) == 5
    assert not session.tracks["thing"].bank.recent and list(session.tracks["thing"].bank.prompted) == [0]
