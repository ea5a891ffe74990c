"""A few clients at once: the load of `benchmarks/load.py`, small."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "benchmarks" / "load.py"


def test_several_clients_get_their_own_masks(live: Callable[..., Any]) -> None:
    spec = importlib.util.spec_from_file_location("sam2core_web_load", PATH)
    assert spec is not None and spec.loader is not None
    load = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    server = live()
    report = load.run(server.address, clients=4, requests=40, seed=7)
    assert report.errors == [] and report.requests >= 40
    assert {"prompt", "propagate", "preview", "export", "close"} <= set(report.seconds)
    assert report.masks and load.wrong(report) == []
    assert len(server.app.state.sessions) == len(report.left) == 4
