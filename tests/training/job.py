"""A small training run for processes of their own: `python -m tests.training.job FOLDER STEPS [slow|shard]`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed

import registry
from sam2core.training.augment import Augment, Mixture
from sam2core.training.clips import LabelledImage, from_labels
from sam2core.training.loop import train
from sam2core.training.recipe import Recipe


def squares(count: int = 3, size: int = 96) -> Sequence[LabelledImage]:
    """Flat squares on flat grounds."""
    import numpy as np

    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        labels = np.zeros((size, size), dtype=np.uint8)
        labels[8:52, 10:50] = 1
        labels[56:90, 30:88] = 2
        found.append(from_labels(draw.integers(0, 256, (3, 3)).astype(np.uint8)[labels], labels, instances=True))
    return found


def recipe(steps: int, **optim: object) -> Recipe:
    """Clips of three frames mixed with images; dropout is on, for resuming has to get it right as well."""
    prompts = {"mask": 0.4, "box": 0.4, "prompted": 2, "corrected": 2, "corrections": 1}
    stage = {"name": "all", "steps": steps, "size": 64, "frames": 3, "batch": 2, "objects": 2, "prompts": prompts}
    return Recipe.read(
        {
            "model": "test_tiny",
            "sources": [{"path": "-", "reader": "label_folder"}],
            "stages": [{**stage, "stills": {"share": 0.3, "batch": 4, "objects": 2}}],
            "optim": {"warmup": 2, "lr": 1e-3, **optim},
            "precision": "full",
        }
    )


def run(folder: Path, steps: int, *, dropout: float = 0.1, workers: int = 0, optim: dict | None = None, **options):
    """Train test_tiny for `steps` steps; the weights."""
    torch.manual_seed(3)
    model = registry.build("test_tiny", weights=False, memory_attention={"dropout": dropout})
    mixture = Mixture([squares()], [1.0], augment=Augment(whole=0.5, paste=0.3, shapes=0.3))
    return train(model, recipe(steps, **(optim or {})), mixture, folder, workers=workers, **options).state_dict()


if __name__ == "__main__":
    torch.set_num_threads(1)
    target, count, *flags = sys.argv[1:]
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
        shard = "shard" in flags
        if shard:  # in two pieces, the first of which is kept for others to go on with
            run(Path(target), int(count), dropout=0.0, shard=True, stop_after=2)
            if distributed.get_rank() == 0:
                shutil.copytree(target, f"{target}_piece")
            distributed.barrier()
        weights = run(Path(target), int(count), dropout=0.0, shard=shard)
        torch.save(weights, Path(target) / f"rank{distributed.get_rank()}.pt")
        distributed.destroy_process_group()
    else:
        pause = 0.2 if flags else 0.0
        report, workers = (lambda progress: time.sleep(pause)), 2 if flags else 0
        run(Path(target), int(count), save_every=4, report=report, workers=workers)
