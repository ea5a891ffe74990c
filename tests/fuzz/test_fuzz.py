"""Damaged files are read or refused by a ValueError that names them: nothing else, within a memory and a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.attack import KINDS

COUNT = int(os.environ.get("SAM2CORE_FUZZ", "12"))
"""How many damaged files of each kind; set the variable for a longer search."""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("fuzz")
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.attack", str(folder), str(COUNT)],
        cwd=ROOT,
        env={**os.environ, "SAM2CORE_PLUGINS": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 + 5 * COUNT,
    )
    return folder, f"exit {run.returncode}: {run.stderr[-2000:]}"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits are set as on Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_by_name(attacked: tuple[Path, str], kind: str) -> None:
    folder, end = attacked
    done = folder / f"{kind}.json"
    now = folder / f"{kind}.now"
    assert done.exists(), f"ended in {kind} {now.read_text() if now.exists() else 'before the first'}: {end}"
    faults = json.loads(done.read_text())
    assert not faults, f"{len(faults)} of {COUNT}; the first, number {faults[0][0]}:\n{faults[0][1]}"
