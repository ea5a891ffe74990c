"""Whole tensors from shards, and shards from whole ones: checkpoints do not know how many processes wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(tree: Any) -> Any:
    """A tree of plain values in which sharded tensors are whole; all processes must ask for it."""
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    if isinstance(tree, Mapping):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(gathered(value) for value in tree)
    return tree


def scattered(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: where it is, and sharded if that one is."""
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole


def together(names: Iterable[str], tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of tensors that one call over many may take: those in shards apart from whole ones.

    A few calls in the place of hundreds: a GPU would spend its time on launching them.
    """
    groups: dict[type, list[str]] = {}
    for name in names:
        groups.setdefault(type(tensors[name]), []).append(name)
    return list(groups.values())
