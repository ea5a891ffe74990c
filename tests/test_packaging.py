"""What a wheel holds: every source file, the specs, the weights and the samples. And whether the README is true."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = (
    "registry/specs/*.yaml",
    "registry/recipes/*.yaml",
    "sam2core/nano/specs/*.yaml",
    "sam2core/nano/recipes/*.yaml",
    "registry/weights/*.safetensors",
    "registry/weights/*.md",
    "registry/weights/*.json",
    "registry/skeletons/*.txt",
    "registry/samples/*",
    "registry/py.typed",
    "sam2core/py.typed",
)

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="runs from a checkout")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel of a copy of the checkout, built without network and without leaving anything behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("sam2core", "registry"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder / name)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (folder / "dist").glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl"), "a wheel for every platform: nothing is compiled"
    return zipfile.ZipFile(path)


def test_every_source_file_is_in_the_wheel(wheel):
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("sam2core", "registry")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources and not sources - set(wheel.namelist())


def test_specs_weights_and_samples_are_in_the_wheel(wheel):
    inside = set(wheel.namelist())
    for pattern in DATA:
        files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        assert files <= inside, f"{pattern}: {files - inside}"
    assert {"registry/specs/sam2.1_hiera_l.yaml", "registry/samples/LICENSES.md"} <= inside


def test_nothing_else_is_in_the_wheel(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sam2core", "registry"}
    sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
    assert all(size <= 12e6 for name, size in sizes.items() if name.endswith(".safetensors")), "half precision will do"
    assert sum(sizes.values()) < 20e6


def test_the_command_is_declared(wheel):
    (entries,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "sam2core = sam2core.cli:main" in wheel.read(entries).decode()
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    import sam2core

    assert f"\nVersion: {sam2core.__version__}\n" in text


def test_every_sample_has_a_licence():
    text = (ROOT / "registry/samples/LICENSES.md").read_text()
    samples = [path for path in (ROOT / "registry/samples").iterdir() if path.name != "LICENSES.md"]
    assert samples and all(f"`{path.name}`" in text for path in samples)
    assert sum(path.stat().st_size for path in samples) < 1e6


def test_the_readme_has_the_two_commands_that_ci_runs():
    lines = re.findall(r"^python3 -m venv \.venv && .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 2
    first, second = lines
    words = first.split()
    picture = words[words.index("segment") + 1]
    assert (ROOT / picture).is_file()
    assert second.endswith("&& .venv/bin/pytest -n 2")
