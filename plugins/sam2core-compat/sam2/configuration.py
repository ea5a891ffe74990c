"""Configurations by name, path, or from Hydra where the program initialised it; with overrides in Hydra's notation."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam2.spelling import near

FOLDER = Path(__file__).parent
_OWN = "pkg://sam2"
"""Where Hydra looks when nobody but this package has initialised it."""


class NoConfiguration(ValueError):
    """There is no configuration of this name."""


def names() -> list[str]:
    """The configurations that come with the package, as Meta's sam2 spells them."""
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("**/*.yaml"))


def build(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Any:
    """What the ``model`` tree of a configuration describes, made.

    `name` is one of `names`, with or without ``.yaml`` and with or without its folder; the path of a YAML file of the
    same form, ``${...}`` included; or, first of all, a configuration of the folder on which the program has initialised
    Hydra. Raises ValueError with the nearest name when there is none, and for what a configuration has wrong.
    """
    name = os.fspath(name)
    if _initialised() and (config := _composed(name, overrides)) is not None:
        from hydra.utils import instantiate

        return instantiate(config["model"], _recursive_=True)
    return make(load(name, overrides), "model")


def load(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The ``model`` tree of a configuration that is a file, with overrides and ``${...}`` resolved, as plain data."""
    path = _find(os.fspath(name))
    tree = _read(path)
    if any(entry != "_self_" for entry in tree.get("defaults") or ()):
        config = _beside(path, overrides)
        return OmegaConf.to_container(config, resolve=True)["model"]  # type: ignore[index,call-overload,no-any-return]
    tree.pop("defaults", None)
    for text in overrides:
        _apply(tree, text)
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    return dict(resolved["model"])


# where a configuration is


def _initialised() -> bool:
    """Whether the program has told Hydra where to look, other than in this package."""
    module = sys.modules.get("hydra.core.global_hydra")
    if module is None or not module.GlobalHydra.instance().is_initialized():
        return False
    search = module.GlobalHydra.instance().config_loader().get_search_path().get_path()
    return any(element.provider == "main" and element.path != _OWN for element in search)


def _composed(name: str, overrides: Sequence[str]) -> Any:
    """What Hydra composes of a name; None when it knows no such file, which may be one of ours then."""
    from hydra import compose
    from hydra.errors import HydraException, MissingConfigException

    try:
        config = compose(config_name=name, overrides=list(overrides))
    except MissingConfigException as error:
        missing = os.path.splitext(error.missing_cfg_file or "")[0]
        if missing == os.path.splitext(name)[0]:
            return None
        raise ValueError(f"Hydra cannot compose {name!r}: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"Hydra cannot compose {name!r}: {error}") from error
    if "model" not in config or "_target_" not in config["model"]:
        raise ValueError(f"the configuration {name!r} describes no model: it needs a mapping `model` with `_target_`")
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ValueError(f"the configuration {name!r}: {error}") from error
    return config


def _beside(path: Path, overrides: Sequence[str]) -> Any:
    """A file with a list of `defaults`, which lie in its folder, as Hydra composes it."""
    if importlib.util.find_spec("hydra") is None:
        raise ValueError(
            f"{str(path)!r} has a list of `defaults`, which Hydra puts together: pip install hydra-core, "
            "or write the configuration in one file"
        )
    from hydra import initialize_config_dir

    with initialize_config_dir(config_dir=str(path.parent.resolve()), version_base="1.2"):
        return _composed(path.name, overrides)


def _find(name: str) -> Path:
    wanted = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    if os.path.isfile(wanted):
        return Path(wanted)
    for known in names():
        if wanted == known or ("/" not in wanted and known.rsplit("/", 1)[-1] == wanted):
            return FOLDER / known
    hint = near(wanted, names()) or near(f"configs/sam2.1/{wanted}", names())
    raise NoConfiguration(
        f"there is no configuration {name!r}{hint}; known: {', '.join(names())}, a path of a file, or a name in the "
        "folder on which Hydra is initialised"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is no YAML: {error}") from error
    if not isinstance(tree, dict) or not (isinstance(tree.get("model"), dict) or tree.get("defaults")):
        raise ValueError(f"{str(path)!r} describes no model: it needs a mapping `model` with `_target_`")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-6 is a number, as in version 1.2 and in OmegaConf."""


_Loader.yaml_implicit_resolvers = {key: list(found) for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


# overrides


def _apply(tree: dict[str, Any], text: str) -> None:
    """Apply one override: ``model.a.b=1`` changes, ``+`` adds, ``++`` does either, ``~`` removes.

    Raises ValueError for text that is no override, and for a change of what is not there.
    """
    mark = next((mark for mark in ("++", "+", "~") if text.startswith(mark)), "")
    key, equals, value = text[len(mark) :].partition("=")
    path = key.strip().split(".")
    if (not equals and mark != "~") or path == ["model"] or path[0] not in (*tree, "model"):
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


def override(model: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree of a model with overrides applied."""
    tree = {"model": copy.deepcopy(model)}
    for text in overrides:
        _apply(tree, text)
    return dict(tree["model"])


# what a tree describes


def make(value: Any, place: str) -> Any:
    """A tree's mappings with ``_target_`` as what they name, recursively.

    A file may name the classes of this package and module classes that the program has imported; nothing else is ever
    imported or called. Raises ValueError for another target and for options that do not fit, naming their place.
    """
    if isinstance(value, list):
        return [make(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    options = {key: make(item, f"{place}.{key}") for key, item in value.items() if key != "_target_"}
    if "_target_" not in value:
        return options
    part = _named(value["_target_"], place)
    known = _options(part)
    if known and (unknown := [key for key in options if key not in known]):
        raise ValueError(f"{place} has no option {unknown[0]!r}{near(unknown[0], known)}; known: {', '.join(known)}")
    try:
        return part(**options)
    except TypeError as error:
        raise ValueError(f"{place} does not fit {part.__name__}: {error}") from error


def _named(target: Any, place: str) -> Any:
    from torch import nn

    module, _, name = str(target).rpartition(".")
    if module.startswith("sam2.") and importlib.util.find_spec(module) is not None:
        importlib.import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ValueError(
            f"{place}._target_ is {target!r}; what can be built: the module classes of `sam2.modeling` and "
            "`sam2.sam2_video_predictor`, and those of modules that the program has imported"
        )
    return found


def _options(part: Callable[..., Any]) -> list[str]:
    """The names that a class takes, those of the class it hands on to included; none when anything goes."""
    known: list[str] = []
    for kind in inspect.getmro(part):  # type: ignore[arg-type]
        if "__init__" not in vars(kind):
            continue
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
        known += [one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return list(dict.fromkeys(known))
    return []
