"""Record what upstream's training loss gives on seeded inputs: `python -m tests.golden.record_losses loss_fns.py`.

The argument is ``training/loss_fns.py`` of a checkout of facebookresearch/sam2, which no package carries. Writes
losses.json beside this file. Inputs are made of NumPy's frozen legacy generator, so they need not be stored.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TARGET = Path(__file__).with_name("losses.json")
CASES = {  # name -> (seed, objects, masks on offer at each step, absent objects)
    "one mask": (1, 3, (1,), 0),
    "three masks": (2, 3, (3,), 0),
    "click and corrections": (3, 4, (3, 1, 1), 0),
    "absent objects": (4, 4, (3, 1), 2),
    "all absent": (5, 2, (3,), 2),
    "gated logits": (6, 3, (3, 1), 1),
}


def inputs(name: str, size: int = 24) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Targets (N, H, W) bool and, for each step, logits (N, K, H, W), predicted IoU (N, K) and object score (N, 1)."""
    seed, objects, offers, absent = CASES[name]
    draw = np.random.RandomState(seed)
    target = draw.rand(objects, size, size) > 0.6
    target[:absent] = False
    steps = []
    for count in offers:
        logits = 3 * draw.randn(objects, count, size, size)
        if name == "gated logits":
            logits[-1] = -1024.0
        iou, object_score = draw.rand(objects, count), 2 * draw.randn(objects, 1)
        steps.append(tuple(torch.tensor(each, dtype=torch.float32) for each in (logits, iou, object_score)))
    return torch.from_numpy(target), steps


def oracle(path: Path) -> types.ModuleType:
    """Upstream's module, with the two names it takes from modules that want Hydra."""
    trainer, utils = types.ModuleType("training.trainer"), types.ModuleType("training.utils.distributed")
    trainer.CORE_LOSS_KEY = "core_loss"  # type: ignore[attr-defined]
    utils.get_world_size = lambda: 1  # type: ignore[attr-defined]
    utils.is_dist_avail_and_initialized = lambda: False  # type: ignore[attr-defined]
    sys.modules.update({"training.trainer": trainer, "training.utils.distributed": utils})
    spec = importlib.util.spec_from_file_location("upstream_loss", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(path: str) -> None:
    loss = oracle(Path(path)).MultiStepMultiMasksAndIous(
        weight_dict={"loss_mask": 20, "loss_dice": 1, "loss_iou": 1, "loss_class": 1},
        supervise_all_iou=True,
        iou_use_l1_loss=True,
        pred_obj_scores=True,
        focal_gamma_obj_score=0.0,
        focal_alpha_obj_score=-1.0,
    )
    found = {}
    for name in CASES:
        target, steps = inputs(name)
        outputs = {
            "multistep_pred_multimasks_high_res": [logits for logits, _, _ in steps],
            "multistep_pred_ious": [iou for _, iou, _ in steps],
            "multistep_object_score_logits": [object_score for _, _, object_score in steps],
        }
        named = loss([outputs], target[None])
        found[name] = {key: float(value) for key, value in named.items()}
    TARGET.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
