"""Annotations: whether a plain value, as YAML and command lines give them, is what a parameter says it takes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import Any

_SCALARS: dict[str, tuple[type, ...]] = {
    "int": (int, bool),
    "float": (float, int, bool),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
}
_LISTS = ("Sequence", "list", "List", "tuple", "Tuple")
_MAPPINGS = ("Mapping", "dict", "Dict")
_PLAIN = (int, float, str, bool, type(None), list, tuple, dict)


DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""The floating types that models run in: short names, and torch's."""


def dtype_name(word: str) -> str:
    """Torch's name of a floating type, of either name. Raises ValueError."""
    name = DTYPES.get(word, word)
    if name not in DTYPES.values():
        known = f"{', '.join(DTYPES.values())} ({', '.join(DTYPES)})"
        raise ValueError(f"no dtype is called {word!r} here; the choices are {known}")
    return name


def spelled(annotation: Any) -> str:
    """An annotation as in the source, whether or not the module evaluates its annotations."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` may be passed where `annotation` stands; True where that is not plain enough to judge.

    Judged are numbers, texts, None, lists and mappings against int, float, str, bool, None, lists and mappings of
    these, and unions. Values of other types (subclasses too: NumPy's numbers, enumerations) and other annotations are
    never refused. As for type checkers an int is a float; 0 and 1 are bools besides.
    """
    try:
        tree = ast.parse(spelled(annotation), mode="eval").body
    except SyntaxError:
        return True
    return _fits(value, tree)


def _fits(value: Any, tree: ast.expr) -> bool:
    if type(value) not in _PLAIN:
        return True
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return _fits(value, tree.left) or _fits(value, tree.right)
    if isinstance(tree, ast.Subscript):
        inner = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        return _fits_generic(value, _name(tree.value), inner)
    name = _name(tree)
    if name in _SCALARS and not isinstance(tree, ast.Attribute):
        return type(value) in _SCALARS[name] or (name == "bool" and type(value) is int and value in (0, 1))
    if name in _LISTS or name in _MAPPINGS:
        return _fits_generic(value, name, [])
    return True


def _fits_generic(value: Any, name: str, inner: list[ast.expr]) -> bool:
    if name == "Optional":
        return value is None or any(_fits(value, each) for each in inner)
    if name == "Union":
        return any(_fits(value, each) for each in inner)
    if name in _LISTS:
        if isinstance(value, str) and name == "Sequence":  # a text is a sequence of texts
            return not inner or _fits(value, inner[0])
        if not isinstance(value, list | tuple):
            return False
        if len(inner) > 1 and _name(inner[-1]) != "Ellipsis":  # tuple[float, float]
            return len(value) == len(inner) and all(map(_fits, value, inner))
        return not inner or all(_fits(item, inner[0]) for item in value)
    if name in _MAPPINGS:
        return isinstance(value, Mapping) and (
            len(inner) != 2 or all(_fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items())
        )
    return True


def _name(tree: ast.expr) -> str:
    """The last name of `typing.Sequence` and its like; the empty text for what is no name."""
    if isinstance(tree, ast.Attribute):
        return tree.attr
    if isinstance(tree, ast.Constant):  # `int | None`, `tuple[int, ...]`
        return "None" if tree.value is None else "Ellipsis" if tree.value is ... else ""
    return tree.id if isinstance(tree, ast.Name) else ""


def integer(value: object) -> int | None:
    """The value as Python's int, NumPy's integers too; None for anything else, True and False included."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
