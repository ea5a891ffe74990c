"""What an optimiser step is made of: parameter groups, the schedule, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Optim:
    """AdamW with warm-up and one cosine over the whole run."""

    lr: float = 8e-4
    floor: float = 1e-5
    warmup: int = 200
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998


def parameter_groups(model: nn.Module, *, weight_decay: float, freeze: Iterable[str] = ()) -> list[dict]:
    """Decayed matrices and undecayed rest (biases, norms, embeddings, tokens), without what `freeze` names by prefix.

    Frozen parameters get `requires_grad = False`. Raises ValueError for a prefix that matches nothing.
    """
    frozen = tuple(freeze)
    names = [name for name, _ in model.named_parameters()]
    for prefix in frozen:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(
                f"freeze: no parameter starts with {prefix!r}; parts are {sorted({n.split('.')[0] for n in names})}"
            )
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            parameter.requires_grad_(False)
            continue
        matrix = parameter.ndim >= 2 and id(parameter) not in embeddings and "pos_embed" not in name
        (decayed if matrix else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, total: int, optim: Optim) -> float:
    """Linear warm-up, then a cosine from `lr` to `floor` over the whole run."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    share = min(1.0, (step - optim.warmup) / max(1, total - optim.warmup))
    return optim.floor + (optim.lr - optim.floor) * 0.5 * (1 + math.cos(math.pi * share))


def optimiser(model: nn.Module, optim: Optim, *, freeze: Iterable[str] = ()) -> torch.optim.AdamW:
    """AdamW over what is trained of the model."""
    groups = parameter_groups(model, weight_decay=optim.weight_decay, freeze=freeze)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)


class Average:
    """An exponential moving average of a model's weights, corrected for its young age."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.count = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's present weights; early on the average follows closely."""
        self.count += 1
        decay = min(self.decay, self.count / (self.count + 10))
        for name, value in model.state_dict().items():
            mine = self.weights[name]
            if mine.is_floating_point():
                mine.lerp_(value, 1 - decay)
            else:
                mine.copy_(value)

    def state(self) -> dict[str, Tensor | int]:
        return {"count": self.count, **{f"weights.{name}": value for name, value in self.weights.items()}}

    def load(self, state: dict) -> None:
        self.count = int(state["count"])
        self.weights = {name: state[f"weights.{name}"].clone() for name in self.weights}
