"""Every test: no network, no third-party plugins, a fixed seed. Fixture `installed`: a fake installed plugin."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# Before anything discovers: what else is installed here must not change a test.
os.environ["SAM2CORE_PLUGINS"] = ""
os.environ.pop("SAM2CORE_STRICT_PLUGINS", None)

_LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine can be reached, for tests that bring a server of their own."""

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if isinstance(address, tuple) and address[0] not in _LOOPBACK:
                raise OSError(f"tests do not use the network: {address}")
            return real(self, address)

        return connect

    resolve = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        if host is not None and host not in _LOOPBACK:
            raise socket.gaierror(f"tests do not use the network: {host}")
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


class Installed:
    """A folder on sys.path with hand-written distributions, and the records and zoo that discovery makes of it."""

    def __init__(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        self.monkeypatch = monkeypatch
        self.plugins = importlib.import_module("registry.plugins")  # `registry.plugins` itself is the function

    def __call__(
        self,
        name: str,
        files: Mapping[str, str],
        points: Mapping[str, str] | None = None,
        *,
        version: str = "0.3",
    ) -> None:
        """Write a distribution: its files by path, its entry points by name (default: the name to the first module)."""
        for path, text in files.items():
            file = self.site / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        module = next(iter(files)).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{point} = {target}" for point, target in (points or {name: module}).items()]
        (info / "entry_points.txt").write_text("\n".join(["[sam2core]", *lines, ""]))
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
    site = tmp_path / "site"
    site.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delenv("SAM2CORE_PLUGINS")

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=[str(site)])
        return [point for distribution in found for point in distribution.entry_points if point.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    fixture = Installed(site, monkeypatch)
    fixture.again()
    yield fixture
    for name in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
