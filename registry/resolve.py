"""A name becomes a spec: the models on offer, files, hub repositories; parents merged in, overrides applied."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from registry import places
from registry.errors import SpecError, UnknownName, hint
from registry.plugins import Zoo, current
from registry.spec import (
    FIELDS,
    OLDER,
    OWN,
    PARTS,
    WEIGHTLESS,
    ModelSpec,
    Source,
    known_words,
    merge,
    pair,
    plain_values,
    read_source,
    validate,
)

__all__ = ["find", "load", "looks_like_path"]


def looks_like_path(name: str) -> bool:
    """Whether a name that is no model's was meant as a file."""
    return (
        "/" in name
        or os.sep in name
        or name.startswith((".", "~"))
        or Path(name).suffix.lower() in {".yaml", ".yml", ".safetensors", ".pt", ".pth", ".ckpt"}
    )


def find(name: str | os.PathLike[str] | Mapping[str, Any] | ModelSpec, zoo: Zoo) -> Source:
    """The spec that `name` means: a name or alias, a .yaml or .safetensors file, a mapping, a loaded spec.

    Raises UnknownName, SpecError, WeightsError (a .safetensors file), OSError.
    """
    if isinstance(name, ModelSpec):
        tree = plain_values(dataclasses.asdict(name), name.name)
        return Source(tree.pop("name"), tree, f"spec {name.name!r}")
    if isinstance(name, Mapping):
        tree = plain_values(name, "inline spec")
        label = tree.pop("name", "inline")
        if not isinstance(label, str) or not label:
            raise SpecError(f"inline spec: name is a word; got {label!r}")
        return Source(label, tree, f"spec {label!r}", Path.cwd())
    if not isinstance(name, str | os.PathLike):
        raise SpecError(f"a model is named by a str, a path, a mapping or a ModelSpec; got {type(name).__name__}")
    text = os.fspath(name)
    if isinstance(name, str) and (known := zoo.specs.get(name)) is not None:
        return known
    file = Path(text).expanduser()
    if isinstance(name, os.PathLike) or looks_like_path(text):
        if file.is_file():
            return _from_file(file)
        raise UnknownName(_neither(text, file, zoo))
    raise UnknownName(_unknown(text, file, zoo))


def _from_file(file: Path) -> Source:
    suffix = file.suffix.lower()
    if suffix in {".yaml", ".yml"}:
        return read_source(file)
    if suffix == ".safetensors":
        tree = plain_values(places.read_spec(file), file.name)
        label = tree.pop("name", file.stem)
        # The recorded spec says where the weights once came from; they are here now.
        tree["weights"] = {"file": str(file.resolve()), "layout": "native"}
        return Source(label, tree, file.name, file.resolve().parent)
    raise SpecError(
        f"{file.name}: a {suffix or 'file without a suffix'} carries no spec, so it does not say which model it is for;"
        f"\n  name the model and pass the file: registry.build('sam2.1_hiera_l', weights={str(file)!r})"
        "\n  or make a file that carries it: sam2core convert"
    )


def _from_hub(name: str, *, cache_dir: Any, offline: bool | None, revision: str | None) -> Path:
    """The native file of a hub repository. Raises SpecError, WeightsError."""
    repo, _, pinned = name.removeprefix("hub:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or name.endswith("@"):
        raise SpecError(f"a hub repository is written hub:organisation/name, or with @revision; got {name!r}")
    if pinned and revision is not None and pinned != revision:
        raise SpecError(f"{name!r} names the revision {pinned!r}, the argument {revision!r}")
    return places.locate_repository(repo, cache_dir=cache_dir, offline=offline, revision=pinned or revision)


def _neither(text: str, file: Path, zoo: Zoo) -> str:
    known = [*zoo.specs.names(abstract=True), *zoo.specs.aliases()]
    where = file if file.is_absolute() else Path.cwd() / file
    return (
        f"{text!r} is neither a model nor a file."
        f"\n  as a name: no model is called that{hint(text, known)}"
        f"\n  as a file: {where} {'is a folder' if where.is_dir() else 'does not exist'}"
        f"{zoo.failures()}"
    )


def _unknown(text: str, file: Path, zoo: Zoo) -> str:
    known = [*zoo.specs.names(abstract=True), *zoo.specs.aliases()]
    here = f"\n  a file of that name is here; to use it write './{text}'" if file.is_file() else ""
    models = ", ".join(zoo.specs.names())
    return f"no model is called {text!r}.\n  known: {models}{hint(text, known)}{here}{zoo.failures()}"


def _extended(source: Source, zoo: Zoo, seen: tuple[Source, ...] = ()) -> dict[str, Any]:
    """The source's tree with its parents beneath it."""
    if any((child.folder, child.where) == (source.folder, source.where) for child in seen):
        chain = " -> ".join(child.where for child in (*seen, source))
        raise SpecError(f"{source.where}: extends itself: {chain}")
    if unknown := [key for key in source.tree if key not in (*FIELDS, *OWN, *OLDER) or key == "name"]:
        known = known_words(unknown[0], (*FIELDS[1:], *OWN[:3]))
        raise SpecError(f"{source.where}: no key is called {unknown[0]!r}.{known}")
    parent = source.tree.get("extends")
    if parent is None:
        inherited: dict[str, Any] = {}
    elif isinstance(parent, str) and parent:
        is_name = zoo.specs.get(parent) is not None or not looks_like_path(parent)
        try:
            base = find(parent if is_name else (source.folder or Path()) / parent, zoo)
        except UnknownName as error:
            raise UnknownName(f"{source.where}: extends {parent!r}: {error}") from None
        inherited = {k: v for k, v in _extended(base, zoo, (*seen, source)).items() if k not in OWN}
    else:
        raise SpecError(f"{source.where}: extends names one spec; got {parent!r}")
    return merge(inherited, source.tree, source.where)


def load(
    name: str | os.PathLike[str] | Mapping[str, Any] | ModelSpec,
    overrides: Iterable[str | Mapping[str, Any]] = (),
    *,
    zoo: Zoo | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    revision: str | None = None,
    **edits: Any,
) -> ModelSpec:
    """The resolved spec of a model: its parents merged in, overrides applied, everything checked.

    `overrides` are dotted pairs or trees, applied in order; keywords come last. A keyword is a field of ModelSpec.
    `cache_dir`, `offline` and `revision` are for "hub:" names.
    Raises UnknownName for a name nobody offers, SpecError for everything that does not fit.
    """
    zoo = zoo or current()
    if isinstance(name, str) and name.startswith("hub:"):
        name = _from_hub(name, cache_dir=cache_dir, offline=offline, revision=revision)
    source = find(name, zoo)
    tree = _extended(source, zoo)
    _tasks(tree, source.where, zoo, dotted=False)
    trees: list[tuple[str, Mapping[str, Any]]] = []
    for override in overrides:
        if isinstance(override, str):
            trees.append((f"override {override!r}", pair(override)))
        elif isinstance(override, Mapping):
            trees.append(("override", plain_values(override, "override")))
        else:
            raise SpecError(f"an override is text such as memory_policy.frames=4, or a mapping; got {override!r}")
    if edits:
        trees.append(("override", plain_values(edits, "override")))
    changeable = tuple(key for key in FIELDS if key not in ("name", "parameters"))
    for where, edit in trees:
        if unknown := [key for key in edit if key not in changeable]:
            known = known_words(unknown[0], changeable)
            raise SpecError(f"{where}: {source.name} has nothing called {unknown[0]!r}.{known}")
        _tasks(edit, where, zoo)
        if not WEIGHTLESS.issuperset(edit):
            tree.pop("parameters", None)  # recorded for the model as named
        tree = merge(tree, edit, where)
    if source.abstract:
        family = [n for n in zoo.specs.names() if (s := zoo.specs.get(n)) and s.tree.get("extends") == source.name]
        raise SpecError(
            f"{source.where}: {source.name!r} is abstract: what its family shares, not a model."
            f"\n  build one of {', '.join(family) or 'the specs that extend it'},"
            f" or write a spec with `extends: {source.name}`"
        )
    spec = validate(source.name, tree, source.where)
    for part in PARTS:
        edited = any(part in edit for _, edit in trees)
        _offered(part, getattr(spec, part)["type"], "" if edited else f"{source.where}: ", zoo)
    if spec.weights is not None:
        _offered("layout", spec.weights.layout, f"{source.where}: weights: ", zoo)
    return spec


def _offered(kind: str, name: str, where: str, zoo: Zoo) -> None:
    """Raise UnknownName, with the place that asks, for a part that nobody offers."""
    try:
        zoo.components.get(kind, name)
    except UnknownName as error:
        raise UnknownName(f"{where}{error}") from None


def _tasks(tree: Mapping[str, Any], where: str, zoo: Zoo, *, dotted: bool = True) -> None:
    """Raise UnknownName for a task in `predictors` that nobody offers.

    dotted    False: names such as "acme.tree" are not looked at. They are plugins', and a model with defaults for a
              predictor can be used where the plugin that offers it is not installed.
    """
    tasks = tree.get("predictors")
    for task in tasks if isinstance(tasks, Mapping) else ():
        if dotted or "." not in task:
            try:
                zoo.components.get("predictor", task)
            except UnknownName as error:
                raise UnknownName(f"{where}: predictors: {error}") from None
