"""A model small enough for any test, and a registry that knows only what a test gives it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import registry
from registry.installed import Point

if TYPE_CHECKING:
    from registry.plugins import Zoo
    from sam2core.model import Sam2


def tiny_model(*pairs: str, name: str = "test_tiny", seed: int = 0, **overrides: Any) -> Sam2:
    """The whole architecture in its smallest size, with random weights that are always the same; 128 pixels.

    `pairs` and `overrides` edit its spec as for `registry.build`: ``tiny_model(memory_policy="acme.motion")``.
    The random state of the caller is left alone.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return registry.build(name, *pairs, weights=False, **overrides)


@contextmanager
def isolated(*plugins: str | ModuleType, strict: bool = True) -> Iterator[Zoo]:
    """Within it, the registry knows the built-in parts and these plugins (modules, or their names), nothing else.

    What is installed does not matter, so a plugin can be tried before it is. With `strict`, a plugin that fails
    raises its own error here. Afterwards the registry is as it was. Not for several threads at once.
    """
    zoo_of: Any = importlib.import_module("registry.plugins")  # `registry.plugins` itself is the function
    names = [plugin if isinstance(plugin, str) else plugin.__name__ for plugin in plugins]
    points = [Point(name, name) for name in names]
    before = zoo_of._zoo
    zoo_of._zoo = zoo_of.discover(points, {"SAM2CORE_STRICT_PLUGINS": "1"} if strict else {})
    try:
        yield zoo_of._zoo
    finally:
        zoo_of._zoo = before
