"""Specs: a model as a tree of plain values. Load, extend, override, validate; nothing here builds anything.

The one merge rule: a part without `type` edits the inherited part; a part with another `type` replaces it whole.
Weights follow it with `file` in the place of `type`. Everything else merges key by key; lists are replaced.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from registry.errors import DuplicateName, SpecError, UnknownName, hint, nearest

if TYPE_CHECKING:
    from registry.plugins import Zoo

PARTS = ("backbone", "neck", "mask_decoder", "memory_encoder", "memory_attention", "memory_policy")
OWN = ("extends", "abstract", "aliases", "description", "parameters")  # said of one spec; no child inherits them
STRIDE = 32  # of the coarsest map
DEPTH = 16  # of the deepest tree anyone needs


@dataclass(frozen=True)
class MultimaskSpec:
    """One mask or three? The fields of `sam2core.types.Multimask`."""

    min_points: int = 0
    max_points: int = 1
    while_tracking: bool = True


@dataclass(frozen=True)
class WeightsSpec:
    """Where a model's weights are.

    file      the file's name: in the hub repository `repo`, behind `url`, or, with `package`, in `registry/weights`;
              with none of these a path, which in a spec file starts at that file's folder
    repo      Hugging Face hub repository, "org/name"; `revision` is a branch, tag or commit of it
    url       the same file at its author's own address: the second source
    size      bytes; `sha256` in hexadecimal
    layout    how the file names its tensors: a component of kind "layout"
    package   whether the file comes with this distribution
    """

    file: str
    layout: str = "native"
    repo: str | None = None
    revision: str | None = None
    url: str | None = None
    size: int | None = None
    sha256: str | None = None
    package: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """Everything that makes a model, as plain values (str, int, float, bool, None, list, dict).

    Each call that returns one returns its own copy: nobody's edits reach anyone else. `dataclasses.asdict` of it is a
    spec again, and equal after loading.

    image_size    [height, width] in pixels, multiples of 32
    dim           width of the maps and tokens; `memory_dim` that of a memory
    backbone ...  the parts: {type: name, **options}; `memory_readout` and `prompt_encoder` have options and no type
    carry_mask    a tracked frame is told the mask of the frame before, as a hint
    predictors    per task, the defaults of the predictor's options
    parameters    how many numbers the state dict holds, as recorded; None when nobody recorded it
    """

    name: str
    image_size: list[int]
    dim: int
    memory_dim: int
    backbone: dict[str, Any]
    neck: dict[str, Any]
    mask_decoder: dict[str, Any]
    memory_encoder: dict[str, Any]
    memory_attention: dict[str, Any]
    memory_policy: dict[str, Any]
    memory_readout: dict[str, Any] = field(default_factory=dict)
    prompt_encoder: dict[str, Any] = field(default_factory=dict)
    multimask: MultimaskSpec = MultimaskSpec()
    carry_mask: bool = False
    predictors: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: WeightsSpec | None = None
    parameters: int | None = None
    description: str = ""

    def to_yaml(self) -> str:
        """This spec as YAML that loads again."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, default_flow_style=None, width=120)


FIELDS = tuple(entry.name for entry in dataclasses.fields(ModelSpec))
_REQUIRED = tuple(
    entry.name
    for entry in dataclasses.fields(ModelSpec)
    if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
)
_CHANGES_NO_WEIGHT = frozenset(
    {"image_size", "memory_policy", "multimask", "carry_mask", "predictors", "weights", "description"}
)


@dataclass(frozen=True)
class Source:
    """A spec as written, before its parents are merged in. `where` names it in messages; paths start at `folder`."""

    name: str
    tree: Mapping[str, Any]
    where: str
    folder: Path | None = None
    owner: str = ""

    @property
    def abstract(self) -> bool:
        return bool(self.tree.get("abstract", False))


class Specs:
    """The specs that distributions offer: names, aliases, who owns them."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._aliases: dict[str, str] = {}

    def copy(self) -> Specs:
        twin = Specs()
        twin._sources, twin._aliases = dict(self._sources), dict(self._aliases)
        return twin

    def add_folder(self, folder: str | Path, owner: str) -> list[str]:
        """Offer every ``*.yaml`` of a folder under its stem; returns the names. Raises SpecError, DuplicateName."""
        folder = Path(folder)
        files = sorted(folder.glob("*.yaml"))
        if not files:
            wrong = "has no .yaml file" if folder.is_dir() else "is no folder"
            raise SpecError(f"{owner} registers specs in {folder}, which {wrong}")
        return [self._add(dataclasses.replace(read(file), owner=owner)) for file in files]

    def _add(self, source: Source) -> str:
        aliases = source.tree.get("aliases") or []
        if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            raise SpecError(f"{source.where}: aliases is a list of names; got {aliases!r}")
        for name in (source.name, *aliases):
            holder = self._sources.get(self._aliases.get(name, name))
            if holder is not None:
                raise DuplicateName(
                    f"model {name!r} is offered by {holder.owner} and by {source.owner}; the first keeps the name"
                )
            if name == source.name:
                self._sources[name] = source
            else:
                self._aliases[name] = source.name
        return source.name

    def names(self, *, abstract: bool = False) -> list[str]:
        """The models' names, sorted; with `abstract` the families as well."""
        return sorted(name for name, source in self._sources.items() if abstract or not source.abstract)

    def aliases(self) -> dict[str, str]:
        """Other names, each with the name it stands for."""
        return dict(self._aliases)

    def get(self, name: str) -> Source | None:
        return self._sources.get(self._aliases.get(name, name))


# ---------------------------------------------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (no `on` and `yes`, no octal `010`, and `1e-4` is a number), no aliases, no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not used in specs; write the value twice, or use extends")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({key for key in keys if isinstance(key, str) and keys.count(key) > 1}):
            raise yaml.YAMLError(f"{twice[0]!r} is written twice")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|false|False", "tTfF"),
    ("null", r"~|null|Null|", "~nN"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("$"), [""])


def parse(text: str, where: str) -> Any:
    """YAML text as plain values. Raises SpecError."""
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from error
    return plain(value, where)


def plain(value: Any, where: str, *, depth: int = 0) -> Any:
    """A copy of `value` in plain dicts, lists and scalars. Raises SpecError for anything else, and interpolation."""
    if depth > DEPTH:
        raise SpecError(f"{where}: more than {DEPTH} levels deep")
    if type(value).__module__.partition(".")[0] == "omegaconf":  # read as written: looking inside would interpolate
        from omegaconf import OmegaConf

        value = OmegaConf.to_container(value, resolve=False)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        if "${" in value:
            raise SpecError(f"{where}: {value!r} asks for interpolation, which specs lack; write the value itself")
        return str(value)
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value), where)
    if isinstance(value, Mapping):
        tree: dict[str, Any] = {}
        for key, entry in value.items():
            if not isinstance(key, str):
                raise SpecError(f"{where}: keys are words; got {key!r}")
            plain(key, where)
            tree[key] = plain(entry, f"{where}: {key}" if depth == 0 else f"{where}.{key}", depth=depth + 1)
        return tree
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(entry, where, depth=depth + 1) for entry in value]
    raise SpecError(f"{where}: a spec holds text, numbers, lists and mappings; got {type(value).__name__} {value!r}")


def read(file: str | Path) -> Source:
    """A spec file as written, but that the path of weights beside it is made absolute. Raises SpecError, OSError."""
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{file.name}: not text: {error}") from error
    tree = parse(text, file.name)
    if not isinstance(tree, dict):
        raise SpecError(f"{file.name}: a spec is a mapping; got {type(tree).__name__}")
    if "name" in tree:
        raise SpecError(f"{file.name}: a spec is called after its file; remove `name`")
    folder = file.resolve().parent
    weights = tree.get("weights")
    if isinstance(weights, dict) and isinstance(weights.get("file"), str):
        if not any(weights.get(key) for key in ("repo", "url", "package")):
            weights["file"] = str(folder / Path(weights["file"]).expanduser())
    return Source(file.stem, tree, file.name, folder)


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
        tree = plain(dataclasses.asdict(name), name.name)
        return Source(tree.pop("name"), tree, f"spec {name.name!r}")
    if isinstance(name, Mapping):
        tree = plain(name, "inline spec")
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
        return read(file)
    if suffix == ".safetensors":
        from registry.weights import read_spec

        tree = plain(read_spec(file), file.name)
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
    from registry.weights import locate_repository

    repo, _, pinned = name.removeprefix("hub:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or name.endswith("@"):
        raise SpecError(f"a hub repository is written hub:organisation/name, or with @revision; got {name!r}")
    if pinned and revision is not None and pinned != revision:
        raise SpecError(f"{name!r} names the revision {pinned!r}, the argument {revision!r}")
    return locate_repository(repo, cache_dir=cache_dir, offline=offline, revision=pinned or revision)


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


# ---------------------------------------------------------------------------------------------------- merging


def merge(parent: Mapping[str, Any], child: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`child` upon `parent`, by the one merge rule. Neither is changed. Raises SpecError."""
    merged = dict(parent)
    for key, value in child.items():
        if key in PARTS:
            merged[key] = _merge_part(key, parent.get(key), value, where)
        elif key == "weights":
            merged[key] = value if not isinstance(value, Mapping) or "file" in value else _deep(parent.get(key), value)
        else:
            merged[key] = _deep(parent.get(key), value)
    return merged


def _merge_part(part: str, parent: Any, value: Any, where: str) -> dict[str, Any]:
    child: Any = {"type": value} if isinstance(value, str) else value
    if not isinstance(child, Mapping) or not isinstance(child.get("type", ""), str):
        raise SpecError(f"{where}: {part} is a name, or a mapping with `type` and options; got {value!r}")
    if parent is None or child.get("type", parent["type"]) != parent["type"]:
        if "type" not in child:
            raise SpecError(f"{where}: {part} has no `type`, and there is no inherited {part} to edit")
        return dict(child)
    return _deep(parent, child)


def _deep(parent: Any, child: Any) -> Any:
    if not isinstance(parent, Mapping) or not isinstance(child, Mapping):
        return child
    return {**parent, **{key: _deep(parent.get(key), value) for key, value in child.items()}}


def _extended(source: Source, zoo: Zoo, seen: tuple[Source, ...] = ()) -> dict[str, Any]:
    """The source's tree with its parents beneath it."""
    if any((child.folder, child.where) == (source.folder, source.where) for child in seen):
        chain = " -> ".join(child.where for child in (*seen, source))
        raise SpecError(f"{source.where}: extends itself: {chain}")
    if unknown := [key for key in source.tree if key not in (*FIELDS, *OWN) or key == "name"]:
        known = _known(unknown[0], (*FIELDS[1:], *OWN[:3]))
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


def pair(text: str) -> dict[str, Any]:
    """A dotted pair as a tree: "memory_policy.frames=4" is ``{"memory_policy": {"frames": 4}}``. Raises SpecError."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"an override is written key.key=value, such as memory_policy.frames=4; got {text!r}")
    tree = parse(value, f"override {text!r}")
    for key in reversed(keys):
        tree = {key: tree}
    return tree


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
    if zoo is None:
        from registry.plugins import current

        zoo = current()
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
            trees.append(("override", plain(override, "override")))
        else:
            raise SpecError(f"an override is text such as memory_policy.frames=4, or a mapping; got {override!r}")
    if edits:
        trees.append(("override", plain(edits, "override")))
    changeable = tuple(key for key in FIELDS if key not in ("name", "parameters"))
    for where, edit in trees:
        if unknown := [key for key in edit if key not in changeable]:
            known = _known(unknown[0], changeable)
            raise SpecError(f"{where}: {source.name} has nothing called {unknown[0]!r}.{known}")
        _tasks(edit, where, zoo)
        if not _CHANGES_NO_WEIGHT.issuperset(edit):
            tree.pop("parameters", None)  # recorded for the model as named
        tree = merge(tree, edit, where)
    if source.abstract:
        family = [n for n in zoo.specs.names() if (s := zoo.specs.get(n)) and s.tree.get("extends") == source.name]
        raise SpecError(
            f"{source.where}: {source.name!r} is abstract: what its family shares, not a model."
            f"\n  build one of {', '.join(family) or 'the specs that extend it'},"
            f" or write a spec with `extends: {source.name}`"
        )
    return validate(source.name, tree, source.where)


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


# ---------------------------------------------------------------------------------------------------- validating


def validate(name: str, tree: Mapping[str, Any], where: str) -> ModelSpec:
    """A merged tree as a ModelSpec. Raises SpecError naming the key that does not fit."""
    values = {key: value for key, value in tree.items() if key in FIELDS and key != "name"}
    if missing := [key for key in _REQUIRED if key != "name" and values.get(key) is None]:
        raise SpecError(f"{where}: {', '.join(missing)} missing")
    for part in PARTS:
        values[part] = _merge_part(part, None, values[part], where)
    values["image_size"] = image_size(values["image_size"], where)
    values["multimask"] = _structured(MultimaskSpec, values.get("multimask") or {}, f"{where}: multimask")
    if values.get("weights") is not None:
        values["weights"] = _structured(WeightsSpec, values["weights"], f"{where}: weights")
    for task, options in values.get("predictors", {}).items() if isinstance(values.get("predictors"), dict) else ():
        if not isinstance(options, dict):
            raise SpecError(f"{where}: predictors.{task} is a mapping of options; got {options!r}")
    for key in ("dim", "memory_dim"):
        if isinstance(values[key], int) and values[key] <= 0:
            raise SpecError(f"{where}: {key} is a positive number; got {values[key]}")
    return _structured(ModelSpec, {"name": name, **values}, where)


def _structured(schema: type[Any], values: Any, where: str) -> Any:
    """`values` as an instance of `schema`, with OmegaConf's check of every type; plain containers come back."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(values, Mapping):
        raise SpecError(f"{where}: a mapping is wanted; got {values!r}")
    names = [entry.name for entry in dataclasses.fields(schema)]
    if unknown := [key for key in values if key not in names]:
        raise SpecError(f"{where} has no key {unknown[0]!r}.{_known(unknown[0], names)}")
    try:
        return OmegaConf.to_object(OmegaConf.structured(schema(**values)))
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None)
        raise SpecError(f"{where}: {f'{key}: ' if key else ''}{str(error).splitlines()[0]}") from error


def image_size(value: Any, where: str = "image_size") -> list[int]:
    """An image size as [height, width]. Raises SpecError unless both are positive multiples of 32."""
    sides = [value, value] if isinstance(value, int) and not isinstance(value, bool) else value
    if (
        not isinstance(sides, list | tuple)
        or len(sides) != 2
        or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    ):
        raise SpecError(f"{where}: image_size is one number of pixels, or [height, width]; got {value!r}")
    for side in sides:
        if side < STRIDE or side % STRIDE:
            below, above = side // STRIDE * STRIDE, (side // STRIDE + 1) * STRIDE
            allowed = [size for size in (below, above) if size >= STRIDE] or [STRIDE]
            raise SpecError(
                f"{where}: image_size {value!r}: {side} is not a multiple of {STRIDE}. The backbone halves an image"
                f" five times, and every map must come out whole. Nearest: {', '.join(map(str, allowed))}"
            )
    return list(sides)


def _known(word: str, known: Iterable[str]) -> str:
    names = list(known)
    match = nearest(word, names)
    return f"\n  known: {', '.join(names)}" + (f"\n  did you mean {match!r}?" if match else "")
