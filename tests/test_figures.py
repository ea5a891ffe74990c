"""Figures in prose come from a file: ``<!-- figures 1.8 2.0 from video_t.md -->`` stands behind their block of text.

A figure is the file's number, rounded or not. ``from the commands above`` is for what the page's own commands print.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.documents import ROOT
from tests.test_docs import DOCUMENTS, PAGES, named

FOLDERS = ("benchmarks/results", "benchmarks", "registry/weights", "plugins/*/benchmarks/results", "plugins/*")
TRACED = re.compile(r"<!-- figures ([\d. ]+) from (.+?) -->")
NUMBER = re.compile(r"(?<![\w.,-])\d+(?:\.\d+)?(?![\w]|\.\d|,\d)")
CLAIM = re.compile(
    r"\d times as|\d ms\b|\b(?:takes?|took) (?:about |less than |under )?[\d.]+ (?!of)"
    r"|\bm(?:ean |ask )?IoU\b[^.]*\d\.\d|J&F of \d",
    re.DOTALL,
)
NO_CLAIM = re.compile(r"```.*?```|<!-- made from .*?<!-- end -->|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)
VERSION = re.compile(r"(?:torch|PyTorch|Python|SAM|sam2|Runtime) [\d.]+\d")


def test_the_patterns_know_figures_from_settings():
    assert NUMBER.findall("0.48 after one, 86; 20,000 frames of `x1` in 3.11.7") == ["0.48", "86"]
    assert untraced("It is 1.5 times as fast.") and untraced("A J&F of 81 and 0.6.")
    assert not untraced("It is fast.\n\n| option | default |\n|-|-|\n| the IoU | 0.8 |")
    assert not untraced("It is 1.5 times as fast.\n\n<!-- figures 1.5 from x.md -->")
    assert said("0.48", ["0.483"]) and said("2", ["2.02"]) and not said("0.49", ["0.483"]) and said("60", ["59.9"])


def text_blocks(text: str) -> list[str]:
    return [block for block in re.split(r"\n\s*\n", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) if block.strip()]


def untraced(text: str) -> list[str]:
    """The blocks that claim a figure, with no comment behind them that says where it is from."""
    found, blocks = [], text_blocks(re.sub(r"<!-- made from .*?<!-- end -->", "", text, flags=re.DOTALL))
    for block, behind in zip(blocks, [*blocks[1:], ""]):
        plain = VERSION.sub("", NO_CLAIM.sub("", block))
        settings = plain.startswith("|") and re.search(r"default|option", plain.split("\n")[0])
        if CLAIM.search(plain) and NUMBER.search(plain) and not settings:
            traced = TRACED.search(behind)
            given = set(traced[1].split()) if traced else set()
            decimals = {number for number in NUMBER.findall(plain) if "." in number}
            if not given or decimals - given:
                found.append(" ".join(plain.split()))
    return found


def said(figure: str, numbers: list[str]) -> bool:
    """Whether a figure is one of these numbers, rounded to as many places as it has."""
    places = len(figure.partition(".")[2])
    half = 0.5 * 10**-places + 1e-9
    return any(abs(float(number) - float(figure)) <= half for number in numbers)


@named(DOCUMENTS)
def test_figures_stand_in_the_file_they_are_from(path: Path) -> None:
    blocks = text_blocks(path.read_text(encoding="utf-8"))
    for block, behind in zip(blocks, blocks[1:]):
        for figures, name in TRACED.findall(behind):
            for figure in figures.split():
                assert figure in NUMBER.findall(block), f"{path.name}: {figure} is not said before its comment"
            if name == "the commands above":
                assert "sam2core " in path.read_text(encoding="utf-8").split(behind)[0]
                continue
            (source,) = {file for folder in FOLDERS for file in ROOT.glob(f"{folder}/{name}")}
            numbers = NUMBER.findall(source.read_text(encoding="utf-8"))
            lost = [figure for figure in figures.split() if not said(figure, numbers)]
            assert not lost, f"{path.name}: {', '.join(lost)} not in {source.relative_to(ROOT)}"


@named([ROOT / "README.md", *(page for page in PAGES if page.name != "commands.md")])
def test_no_figure_is_said_without_a_source(path: Path) -> None:
    lost = untraced(path.read_text(encoding="utf-8"))
    assert not lost, "say behind each where it is from, <!-- figures ... from FILE -->:\n" + "\n".join(lost)


def test_figures_are_traced_at_all():
    pages = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    assert sum(len(TRACED.findall(text)) for text in pages) >= 6
