"""Random sessions, played on Meta's video predictor and on ours: what each shows at every step, and how far apart.

A script is a list of steps (prompt, draw, propagate, clear, remove, reset) over a short video. `play` gives every step
to both sides and compares every frame that either returns or yields, object by object, in logits at the video's size.

Meta's sam2 is driven as it is, apart from five things that are none of its behaviour: frames are handed over as
normalised pixels (resampling is compared elsewhere), encoded frames are kept, its progress bars are off, holes are
found by scipy instead of by its CUDA extension, and memories without object pointers are read in the model's type,
where it fails for mixing bfloat16 and float32. `Book` leaves out the steps that Meta's sam2 answers with an exception
or not at all; `test_video.py` states what ours does there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from sam2core.media.images import read_image
from sam2core.memory.policy import RecentFrames
from sam2core.predictors import session_prompts
from sam2core.predictors.tracks import first_prompted
from sam2core.predictors.transforms import to_model
from sam2core.predictors.video import VideoPredictor
from sam2core.types import NO_OBJECT

OBJECTS = ("cup", 7, ("left", 2))
"""Ids of every kind that is hashable."""


# what a script is made of


@dataclass(frozen=True)
class Prompt:
    """Points, a box, or both, on one object; `add` keeps the points said before."""

    frame: int
    object: Any
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    add: bool = False


@dataclass(frozen=True)
class Draw:
    """A mask: an ellipse in the middle of `box` (`empty`: nothing), drawn at the video's size or at the model's."""

    frame: int
    object: Any
    box: tuple[float, float, float, float]
    empty: bool = False
    model_size: bool = False


@dataclass(frozen=True)
class Propagate:
    """`frames` at most (None: to the end) from `start` (None: the first prompted one), closed after `take`."""

    start: int | None = None
    frames: int | None = None
    backwards: bool = False
    take: int | None = None


@dataclass(frozen=True)
class Clear:
    frame: int
    object: Any


@dataclass(frozen=True)
class Remove:
    object: Any


@dataclass(frozen=True)
class Reset:
    pass


Step = Prompt | Draw | Propagate | Clear | Remove | Reset


@dataclass(frozen=True)
class Settings:
    """What a script runs on: the switches that both sides have."""

    family: str = "2.1"
    image: int = 64
    weights: int = 0
    stability: bool = True
    length: int = 8
    size: tuple[int, int] = (30, 50)
    keep_corrections: bool = False
    hard: bool = True
    non_overlapping: bool = False
    fill: int = 0
    prompted: int | None = None
    stride: int = 1


@dataclass
class _Object:
    prompts: dict[int, str] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)  # will be prompted frames
    corrections: set[int] = field(default_factory=set)  # will be recent frames
    prompted: set[int] = field(default_factory=set)
    tracked: set[int] = field(default_factory=set)


class Book:
    """Keeps account of a session as Meta's sam2 would, to tell the steps that it answers from those that it does
    not."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.objects: dict[Any, _Object] = {}

    def legal(self, step: Step) -> bool:
        """Whether Meta's sam2 answers this step; if so, it is entered."""
        if isinstance(step, Prompt | Draw):
            one = self.objects.get(step.object) or _Object()
            if step.frame in one.tracked and not one.prompted:
                return False  # Meta's sam2: AssertionError, a correction finds no prompted frame to look at
            if isinstance(step, Prompt) and step.add and step.box is not None:
                return False
            self.objects[step.object] = one
            one.prompts[step.frame] = "mask" if isinstance(step, Draw) else "points"
            trusted = step.frame not in one.tracked or self.settings.keep_corrections
            (one.pending if trusted else one.corrections).add(step.frame)
            return True
        if isinstance(step, Clear):
            one = self.objects.get(step.object)
            if one is None:
                return False
            one.prompts.pop(step.frame, None)
            one.pending.discard(step.frame)
            one.corrections.discard(step.frame)
            if step.frame in one.prompted:
                one.prompted.discard(step.frame)
                one.tracked.discard(step.frame)
            return True
        if isinstance(step, Remove):
            return self.objects.pop(step.object, None) is not None
        if isinstance(step, Reset):
            self.objects.clear()
            return True
        if not self.objects or not all(one.prompted | one.pending for one in self.objects.values()):
            return False  # both raise
        frames = self.frames(step)
        if not frames:
            return False  # Meta's sam2 yields nothing, ours raises
        for one in self.objects.values():
            one.prompted |= one.pending
            one.pending.clear()
            one.corrections.clear()
            one.tracked.update(frames)
        return True

    def frames(self, step: Propagate) -> list[int]:
        """The frames a legal propagation visits."""
        start = step.start
        if start is None:
            start = min(min(one.prompted | one.pending) for one in self.objects.values())
        if step.backwards:
            if start == 0:
                return []
            stop = -1 if step.frames is None else max(start - step.frames, -1)
            return list(range(start, stop, -1))[: step.take]
        stop = self.settings.length if step.frames is None else min(start + step.frames, self.settings.length)
        return list(range(start, stop))[: step.take]


def script(seed: int, model: Settings, *, steps: int | None = None) -> tuple[Settings, list[Step]]:
    """A random session on a model, and how both sides are set; equal for equal seeds. Every step is legal."""
    dice = random.Random(f"{seed} {model}")
    settings = replace(
        model,
        length=dice.choice((6, 8, 12)),
        size=dice.choice(((30, 50), (48, 36), (64, 64), (17, 90))),
        keep_corrections=dice.random() < 0.5,
        hard=dice.random() < 0.7,
        non_overlapping=dice.random() < 0.25,
        fill=dice.choice((0, 0, 8)),
        prompted=dice.choice((None, None, 2, 3)),
        stride=dice.choice((1, 1, 1, 2, 3)),
    )
    book, found = Book(settings), []
    for _ in range(dice.randint(2, 8) if steps is None else steps - 1):
        step = _step(dice, settings, book)
        while not book.legal(step):
            step = _step(dice, settings, book)
        found.append(step)
    for _ in range(8):  # a session ends with a look at everything, when there is something to track
        step = _propagate(dice, settings)
        if book.legal(step):
            found.append(step)
            break
    return settings, found


def _step(dice: random.Random, settings: Settings, book: Book) -> Step:
    kind = dice.choices(
        ("points", "box", "both", "draw", "propagate", "clear", "remove", "reset"), (34, 9, 5, 9, 30, 8, 4, 1)
    )[0]
    if not book.objects and kind in ("propagate", "clear", "remove", "reset"):
        kind = "points"
    if kind == "propagate":
        return _propagate(dice, settings)
    if kind == "reset":
        return Reset()
    object = dice.choice(list(book.objects) if book.objects and dice.random() < 0.6 else OBJECTS)
    if kind == "remove":
        return Remove(object)
    # prompts gather at the ends and where there was one before, so that refinement on prompted frames is common
    known = list(book.objects[object].prompts) if object in book.objects else []
    frame = dice.choice(known) if known and dice.random() < 0.4 else dice.choice((0, dice.randrange(settings.length)))
    if kind == "clear":
        return Clear(frame, object)
    height, width = settings.size
    x, y = sorted(dice.sample(range(width + 1), 2)), sorted(dice.sample(range(height + 1), 2))
    box = (float(x[0]), float(y[0]), x[1] - 0.25, y[1] - 0.5)
    if kind == "draw":
        return Draw(frame, object, box, empty=dice.random() < 0.1, model_size=dice.random() < 0.3)
    count = dice.randint(1, 3) if kind != "box" else 0
    points = tuple((round(dice.uniform(0, width), 2), round(dice.uniform(0, height), 2)) for _ in range(count))
    labels = tuple(int(dice.random() < 0.7) for _ in points)
    return Prompt(frame, object, points, labels, None if kind == "points" else box, add=dice.random() < 0.4)


def _propagate(dice: random.Random, settings: Settings) -> Propagate:
    return Propagate(
        start=None if dice.random() < 0.5 else dice.randrange(settings.length),
        frames=None if dice.random() < 0.5 else dice.randint(1, 6),
        backwards=dice.random() < 0.35,
        take=None if dice.random() < 0.85 else dice.randint(1, 4),
    )


def drawing(step: Draw, settings: Settings) -> np.ndarray:
    """The mask of a `Draw`, bool (H, W)."""
    height, width = (settings.image, settings.image) if step.model_size else settings.size
    y, x = np.mgrid[0:height, 0:width]
    x, y = (x + 0.5) * settings.size[1] / width, (y + 0.5) * settings.size[0] / height
    x0, y0, x1, y1 = step.box
    inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
    return inside & (not step.empty)


def clip(length: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Frames (T, H, W, 3) uint8: a textured patch that wanders over a textured ground, and noise."""
    generator = np.random.default_rng(seed)
    height, width = size
    coarse = generator.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3)).repeat(6, 0).repeat(6, 1)
    patch = generator.integers(0, 256, (height // 3, width // 3, 3))
    frames = np.empty((length, height, width, 3))
    for frame in range(length):
        frames[frame] = coarse[frame % 6 :, frame % 6 :][:height, :width]
        top, left = (5 * frame) % (height - height // 3), (7 * frame) % (width - width // 3)
        frames[frame, top : top + height // 3, left : left + width // 3] = patch
    return np.clip(frames + generator.normal(0, 12, frames.shape), 0, 255).astype(np.uint8)


# the two sides


@torch.inference_mode()
def balance(model: Any, settings: Settings, *, absent: float = 0.3, reach: float = 60.0) -> None:
    """Shift and scale Meta's last layers so that answers fall on both sides of every rule.

    Of clicked and tracked frames about the share `absent` shows no object, and the largest logits are about `reach`:
    beyond 32, where mask inputs are cut, or well within.
    """
    object_score = model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    settings = replace(settings, length=8)
    object_score += 100.0  # all are there
    clicks = [(0, (25.0, 15.0)), (0, (40.0, 5.0)), (0, (8.0, 25.0)), (4, (8.0, 5.0)), (6, (30.0, 20.0))]
    seen = []
    with driven(model):
        theirs = Theirs(model, pixels(clip(8, settings.size, seed=1), settings.image), settings)
        for object, (frame, point) in enumerate(clicks):
            theirs.prompt(Prompt(frame, object, (point,), (1,)))
        for backwards in (False, True):
            for _ in theirs.propagate(Propagate(7 if backwards else 0, backwards=backwards)):
                outputs = theirs.state["output_dict_per_obj"].values()
                seen += [out for one in outputs for group in one.values() for out in group.values()]
    object_score -= torch.cat([out["object_score_logits"] for out in seen]).quantile(absent)
    scale = reach / torch.cat([out["pred_masks"] for out in seen]).abs().max()
    for head in model.sam_mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight *= scale
        head.layers[-1].bias *= scale


@dataclass
class Shown:
    """What one side shows of a frame: logits (N, H, W) in the order of `objects`, before overlaps are removed.

    `certain` leaves out the objects that Meta's sam2 shows out of date: a prompt on a tracked frame is answered with
    the waiting answers of other such frames only.
    """

    frame: int
    objects: tuple[Any, ...]
    logits: Tensor
    shown: Tensor
    certain: tuple[bool, ...] = ()


def _components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """What Meta's CUDA kernel returns: 8-connected labels of a mask (N, 1, H, W), and each pixel's area."""
    from scipy import ndimage

    labels, areas = torch.zeros(mask.shape, dtype=torch.int64), torch.zeros(mask.shape, dtype=torch.int64)
    for index in np.ndindex(mask.shape[:2]):
        found, _ = ndimage.label(mask[index].numpy(), structure=np.ones((3, 3)))
        labels[index] = torch.from_numpy(found.astype(np.int64))
        areas[index] = torch.from_numpy(np.bincount(found.ravel())[found])
    return labels, torch.where(labels > 0, areas, 0)


@contextmanager
def driven(model: Any) -> Iterator[None]:
    """Meta's video predictor as this file needs it; see above."""
    read = model.memory_attention.forward

    def one_type(*, memory: Tensor, **rest: Any) -> Tensor:
        return read(memory=memory.float(), **rest)

    with (
        mock.patch("sam2.sam2_video_predictor.tqdm", lambda frames, **_: frames),
        mock.patch("sam2.utils.misc.get_connected_components", _components),
        mock.patch.object(model.memory_attention, "forward", one_type),
    ):
        yield


class Theirs:
    """Meta's predictor, driven by steps."""

    def __init__(self, model: Any, pixels: Tensor, settings: Settings, encoded: dict[int, Any] | None = None) -> None:
        self.model, self.settings = model, settings
        model.add_all_frames_to_correct_as_cond = settings.keep_corrections
        model.binarize_mask_from_pts_for_mem_enc = settings.hard
        model.non_overlap_masks = settings.non_overlapping
        model.fill_hole_area = settings.fill
        model.max_cond_frames_in_attn = -1 if settings.prompted is None else settings.prompted
        model.memory_temporal_stride_for_eval = settings.stride
        video = (pixels, *settings.size)
        with mock.patch("sam2.sam2_video_predictor.load_video_frames", lambda **_: video):
            self.state = model.init_state(video_path="frames in memory")
        if encoded is not None:
            self.state["cached_features"] = encoded

    def prompt(self, step: Prompt) -> Shown:
        _, _, shown = self.model.add_new_points_or_box(
            self.state,
            step.frame,
            step.object,
            points=np.array(step.points, dtype=np.float32) if step.points else None,
            labels=np.array(step.labels, dtype=np.int32) if step.points else None,
            box=None if step.box is None else np.array(step.box, dtype=np.float32),
            clear_old_points=not step.add,
        )
        return self._now(step.frame, self._storage(step.frame, step.object), shown)

    def draw(self, step: Draw) -> Shown:
        drawn = drawing(step, self.settings)
        _, _, shown = self.model.add_new_mask(self.state, step.frame, step.object, drawn)
        return self._now(step.frame, self._storage(step.frame, step.object), shown)

    def propagate(self, step: Propagate) -> Iterator[Shown]:
        count = None if step.frames is None else step.frames - 1  # Meta's sam2 counts the steps, not the frames
        visits = self.model.propagate_in_video(self.state, step.start, count, step.backwards)
        for done, (frame, ids, shown) in enumerate(visits, 1):
            outputs = self.state["output_dict_per_obj"].values()
            low = [
                (out["cond_frame_outputs"].get(frame) or out["non_cond_frame_outputs"][frame])["pred_masks"]
                for out in outputs
            ]
            yield Shown(frame, tuple(ids), self._resize(torch.cat(low)), shown[:, 0], (True,) * len(ids))
            if done == step.take:
                visits.close()
                return

    def clear(self, step: Clear) -> Shown:
        _, _, shown = self.model.clear_all_prompts_in_frame(self.state, step.frame, step.object)
        waiting = self.state["temp_output_dict_per_obj"].values()
        trusted = any(step.frame in one["cond_frame_outputs"] for one in waiting)
        return self._now(step.frame, "cond_frame_outputs" if trusted else "non_cond_frame_outputs", shown)

    def remove(self, step: Remove) -> list[Shown]:
        _, frames = self.model.remove_object(self.state, step.object, strict=True)
        found = []
        for frame, shown in sorted(frames, key=lambda one: one[0]):
            waiting = self.state["temp_output_dict_per_obj"].values()
            trusted = any(frame in one["cond_frame_outputs"] for one in waiting)
            found.append(self._now(frame, "cond_frame_outputs" if trusted else "non_cond_frame_outputs", shown))
        return found

    def reset(self) -> None:
        self.model.reset_state(self.state)

    def _storage(self, frame: int, object: Any) -> str:
        index = self.state["obj_id_to_idx"][object]
        waiting = self.state["temp_output_dict_per_obj"][index]
        return next(name for name in waiting if frame in waiting[name])

    def _now(self, frame: int, storage: str, shown: Tensor) -> Shown:
        """What Meta's sam2 shows of a frame between propagations; `storage` is where it looks for waiting answers."""
        with mock.patch.object(self.model, "non_overlap_masks", False):
            raw = self._consolidated(frame, storage)
        other = "cond_frame_outputs" if storage.startswith("non") else "non_cond_frame_outputs"
        certain = tuple(frame not in one[other] for one in self.state["temp_output_dict_per_obj"].values())
        return Shown(frame, tuple(self.state["obj_ids"]), raw[:, 0], shown[:, 0], certain)

    def _consolidated(self, frame: int, storage: str) -> Tensor:
        masks = self.model._consolidate_temp_output_across_obj(
            self.state, frame, is_cond=storage == "cond_frame_outputs", consolidate_at_video_res=True
        )["pred_masks_video_res"]
        return self.model._get_orig_video_res_output(self.state, masks)[1]

    def _resize(self, logits: Tensor) -> Tensor:
        with mock.patch.object(self.model, "non_overlap_masks", False):
            return self.model._get_orig_video_res_output(self.state, logits)[1][:, 0]


class Ours:
    """Our predictor, driven by the same steps."""

    def __init__(self, model: Any, frames: np.ndarray, settings: Settings, **options: Any) -> None:
        self.settings = settings
        policy = RecentFrames(prompted=settings.prompted, stride=settings.stride)
        self.predictor = VideoPredictor(
            model,
            cleaning={"fill_holes": settings.fill},
            hard_prompt_masks=settings.hard,
            non_overlapping=settings.non_overlapping,
            keep_corrections=settings.keep_corrections,
            policy=policy,
            **options,
        )
        self.session = self.predictor.open(frames, keep="all")

    def prompt(self, step: Prompt) -> Shown:
        said: dict[str, Any] = {"add": step.add}
        if step.points:
            said |= {"points": step.points, "labels": step.labels}
        if step.box is not None:
            said["box"] = step.box
        return self._shown(self.session.prompt(step.frame, step.object, **said))

    def draw(self, step: Draw) -> Shown:
        drawn = drawing(step, self.settings)
        if drawn.shape == self.settings.size:
            return self._shown(self.session.prompt(step.frame, step.object, mask=drawn))
        # Meta's sam2 takes masks of the model's size; ours are drawn on the image, so this one enters behind that check
        with pytest.raises(ValueError, match="as large as the image"):
            self.session.prompt(step.frame, step.object, mask=drawn)
        with mock.patch.object(session_prompts, "drawn_mask", lambda mask, size: torch.as_tensor(mask)):
            return self._shown(self.session.prompt(step.frame, step.object, mask=drawn))

    def propagate(self, step: Propagate) -> Iterator[Shown]:
        start = first_prompted(self.session.tracks) if step.start is None else step.start
        stop = None
        if step.frames is not None:
            stop = max(start - step.frames, -1) if step.backwards else start + step.frames
        visits = self.session.propagate(
            step.start, stop if stop != -1 else None, direction="backward" if step.backwards else "forward"
        )
        for done, result in enumerate(visits, 1):
            yield self._shown(result)
            if done == step.take:
                visits.close()
                return

    def clear(self, step: Clear) -> Shown:
        return self._shown(self.session.clear(step.frame, step.object))

    def remove(self, step: Remove) -> list[Shown]:
        """The other objects on the frames where the removed one was prompted, in order; Meta's sam2 shows these."""
        frames = sorted(self.session.tracks[step.object].prompts)
        self.session.remove(step.object)
        return [self.on(frame) for frame in frames] if self.session.objects else []

    def reset(self) -> None:
        self.session.reset()

    def on(self, frame: int) -> Shown:
        return self._shown(self.session.result(frame))

    @staticmethod
    def _shown(result: Any) -> Shown:
        shown = result.video_logits
        result.non_overlapping = False
        return Shown(result.frame, result.objects, result.video_logits, shown)


# the comparison


class Different(AssertionError):
    """The two sides disagree; says where."""


def deviation(ours: Shown, theirs: Shown) -> float:
    """How far apart two frames are: the worst object's largest difference over the spread of its expected logits."""
    if (ours.frame, ours.objects) != (theirs.frame, theirs.objects):
        raise Different(f"frame {ours.frame} {ours.objects} against {theirs.frame} {theirs.objects}")
    if ours.shown.shape != theirs.shown.shape:
        raise Different(f"shape {tuple(ours.shown.shape)} against {tuple(theirs.shown.shape)}")
    worst = 0.0
    gap = torch.full(theirs.logits.shape[1:], float("inf"))
    if len(theirs.objects) > 1:
        first, second = theirs.logits.topk(2, dim=0).values
        gap = first - second
    known = torch.tensor(theirs.certain, dtype=torch.bool)
    for row in range(len(theirs.objects)):
        if not known[row]:
            continue
        raw, expected = ours.logits[row], theirs.logits[row]
        absent = float(expected.max()) <= NO_OBJECT + 1
        spread = -NO_OBJECT if absent else float(expected.max() - expected.min())
        differences = [(raw - expected).abs().max()]
        if known.all():  # who owns a pixel is compared where no two objects tie within what is tolerated
            clear = gap > 2e-3 * spread
            apart = (ours.shown[row] - theirs.shown[row]).abs()
            differences.append(torch.where(clear, apart, 0.0).max())
        worst = max(worst, float(torch.stack(differences).max()) / max(spread, 1e-6))
    if not np.isfinite(worst):
        raise Different(f"frame {ours.frame}: values that are not finite")
    return worst


@dataclass
class Tally:
    """What a comparison saw, so that a test can insist that it saw enough."""

    scripts: int = 0
    frames: int = 0
    masks: int = 0
    absent: int = 0
    worst: float = 0.0

    def note(self, found: float, theirs: Shown) -> None:
        self.frames += 1
        self.masks += len(theirs.objects)
        self.absent += sum(float(row.max()) <= NO_OBJECT + 1 for row in theirs.logits)
        self.worst = max(self.worst, found)


def play(ours: Ours, theirs: Theirs, steps: list[Step], tolerance: float, tally: Tally | None = None) -> None:
    """Give every step to both; raise `Different` at the first frame whose deviation is above `tolerance`."""
    tally = Tally() if tally is None else tally
    tally.scripts += 1

    for number, step in enumerate(steps):
        compare(f"step {number} ({step})", show(ours, step), show(theirs, step), tolerance, tally)


def show(side: Ours | Theirs, step: Step) -> list[Shown]:
    """Everything one side shows when it is given a step."""
    if isinstance(step, Prompt):
        return [side.prompt(step)]
    if isinstance(step, Draw):
        return [side.draw(step)]
    if isinstance(step, Clear):
        return [side.clear(step)]
    if isinstance(step, Remove):
        return side.remove(step)
    if isinstance(step, Reset):
        side.reset()
        return []
    return list(side.propagate(step))


def compare(where: str, ours: list[Shown], theirs: list[Shown], tolerance: float, tally: Tally) -> None:
    """Compare what both show at one step; raise `Different`."""
    if [one.frame for one in ours] != [one.frame for one in theirs]:
        raise Different(f"{where}: {[one.frame for one in ours]} against {[one.frame for one in theirs]}")
    for mine, other in zip(ours, theirs, strict=True):
        try:
            found = deviation(mine, other)
        except Different as error:
            raise Different(f"{where}: {error}") from None
        tally.note(found, other)
        if not found <= tolerance:
            raise Different(f"{where}: frame {mine.frame} deviates by {found:.2e}")


def shorter(settings: Settings, steps: list[Step], fails: Any) -> list[Step]:
    """A script that still fails and has no step to spare: for the message of a failed test."""
    smaller = True
    while smaller:
        smaller = False
        for left_out in range(len(steps)):
            fewer = steps[:left_out] + steps[left_out + 1 :]
            book = Book(settings)
            if all(book.legal(step) for step in fewer) and fails(fewer):
                steps, smaller = fewer, True
                break
    return steps


def pixels(frames: np.ndarray, image: int) -> Tensor:
    """The video as our sessions see it, normalised (T, 3, S, S)."""
    return torch.cat([to_model(read_image(frame), (image, image)) for frame in frames])
