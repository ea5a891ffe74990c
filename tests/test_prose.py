"""Prose is in plain English: it avoids what reads like a translation, and proselint finds nothing in documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.test_docs import DOCUMENTS

PHRASES = {
    r"go(es)? on where (it|they|the last) ": "resumes",
    r"[Ww]hat (you|a user|users) can cause": "invalid input raises ValueError",
    r"asks? for nothing": "pass None to skip",
    r"(does|is replaced|replaces) .{0,30}unasked|does it unasked": "off by default; unless you ask for it",
    r"(is|was|are) not visited": "exclusive",
    r"(by|without|no) unpickling": "no pickled code is executed",
    r"cannot be recalled any more": "memories the model can no longer use are dropped",
    r"is taken for (data|code)": "is treated as",
    r"None is nothing|nothing is none": "say what is passed",
    r"are seen not to\b": "were measured not to",
}
"""What was written here once and reads like a translation -> what an engineer would say."""
WORDS = {
    r"\b[Uu]pstream\b": "Meta's `sam2`",
    r"\b[Pp]hotographs?\b": "image, or photo",
    r"(?<![\"'])\b[Pp]ictures?\b": "image",
    r"(?<![\"'.])\b[Cc]lips?\b(?! of frames|\.\w)": "video",
    r"\b[Tt]he( trained)? small model\b": "the embedded model, or its name",
}
"""In documents and docstrings, one word for each idea."""
TRAINED_ON = re.compile(r"sam2core/(testing/)?training|sam2core/nano|registry/weights")
"""Here a clip is what a training sample is: some frames in a row."""
CODE = re.compile(r"```.*?```|<!--.*?-->|``.*?``|`[^`\n]*`|\]\([^)]*\)|^\|.*?$", re.DOTALL | re.MULTILINE)
CHECKS = ("archaism", "malapropisms", "misc", "mixed_metaphors", "mondegreens", "nonwords", "oxymorons",
          "psychology", "redundancy", "skunked_terms", "terms", "uncomparables")  # fmt: skip
"""The checks of proselint that are of words; its others are of taste and of quotation marks."""


def prose(text: str) -> str:
    """A document without code, tables, comments and addresses; lines stay where they are."""
    return CODE.sub(lambda match: "\n" * match[0].count("\n"), text)


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value  # of modules, classes and functions, and those behind a value


def found(texts: list[tuple[Path, str]], vocabulary: dict[str, str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {' '.join(match[0].split())!r}; say: {better}"
        for path, text in texts
        for pattern, better in vocabulary.items()
        for match in re.finditer(pattern.replace(" ", r"\s+"), text)
    ]


def test_documents_and_docstrings_avoid_what_reads_like_a_translation() -> None:
    texts = [(path, path.read_text(encoding="utf-8")) for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    tops = ("sam2core", "registry", "benchmarks", "plugins")
    sources = [path for top in tops for path in (ROOT / top).rglob("*.py") if "build" not in path.parts]  # pip's copies
    texts += [(path, text) for path in sources if "tests" not in path.parts for text in docstrings(path)]
    assert len(texts) > 1000
    assert not found(texts, PHRASES), "\n".join(found(texts, PHRASES))
    assert found([(ROOT / "x.md", "An interrupted download goes on\nwhere it stopped.")], PHRASES)


def test_documents_and_docstrings_have_one_word_for_each_idea() -> None:
    texts = [(path, prose(path.read_text(encoding="utf-8"))) for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    sources = [path for top in ("sam2core", "registry") for path in (ROOT / top).rglob("*.py")]
    texts += [(path, prose(text)) for path in sources for text in docstrings(path)]
    lost = found([(path, text) for path, text in texts if not TRAINED_ON.search(path.as_posix())], WORDS)
    assert not lost, "\n".join(lost)
    assert found([(ROOT / "x.md", "A photograph and a clip")], WORDS)


def test_proselint_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("proselint", reason="the extra `dev` is not installed")
    for path in DOCUMENTS:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(prose(path.read_text(encoding="utf-8")), encoding="utf-8")
    (tmp_path / "bad.md").write_text("It is a very unique free gift.\n", encoding="utf-8")
    command = [sys.executable, "-m", "proselint", "check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = (done.stdout + done.stderr).replace(f"{tmp_path.resolve()}/", "").splitlines()
    lines = [line for line in lines if re.search(rf":\d+:\d+: ({'|'.join(CHECKS)})\b", line)]
    assert any(line.startswith("bad.md") for line in lines), done.stderr
    assert not [line for line in lines if not line.startswith("bad.md")], "\n".join(lines)
