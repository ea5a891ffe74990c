"""Low-rank adapters through `peft`: train a few matrices beside frozen weights, and merge them in when done."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from sam2core.training.optim import matching


@dataclass(frozen=True)
class Lora:
    """Which linear layers get adapters (Hu et al. 2021), and what is trained as a whole besides.

    targets: patterns of module names, such as ``backbone.*.qkv``. train: patterns of parameters that stay trainable.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = ("backbone.*.qkv", "backbone.*.attn.proj")
    train: tuple[str, ...] = ()


def add_adapters(model: nn.Module, lora: Lora, *, seed: int = 0) -> None:
    """Put adapters into the model and freeze everything else but `lora.train`.

    Raises ValueError for patterns that match nothing, ModuleNotFoundError that says what to install without `peft`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        words = "a recipe with `lora` needs peft: pip install 'sam2core[lora]'"
        raise ModuleNotFoundError(words, name="peft") from error
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in linear if any(fnmatchcase(name, pattern) for pattern in lora.targets)]
    for pattern in lora.targets:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise ValueError(f"lora.targets: no linear layer matches {pattern!r}; such as {linear[0]!r} would be one")
    kept = matching((name for name, _ in model.named_parameters()), lora.train, "lora.train")
    whole = [parameter for name, parameter in model.named_parameters() if name in kept]
    torch.manual_seed(seed)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=chosen)
    inject_adapter_in_model(config, model)
    for parameter in whole:
        parameter.requires_grad_(True)


def merge_adapters(model: nn.Module) -> nn.Module:
    """Add the adapters to the weights they sit beside and take them out again, in place; without any, nothing."""
    layers = sys.modules.get("peft.tuners.tuners_utils")
    if layers is None:  # never imported, which takes seconds: nothing can have been put in
        return model
    for name, module in list(model.named_modules()):
        if isinstance(module, layers.BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    return model
