"""A few numbers about a model while it is trained, through the predictors that its users have.

Images are clicked on as `clicks` does, videos are tracked from their first masks and scored as DAVIS or SA-V does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sam2core.data.footage import Footage
from sam2core.data.formats import open_data
from sam2core.evaluation.clicks import PredictorSegmenter, Sample, evaluate, samples_of
from sam2core.evaluation.metrics import summarise
from sam2core.evaluation.scoring import score_video
from sam2core.evaluation.vos import Task, write_video
from sam2core.model import Sam2
from sam2core.predictors.image import ImagePredictor
from sam2core.predictors.video import VideoPredictor

CLICKS = (1, 3, 8)


def validation(
    root: str | Path, name: str = "", *, pictures: int = 50, objects: int = 4
) -> Callable[[Sam2], dict[str, float]]:
    """What to call with a model now and then: `picture_scores` or `clip_scores`, by what the folder holds.

    root: labelled data in the format `name`, or in the one it looks like. images: the last so many are clicked on.
    objects: of each image, at most. Raises ValueError for another folder.
    """
    data = open_data(root, name)
    if data.format.clips:
        return lambda model: clip_scores(model, data.footage)
    samples = list(samples_of(data, last=pictures, most=objects))
    if not samples:
        raise ValueError(f"{root} holds no region of a usable size")
    return lambda model: picture_scores(model, samples)


def picture_scores(model: Sam2, samples: Sequence[Sample]) -> dict[str, float]:
    """The mean IoU after one, three and eight clicks: ``iou@1``, ``iou@3``, ``iou@8``."""
    found = [scores for _, scores in evaluate(PredictorSegmenter(ImagePredictor(model)), samples, clicks=max(CLICKS))]
    return {f"iou@{n}": summarise([[each[n - 1] for each in scores] for scores in found]).mean for n in CLICKS}


def clip_scores(model: Sam2, videos: Sequence[Footage]) -> dict[str, float]:
    """The mean over objects of ``J&F``, ``J`` and ``F``, from the masks of the first frames.

    Data sets with a folder per object are scored as SA-V is, others as DAVIS is.
    """
    predictor = VideoPredictor(model)
    objects = []
    with tempfile.TemporaryDirectory() as folder:
        for video in videos:
            apart = video.overlapping
            write_video(predictor, video, Task(later=apart), Path(folder))
            objects += score_video(video, Path(folder) / video.name, protocol="sav" if apart else "davis")
    j, f = (float(np.mean([getattr(one, letter).mean for one in objects])) for letter in "jf")
    return {"J&F": (j + f) / 2, "J": j, "F": f}
