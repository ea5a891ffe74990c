"""What the OpenAPI document promises holds: schemathesis calls a server in all the ways that it can think of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("schemathesis")
CONTRACT = Path(__file__).parent / "contract"
EXAMPLES = os.environ.get("SAM2CORE_WEB_EXAMPLES", "5")
"""Per operation and phase; more by hand, where `pytest -rP` shows what it tells."""


def test_the_document_holds(live: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    shutil.copytree(CONTRACT, tmp_path, dirs_exist_ok=True)  # it looks for its files, and leaves some, where it runs
    address = live("test_tiny", limits={"sessions_per_client": 64, "objects": 4}).address
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--no-color", "run", f"{address}/openapi.json"]
    command += ["--checks", "all", "--max-examples", EXAMPLES, "--seed", "1", "--generation-database", "none"]
    told = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "SAM2CORE_WEB_SERVER": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sys.stdout.write(told.stdout)
    assert told.returncode == 0
