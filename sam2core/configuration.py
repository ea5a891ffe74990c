"""Text in YAML becomes plain values: one dialect for specs, recipes and what is typed as key=value.

OmegaConf checks types and merges afterwards; it does not read, for it would turn ``010`` into 8, ``on`` into true,
``1_000`` into a number and ``${...}`` into whatever that names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

__all__ = ["ConfigurationError", "pair", "parse", "plain_values"]

DEPTH = 16  # of the deepest tree anyone needs
TEXT_LIMIT = 1 << 20  # characters of a whole file
WORD_LIMIT = 10_000  # characters of one value
VALUES_LIMIT = 100_000  # in one file


class ConfigurationError(ValueError):
    """A text that is no YAML, or that holds what no configuration has."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (no `on` and `yes`, no octal `010`, and `1e-4` is a number), and no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({key for key in keys if isinstance(key, str) and keys.count(key) > 1}):
            raise yaml.YAMLError(f"{twice[0]!r} is written twice")
        return super().construct_mapping(node, deep)


class _WithoutAliases(_Loader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not used in specs; write the value twice, or use extends")
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("bool", r"true|True|false|False", "tTfF"),
    ("null", r"~|null|Null|", "~nN"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("$"), [""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])
_WithoutAliases.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse(text: str, where: str, *, aliases: bool = False) -> Any:
    """YAML text as plain values.

    where       what the text is called in messages: a file's name
    aliases     whether a value may stand for another one (``&name``, ``*name``), as in recipes; specs extend instead

    Raises
        ConfigurationError: no YAML, too long, or what `plain` refuses.
    """
    if len(text) > TEXT_LIMIT:
        raise ConfigurationError(f"{where}: {len(text)} characters long; at most {TEXT_LIMIT} are read")
    try:
        value = yaml.load(text, _Loader if aliases else _WithoutAliases)
    except RecursionError as error:
        raise ConfigurationError(f"{where}: not readable as YAML: more than {DEPTH} levels deep") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # besides its own errors the library lets a tag's bad value through: `!!int x`, `!!timestamp 2020-99-99`
        raise ConfigurationError(f"{where}: not readable as YAML: {' '.join(str(error).split())[:300]}") from error
    if _count(value, {}) > VALUES_LIMIT:
        raise ConfigurationError(f"{where}: more than {VALUES_LIMIT} values, or one that holds itself")
    return plain_values(value, where)


def _count(value: Any, known: dict[int, float]) -> float:
    """The values in a tree, those that aliases repeat counted each time; infinite where one holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")
        known[id(value)] = 1 + sum(
            _count(entry, known) for entry in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]


def plain_values(value: Any, where: str, *, depth: int = 0) -> Any:
    """A copy of `value` in plain dicts, lists and scalars.

    Raises
        ConfigurationError: anything else, an interpolation, or values longer or deeper than anyone needs.
    """
    if depth > DEPTH:
        raise ConfigurationError(f"{where}: more than {DEPTH} levels deep")
    if type(value).__module__.partition(".")[0] == "omegaconf":  # read as written: looking inside would interpolate
        from omegaconf import OmegaConf

        value = OmegaConf.to_container(value, resolve=False)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        if "${" in value:
            shown = value if len(value) <= 200 else value[:197] + "..."
            raise ConfigurationError(f"{where}: {shown!r} asks for interpolation, which is not done; write the value")
        if len(value) > WORD_LIMIT:
            raise ConfigurationError(f"{where}: a text of {len(value)} characters; at most {WORD_LIMIT} are read")
        return str(value)
    if isinstance(value, os.PathLike):
        return plain_values(os.fspath(value), where)
    if isinstance(value, Mapping):
        tree: dict[str, Any] = {}
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ConfigurationError(f"{where}: keys are words; got {str(key)[:100]!r}")
            plain_values(key, where)
            tree[key] = plain_values(entry, f"{where}: {key}" if depth == 0 else f"{where}.{key}", depth=depth + 1)
        return tree
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain_values(entry, where, depth=depth + 1) for entry in value]
    shown = str(value)[:100]
    raise ConfigurationError(f"{where}: only text, numbers, lists and mappings; got {type(value).__name__} {shown!r}")


def pair(text: str, example: str) -> dict[str, Any]:
    """A dotted pair as a tree: "memory_policy.frames=4" is ``{"memory_policy": {"frames": 4}}``.

    example     a pair that would be right here, for the message

    Raises
        ConfigurationError: no pair, or a value that `parse` refuses.
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigurationError(f"an override is written key.key=value, such as {example}; got {text!r}")
    tree = parse(value, f"override {text!r}")
    for key in reversed(keys):
        tree = {key: tree}
    return tree
