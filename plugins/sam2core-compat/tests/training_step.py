"""A step of Meta's own `training/` on top of a `sam2` package: `python training_step.py FOLDER OUT.npz`.

The folder of `training` is on the path. One process over gloo, videos of noise, clicks that are corrected: losses, the
gradients' norms and the weights after the step are saved, in the optimizer's order.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from overriding import weights
from sam2.build_sam import build_sam2

LOSSES = {"loss_mask": 20, "loss_dice": 1, "loss_iou": 1, "loss_class": 1}


class _Anything(types.ModuleType):
    """A library that Meta's trainer imports and a step does not use."""

    __path__: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda kind=None, *_, **__: kind


def absent() -> None:
    for name in ("tensordict", "tensorboard", "torch.utils.tensorboard", "fvcore", "fvcore.common", "submitit"):
        sys.modules.setdefault(name, _Anything(name))


def clip(frames: int = 3, objects: int = 2, side: int = 64) -> types.SimpleNamespace:
    """A batch of one video of noise, in which squares move."""
    made = torch.Generator().manual_seed(5)
    masks = torch.zeros(frames, objects, side, side, dtype=torch.bool)
    for frame in range(frames):
        masks[frame, 0, 8 + 4 * frame : 30 + 4 * frame, 10:40] = True
        masks[frame, 1, 30:56, 20 + 4 * frame : 50] = True
    return types.SimpleNamespace(
        flat_img_batch=torch.randn(frames, 3, side, side, generator=made),
        masks=masks,
        num_frames=frames,
        flat_obj_to_img_idx=torch.arange(frames)[:, None].expand(frames, objects),
    )


def main(folder: str, out: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    absent()
    os.environ["LOCAL_RANK"] = "0"
    store = Path(tempfile.mkdtemp()) / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    from training.loss_fns import CORE_LOSS_KEY, MultiStepMultiMasksAndIous

    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=folder, version_base="1.2"):
        said = {
            "_target_": "training.model.sam2.SAM2Train",
            "image_size": 64,
            "image_encoder.trunk.drop_path_rate": 0.1,
        }
        said |= {"prob_to_use_pt_input_for_train": 1.0, "num_correction_pt_per_frame": 2}
        said |= {"num_frames_to_correct_for_train": 2, "add_all_frames_to_correct_as_cond": "true"}
        overrides = [f"++model.{name}={value}" for name, value in said.items()]
        model = build_sam2("tiny.yaml", device="cpu", mode="train", hydra_overrides_extra=overrides)
    weights(model)
    loss = MultiStepMultiMasksAndIous(
        dict(LOSSES), supervise_all_iou=True, iou_use_l1_loss=True, pred_obj_scores=True, focal_gamma_obj_score=0.0
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    saved = {"names": np.array([name for name, _ in model.named_parameters()])}
    batch = clip()
    torch.manual_seed(0)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        losses = loss(model(batch), batch.masks)
        losses[CORE_LOSS_KEY].backward()
        found.append([float(losses[name]) for name in (*LOSSES, CORE_LOSS_KEY)])
        norms = [0.0 if weight.grad is None else float(weight.grad.norm()) for weight in model.parameters()]
        optimizer.step()
    saved |= {"losses": np.array(found), "gradients": np.array(norms)}
    saved["weights"] = np.array([float(weight.detach().norm()) for weight in model.parameters()])
    saved["state"] = np.array(sorted(optimizer.state_dict()["state"]))
    np.savez(out, **saved)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
