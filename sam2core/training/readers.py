"""The readers that recipes name: labelled images that are decoded once, and footage of every format of `data`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sam2core.data.footage import Footage
from sam2core.data.formats import FORMATS, open_data
from sam2core.training.clips import LabelledImage, cut_out_jobs, label_folder, panoptic_jobs
from sam2core.training.partition import drawing_jobs, photograph_jobs
from sam2core.training.unlabelled import unlabelled

Jobs = Callable[..., Sequence[Callable[[], LabelledImage | None]]]

JOBS: dict[str, Jobs] = {
    "coco_panoptic": panoptic_jobs,
    "cut_outs": cut_out_jobs,
    "drawings": drawing_jobs,
    "photographs": photograph_jobs,
}
"""Readers that work image by image, so that one that cannot be read does not end the reading. A job that gives None
has found nothing to learn from."""


def _reader(jobs: Jobs) -> Callable[..., Iterator[LabelledImage]]:
    def read(root: str | Path, **options: Any) -> Iterator[LabelledImage]:
        for job in jobs(root, **options):
            found = job()
            if found is not None:
                yield found

    return read


READERS: dict[str, Callable[..., Iterator[LabelledImage]]] = {
    "label_folder": label_folder,
    **{name: _reader(jobs) for name, jobs in JOBS.items()},
}


def recognised(root: str | Path) -> list[Footage]:
    """The footage of a folder in the format that it looks like. Raises DataError for one of no known format."""
    return open_data(root).footage


FOOTAGE: dict[str, Callable[..., list[Footage]]] = {
    "auto": recognised,
    "unlabelled": unlabelled,
    **{name: each.read for name, each in FORMATS.items() if name not in READERS},
}
"""Readers of footage, which is listed and read as it is needed."""
