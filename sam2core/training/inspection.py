"""Look at training data before training: what is there, and which pairs cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.checking import Findings, examine
from sam2core.data.formats import looks_like
from sam2core.data.label_folder import of_pairs, pairs
from sam2core.data.pictures import DataError
from sam2core.training.clips import LabelledImage, divide
from sam2core.training.readers import FOOTAGE, JOBS, READERS


def inspect(
    reader: str, root: Path, options: dict[str, Any], progress: Callable[[int, int], None] | None = None
) -> Findings:
    """Read a whole source, every image and every mask; what cannot be read becomes a problem instead of an error.

    progress: told how many images or videos are done, of how many. Raises ValueError for a reader there is not.
    """
    if reader not in READERS and reader not in FOOTAGE:
        raise ValueError(f"there is no reader {reader!r}; there are {', '.join((*READERS, *FOOTAGE))}")
    found = Findings()
    try:
        looks = list(_looks(reader, root, options, found))
    except DataError as error:
        found.problems.append(f"{error}{looks_like(root) if reader == 'label_folder' else ''}")
        return found
    for done, each in enumerate(looks, 1):
        try:
            each(found)
        except DataError as error:
            found.problems.append(str(error))
        if progress is not None:
            progress(done, len(looks))
    return found


def _looks(reader: str, root: Path, options: dict[str, Any], found: Findings) -> Iterator[Callable[[Findings], None]]:
    """What looks at each image or video of a source."""
    if reader in FOOTAGE:
        footage = FOOTAGE[reader](root, **options)
        found.notes += [note for item in footage for note in item.notes]
        yield from (partial(examine, item) for item in footage)
    elif reader in JOBS:
        yield from (partial(_picture, job) for job in JOBS[reader](root, **options))
    else:
        how = {key: value for key, value in options.items() if key in ("whole", "instances")}
        held, lonely = pairs(root)
        found.problems += [f"{path} has no labels/{path.stem}.png" for path in lonely]
        footage = of_pairs(held, options.get("ignore", "auto"))
        yield from (partial(_picture, partial(divide, item, **how)) for item in footage)


def _picture(job: Callable[[], LabelledImage | None], found: Findings) -> None:
    sample = job()
    if sample is None:
        return
    sizes = np.bincount(sample.regions.ravel(), minlength=1)
    areas = [sum(int(sizes[region]) for region in group) / sample.regions.size for group in sample.objects]
    found.frames += 1
    found.areas += areas
    found.objects += len(areas)
    found.empty += not areas
