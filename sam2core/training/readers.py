"""The readers of labelled pictures, by the names that recipes use; those of footage are in `footage`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sam2core.training.clips import (
    LabelledImage,
    coco_panoptic,
    cut_out_jobs,
    cut_outs,
    label_folder,
    panoptic_jobs,
)
from sam2core.training.partition import drawing_jobs, drawings, photograph_jobs, photographs

READERS: dict[str, Callable[..., Iterator[LabelledImage]]] = {
    "label_folder": label_folder,
    "coco_panoptic": coco_panoptic,
    "cut_outs": cut_outs,
    "drawings": drawings,
    "photographs": photographs,
}
# what they read, picture by picture, so that one that cannot be read does not end the reading
JOBS: dict[str, Callable[..., Sequence[Callable[[], LabelledImage | None]]]] = {
    "coco_panoptic": panoptic_jobs,
    "cut_outs": cut_out_jobs,
    "drawings": drawing_jobs,
    "photographs": photograph_jobs,
}
