"""The readers of labelled pictures, by the names that recipes use; those of footage are in `footage`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sam2core.training.clips import LabelledImage, cut_out_jobs, label_folder, panoptic_jobs
from sam2core.training.partition import drawing_jobs, photograph_jobs

Jobs = Callable[..., Sequence[Callable[[], LabelledImage | None]]]

JOBS: dict[str, Jobs] = {
    "coco_panoptic": panoptic_jobs,
    "cut_outs": cut_out_jobs,
    "drawings": drawing_jobs,
    "photographs": photograph_jobs,
}
"""Readers that work picture by picture, so that one that cannot be read does not end the reading. A job that gives None
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
