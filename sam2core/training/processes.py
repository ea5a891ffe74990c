"""One run in several processes: each has a replica of the model (DDP) or a shard of it (FSDP2).

Either way the rows of a batch are shared out, and after `Processes.share` the gradients on the parameters are the sums
over all rows, as if one process had done them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sam2core.training.losses import NAMES
from sam2core.training.rollout import Rollout


class DistributedRollout(nn.Module):
    """A rollout whose total loss depends on every trained parameter, on most by nothing but a zero.

    Which parameters a step needs differs from process to process, since prompts differ, but gradients can be exchanged
    only when all processes have all of them. `reached` says of each name whether it was more than a zero.
    """

    def __init__(self, rollout: Rollout):
        super().__init__()
        self.rollout = rollout
        self.reached: dict[str, bool] = {}

    def forward(self, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        named = self.rollout(*arguments, **options)
        found = leaves(named["total"])
        missed = []
        for name, parameter in self.rollout.model.named_parameters():
            if not parameter.requires_grad:
                continue
            # blocks that are sharded apart have been put away by now: every step needs the trunk
            here = isinstance(parameter, DTensor) or id(parameter) in found
            self.reached[name] = self.reached.get(name, False) or here
            if not here:
                missed.append(parameter.flatten()[0])
        if missed:
            named["total"] = named["total"] + 0 * torch.stack(missed).sum()
        return named


def leaves(loss: Tensor) -> set[int]:
    """The ids of the tensors that a loss has a gradient for."""
    waiting, seen, found = [loss.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.add(id(leaf))
        waiting += [following for following, _ in node.next_functions]
    return found


class Processes:
    """The processes that share a run; alone when no process group has been started.

    shard: keep only a part of the weights, of their average and of the optimiser's state in each process, and put the
    blocks of the trunk together when they are needed. Raises ValueError for shards without other processes, or of a
    backbone without `blocks`.
    """

    def __init__(self, rollout: Rollout, *, shard: bool = False):
        together = distributed.is_available() and distributed.is_initialized()
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
        self.rollout, self.shard = rollout, shard
        self.module: nn.Module = rollout
        if self.world > 1:
            self.module = (
                _sharded(rollout)
                if shard
                else DistributedDataParallel(DistributedRollout(rollout), broadcast_buffers=False)
            )
        elif shard:
            raise ValueError("shards need several processes: torchrun --nproc-per-node N")

    def piece(self, last: bool) -> AbstractContextManager:
        """Around a forward and backward pass of one piece of a batch: only after the last are gradients exchanged."""
        whole = last or not isinstance(self.module, DistributedDataParallel)
        return nullcontext() if whole else self.module.no_sync()  # type: ignore[operator]

    def as_first(self, answer: bool) -> bool:
        """The first process's answer, in all of them."""
        if self.world == 1:
            return answer
        told = torch.tensor([int(answer)], device=next(self.rollout.parameters()).device)
        distributed.broadcast(told, 0)
        return bool(told.item())

    def share(self, parameters: Mapping[str, nn.Parameter], named: dict[str, float], *counts: int) -> list[int]:
        """Make gradients and losses the sums over all processes; the sums of `counts`.

        A parameter that no process needed has no gradient, as in a run of one.
        """
        if self.world == 1:
            return list(counts)
        reaching = next(module for module in self.module.modules() if isinstance(module, DistributedRollout))
        device = next(iter(parameters.values())).device
        reached = (float(reaching.reached[name]) for name in parameters)
        told = [*(named.get(name, 0.0) for name in NAMES), *counts, *reached]
        sums = torch.tensor(told, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        distributed.all_reduce(sums)
        reaching.reached.clear()
        values = sums.tolist()
        named.update((name, value) for name, value in zip(NAMES, values) if value or name in named)
        for parameter, needed in zip(parameters.values(), values[len(NAMES) + len(counts) :]):
            if not needed:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad *= self.world  # the mean over processes so far
        return [round(value) for value in values[len(NAMES) : len(NAMES) + len(counts)]]


def _sharded(rollout: Rollout) -> nn.Module:
    """Shards of a rollout in place, each block of the trunk apart and everything else together."""
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise ImportError(f"shards need torch 2.6 or newer; this is {torch.__version__}") from error
    from torch.distributed.device_mesh import init_device_mesh

    model = rollout.model
    blocks = getattr(model.backbone, "blocks", None)
    if blocks is None:
        raise ValueError(f"shards need a backbone with `blocks`; {type(model.backbone).__name__} has none")
    kind = next(model.parameters()).device.type
    mesh = init_device_mesh(kind, (distributed.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(DistributedRollout(rollout), mesh=mesh)
