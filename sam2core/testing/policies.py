"""The contract of a memory policy, examined by tracking made-up objects through made-up frames."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam2core.memory.bank import MemoryBank
from sam2core.protocols import RecallsSlots
from sam2core.testing.isolation import tiny_model
from sam2core.testing.rules import GIVEN, Examination, Found
from sam2core.testing.values import same, tensors
from sam2core.types import FrameMemory, Keep, MaskCandidates, MaskPrediction, Recall, TokenBlock

GRID = (4, 6)
SLOTS = 7  # of the readout that SAM 2 has
LONGEST = 240  # frames tracked at most, whatever the horizon
STATE_BYTES = 2**20  # of tensors that one object's state may hold, for masks of 16 x 24
METHODS = ("start", "copy", "choose", "keep", "recall")
Step = tuple[Any, ...]


def examine_policy(examination: Examination, policy: Any, slots: int = SLOTS) -> None:
    """Raise ContractError at the first rule that the policy breaks."""
    _protocol(examination, policy)
    frames = min(max(2 * policy.horizon + 6, 24), LONGEST)
    _state(examination, policy)
    _choose(examination, policy)
    said = policy.recalled_slots if isinstance(policy, RecallsSlots) else slots
    with examination.rule("tracking", "an object is tracked forwards and backwards, recalling memories of its bank"):
        for backwards in (False, True):
            for length in (frames, None):
                for frame, recalled, *_ in _track(policy, 1, frames, backwards=backwards, length=length):
                    if taken := [slot for slot, _ in recalled if slot >= slots]:
                        raise Found(f"slot {taken[0]} on frame {frame}; the readout has slots 0 to {slots - 1}")
                    if taken := [slot for slot, _ in recalled if slot >= said]:
                        raise Found(f"slot {taken[0]} on frame {frame}, and recalled_slots is {said}")
    with examination.rule("determinism", "the same object in the same video is tracked in the same way"):
        _equal(list(_track(policy, 1, frames)), list(_track(policy, 1, frames)), "when tracked once more")
    wants = (
        f"what `recall` reads of the recent frames lies within `horizon` ({policy.horizon}) frames: the rest is dropped"
    )
    with examination.rule("horizon", wants):
        for backwards in (False, True):
            whole = list(_track(policy, 1, frames, backwards=backwards, trim=False))
            trimmed = list(_track(policy, 1, frames, backwards=backwards, trim=True))
            _equal(whole, trimmed, "once the bank was trimmed to the horizon")
    wants = "objects do not see each other: all that lasts is in the state that `start` gives, and in the bank"
    with examination.rule("state isolation", wants):
        alone = list(_track(policy, 1, frames))
        both = list(zip(_track(policy, 1, frames), _track(policy, 2, frames), strict=True))
        _equal(alone, [mine for mine, _ in both], "when another object is tracked beside it")
    _forks(examination, policy, frames)
    _batches(examination, policy)
    _session(examination, policy, slots)


def _protocol(examination: Examination, policy: Any) -> None:
    with examination.rule("protocol", f"{', '.join(METHODS)}, horizon and clearing, as of MemoryPolicy; no weights"):
        if missing := [name for name in METHODS if not callable(getattr(policy, name, None))]:
            raise Found(f"no method {', '.join(missing)}; inherit from sam2core.MemoryPolicy for SAM 2's own answers")
        for name in ("horizon", "clearing"):
            value = getattr(policy, name, None)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise Found(f"{name} is {value!r}, not a number of frames from 0 on")
        if isinstance(policy, nn.Module) and (len(list(policy.parameters())) or len(list(policy.buffers()))):
            raise Found("parameters or buffers: a policy is swapped under a trained model and saved with none")


def _state(examination: Examination, policy: Any) -> None:
    with examination.rule("start", "a state of its own for each object"):
        one, other = policy.start(), policy.start()
        if one is other and not isinstance(one, type(None) | int | float | str | tuple):
            raise Found(f"one {type(one).__name__} that all objects share")


def _choose(examination: Examination, policy: Any) -> None:
    wants = "the index of a candidate for each row: an integer tensor (B,), in the candidates' own device and any type"
    with examination.rule("choose", wants):
        for count in (1, 3):
            for dtype in (torch.float32, torch.bfloat16):
                index = policy.choose(_candidates(1, 3, count=count, dtype=dtype), policy.start())
                if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool:
                    raise Found(f"{index!r} is no tensor of integers")
                if tuple(index.shape) != (1,):
                    raise Found(f"an index of shape {tuple(index.shape)} for one row")
                if not 0 <= int(index) < count:
                    raise Found(f"candidate {int(index)} of {count}")


def _forks(examination: Examination, policy: Any, frames: int) -> None:
    with examination.rule("state size", "an object's state does not grow with the video, and is cheap to copy"):
        sizes = []
        for count in (frames, 2 * frames):
            track = _Track(policy, 1)
            for frame in range(1, count):
                track.step(frame, trim=True)
            sizes.append((_size(track.state), sum(x.nbytes for _, x in tensors(track.state))))
        if sizes[1][0] > sizes[0][0] + 8:
            raise Found(f"{sizes[0][0]} values after {frames} frames, {sizes[1][0]} after {2 * frames}")
        if sizes[1][1] > STATE_BYTES:
            raise Found(
                f"{sizes[1][1] / 2**20:.1f} MiB of tensors; what is recalled belongs into the bank, shared by forks"
            )
    with examination.rule(
        "forks", "`copy` gives an independent state: what one fork lives through, the other does not see"
    ):
        middle = frames // 2
        straight, forked = _Track(policy, 1), _Track(policy, 1)
        for frame in range(1, middle):
            straight.step(frame, trim=True)
            forked.step(frame, trim=True)
        other = forked.fork()
        for frame in range(middle, frames):  # the other lives through another video
            other.step(frame, trim=True, seed=7)
        rest = range(middle, frames)
        _equal(
            [straight.step(frame, trim=True) for frame in rest],
            [forked.step(frame, trim=True) for frame in rest],
            "after a fork of it went another way",
        )


def _size(state: Any) -> int:
    """How many values a state holds, in all its lists, dicts and attributes."""
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, dict):
        return sum(1 + _size(value) for value in state.values())
    if isinstance(state, list | tuple | set):
        return sum(1 + _size(value) for value in state)
    return sum(1 + _size(value) for value in vars(state).values()) if hasattr(state, "__dict__") else 1


def _batches(examination: Examination, policy: Any) -> None:
    wants = "in training one bank and one state serve a batch: rows are chosen for each, a frame is kept for all"
    with examination.rule("batches", wants):
        state = policy.start()
        candidates = MaskCandidates.join([_candidates(1, 3), _candidates(2, 3)])
        index = policy.choose(candidates, state)
        if tuple(index.shape) != (2,):
            raise Found(f"choose gives {tuple(index.shape)} for two rows")
        answer = candidates.take(index)
        bank = MemoryBank()
        bank.put(_memory(0, answer), Keep.PROMPTED)
        _known_keep(policy.keep(answer, _memory(1, answer), bank, state))
        policy.recall(bank, 1, backwards=False, length=8, state=state)


def _session(examination: Examination, policy: Any, slots: int) -> None:
    """Through a real model: streaming, the whole past kept, and a second object beside it."""
    from sam2core.predictors.video import VideoPredictor

    wants = "in a session, masks are the same with the past trimmed or kept, and with or without another object"
    with examination.rule("in a session", wants), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reach = policy.horizon + 4 if policy.horizon <= 8 else 8
        clip = (torch.rand(reach, 64, 64, 3) * 255).to(torch.uint8).numpy()
        predictor = VideoPredictor(
            tiny_model(image_size=64, memory_readout={"slots": slots}), policy=policy, memory_dtype="float32"
        )
        runs, sessions = [], []
        for keep, objects in (("horizon", ("a",)), ("all", ("a",)), ("horizon", ("a", "b"))):
            session = predictor.open(list(clip), keep=keep)
            for place, name in enumerate(objects):
                session.prompt(0, name, box=[8 + 12 * place, 8, 40 + 12 * place, 44])
            runs.append([result.logits[0] for result in session.propagate()])
            sessions.append(session)
        same(runs[1], runs[0], "of the frames differs when nothing is dropped", within=1e-3)
        same(runs[2], runs[0], "of the frames differs when another object is tracked", within=1e-2)
    wants = "a session can be saved: a state is made of numbers, strings, tensors, lists and dicts with string keys"
    with examination.rule("saving", wants), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.safetensors"
        sessions[0].save(path)
        predictor.load(path, list(clip))


# a made-up video: a blob that moves, three candidates a frame, absent now and then


def _candidates(
    object: int, frame: int, *, count: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> MaskCandidates:
    random = torch.Generator().manual_seed(1000 * object + frame + 100_000 * seed)
    dim = GIVEN["mask_decoder"]["dim"]
    h, w = 4 * GRID[0], 4 * GRID[1]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    logits = []
    for candidate in range(count):
        at = (3 + frame * 0.3 + candidate) % h, (4 + frame * 0.5 + 2 * object) % w
        logits.append(4.0 - torch.hypot(y - at[0], x - at[1]) + 0.1 * torch.randn(h, w, generator=random))
    absent = frame % 7 == 5
    return MaskCandidates(
        logits=torch.stack(logits)[None].to(dtype)
        if not absent
        else torch.full((1, count, h, w), -1024.0, dtype=dtype),
        iou=torch.rand(1, count, generator=random).to(dtype),
        object_pointers=torch.randn(1, count, dim, generator=random).to(dtype),
        object_score=torch.tensor([[-4.0 if absent else 5.0]], dtype=dtype),
    )


def _memory(frame: int, answer: MaskPrediction) -> FrameMemory:
    rows, width = answer.iou.shape[0], GIVEN["memory_encoder"]["memory_dim"]
    tokens = torch.full((rows, GRID[0] * GRID[1], width), float(frame))
    block = TokenBlock(tokens, torch.zeros(1, tokens.shape[1], width), GRID)
    return FrameMemory(frame, (block,), answer.object_pointer, answer.logits, answer.object_score, answer.iou)


def _known_keep(keep: Any) -> None:
    if keep is not None and not isinstance(keep, Keep):
        raise Found(f"keep gives {keep!r}, not a Keep or None")


class _Track:
    """One object: its bank and its state, stepped frame by frame as a session does."""

    def __init__(self, policy: Any, object: int, *, start: int = 0, backwards: bool = False, length: int | None = None):
        self.policy, self.object, self.backwards, self.length = policy, object, backwards, length
        self.bank, self.state = MemoryBank(), policy.start()
        candidates = _candidates(object, start)
        answer = candidates.take(policy.choose(candidates, self.state))
        self.bank.put(_memory(start, answer), Keep.PROMPTED)

    def fork(self) -> _Track:
        other = copy.copy(self)
        other.bank, other.state = self.bank.fork(), self.policy.copy(self.state)
        return other

    def step(self, frame: int, *, trim: bool, seed: int = 0) -> Step:
        """Track onto a frame; what was recalled, chosen and kept there."""
        before = (dict(self.bank.prompted), dict(self.bank.recent))
        recall = self.policy.recall(self.bank, frame, backwards=self.backwards, length=self.length, state=self.state)
        if (self.bank.prompted, self.bank.recent) != before:
            raise Found(f"recall changed the bank on frame {frame}; that is for `keep` to say")
        _recalled(recall, self.bank, frame)
        candidates = _candidates(self.object, frame, seed=seed)
        index = self.policy.choose(candidates, self.state)
        answer = candidates.take(index)
        memory = _memory(frame, answer)
        keep = self.policy.keep(answer, memory, self.bank, self.state)
        _known_keep(keep)
        if keep is not None:
            self.bank.put(memory, keep)
        if trim:
            self.bank.trim(frame, self.policy.horizon)
        return (
            frame,
            [(slot, one.frame) for slot, one in recall.slots],
            [(age, one.frame) for age, one in recall.object_pointers],
            recall.horizon,
            index.tolist(),
            keep,
        )


def _recalled(recall: Any, bank: MemoryBank, frame: int) -> None:
    if not isinstance(recall, Recall):
        raise Found(f"recall gives a {type(recall).__name__}, not a Recall")
    for slot, memory in recall.slots:
        if not isinstance(slot, int) or slot < 0:
            raise Found(
                f"slot {slot!r}; slots are numbers from 0 on, one less than the readout's `slots` for prompted frames"
            )
        if memory.blocks is None:
            raise Found(f"frame {memory.frame} is in a slot, but its tokens were dropped")
    for _, memory in (*recall.slots, *recall.object_pointers):
        if memory.frame not in bank.prompted and memory.frame not in bank.recent:
            raise Found(f"on frame {frame}, frame {memory.frame} is recalled, which is not in the bank")
    if not recall.slots and not recall.object_pointers:
        raise Found(f"nothing is recalled on frame {frame}, though the bank holds {len(bank)} memories")


def _track(
    policy: Any, object: int, frames: int, *, backwards: bool = False, length: int | None = None, trim: bool = True
) -> Iterator[Step]:
    start = frames - 1 if backwards else 0
    track = _Track(policy, object, start=start, backwards=backwards, length=length)
    for frame in range(frames - 2, -1, -1) if backwards else range(1, frames):
        yield track.step(frame, trim=trim)


def _equal(one: list[Step], other: list[Step], words: str) -> None:
    names = ("frame", "slots", "object_pointers", "horizon", "choice", "keep")
    for a, b in zip(one, other, strict=True):
        for name, x, y in zip(names, a, b, strict=True):
            if x != y:
                raise Found(f"on frame {a[0]} the {name} are {y}, {words}; before they were {x}")
