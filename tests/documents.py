"""What tests of documents share: blocks of code, examples on the smallest model, headings and links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLES = ("coffee.jpg", "cat.jpg", "chair.mp4")
_BLOCK = re.compile(r"^```([^\n`]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_MODEL = re.compile(r"sam2core_nano|sam2(\.1)?_hiera_")


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks of a document whose opening line is one of these, in order: "python", not 'python title="x"'."""
    return [code for language, code in _BLOCK.findall(text) if language in languages]


def small(script: str) -> str:
    """The script with the smallest model, untrained, in the place of each that it builds."""
    tree = ast.parse(script)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
            continue
        name = call.args[0]
        if call.func.attr in ("build", "predictor") and isinstance(name, ast.Constant) and _MODEL.match(name.value):
            name.value = "test_tiny"
            if "automask" in (ast.literal_eval(one) for one in call.args[1:] if isinstance(one, ast.Constant)):
                if not any(keyword.arg == "points_per_side" for keyword in call.keywords):
                    call.keywords.append(ast.keyword("points_per_side", ast.Constant(4)))
            if not any(keyword.arg == "weights" for keyword in call.keywords):
                call.keywords.append(ast.keyword("weights", ast.Constant(False)))
    return ast.unparse(tree)


def links(text: str) -> list[str]:
    """Where a document's links and images lead, those of code blocks left out."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The addresses of a document's headings."""
    titles = re.findall(r"^#+ +(.+)$", _FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}
