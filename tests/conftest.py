"""Every test: no network, no third-party plugins, a fixed seed. Fixture `installed`: a fake installed plugin."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one thread each, for what they start too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from sam2core.testing.fixtures import installed, isolated_registry  # noqa: F401

# Before anything discovers: what else is installed here must not change a test.
os.environ["SAM2CORE_PLUGINS"] = ""
os.environ.pop("SAM2CORE_STRICT_PLUGINS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test keeps its name from run to run, which several processes (pytest-xdist) need: no address of an object."""
    named = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if named:
        raise pytest.UsageError(f"tests with an object's address in their names; give them ids: {', '.join(named)}")


def _skipped(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Name what is skipped, a test or a whole file, in the file that SAM2CORE_SKIPPED names: to be run elsewhere."""
    file = os.environ.get("SAM2CORE_SKIPPED")
    if file and report.skipped and not hasattr(report, "wasxfail"):
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(report.nodeid + "\n")


pytest_collectreport = pytest_runtest_logreport = _skipped


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


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def both_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs twice: with `torch.mm` and with oneDNN's products in fp32, however small they are."""
    from sam2core.ops.cpu import products

    monkeypatch.setattr(products, "WIDE", request.param)
    monkeypatch.setattr(products, "FUSED_PRODUCTS", 0)
