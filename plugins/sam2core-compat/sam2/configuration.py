"""Upstream's configurations by name, with overrides in Hydra's notation, without Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sam2.modeling.assembly import near

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The configurations that come with the package, as upstream spells them."""
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("**/*.yaml"))


def load(name: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``model`` tree of a configuration, as plain data.

    `name` is one of `names`, with or without ``.yaml`` and with or without its folder, or the path of a YAML file of
    the same form. Raises ValueError with the nearest name when there is none.
    """
    path = _find(os.fspath(name))
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is no YAML: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ValueError(f"{str(path)!r} describes no model: it needs a mapping `model` with `_target_`")
    return tree["model"]


def _find(name: str) -> Path:
    wanted = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    if os.path.isfile(wanted):
        return Path(wanted)
    for known in names():
        if wanted == known or ("/" not in wanted and known.rsplit("/", 1)[-1] == wanted):
            return FOLDER / known
    hint = near(wanted, names()) or near(f"configs/sam2.1/{wanted}", names())
    raise ValueError(f"there is no configuration {name!r}{hint}; known: {', '.join(names())}, or a path of a file")


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-6 is a number, as in version 1.2 and in OmegaConf."""


_Loader.yaml_implicit_resolvers = {key: list(found) for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A model tree with overrides applied: ``model.a.b=1`` changes, ``+`` adds, ``++`` does either, ``~`` removes.

    Raises ValueError for text that is no override, for a change of what is not there and for other parts than `model`.
    """
    tree = _copy(tree)
    for text in overrides:
        _apply(tree, text)
    return tree


def _apply(tree: dict[str, Any], text: str) -> None:
    mark = next((mark for mark in ("++", "+", "~") if text.startswith(mark)), "")
    key, equals, value = text[len(mark) :].partition("=")
    first, *path = key.strip().split(".")
    if (not equals and mark != "~") or not path or first != "model":
        raise ValueError(f"{text!r} is no override: write 'model.key=value', '+model.key=value' or '++model.key=value'")
    here = tree
    for step in path[:-1]:
        inner = here.get(step)
        if not isinstance(inner, dict):
            if mark not in ("+", "++"):
                raise ValueError(_absent(text, step, here))
            inner = here[step] = {}
        here = inner
    last = path[-1]
    if mark == "~":
        if last not in here:
            raise ValueError(_absent(text, last, here))
        del here[last]
        return
    if not mark and last not in here:
        raise ValueError(f"{_absent(text, last, here)}; to add it, write {'++' + text!r}")
    if mark == "+" and last in here:
        raise ValueError(f"{text!r} adds what is there already; write {'+' + text!r} to change it")
    here[last] = yaml.load(value, Loader=_Loader) if value else ""


def _absent(text: str, step: str, here: dict[str, Any]) -> str:
    return f"{text!r}: there is no {step!r}{near(step, here)} among {', '.join(here)}"


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
