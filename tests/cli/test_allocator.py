"""The allocator's thresholds are set by the program, not by the library, and it says so."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from sam2core.cli.allocator import keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"
BUFFERS = """
import resource, sys
{before}
import numpy as np
counts = []
for _ in range(3):
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = np.full(48 * 2**20, 1, np.uint8)
    del buffer
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
print(counts[-1])
"""


def faults(before: str) -> int:
    """Page faults of a 48 MB buffer that a process has used twice before."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "SAM2CORE_M"))
    }
    words = [sys.executable, "-c", BUFFERS.format(before=before)]
    return int(subprocess.run(words, env=clean, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="the settings are glibc's")
def test_a_large_buffer_is_faulted_in_once_after_the_setting_and_importing_sets_nothing():
    used = faults("from sam2core.cli.allocator import keep_freed_memory; assert 'keeps' in keep_freed_memory()")
    assert used < 100
    assert faults("import sam2core, registry, sam2core.cli") > used + 20  # few where pages are huge


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("SAM2CORE_MALLOC", "default", "as SAM2CORE_MALLOC=default asks"), ("MALLOC_TOP_PAD_", "1", "MALLOC_TOP_PAD_")],
)
def test_the_environment_decides(monkeypatch, name, value, words):
    monkeypatch.delenv("SAM2CORE_MALLOC", raising=False)
    monkeypatch.setenv(name, value)
    assert words in keep_freed_memory() or not GLIBC


def test_doctor_says_what_was_done(run):
    assert "SAM2CORE_MALLOC=default" in json.loads(run("doctor", "--json").out)["facts"]["allocator"]
