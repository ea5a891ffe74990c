"""How docstrings of this package are read for the API reference, as an extension of Griffe.

They are set for people who read source: a table of arguments is a column of names and one of words, and what an
attribute holds stands behind it as a comment. Here both become what the site shows as a list and as text. A function
that shares its name with a module of its package, such as `registry.spec`, is found as ``registry.spec()``.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROW = re.compile(r"^([\w./*][\w ,./*]*?) {2,}(\S.*)$")
COMMENT = re.compile(r"^[^\"'#]*#\s*(.+)$")


def listed(text: str) -> str:
    """The docstring with its columns of names and words, and its sentences of options, as lists."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        if "Options: `" in block:
            before, _, options = " ".join(block.split()).partition("Options: ")
            options, dot, after = options.partition(". ")
            items = "\n".join(f"* {item}" for item in re.split(r"; (?=`)", options + dot.strip()))
            blocks += [part for part in (f"{before}Options:", items, after) if part]
            continue
        rows: list[list[str]] = []
        for line in block.split("\n"):
            found = ROW.match(line)
            if found:
                rows.append([found[1], found[2]])
            elif rows and line.startswith(" "):
                rows[-1][1] += " " + line.strip()
            else:
                rows = []
                break
        blocks.append("\n".join(f"* `{name}`: {words}" for name, words in rows) if rows else block)
    return "\n\n".join(blocks)


class HouseStyle(griffe.Extension):
    """Docstrings as `listed` has them; a comment behind an attribute as its docstring, where it has none."""

    def __init__(self) -> None:
        self._functions: list[griffe.Function] = []

    def on_function_instance(self, *, func: griffe.Function, **kwargs: Any) -> None:
        if func.parent is not None and func.parent.is_module:
            self._functions.append(func)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for function in self._functions:
            if function.parent is pkg and pkg.members.get(function.name) is not function:
                pkg.members[f"{function.name}()"] = function
                self.on_object(obj=function)

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
        elif obj.is_attribute and obj.lineno is not None and not obj.name.startswith("_"):
            line = obj.lines_collection[obj.filepath][obj.lineno - 1]
            if found := COMMENT.match(line):
                obj.docstring = griffe.Docstring(found[1], lineno=obj.lineno, parent=obj)
