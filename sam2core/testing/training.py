"""A part in training: a step with gradients for all that is asked, starting weights, layer-wise rates."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from registry.plugins import current
from sam2core.protocols import HasBlocks, TaughtDensely
from sam2core.testing.isolation import tiny_model
from sam2core.testing.rules import Examination, Found
from sam2core.training.clips import Clip, ClipBatch, collate
from sam2core.training.losses import LossWeights
from sam2core.training.optim import Optim, optimiser
from sam2core.training.prompting import PromptPlan
from sam2core.training.rollout import Rollout

SIDES = (64, 64)


def batch_of(size: tuple[int, int]) -> ClipBatch:
    """A clip of two frames (H, W): a bright square that moves over a dark ground."""
    frames, masks = np.full((2, *size, 3), 40, np.uint8), np.zeros((2, 1, *size), bool)
    for at in range(2):
        masks[at, 0, 8:40, 8 + 4 * at : 40 + 4 * at] = True
        frames[at][masks[at, 0]] = (220, 90, 60)
    return collate([Clip(frames, masks, "a square")])


def examine_training(examination: Examination, kind: str, model: Any, size: tuple[int, int]) -> None:
    """Raise ContractError when a model with the part in its place cannot be trained."""
    with examination.rule("training", "every initialisation on offer takes a model with this part, or leaves it alone"):
        names = {name: tensor.shape for name, tensor in model.state_dict().items()}
        for name in current().components.names("initialisation"):
            began = copy.deepcopy(model)
            current().components.make("initialisation", {"type": name})(began)
            if {key: tensor.shape for key, tensor in began.state_dict().items()} != names:
                raise Found(f"start {name!r} changes the names or shapes of weights")
    with examination.rule("training", "a step on a clip, prompted, tracked and corrected, changes the part's weights"):
        model = copy.deepcopy(model).train()
        part = getattr(model, kind)
        layered = 0.9 if isinstance(model.backbone, HasBlocks) else 1.0
        update = optimiser(model, Optim(lr=1e-2, layer_decay=layered))
        before = [parameter.detach().clone() for parameter in part.parameters() if parameter.requires_grad]
        plan = PromptPlan(corrections=1, vary=False)
        dense = 0.1 if isinstance(model.mask_decoder, TaughtDensely) else 0.0
        with torch.enable_grad():
            rollout = Rollout(model, precision="full")
            named = rollout(batch_of(size), plan, LossWeights(), dense=dense, key=(0, 0))
            named["total"].backward()
        if not named["total"].isfinite():
            raise Found(f"the loss is {float(named['total'])}")
        for group in update.param_groups:
            group["lr"] = 1e-2 * group["multiplier"]
        update.step()
        after = [parameter for parameter in part.parameters() if parameter.requires_grad]
        if before and not any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)):
            raise Found("no weight of the part has changed")
    with examination.rule("training", "what was trained can be saved and loaded"):
        saved: dict[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fresh = copy.deepcopy(model)
        for parameter in fresh.parameters():
            nn.init.zeros_(parameter)
        fresh.load_state_dict(saved, strict=True)


def examine_initialisation(examination: Examination, initialise: Any) -> None:
    """Raise ContractError at the first rule that the initialisation breaks."""
    with examination.rule("protocol", "a callable that takes a model"):
        if not callable(initialise):
            raise Found(f"a {type(initialise).__name__}")
    model = tiny_model(image_size=list(SIDES))
    names = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with examination.rule("in place", "weights change where they are; names, shapes and types stay; None is returned"):
        if (made := initialise(model)) is not None:
            raise Found(f"it returns a {type(made).__name__}")
        if {name: tensor.shape for name, tensor in model.state_dict().items()} != names:
            raise Found("names or shapes of weights are others")
        if broken := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
            raise Found(f"{broken[0]} is not finite")
    with examination.rule("parts it does not know", "they are left as they were made"):
        model.mask_decoder, model.neck = nn.Identity(), nn.Identity()
        initialise(model)
    if hasattr(initialise, "again"):
        with examination.rule("again", "given embeddings, weights change in place and stay finite"):
            model = tiny_model(image_size=list(SIDES))
            with torch.no_grad():
                features = model.encode(torch.randn(2, 3, *SIDES))
                initialise.again(model, model.condition(features, None))
            if broken := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
                raise Found(f"{broken[0]} is not finite")
