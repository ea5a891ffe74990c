"""plugins/README.md is true: its blocks run word for word in an empty folder, and its tables are the code's."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "plugins" / "README.md"
pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="runs from a checkout")
OUTSIDE = {  # what the guide's reader has: an environment with sam2core in it, and no index that must be asked
    "sam2core": "-m sam2core",
    "pip": "-m pip --disable-pip-version-check --quiet",
    "python": "",
}


def blocks() -> list[tuple[str, str]]:
    """The language and text of every code block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def environment(folder: Path) -> Path:
    """An environment of its own under `folder`, into which pip installs; what this one has is there too."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (library,) = folder.glob("lib/*/site-packages")
    seen = [path for path in sys.path if path.endswith("-packages")]
    (library / "shared.pth").write_text("\n".join([str(ROOT), *seen]))
    return folder / "bin" / "python"


def run(command: str, folder: Path, tools: Path) -> str:
    """What a shell prints, with the programs in `tools`."""
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("SAM2CORE_PLUGINS")}
    surroundings |= {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one the other way round: no isolation
    }
    ended = subprocess.run(["sh", "-ec", command], cwd=folder, env=surroundings, capture_output=True, text=True)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def test_every_block_runs_in_order(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    folder, tools = tmp_path / "empty", tmp_path / "tools"
    for made in (folder, tools):
        made.mkdir()
    python = environment(tmp_path / "venv")
    for name, words in OUTSIDE.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{python}" {words} "$@"\n')
        (tools / name).chmod((tools / name).stat().st_mode | stat.S_IXUSR)
    said = []
    for language, text in blocks():
        if language == "sh":
            said.append(run(text, folder, tools))
            continue
        path = re.match(r"# (\S+)\n", text)
        assert path, f"this {language} block does not begin with the name of its file:\n{text}"
        (folder / path[1]).write_text(text, encoding="utf-8")
    printed = "\n".join(said)
    assert re.search(r"acme-steady +acme-steady +0\.1 +ok +memory_policy:acme\.steady, spec:acme\.steady_nano", printed)
    assert "4 frames, AcmeSteady\n2.0\n" in printed
    assert "factor: 1.5" not in said[1] and "least: 0.3" in said[1]


def reference() -> object:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "plugins" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_code() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    made = reference().with_tables(text)  # type: ignore[attr-defined]
    assert text == made, "plugins/README.md is out of date: run  python plugins/reference.py"
    from registry.kinds import KINDS
    from registry.plugins import HOOKS

    assert all(f"| `{kind}` |" in text for kind in KINDS) and all(f"| `{hook}(" in text for hook in HOOKS)


def test_every_plugin_here_says_what_it_is() -> None:
    for project in ROOT.glob("plugins/*/pyproject.toml"):
        text = project.read_text(encoding="utf-8")
        assert (project.parent / "README.md").is_file(), f"{project.parent.name} has no README"
        code = "".join(file.read_text(encoding="utf-8") for file in project.parent.glob("sam2*/**/*.py"))
        if re.search(r"^\s*(from|import) (sam2core|registry)\b", code, re.MULTILINE):  # one may also call it over HTTP
            assert re.search(r'"sam2core(\[\w+\])?>=[\d.]+"', text), (
                f"{project.parent.name} does not say which sam2core it needs"
            )
