"""Our own package `sam2` is nobody's reference."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.parity.whose import need_upstream

ROOT = Path(__file__).parents[2]


def test_our_drop_in_is_not_taken_for_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("sam2", ROOT / "plugins" / "sam2core-compat" / "sam2" / "__init__.py")
    assert spec is not None and spec.loader is not None
    ours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ours)
    monkeypatch.setitem(sys.modules, "sam2", ours)
    with pytest.raises(pytest.skip.Exception, match="sam2core-compat's"):
        need_upstream()


def test_every_comparison_asks_whose_it_is() -> None:
    asked = re.compile(r"importorskip\(\s*[\"']sam2[\"']")
    found = [path.name for path in (ROOT / "tests").rglob("*.py") if asked.search(path.read_text(encoding="utf-8"))]
    assert found == ["whose.py"]
