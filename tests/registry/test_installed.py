"""What is installed is looked up once for an environment: counted, never timed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry import installed
from registry.installed import Point, points, scan

ROOT = Path(__file__).resolve().parents[2]


def write(site: Path, name: str, lines: str = "[sam2core]\nmine = mine_module\n", version: str = "1.0") -> Path:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: sam2core>=0.1\n"
    )
    (info / "entry_points.txt").write_text(lines)
    return info


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of sys.path, with a cache folder of its own beside it."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is installed.PathFinder])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(folder, "acme")
    return folder


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time the metadata is read."""
    counted: list[int] = []
    real = importlib.metadata.entry_points

    def entry_points(**params: str) -> importlib.metadata.EntryPoints:
        counted.append(1)
        return real(**params)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return counted


def the_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache/sam2core/plugins").iterdir()
    return file


ACME = Point("mine", "mine_module", "acme", "1.0", ("sam2core>=0.1",))


def test_the_metadata_is_read_once(site: Path, scans: list[int]) -> None:
    assert [points(), points(), points()] == [[ACME]] * 3
    assert len(scans) == 1


@pytest.mark.parametrize("change", ["another", "gone", "newer", "same version again", "edited in place"])
def test_what_is_installed_later_is_seen(change: str, site: Path, scans: list[int]) -> None:
    info = site / "acme-1.0.dist-info"
    assert points() == [ACME]
    if change == "another":
        write(site, "other", "[sam2core]\ntheirs = their_module:part\n")
    elif change in ("gone", "newer"):
        shutil.rmtree(info)
        if change == "newer":
            write(site, "acme", version="2.0")
    elif change == "same version again":
        kept = info.with_name("kept")
        shutil.copytree(info, kept)
        shutil.rmtree(info)
        shutil.copytree(kept, info)
        shutil.rmtree(kept)
        (info / "entry_points.txt").write_text("[sam2core]\nelse = mine_module\n")
    else:
        (info / "entry_points.txt").write_text("[sam2core]\nmine = mine_module:later\n")
    assert points() == scan([site])
    assert points() == scan([site]) != [ACME]
    assert len(scans) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stamp": 1}', '{"stamp": null, "points": [{"nobody": "knows"}]}'])
def test_a_damaged_file_is_written_again(text: str, site: Path, scans: list[int], tmp_path: Path) -> None:
    points()
    file = the_file(tmp_path)
    stamp = json.loads(file.read_text())["stamp"]
    file.write_text(text.replace("null", json.dumps(stamp)))
    assert points() == points() == [ACME]
    assert len(scans) == 2


def test_without_a_place_to_remember_it_works_all_the_same(
    site: Path, scans: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a_file"))
    assert points() == points() == [ACME]
    assert len(scans) == 2


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_a_file_that_others_can_write_is_not_believed(site: Path, scans: list[int], tmp_path: Path) -> None:
    points()
    file = the_file(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    tree = json.loads(file.read_text())
    tree["points"][0]["value"] = "planted"
    file.write_text(json.dumps(tree))
    file.chmod(0o666)
    assert points() == [ACME]
    assert len(scans) == 2


def test_two_environments_keep_a_file_each(site: Path, scans: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    other = site.with_name("other")
    write(other, "second", "[sam2core]\nsecond = second_module\n")
    found = {}
    for _ in range(2):
        for folder in (site, other):
            monkeypatch.setattr(sys, "path", [str(folder)])
            found[folder.name] = [point.name for point in points()]
    assert found == {"site": ["mine"], "other": ["second"]} and len(scans) == 2


def test_nothing_is_remembered_where_a_finder_brings_distributions(
    site: Path, scans: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = SimpleNamespace(find_distributions=lambda context: [], find_spec=lambda *_: None)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    assert points() == points() == [ACME]
    assert len(scans) == 2


def test_a_point_loads_what_it_names() -> None:
    assert Point("a", "os.path:join").load() is os.path.join
    assert Point("a", " json : decoder.JSONDecoder [extra]").load() is json.JSONDecoder
    assert Point("a", "json").load() is json


LOADED = """
import sys
before = set(sys.modules)
from sam2core.cli import main
try: main(sys.argv[1:])
except SystemExit as ended: assert not ended.code
print(*sorted(set(sys.modules) - before))
"""


def loaded(tmp_path: Path, *words: str) -> set[str]:
    """The modules that the command imports, with nothing downloaded and what is installed looked up before."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", LOADED, *words]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60) for _ in range(2)]
    assert not any(run.returncode for run in runs), runs[0].stderr
    return set(runs[-1].stdout.splitlines()[-1].split())


def test_the_version_needs_nothing_but_the_command_line(tmp_path: Path) -> None:
    found = loaded(tmp_path, "--version")
    tops = {name.partition(".")[0] for name in found}
    assert not tops & {"registry", "yaml", "pluggy", "omegaconf", "email", "ctypes"}
    assert "importlib.metadata" not in found
    assert {name for name in found if name.startswith("sam2core.")} <= {
        "sam2core.cli",
        "sam2core.cli.allocator",
        "sam2core.cli.wording",
        "sam2core.jobs",
        "sam2core.jobs.interrupt",
        "sam2core.older",
    }


def test_listing_models_reads_no_metadata_and_opens_no_network_library(tmp_path: Path) -> None:
    found = loaded(tmp_path, "models")
    assert "registry.installed" in found and "importlib.metadata" not in found
    assert not {"huggingface_hub.file_download", "httpx", "requests"} & found
