"""What the project says of itself, its versions and its renamed parts agrees with the package."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import sam2core
from sam2core.older import WORDS
from tests.documents import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="runs from a checkout")


PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[0]


def said(key: str) -> str:
    """A field of pyproject's [project]; by a pattern, as Python 3.10 reads no TOML."""
    (value,) = re.findall(rf'^{key} = "(.+)"$', PROJECT, re.MULTILINE)
    return value


def test_the_version_is_the_same_wherever_it_is_said():
    version = said("version")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert f'__version__ = "{version}"' in Path(sam2core.__file__).read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert released[0] == version, "the newest version of the changelog that is not called unreleased"


def test_the_workflow_tests_the_oldest_versions_that_are_promised():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]}
    promised = dict(re.findall(r'^    "([\w-]+)>=([\d.]+)",$', PROJECT, re.MULTILINE))
    oldest = dict(text.split("==") for text in rows["oldest"]["torch"].split())
    assert oldest == {name: promised[name] for name in ("torch", "torchvision")}
    assert f">={rows['oldest']['python']}" == said("requires-python")
    assert rows["newest"]["torch"].split() == ["torch", "torchvision"]
    (step,) = (step["run"] for step in workflow["jobs"]["all"]["steps"] if "run" in step)
    assert (ROOT / step).stat().st_mode & 0o111, f"{step} is what CI runs"
    page = (ROOT / "docs/releases.md").read_text(encoding="utf-8")
    for name, least in (("Python", rows["oldest"]["python"]), ("PyTorch", oldest["torch"])):
        assert f"| {name} | {least} |" in page


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_an_issue_template_has_what_the_host_asks_for(path: Path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) and all(part["attributes"]["label"] for part in form["body"])


def test_the_table_of_renamed_things_is_true():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", changelog.split("### What was renamed")[1].split("\n## ")[0], re.M)[1:]
    assert len(rows) > 20
    for _, new in rows:
        for name in re.findall(r"`((?:sam2core|registry)\.[\w.]+)`", new):
            assert pkgutil.resolve_name(name) is not None
        for file in re.findall(r"`((?:sam2core|registry)/[^`]+)`", new):
            assert list(ROOT.glob(file)), file
    old, new = (" ".join(words) for words in zip(*rows, strict=True))
    for before, now in WORDS.items():
        assert re.search(rf"\b{before}\b", old, re.I) or re.search(rf"\b{before}s?\b", old, re.I), before
        assert re.search(rf"\b{now}\b", new, re.I), now
