"""The contract of a predictor: a tool over a model that keeps nothing of what it did."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sam2core.testing.isolation import tiny_model
from sam2core.testing.rules import Examination, Found
from sam2core.testing.values import same


def examine_predictor(
    examination: Examination,
    tool: Any,
    make: Callable[[Any], Any] | None,
    use: Callable[[Any], Any] | None,
) -> None:
    """Raise ContractError at the first rule that the predictor breaks."""
    with examination.rule("model", "`model` is the model it was given, in evaluation mode"):
        if not isinstance(getattr(tool, "model", None), torch.nn.Module):
            raise Found(f"model is {getattr(tool, 'model', None)!r}")
        if tool.model.training:
            raise Found("the model is in training mode")
    if make is not None:
        _leaves_the_model_alone(examination, make)
    ways = [use] if use is not None else _ways(tool)
    wants = "it holds no state of a task: what it gives depends on what it is asked, not on what came before"
    with examination.rule("no state", wants):
        for way in ways:
            first = way(tool)
            for other in ways:
                other(tool)
            same(first, way(tool), "of its results is another the second time", within=1e-5)
            if make is not None:
                same(first, way(make(tool.model)), "of its results is another from a new one", within=1e-5)


def _leaves_the_model_alone(examination: Examination, make: Callable[[Any], Any]) -> None:
    with examination.rule("model", "the model is shared: making a predictor changes nothing of it"):
        model = tiny_model(image_size=64)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        policy = model.memory_policy
        if getattr(make(model), "model", None) is None:
            raise Found("it has no `model`")
        if changed := [name for name, x in model.state_dict().items() if not torch.equal(x, before[name])]:
            raise Found(f"weights were changed: {', '.join(changed[:3])}")
        if model.memory_policy is not policy:
            raise Found("the model's memory policy was replaced; keep your own beside it")


def _ways(tool: Any) -> list[Callable[[Any], Any]]:
    """How a tool that looks like one of ours is used, on two images or videos."""
    random = torch.Generator().manual_seed(0)
    clips = [(torch.rand(3, 40, 56, 3, generator=random) * 255).to(torch.uint8).numpy() for _ in range(2)]
    for does, way in (("open", _tracked), ("encode", _clicked), ("generate", _generated)):
        if hasattr(tool, does):
            return [functools.partial(way, clip) for clip in clips]
    return []


def _tracked(clip: Any, tool: Any) -> Any:
    session = tool.open(list(clip))
    session.prompt(0, 1, points=[[20, 20]])
    return [result.logits for result in session.propagate()]


def _clicked(clip: Any, tool: Any) -> Any:
    return tool.encode(clip[0]).predict(points=[[20, 20]]).logits


def _generated(clip: Any, tool: Any) -> Any:
    return tool.generate(clip[0])
