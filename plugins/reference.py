"""Writes the tables of kinds and hooks into plugins/README.md, from the code: ``python plugins/reference.py``."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

FILE = Path(__file__).with_name("README.md")
START, END = "<!-- made by plugins/reference.py from the code -->\n", "<!-- end -->\n"


def tables() -> str:
    """The kinds with their contracts and what the registry passes, then the hooks, as Markdown."""
    from registry import builtin
    from registry.kinds import KINDS
    from registry.plugins import HOOKS
    from sam2core import hooks

    lines = ["| kind | what it does | contract | the registry passes | built in |", "|---|---|---|---|---|"]
    for kind in KINDS.values():
        module, _, name = kind.protocol.partition(":")
        assert getattr(importlib.import_module(module), name).__doc__, f"{kind.protocol} has no docstring"
        passes = ", ".join(f"`{word}`" for word in kind.passes) or ("-" if kind.called else "- (a value)")
        names = " ".join(f"`{part}`" for of, part, _ in builtin.COMPONENTS if of == kind.name)
        lines.append(f"| `{kind.name}` | {kind.summary} | `{module}.{name}` | {passes} | {names} |")
    lines += ["", "| hook | what it is for |", "|---|---|"]
    for name in HOOKS:
        hook = getattr(hooks, name)
        words = " ".join((inspect.getdoc(hook) or "").split("\n\n")[0].split()).replace("``", "`")
        arguments = ", ".join(inspect.signature(hook).parameters)
        lines.append(f"| `{name}({arguments})` | {words} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """The README's text with its tables as the code has them now."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return before + START + tables() + END + after


if __name__ == "__main__":
    sys.path.insert(0, str(FILE.parent.parent))
    FILE.write_text(with_tables(FILE.read_text(encoding="utf-8")), encoding="utf-8")
