"""The documents are true: code runs, commands parse, links lead somewhere, and what is repeated is current."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, SAMPLES, anchors, blocks, links, small

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "plugins/*.md", "plugins/*/*.md", "registry/**/*.md")
    for path in ROOT.glob(pattern)
)
OURS = ("python", 'python title="sam2core"')
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="runs from a checkout")


def script(path: Path) -> Any:
    """A Python file that is no module of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.relative_to(ROOT).as_posix())


@named([page for page in PAGES if blocks(page.read_text(encoding="utf-8"), *OURS)])
def test_the_code_of_a_page_runs_in_order(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("av")
    if path.stem == "from-supervision":
        pytest.importorskip("supervision")
    monkeypatch.chdir(tmp_path)
    for name in SAMPLES:
        shutil.copy(ROOT / "registry" / "samples" / name, name)
    names: dict[str, Any] = {}
    for code in blocks(path.read_text(encoding="utf-8"), *OURS):
        exec(compile(small(code), path.name, "exec"), names)


@named(DOCUMENTS)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in links(text):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{path.name} links to {link}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{path.name} links to {link}"


def commands(text: str) -> list[list[str]]:
    """The lines of a document's shell blocks that call the program, as words."""
    lines = "".join(blocks(text, "sh", "")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("sam2core ")]


@named([page for page in PAGES if commands(page.read_text(encoding="utf-8"))])
def test_the_commands_of_a_page_exist(path: Path) -> None:
    import click

    from sam2core.cli import VERBS, main

    for words in commands(path.read_text(encoding="utf-8")):
        assert words[1] in VERBS, f"{words[1]!r} is no verb: {' '.join(words)}"
        command, rest = main.get_command(click.Context(main), words[1]), words[2:]
        while isinstance(command, click.Group) and rest:
            subs = {**command.commands}
            if rest[0] not in subs and "run" in subs:  # `train --recipe` means `train run --recipe`
                rest = ["run", *rest]
            command, rest = subs[rest[0]], rest[1:]
        context = click.Context(command)
        values, _, _ = command.make_parser(context).parse_args(list(rest))
        for option in command.params:
            needed = option.required and (not isinstance(option, click.Argument) or option.nargs == 1)
            assert not needed or values.get(option.name) is not None, f"{' '.join(words)}: no {option.name}"
            given = values.get(option.name)
            for one in given if isinstance(given, list | tuple) else [given]:
                if isinstance(option.type, click.Choice) and one is not None:
                    option.type.convert(one, option, context)


def test_what_is_repeated_from_elsewhere_is_current() -> None:
    pytest.importorskip("av")
    reference = script(DOCS / "reference.py")
    wanted = "run  python docs/reference.py"
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == reference.commands(), wanted
    made = 0
    for page in (ROOT / "README.md", *PAGES):
        text = page.read_text(encoding="utf-8")
        made += len(reference.MADE.findall(text))
        assert text == reference.with_made(text), f"{page.name}: {wanted}"
        made += len(reference.PRINTED.findall(text))
    assert made >= 10


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.glob("**/*.md")}
    assert there <= set(listed), there - set(listed)
    assert {f"notebooks/{path.stem}.md" for path in NOTEBOOKS} <= set(listed) and len(NOTEBOOKS) == 6


THEIRS = [(page, package) for page in PAGES for package in ("sam2", "transformers") if page.stem == f"from-{package}"]


@pytest.mark.parametrize(("page", "package"), THEIRS, ids=lambda value: getattr(value, "stem", value))
def test_the_others_code_names_what_they_have(page: Path, package: str) -> None:
    pytest.importorskip(package)
    theirs = blocks(page.read_text(encoding="utf-8"), f'python title="{package}"')
    assert len(theirs) >= 3
    tree = ast.parse("\n".join(theirs))
    imported: list[Any] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == package:
            module = importlib.import_module(node.module)
            imported += [getattr(module, alias.name) for alias in node.names]
    built = importlib.import_module("sam2.sam2_video_predictor").SAM2VideoPredictor if package == "sam2" else None
    offered = [thing for thing in [*imported, built] if thing is not None]
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    checked = 0
    for call in called:
        if isinstance(call.func, ast.Attribute):
            name = call.func.attr
            owners = [getattr(thing, name) for thing in offered if inspect.isclass(thing) and hasattr(thing, name)]
            if not owners and name in ("array", "open", "no_grad", "argmax", "cpu"):  # numpy, Pillow, torch
                continue
            assert owners, f"{package} has no {name}"
        elif isinstance(call.func, ast.Name) and call.func.id in {getattr(thing, "__name__", "") for thing in imported}:
            owners = [thing for thing in imported if getattr(thing, "__name__", "") == call.func.id]
        else:
            continue
        for keyword in call.keywords:
            assert any(takes(owner, keyword.arg) for owner in owners), (
                f"{ast.unparse(call.func)} takes no {keyword.arg}"
            )
        checked += 1
    assert checked >= 6


GUIDES = [page for page in PAGES if page.stem in ("from-supervision", "from-transformers", "from-ultralytics")]


def pairs_of_code(page: Path) -> list[tuple[str, str]]:
    """A snippet of theirs, and the same done with ours."""
    text, package = page.read_text(encoding="utf-8"), page.stem.removeprefix("from-")
    theirs, ours = (blocks(text, f'python title="{name}"') for name in (package, "sam2core"))
    return list(zip(theirs, ours, strict=True))


@named(GUIDES)
def test_ours_is_no_longer_than_theirs(path: Path) -> None:
    for theirs, ours in pairs_of_code(path):
        lines = [len([line for line in code.splitlines() if line.strip()]) for code in (ours, theirs)]
        assert lines[0] <= lines[1], ours


def test_a_dozen_snippets_are_rewritten() -> None:
    assert sum(len(pairs_of_code(page)) for page in GUIDES) >= 12


def test_supervision_has_what_its_code_names() -> None:
    supervision = pytest.importorskip("supervision")
    text = (DOCS / "from-supervision.md").read_text(encoding="utf-8")
    tree = ast.parse("\n".join(blocks(text, 'python title="supervision"')))
    checked = 0
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name.startswith("sv."):
            function: Any = supervision
            for part in name.split(".")[1:]:
                function = getattr(function, part)
            assert all(takes(function, keyword.arg) for keyword in call.keywords), name
            checked += 1
    assert checked >= 6


def takes(function: Any, keyword: str | None) -> bool:
    """Whether a function has an argument of this name, or any."""
    parameters = inspect.signature(function).parameters
    return keyword in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


@named(NOTEBOOKS)
def test_a_notebook_has_its_outputs_and_is_small(path: Path) -> None:
    import json

    text = path.read_text(encoding="utf-8")
    assert len(text) < 300_000, f"{len(text)} bytes: smaller images"
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run docs/notebooks/run.py"
    kinds = [kind for cell in cells for output in cell["outputs"] for kind in output.get("data", ())]
    assert "image/jpeg" in kinds and "image/png" not in kinds
    said = ["".join(output.get("text", ())) for cell in cells for output in cell["outputs"]]
    assert not re.search(r"/(work|root|tmp|home|opt|usr)/", "".join(said)), "a path of the machine it ran on"
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell["outputs"])


@named(NOTEBOOKS)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
    pytest.importorskip("ipykernel", reason="the extra `docs` is not installed")
    pytest.importorskip("av")
    for name, value in (
        ("PIP_NO_INDEX", "1"),
        ("PIP_NO_BUILD_ISOLATION", "0"),
        ("IPYTHONDIR", str(tmp_path / "ipython")),
    ):
        monkeypatch.setenv(name, value)
    notebook = script(DOCS / "notebooks" / "run.py").execute(path, tmp_path)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.get("name") != "stderr", output["text"]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "notebooks/plugin.html", "api/video.html", "plugins/guide.html", "model-card.html"} <= pages
    broken = []
    for page in pages - {"404.html"}:
        text = (tmp_path / "site" / page).read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not re.match(r"[a-z]+:|//", target) and not (tmp_path / "site" / page).parent.joinpath(target).exists():
                broken.append(f"{page}: {target}")
    assert not broken, broken
    for page, words in (("video", "Track every object frame by frame"), ("registry", "The resolved spec of a model")):
        assert words in (tmp_path / "site" / "api" / f"{page}.html").read_text(encoding="utf-8")


def test_every_plugin_is_on_the_page_of_plugins() -> None:
    linked = links((DOCS / "plugins.md").read_text(encoding="utf-8"))
    for project in ROOT.glob("plugins/*/pyproject.toml"):
        assert f"../plugins/{project.parent.name}/README.md" in linked, project.parent.name
