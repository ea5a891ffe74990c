"""What an optimiser step is made of: parameter groups, the schedule, averaged weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sam2core.training.shards import scattered, together

OPTIMISERS = ("adamw", "muon")
DECAYS = ("matrices", "upstream")
SCHEDULES = ("cosine", "constant")
HIDDEN = 16  # a matrix with fewer rows or columns is the end of a head, not one of the layers before it


@dataclass(frozen=True)
class Rule:
    """What is special about the parameters that match a pattern such as ``backbone.*``; the last match counts."""

    match: str
    lr: float = 1.0  # multiplies the schedule
    weight_decay: float | None = None  # None: as for all others


@dataclass(frozen=True)
class Optim:
    """What makes a step of the gradients, with warm-up and one cosine over the whole run.

    name: "adamw", or "muon": the matrices of linear layers move in orthogonalised steps (torch's Muon, torch 2.9 or
    newer, as large as AdamW's would be), all else by AdamW.
    """

    name: str = "adamw"
    lr: float = 8e-4
    floor: float = 1e-5
    warmup: int = 200
    schedule: str = "cosine"  # or "constant"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    decay: str = "matrices"  # what is decayed: "matrices" but not embeddings, or all but biases and LayerNorms
    layer_decay: float = 1.0  # each trunk block learns by this factor slower than the next; position codes do not
    rules: tuple[Rule, ...] = ()
    clip: float = 1.0
    ema: float = 0.998  # 0: no average is kept
    accumulate: int = 1  # pieces that a batch is computed in

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("name", self.name, OPTIMISERS),
            ("decay", self.decay, DECAYS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in allowed:
                raise ValueError(f"optim.{name} is one of {', '.join(allowed)}, not {value!r}")


def matching(names: Iterable[str], patterns: Iterable[str], what: str) -> set[str]:
    """The names that match any of the patterns: shell wildcards, or the beginning of a name.

    Raises ValueError for a pattern that matches nothing.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(name, pattern) or name.startswith(pattern)]
        if not hits:
            parts = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise ValueError(f"{what}: no parameter matches {pattern!r}; parts are {parts}")
        found.update(hits)
    return found


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Turn off the gradients of the parameters that match; see `matching`."""
    names = matching((name for name, _ in model.named_parameters()), patterns, "freeze")
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def layer_id(model: nn.Module, name: str) -> int:
    """The depth of a trunk parameter, 0 the earliest: see `protocols.HasBlocks`."""
    own = getattr(model.backbone, "layer_id", None)
    if own is not None:
        return own(name)
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith(("patch_embed", "pos_embed")) else len(blocks_of(model, "layer_decay")) + 1


def blocks_of(model: nn.Module, what: str) -> Sequence[Any]:
    """The blocks of a model's trunk. Raises ValueError, naming what needs them, for a backbone without."""
    blocks = getattr(model.backbone, "blocks", None)
    if blocks is None:
        raise ValueError(f"{what} needs a backbone with `blocks`; {type(model.backbone).__name__} has none")
    return blocks


def parameter_groups(model: nn.Module, optim: Optim) -> list[dict]:
    """What is trained of the model, grouped by weight decay and by learning rate ("multiplier" of the schedule)."""
    names = [name for name, _ in model.named_parameters()]
    for rule in optim.rules:
        matching(names, [rule.match], "optim.rules")
    plain = _undecayed(model, optim.decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay, multiplier = 0.0 if name in plain else optim.weight_decay, 1.0
        for rule in optim.rules:
            if fnmatchcase(name, rule.match) or name.startswith(rule.match):
                multiplier = rule.lr
                decay = decay if rule.weight_decay is None else rule.weight_decay
        if optim.layer_decay != 1.0 and name.startswith("backbone.") and "pos_embed" not in name:
            depth = layer_id(model, name.removeprefix("backbone."))
            multiplier *= optim.layer_decay ** (len(blocks_of(model, "layer_decay")) + 1 - depth)
        groups.setdefault((decay, multiplier), []).append(parameter)
    if not groups:
        raise ValueError("freeze: nothing is left to train")
    return [
        {"params": members, "weight_decay": decay, "multiplier": multiplier}
        for (decay, multiplier), members in groups.items()
    ]


def _undecayed(model: nn.Module, decay: str) -> set[str]:
    found = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            if decay == "upstream":
                free = "bias" in full or isinstance(module, nn.LayerNorm)
            else:
                free = parameter.ndim < 2 or isinstance(module, nn.Embedding) or "pos_embed" in full
            if free:
                found.add(full)
    return found


def learning_rate(step: int, total: int, optim: Optim) -> float:
    """Linear warm-up, then a cosine from `lr` to `floor` over the whole run, or `lr` throughout."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    if optim.schedule == "constant":
        return optim.lr
    share = min(1.0, (step - optim.warmup) / max(1, total - optim.warmup))
    return optim.floor + (optim.lr - optim.floor) * 0.5 * (1 + math.cos(math.pi * share))


class OptimiserGroup:
    """Several optimisers, each of its own part of a model, used as one."""

    def __init__(self, *members: torch.optim.Optimizer):
        self.members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all members; what is set on them counts."""
        return [group for member in self.members for group in member.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """What is kept of each parameter."""
        return {parameter: kept for member in self.members for parameter, kept in member.state.items()}

    def step(self) -> None:
        for member in self.members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for member, held in zip(self.members, state["members"], strict=True):
            member.load_state_dict(held)


def optimiser(model: nn.Module, optim: Optim) -> torch.optim.Optimizer | OptimiserGroup:
    """What takes the steps over what is trained of the model.

    Raises ValueError for "muon" with a torch that has none.
    """
    groups = parameter_groups(model, optim)
    hidden: set[int] = set()
    if optim.name == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optim.name 'muon' needs torch 2.9 or newer, this is {torch.__version__}; or use 'adamw'")
        linear = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
        hidden = {id(weight) for weight in linear if min(weight.shape) >= HIDDEN}
    plain, matrices = _parted(groups, hidden)
    members: list[torch.optim.Optimizer] = []
    if plain:
        devices = {parameter.device.type for group in plain for parameter in group["params"]}
        fused = True if devices == {"cuda"} else None  # None: torch chooses
        members.append(torch.optim.AdamW(plain, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), fused=fused))
    if matrices:
        members.append(torch.optim.Muon(matrices, lr=optim.lr, adjust_lr_fn="match_rms_adamw"))
    return members[0] if len(members) == 1 else OptimiserGroup(*members)


def _parted(groups: list[dict], chosen: set[int]) -> tuple[list[dict], list[dict]]:
    """The groups without the parameters of these ids, and with nothing but them; none is empty."""
    parts: tuple[list[dict], list[dict]] = ([], [])
    for group in groups:
        for part, inside in zip(parts, (False, True), strict=True):
            members = [each for each in group["params"] if (id(each) in chosen) is inside]
            if members:
                part.append({**group, "params": members})
    return parts


class Average:
    """An exponential moving average of a model's weights, corrected for its young age; with decay 0 the weights.

    torch's ``AveragedModel`` is another average: its decay is the same from the first step on, and it copies the
    model's weights after that step, where this one moves by 10/11 of the way; and a copy of the whole module is no
    place for weights that are sharded.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.count = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's present weights; early on the average follows closely."""
        self.count += 1
        decay = min(self.decay, self.count / (self.count + 10))
        now = model.state_dict()
        moving = [name for name, mine in self.weights.items() if mine.is_floating_point() and decay]
        for names in together(moving, now):
            mine, theirs = ([weights[name] for name in names] for weights in (self.weights, now))
            torch._foreach_lerp_(mine, theirs, 1 - decay)
        for name in self.weights.keys() - moving:
            self.weights[name].copy_(now[name])

    def state(self) -> dict[str, Tensor | int]:
        return {"count": self.count, **{f"weights.{name}": value for name, value in self.weights.items()}}

    def load(self, state: dict) -> None:
        self.count = int(state["count"])
        self.weights = {name: scattered(state[f"weights.{name}"], value) for name, value in self.weights.items()}
