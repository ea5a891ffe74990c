"""Fixtures for the tests of plugins. In your conftest.py: ``from sam2core.testing.fixtures import installed  # noqa``.

isolated_registry   call it with your modules: the registry then knows the built-in parts and yours, nothing else
installed           a fake site-packages: call it with a distribution to write, and see what discovery makes of it
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from registry.installed import scan
from sam2core.testing.isolation import isolated

__all__ = ["Installed", "installed", "isolated_registry"]


@pytest.fixture
def isolated_registry() -> Iterator[Callable[..., Any]]:
    """Call it with the names of plugin modules; until the test ends the registry knows these and the built-in parts."""
    with ExitStack() as stack:

        def enter(*plugins: str | ModuleType, strict: bool = True) -> Any:
            return stack.enter_context(isolated(*plugins, strict=strict))

        yield enter


class Installed:
    """A folder on sys.path with hand-written distributions, and the records and zoo that discovery makes of it."""

    def __init__(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        self.monkeypatch = monkeypatch
        self.plugins: Any = importlib.import_module("registry.plugins")  # `registry.plugins` itself is the function

    def __call__(
        self,
        name: str,
        files: Mapping[str, str],
        points: Mapping[str, str] | None = None,
        *,
        version: str = "0.3",
        requires: str = "",
        group: str = "sam2core",
    ) -> None:
        """Write a distribution: its files by path, its entry points by name (default: the name to the first module)."""
        for path, text in files.items():
            file = self.site / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        module = next(iter(files)).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        lines = [f"{point} = {target}" for point, target in (points or {name: module}).items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        self.again()

    def again(self) -> None:
        """Forget what was discovered."""
        importlib.invalidate_caches()
        self.monkeypatch.setattr(self.plugins, "_zoo", None)

    def record(self, name: str) -> Any:
        """The record of the plugin called `name`."""
        return {record.name: record for record in self.plugins.current().records}[name]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """A fake site-packages whose distributions are all that is installed."""
    site = tmp_path / "site"
    site.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delenv("SAM2CORE_PLUGINS", raising=False)
    monkeypatch.delenv("SAM2CORE_STRICT_PLUGINS", raising=False)

    every = importlib.metadata.distributions

    monkeypatch.setattr(importlib.import_module("registry.plugins"), "points", lambda: scan([site]))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **context: every(path=[str(site)]))
    fixture = Installed(site, monkeypatch)
    fixture.again()
    yield fixture
    for name in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
