"""Run the program in this process: exit code, stdout and stderr."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """The program as it starts: no plugin was asked for its verbs yet."""
    from sam2core.cli import main

    monkeypatch.setattr(main, "commands", {})
    monkeypatch.setattr(main, "_joined", False)
    monkeypatch.setenv("SAM2CORE_MALLOC", "default")  # this process also measures memory in other tests


@pytest.fixture
def run(capsys):
    """Call `sam2core` with words; returns code, out and err."""
    from sam2core.cli import main

    def call(*words: object) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words], prog_name="sam2core")
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return call
