"""The memory bank: shelves, forks that share, trimming."""

from __future__ import annotations

import torch

from sam2core.memory.bank import MemoryBank
from sam2core.types import FrameMemory, Keep, TokenBlock


def memory(frame):
    block = TokenBlock(torch.randn(1, 4, 2), torch.zeros(1, 4, 2), (2, 2))
    nothing = torch.zeros(1, 1)
    return FrameMemory(frame, (block,), nothing, nothing, nothing, nothing[:, 0])


def test_a_frame_lies_on_one_place():
    bank = MemoryBank()
    bank.put(memory(3), Keep.RECENT)
    newer = memory(3)
    bank.put(newer, Keep.PROMPTED)
    assert list(bank.prompted) == [3] and not bank.recent and bank.get(3) is newer and len(bank) == 1
    bank.demote(3)
    assert list(bank.recent) == [3] and not bank.prompted
    bank.demote(3), bank.drop(3), bank.drop(3)
    assert bank.get(3) is None and len(bank) == 0


def test_a_fork_shares_every_tensor_and_goes_its_own_way():
    bank = MemoryBank()
    for frame in range(4):
        bank.put(memory(frame), Keep.PROMPTED if frame == 0 else Keep.RECENT)
    fork = bank.fork()
    assert [a is b for a, b in zip(bank, fork)] == [True] * 4
    fork.put(memory(4), Keep.RECENT)
    fork.drop(0)
    assert len(bank) == 4 and bank.get(4) is None and bank.get(0) is not None


def test_trimming_keeps_what_lies_near_the_frame_or_a_prompted_frame():
    bank = MemoryBank()
    for frame in range(30):
        bank.put(memory(frame), Keep.PROMPTED if frame == 10 else Keep.RECENT)
    bank.trim(25, 2)
    assert list(bank.recent) == [8, 9, 11, 12, 23, 24, 25, 26, 27] and list(bank.prompted) == [10]
    bank.trim(25, 1, onwards=True)
    assert list(bank.recent) == [24, 25, 26] and list(bank.prompted) == [10]
