"""Simulated clicks on images: the model and simple baselines answer the same user.

The first click is the point deepest inside the object, each next one the centre of the largest error (Meta's
"center" clicks); an answer without error is kept and gets no further click.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from sam2core.data.footage import IdFootage
from sam2core.data.formats import DataSet, open_data
from sam2core.data.label_folder import LabelPicture
from sam2core.data.pictures import DataError
from sam2core.evaluation.metrics import iou
from sam2core.ops.polygons import extent


@dataclass(frozen=True)
class Click:
    """A user's click in image pixels; `positive` is on the object."""

    x: int
    y: int
    positive: bool = True


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and the masks of the objects that are asked for in it."""

    image: np.ndarray  # (H, W, 3) uint8
    masks: np.ndarray  # (N, H, W) bool
    name: str
    ignored: np.ndarray | None = None  # (H, W) bool: pixels that are not counted


Answers = Callable[[Sequence[Click], Any], tuple[np.ndarray, Any]]
"""Answers all clicks so far on one object: given them and whatever it returned beside its mask last time (None at
first), it returns a mask (H, W) bool and that whatever."""


class Segmenter(Protocol):
    """Anything that answers clicks: `encode` takes an image (H, W, 3) uint8 and returns what answers clicks on it."""

    def encode(self, image: np.ndarray) -> Answers: ...


def deepest(region: np.ndarray) -> tuple[int, int, float]:
    """The x, y of the pixel farthest from the edge of a boolean region (the border counts as edge), and how far."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    place = int(depth.argmax())
    return place % region.shape[1], place // region.shape[1], float(depth.flat[place])


def first_click(truth: np.ndarray) -> Click:
    """The click in the middle of an object. Raises ValueError for an empty one."""
    x, y, depth = deepest(truth)
    if depth == 0:
        raise ValueError("an empty mask has no first click")
    return Click(x, y)


def next_click(answer: np.ndarray, truth: np.ndarray) -> Click | None:
    """The centre of the largest error, positive where the object was missed; None when nothing is wrong."""
    missed, extra = deepest(truth & ~answer), deepest(answer & ~truth)
    if missed[2] == extra[2] == 0:
        return None
    x, y, _ = missed if missed[2] > extra[2] else extra
    return Click(x, y, positive=missed[2] > extra[2])


def judged(answer: np.ndarray, truth: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    """An answer as it is judged: right wherever pixels are not counted."""
    return answer if ignored is None else np.where(ignored, truth, answer)


@dataclass(frozen=True)
class Session:
    """What came of clicking on one object: IoU after each click, the clicks that were needed, seconds of answering."""

    scores: tuple[float, ...]
    clicks: tuple[Click, ...]
    seconds: float


def click_through(
    answer_clicks: Answers, truth: np.ndarray, *, clicks: int, ignored: np.ndarray | None = None
) -> Session:
    """Click on one object, each time where its own answer is most wrong; scores has `clicks` numbers.

    An answer without error is kept and gets no further click. Seconds are those of the answers alone. ignored: pixels
    (H, W) that are neither right nor wrong.
    """
    said = [first_click(truth)]
    start = time.perf_counter()
    answer, state = answer_clicks(said, None)
    seconds = time.perf_counter() - start
    answer = judged(answer, truth, ignored)
    scores = [iou(answer, truth)]
    while len(scores) < clicks:
        following = next_click(answer, truth)
        if following is not None:
            said.append(following)
            start = time.perf_counter()
            answer, state = answer_clicks(said, state)
            seconds += time.perf_counter() - start
            answer = judged(answer, truth, ignored)
        scores.append(iou(answer, truth))
    return Session(tuple(scores), tuple(said), seconds)


def replay(answer_clicks: Answers, truth: np.ndarray, clicks: Sequence[Click], counts: Iterable[int]) -> list[float]:
    """IoU after so many of the given clicks, which were another's; the segmenter sees each list from the start.

    For methods that need no state of earlier answers. A list that ended early is taken whole.
    """
    return [iou(answer_clicks(list(clicks[:count]), None)[0], truth) for count in counts]


@dataclass(frozen=True)
class ClickWork:
    """Clicks on samples with several methods, as an engine takes it: called with a worker's number, it returns what
    maps a sample to the sessions of each method, one an object.

    make    builds a worker's segmenters by name; picklable
    clicks  how many an object
    """

    make: Callable[[int], Mapping[str, Segmenter]]
    clicks: int

    def __call__(self, number: int) -> Callable[[Sample], dict[str, list[Session]]]:
        methods = self.make(number)

        def work(sample: Sample) -> dict[str, list[Session]]:
            found = {}
            for name, segmenter in methods.items():
                answers = segmenter.encode(sample.image)
                found[name] = [
                    click_through(answers, truth, clicks=self.clicks, ignored=sample.ignored) for truth in sample.masks
                ]
            return found

        return work


def follow(segmenter: Segmenter, sample: Sample, *, clicks: int = 1) -> list[list[float]]:
    """IoU after each of `clicks` clicks, for every object of a sample: scores[object][click]."""
    answer_clicks = segmenter.encode(sample.image)
    return [
        list(click_through(answer_clicks, truth, clicks=clicks, ignored=sample.ignored).scores)
        for truth in sample.masks
    ]


# segmenters ----------------------------------------------------------------------------------------------------------


class PredictorSegmenter:
    """An image predictor as a segmenter: one mask by the model's own rule, then each answer as the mask input of the
    next."""

    def __init__(self, predictor: Any):
        self.predictor = predictor

    def encode(self, image: np.ndarray) -> EncodedImage:
        return EncodedImage(self.predictor.encode(image))


class EncodedImage:
    """An image that a predictor has seen: answers clicks when called, a box, and offers its three candidates."""

    def __init__(self, handle: Any):
        self.handle = handle

    def __call__(self, clicks: Sequence[Click], mask_input: Any) -> tuple[np.ndarray, Any]:
        result = self.handle.predict(**_points(clicks), mask_input=mask_input)
        return result.masks[0, 0].cpu().numpy(), result.logits[0, 0]

    def box(self, box: Sequence[float]) -> np.ndarray:
        """The mask (H, W) of what is in a box x0, y0, x1, y1."""
        return self.handle.predict(box=list(box)).masks[0, 0].cpu().numpy()

    def candidates(self, click: Click) -> np.ndarray:
        """The three masks (3, H, W) for a single click: what an oracle may choose from."""
        return self.handle.predict(**_points([click]), multimask_output=True).masks[0].cpu().numpy()


def _points(clicks: Sequence[Click]) -> dict[str, Any]:
    return {
        "points": [[click.x, click.y] for click in clicks],
        "labels": [int(click.positive) for click in clicks],
    }


def box_of(truth: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box x0, y0, x1, y1 around a boolean mask, in pixel edges. Raises ValueError for an empty one."""
    x0, y0, x1, y1 = extent(truth)
    if not x1:
        raise ValueError("an empty mask has no box")
    return float(x0), float(y0), float(x1), float(y1)


# data ----------------------------------------------------------------------------------------------------------------


def regions_of(
    labels: np.ndarray,
    *,
    smallest: float = 0.005,
    largest: float = 0.6,
    most: int = 10,
    background: bool = True,
    void: int | None = None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Masks (N, H, W) of up to `most` regions of a label map whose area is within the given shares of the image.

    background: label 0 is a region like any other. void: a label that is none.
    """
    values, counts = np.unique(labels, return_counts=True)
    usable = [
        value
        for value, count in zip(values, counts)
        if smallest <= count / labels.size <= largest and (background or value != 0) and value != void
    ]
    picks = sorted(generator.permutation(len(usable))[:most])
    return np.stack([labels == usable[pick] for pick in picks]) if picks else np.zeros((0, *labels.shape), dtype=bool)


def samples_of(
    data: DataSet,
    *,
    last: int | None = None,
    background: bool = True,
    seed: int = 0,
    most: int = 10,
    smallest: float = 0.005,
    largest: float = 0.6,
) -> Iterator[Sample]:
    """Samples of a data set in any format: its images, or the labelled frames of its videos.

    Objects are asked for whose area is within the given shares of the image; of more than `most` some are drawn, and
    of several annotators of an image one. background: where an image has a map of classes, 0 is a class like any
    other. last: only the last so many images. Raises DataError that names the file that does not fit.
    """
    frames = [(item, frame) for item in data.footage for frame in range(item.length)]
    first = 0 if last is None else max(len(frames) - last, 0)
    for number, (item, frame) in enumerate(frames[first:], first):
        generator = np.random.default_rng([seed, number])
        if isinstance(item, LabelPicture):
            item = item.by(int(generator.integers(item.annotators)))
        (image,) = item.pictures([frame])
        areas: dict[str, Any] = {"smallest": smallest, "largest": largest, "most": most}
        if item.overlapping:
            masks = _some(item.read(frame), image.shape[:2], generator, **areas)
        else:
            ids = item.map(frame) if isinstance(item, IdFootage) else item.ids(frame)
            void = item.void.value(ids) if isinstance(item, IdFootage) else None
            zero = background and isinstance(item, LabelPicture)
            masks = regions_of(ids, background=zero, void=void, generator=generator, **areas)
        if masks.shape[1:] != image.shape[:2]:
            raise DataError(f"{item.source} has labels of {masks.shape[1:]} on an image of {image.shape[:2]}")
        if len(masks):
            yield Sample(
                image, masks, item.name if item.still else f"{item.name}/{item.names[frame]}", item.ignored(frame)
            )


def _some(
    masks: Mapping[int, np.ndarray],
    size: tuple[int, int],
    generator: np.random.Generator,
    *,
    smallest: float,
    largest: float,
    most: int,
) -> np.ndarray:
    usable = [mask for mask in masks.values() if smallest <= mask.mean() <= largest]
    picks = sorted(generator.permutation(len(usable))[:most])
    return np.stack([usable[pick] for pick in picks]) if picks else np.zeros((0, *size), dtype=bool)


def folder_samples(root: str | Path, **options: Any) -> Iterator[Sample]:
    """`samples_of` a label folder."""
    return samples_of(open_data(root, "label_folder"), **options)


def coco_samples(root: str | Path, *, split: str = "val", **options: Any) -> Iterator[Sample]:
    """`samples_of` COCO's panoptic layout."""
    return samples_of(open_data(root, "coco_panoptic", split=split), **options)


def evaluate(
    segmenter: Segmenter, samples: Iterable[Sample], *, clicks: int = 1
) -> Iterator[tuple[Sample, list[list[float]]]]:
    """Each sample with its `scores[object][click]`, as they are made."""
    for sample in samples:
        yield sample, follow(segmenter, sample, clicks=clicks)
