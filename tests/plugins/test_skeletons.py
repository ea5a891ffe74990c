"""`sam2core plugins new`: a package of every kind is written, found, and passes the tests it came with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.kinds import KINDS
from sam2core.cli.skeleton import write_skeleton

ROOT = Path(__file__).parents[2]


def test_one_of_each_kind_is_installed_and_passes_its_own_tests(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    site, made = tmp_path / "site", tmp_path / "made"
    names = {kind: f"acme-{kind.replace('_', '-')}" for kind in KINDS}
    for kind, name in names.items():
        write_skeleton(name, kind, made)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SAM2CORE")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(site)])
    install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    install += ["--quiet", "--target", str(site), *(f"./{name}" for name in names.values())]
    asked = (
        "from sam2core import registry\n"
        "bad = [record for record in registry.plugins() if record.status != 'ok']\n"
        "assert not bad, bad\n"
        f"for kind in {list(KINDS)}:\n"
        "    assert f\"acme.{kind.replace('_', '-')}\" in registry.components(kind), kind\n"
        "import sys; assert 'torch' not in sys.modules\n"
    )
    tests = ["-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "."]
    for words in (install, ["-c", asked], tests):
        ended = subprocess.run([sys.executable, *words], cwd=made, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
        if words is install:
            assert not ended.stdout + ended.stderr, "a stranger's first build should not warn"
    assert f"{2 * len(KINDS) + 1} passed" in ended.stdout  # the predictor's has three


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_open_and_python_compiles(kind: str, tmp_path: Path) -> None:
    for file in write_skeleton("acme-very-own", kind, tmp_path):
        text = file.read_text(encoding="utf-8")
        assert "$" not in text, file
        assert all(len(line) <= 120 for line in text.splitlines()), file
        if file.suffix == ".py":
            compile(text, str(file), "exec")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("Acme", "neck", "lower-case words and hyphens, such as acme-motion"),
        ("../acme", "neck", "is no name for a package"),
        ("sam2core", "neck", "choose your own"),
        ("acme", "necks", "did you mean 'neck'"),
    ],
)
def test_what_cannot_be_written_is_said(name: str, kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        write_skeleton(name, kind, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    with pytest.raises(FileExistsError, match="is there already; nothing was written"):
        write_skeleton("acme", "neck", tmp_path)
    assert not list((tmp_path / "acme").iterdir())


def test_the_program_lists_what_it_wrote(tmp_path: Path, capsys: Any) -> None:
    from sam2core.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["plugins", "new", "acme-motion", "--kind", "memory_policy", "--into", str(tmp_path)])
    printed = capsys.readouterr()
    assert not ended.value.code
    files = [Path(line) for line in printed.out.split()]
    assert len(files) == 7 and all(file.is_file() for file in files) and "pip install -e" in printed.err
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "kinds"])
    table = capsys.readouterr().out
    assert all(kind in table and KINDS[kind].summary in table for kind in KINDS)
