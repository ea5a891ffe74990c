"""Memory stays flat: what tensors hold and what a session refers to does not depend on how long it ran."""

from __future__ import annotations

import gc
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

import registry
from sam2core.predictors.session import VideoSession
from sam2core.predictors.video import VideoPredictor

SIZE = (32, 48)


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    torch.manual_seed(0)
    return VideoPredictor(registry.build("test_tiny", weights=False, image_size=64))


def picture(frame: int) -> np.ndarray:
    image = np.full((*SIZE, 3), frame % 200, dtype=np.uint8)
    image[8:20, frame % 30 : frame % 30 + 12] = 250
    return image


def held() -> tuple[int, int]:
    """Bytes of all tensors that Python can reach, and how many objects it keeps account of."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [one for one in objects if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device.type != "meta"]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values()), len(objects)


def referred(thing: Any, seen: dict[int, Any]) -> int:
    """How many values lie in a session: its containers and dataclasses, followed, but for its predictor and source."""
    if id(thing) in seen or isinstance(thing, VideoPredictor):
        return 0
    seen[id(thing)] = thing  # kept alive, so that no other gets its id
    if isinstance(thing, dict):
        return len(thing) + sum(referred(one, seen) for one in thing.values())
    if isinstance(thing, list | tuple | set):
        return len(thing) + sum(referred(one, seen) for one in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        return sum(1 + referred(getattr(thing, field.name), seen) for field in fields(thing))
    if type(thing).__module__.startswith("sam2core.") and hasattr(thing, "__dict__"):
        rest = {name: one for name, one in vars(thing).items() if name not in ("predictor", "source")}
        return referred(rest, seen)
    return 1


def state(session: VideoSession) -> int:
    return referred(session, {})


def test_600_frames_leave_nothing_behind(predictor):
    session = predictor.open(lambda index: picture(index) if index < 600 else None)
    session.prompt(0, "a", [[20, 14]])
    session.prompt(3, "b", box=[4, 4, 40, 28])
    seen = {}
    for result in session.propagate():
        assert set(result.masks) == {"a", "b"}
        if result.frame in (199, 399, 599):
            seen[result.frame] = (*held(), state(session))
    assert seen[599][0] == seen[399][0] == seen[199][0]
    # What is imported or remembered late shows in one of the halves; a leak of one object per frame is 200 in each.
    assert min(seen[599][1] - seen[399][1], seen[399][1] - seen[199][1]) < 100
    assert seen[599][2] == seen[399][2] == seen[199][2]


def test_a_live_session_keeps_of_its_corrections_the_prompted_frames_alone(predictor):
    """Undo remembers 64 steps, and each of them a bank; none of them holds what can never be recalled again."""
    session, horizon = predictor.open(), predictor.policy.horizon
    for frame in range(160):
        session.step(picture(frame), {"a": {"points": [[20, 14]]}} if frame % 40 == 0 else None)
    track = session.tracks["a"]
    assert sorted(track.bank.prompted) == [0, 40, 80, 120]
    assert sorted(track.bank.recent) == list(range(159 - horizon, 160))
    for before in session.history.values():
        assert all(at >= 159 - horizon for at in before.bank.recent)
    assert session.undo() == "a"
    assert session.step(picture(160)).objects == ("a",)


def test_frames_and_results_are_released(predictor):
    session = predictor.open(lambda index: picture(index) if index < 40 else None)
    session.prompt(0, "a", [[20, 14]])
    run = session.propagate()
    for _ in range(30):
        next(run)
    before = held()[0]
    kept = [result.video_logits for result in run]  # the user's own
    theirs = sum(one.untyped_storage().nbytes() for one in kept)
    last = held()[0] - theirs  # the run has ended, and its last result is gone
    assert theirs > 0 and last <= before
    del kept
    assert held()[0] == last
