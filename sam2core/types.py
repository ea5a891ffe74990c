"""The values that flow between parts. Frozen, compared by identity, always batch first.

Shapes: B batch (images, or objects on one frame)  C model width  Cm memory width  H W stride-16 grid
        M candidate masks  N memory tokens  P points  h w low-resolution mask (4H, 4W)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value", bound="Batch")

NO_OBJECT = -1024.0
"""The mask logit of an object that is not in the image."""

MASK_INPUT_LIMIT = 32.0
"""Logits of an earlier answer are clamped to plus or minus this when they are given back as a mask input."""


class Label(enum.IntEnum):
    """What a prompt point says. A box is two points, ``TOP_LEFT`` and ``BOTTOM_RIGHT``."""

    IGNORED = -2  # fills up the rows of a ragged batch; becomes no token at all
    PADDING = -1
    NEGATIVE = 0
    POSITIVE = 1
    TOP_LEFT = 2
    BOTTOM_RIGHT = 3


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in an image, surest first."""

    boxes: np.ndarray
    """(N, 4) x0, y0, x1, y1 in pixels of the image as displayed."""
    labels: tuple[str, ...]
    """What each is; "" where nobody says."""
    scores: np.ndarray
    """(N,) how sure it is, from 0 to 1."""


class Keep(enum.Enum):
    """Where a memory is kept: prompted frames are trusted frames, recent frames are what the model made of the rest."""

    PROMPTED = "prompted"
    RECENT = "recent"


@dataclass(frozen=True)
class Multimask:
    """One mask or three? Three when the number of points lies in ``[min_points, max_points]``.

    ``while_tracking`` says whether a frame with a past may be answered with three masks as well
    (Meta's ``multimask_min_pt_num``, ``multimask_max_pt_num``, ``multimask_output_for_tracking``).
    """

    min_points: int = 0
    max_points: int = 1
    while_tracking: bool = True

    def applies(self, points: int, *, tracking: bool) -> bool:
        """Whether a prompt of `points` points (a box counts two, padding none) is answered with three masks."""
        return self.min_points <= points <= self.max_points and (self.while_tracking or not tracking)


@dataclass(frozen=True, eq=False)
class Batch:
    """A value with a row for each image or object, which is cut and joined by rows."""

    SHARED: ClassVar[tuple[str, ...]] = ()
    """Its tensors that are the same for all rows."""

    def rows(self: Value, which: slice | Tensor) -> Value:
        """Some of the rows: a slice gives views, an index (B',) its rows in that order, with repetitions."""
        own = {name: value for name, value in vars(self).items() if name not in self.SHARED}
        return replace(self, **{name: _rows(value, which) for name, value in own.items()})

    def apart(self: Value, count: int) -> list[Value]:
        """Each of the `count` rows as a value of its own: views, for all rows by one operator a tensor."""
        if count == 1:
            return [self]
        own = {name: _apart(value, count) for name, value in vars(self).items() if name not in self.SHARED}
        return [replace(self, **{name: rows[row] for name, rows in own.items()}) for row in range(count)]

    def to(self: Value, device: torch.device | str) -> Value:
        """The same value on another device."""
        moved = {name: _each(value, lambda tensor: tensor.to(device)) for name, value in vars(self).items()}
        return replace(self, **moved)

    @classmethod
    def join(cls: type[Value], parts: Sequence[Value]) -> Value:
        """The rows of all parts, one part after another, in the types of the first."""
        if len(parts) == 1:
            return parts[0]
        own = [name for name in vars(parts[0]) if name not in cls.SHARED]
        return replace(parts[0], **{name: _join([getattr(part, name) for part in parts]) for name in own})


def _rows(value: Any, which: slice | Tensor) -> Any:
    """Some of the rows of every tensor and value in a field; what has no rows stays."""
    if isinstance(value, Tensor):
        return value[which]
    if isinstance(value, tuple):
        return tuple(_rows(one, which) for one in value)
    return value.rows(which) if isinstance(value, Batch) else value


def _apart(value: Any, count: int) -> Sequence[Any]:
    """Each row of every tensor and value in a field; what has no rows stays, for all of them."""
    if isinstance(value, Tensor):
        return value.split(1)
    if isinstance(value, tuple) and value:
        return list(zip(*(_apart(one, count) for one in value), strict=True))
    return value.apart(count) if isinstance(value, Batch) else [value] * count


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A field with every tensor in it changed; what is no tensor stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each(one, change) for one in value)
    if isinstance(value, Batch):
        return replace(value, **{name: _each(one, change) for name, one in vars(value).items()})
    return value


def _join(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat([value.to(first.dtype) for value in values])
    if isinstance(first, Batch):
        return type(first).join(values)
    return tuple(_join(each) for each in zip(*values, strict=True)) if isinstance(first, tuple) else first


@dataclass(frozen=True, eq=False)
class ImageFeatures(Batch):
    """An encoded image: computed once, shared by every prompt and every object on it."""

    SHARED = ("position",)

    embedding: Tensor  # (B, C, H, W)   what memory conditions and masks are read from
    position: Tensor  # (1, C, H, W)
    high_res_features: tuple[Tensor, ...]  # stride 4 and 8, what the mask decoder made of the finer maps; () if unused

    @property
    def batch(self) -> int:
        return self.embedding.shape[0]

    def expand(self, batch: int) -> ImageFeatures:
        """One image's features as a batch of `batch` objects, without a copy."""
        return replace(
            self,
            embedding=self.embedding.expand(batch, -1, -1, -1),
            high_res_features=tuple(level.expand(batch, -1, -1, -1) for level in self.high_res_features),
        )


@dataclass(frozen=True, eq=False)
class Prompt(Batch):
    """What the user says about each object on a frame, in model pixels. A box is two corner points.

    With no points at all (P = 0) the decoder sees no point token; otherwise the prompt encoder
    appends one padding token, as SAM 2 was trained with.
    """

    points: Tensor  # (B, P, 2)  x, y
    labels: Tensor  # (B, P)     values of Label
    mask_input: Tensor | None = None  # (B, 1, h, w) logits of an earlier answer
    has_mask_input: Tensor | None = None  # (B,) bool; None: all rows have one, if there is any
    ragged: bool = False  # some rows are filled up with Label.IGNORED

    @property
    def batch(self) -> int:
        return self.points.shape[0]

    @classmethod
    def nothing(cls, batch: int, device: torch.device | str | None = None) -> Prompt:
        """The prompt of plain tracking: one padding point per object."""
        return cls(
            points=torch.zeros(batch, 1, 2, device=device),
            labels=torch.full((batch, 1), int(Label.PADDING), dtype=torch.int32, device=device),
        )

    def then(self, points: Tensor, labels: Tensor) -> Prompt:
        """This prompt with further points (B, P', 2) and their labels (B, P') behind its own."""
        return replace(
            self,
            points=torch.cat([self.points, points.to(self.points)], dim=1),
            labels=torch.cat([self.labels, labels.to(self.labels)], dim=1),
        )

    def padded(self, count: int) -> Prompt:
        """This prompt with ignored points behind its own, so that every row has `count` at least."""
        missing = count - self.points.shape[1]
        if missing <= 0:
            return self
        ignored = self.labels.new_full((self.batch, missing), int(Label.IGNORED))
        padded = self.then(self.points.new_zeros(self.batch, missing, 2), ignored)
        return replace(padded, ragged=True)

    @classmethod
    def join(cls, parts: Sequence[Prompt]) -> Prompt:
        """The rows of all parts, one part after another; shorter ones are padded."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.points.shape[1] for part in parts)
        padded = [part.padded(width) for part in parts]
        shape = next((part.mask_input.shape[1:] for part in parts if part.mask_input is not None), None)
        masks = [] if shape is None else [part._mask_inputs(shape) for part in parts]
        everywhere = all(part.mask_input is not None and part.has_mask_input is None for part in parts)
        return Prompt(
            points=torch.cat([part.points for part in padded]),
            labels=torch.cat([part.labels for part in padded]),
            mask_input=torch.cat([mask for mask, _ in masks]) if masks else None,
            has_mask_input=torch.cat([given for _, given in masks]) if masks and not everywhere else None,
            ragged=any(part.ragged for part in padded),
        )

    def _mask_inputs(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A mask input (1, h, w) for every row, zeros where there is none, and which rows (B,) have one."""
        if self.mask_input is None:
            return self.points.new_zeros(self.batch, *shape), self.points.new_zeros(self.batch, dtype=torch.bool)
        given = self.has_mask_input
        return self.mask_input, self.points.new_ones(self.batch, dtype=torch.bool) if given is None else given


@dataclass(frozen=True, eq=False)
class DecoderOutput(Batch):
    """What a mask decoder always returns: all four masks. Token 0 answers alone; tokens 1 to 3 answer ambiguity."""

    masks: Tensor  # (B, 4, h, w) logits, not yet gated by object score
    iou: Tensor  # (B, 4) in [0, 1]
    tokens: Tensor  # (B, 4, C)
    object_score: Tensor  # (B, 1) logit


@dataclass(frozen=True, eq=False)
class FilteredMasks:
    """Those K of a decoder's masks that were asked for, in the order of prompts and masks."""

    row: Tensor  # (K,) the prompt
    mask: Tensor  # (K,) which of its four masks
    logits: Tensor  # (K, h, w)
    iou: Tensor  # (K,)


@dataclass(frozen=True, eq=False)
class MaskCandidates(Batch):
    """The masks on offer for this prompt (one or three). A policy's `choose` believes one per object."""

    logits: Tensor  # (B, M, h, w)  absent objects already at NO_OBJECT
    iou: Tensor  # (B, M)
    object_pointers: Tensor  # (B, M, C)
    object_score: Tensor  # (B, 1)        > 0: the object is in the image

    def take(self, index: Tensor) -> MaskPrediction:
        """The answer that believes candidate `index` (B,) of each object."""
        row = torch.arange(index.shape[0], device=index.device)
        return MaskPrediction(
            logits=self.logits[row, index].unsqueeze(1),
            iou=self.iou[row, index],
            object_pointer=self.object_pointers[row, index],
            object_score=self.object_score,
            candidates=self,
        )


@dataclass(frozen=True, eq=False)
class MaskPrediction(Batch):
    """The believed answer, and the candidates it was chosen from."""

    logits: Tensor  # (B, 1, h, w)
    iou: Tensor  # (B,)
    object_pointer: Tensor  # (B, C)
    object_score: Tensor  # (B, 1)
    candidates: MaskCandidates

    @classmethod
    def only(cls, logits: Tensor, iou: Tensor, object_pointer: Tensor, object_score: Tensor) -> MaskPrediction:
        """An answer that is its own only candidate."""
        candidates = MaskCandidates(logits, iou[:, None], object_pointer[:, None], object_score)
        return cls(logits, iou, object_pointer, object_score, candidates)

    @classmethod
    def join(cls, parts: Sequence[MaskPrediction]) -> MaskPrediction:
        """The rows of all parts, one part after another; what they were chosen from is left behind."""
        if len(parts) == 1:
            return parts[0]
        return cls.only(*(_join(values) for values in zip(*(part.values() for part in parts), strict=True)))

    def values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, IoU, object pointer and object score, as `only` takes them."""
        return self.logits, self.iou, self.object_pointer, self.object_score


@dataclass(frozen=True, eq=False)
class TokenBlock(Batch):
    """A run of memory tokens that share a place: one frame's map, its latents, or the object pointers."""

    tokens: Tensor  # (B, N, Cm)
    position: Tensor  # (B or 1, N, Cm)  added to keys only
    grid: tuple[int, int] | None  # rotate keys on this (h, w) grid; None: never rotate (object pointers, latents)
    key_scale: float = 1.0  # for policies that weigh frames

    def rows(self, which: slice | Tensor) -> TokenBlock:
        """Some of the rows; a position that all rows share stays."""
        position = self.position if self.position.shape[0] == 1 else self.position[which]
        return replace(self, tokens=self.tokens[which], position=position)

    def apart(self, count: int) -> list[TokenBlock]:
        """Each of the rows as a value of its own; a position that all rows share stays."""
        shared = self.position.shape[0] == 1
        positions = [self.position] * count if shared else self.position.split(1)
        pairs = zip(self.tokens.split(1), positions, strict=True)
        return [replace(self, tokens=tokens, position=position) for tokens, position in pairs]

    @classmethod
    def join(cls, parts: Sequence[TokenBlock]) -> TokenBlock:
        """The rows of all parts, one part after another; a position that all parts share stays."""
        first = parts[0]
        shared = all(part.position is first.position for part in parts)
        position = first.position if shared else _join([part.position for part in parts])
        return replace(first, tokens=_join([part.tokens for part in parts]), position=position)


@dataclass(frozen=True, eq=False)
class FrameMemory(Batch):
    """What one object left behind on one frame."""

    frame: int
    blocks: tuple[TokenBlock, ...] | None  # without the time code, which the readout adds; None once trimmed
    object_pointer: Tensor  # (B, C)
    logits: Tensor  # (B, 1, h, w)  for output, and as a mask input to later corrections
    object_score: Tensor  # (B, 1)
    iou: Tensor  # (B,)
    notes: Mapping[str, float] = field(default_factory=dict)  # a policy's own scores


@dataclass(frozen=True, eq=False)
class Recall:
    """Which memories to attend to, decided by a policy. Slot 0 is the latest frame; the last slot is for prompted
    frames."""

    slots: tuple[tuple[int, FrameMemory], ...]
    object_pointers: tuple[tuple[int, FrameMemory], ...]  # signed distance in frames, positive into the past
    horizon: int  # the distance that maps to 1.0 in the object pointers' time code
