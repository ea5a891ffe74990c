"""Specs: a model as a tree of plain values. Load, extend, override, validate; nothing here builds anything.

The one merge rule: a part without `type` edits the inherited part; a part with another `type` replaces it whole.
Weights follow it with `file` in the place of `type`. Everything else merges key by key; lists are replaced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from registry.errors import DuplicateName, SpecError, nearest
from sam2core import configuration, older
from sam2core.storage import FileError, read_text

if TYPE_CHECKING:
    from sam2core.checkpoints.hub import Source as Download

PARTS = (
    "backbone",
    "neck",
    "prompt_encoder",
    "mask_decoder",
    "memory_encoder",
    "memory_attention",
    "memory_policy",
)
USUAL: Mapping[str, Mapping[str, Any]] = {"prompt_encoder": {"type": "sam"}}  # parts that a spec need not name
OLDER = ("carry_mask",)  # keys of older specs; see `_renewed`
OWN = ("extends", "abstract", "aliases", "description", "parameters")  # said of one spec; no child inherits them
STRIDE = 32  # of the coarsest map
WIDEST = 1 << 16  # of maps and tokens
LARGEST = 1 << 14  # pixels of a side


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

    def download(self) -> Download:
        """Where the file may be downloaded from, and how to tell that it is the right one."""
        from sam2core.checkpoints.hub import Source

        return Source(
            file=self.file, repo=self.repo, revision=self.revision, url=self.url, size=self.size, sha256=self.sha256
        )


@dataclass(frozen=True)
class ModelSpec:
    """Everything that makes a model, as plain values (str, int, float, bool, None, list, dict).

    Each call that returns one returns its own copy: nobody's edits reach anyone else. `dataclasses.asdict` of it is a
    spec again, and equal after loading.

    image_size    [height, width] in pixels, multiples of 32
    dim           width of the maps and tokens; `memory_dim` that of a memory
    backbone ...  the parts: {type: name, **options}; `memory_readout` has options and no type
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
    prompt_encoder: dict[str, Any] = field(default_factory=lambda: dict(USUAL["prompt_encoder"]))
    multimask: MultimaskSpec = MultimaskSpec()
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
WEIGHTLESS = frozenset(  # what may change and leaves the weights as they are
    {"image_size", "memory_policy", "multimask", "predictors", "weights", "description"}
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
        return [self._add(dataclasses.replace(read_source(file), owner=owner)) for file in files]

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


@contextmanager
def _refused() -> Iterator[None]:
    """What the readers refuse, as errors of specs."""
    try:
        yield
    except (configuration.ConfigurationError, FileError) as error:
        raise SpecError(str(error)) from error


def parse(text: str, where: str) -> Any:
    """YAML text as plain values. Raises SpecError."""
    with _refused():
        return configuration.parse(text, where)


def plain_values(value: Any, where: str) -> Any:
    """A copy of `value` in plain dicts, lists and scalars. Raises SpecError for anything else, and interpolation."""
    with _refused():
        return configuration.plain_values(value, where)


def pair(text: str) -> dict[str, Any]:
    """A dotted pair as a tree: "memory_policy.frames=4" is ``{"memory_policy": {"frames": 4}}``. Raises SpecError."""
    with _refused():
        return configuration.pair(text, "memory_policy.frames=4")


def read_source(file: str | Path) -> Source:
    """A spec file as written, but that the path of weights beside it is made absolute. Raises SpecError, OSError."""
    file = Path(file)
    with _refused():
        tree = configuration.parse(read_text(file, limit=configuration.TEXT_LIMIT), file.name)
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


# ---------------------------------------------------------------------------------------------------- merging


def merge(parent: Mapping[str, Any], child: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`child` upon `parent`, by the one merge rule. Neither is changed. Raises SpecError."""
    merged = dict(parent)
    for key, value in child.items():
        if key in PARTS:
            merged[key] = _merge_part(key, parent.get(key, USUAL.get(key)), value, where)
        elif key == "weights":
            merged[key] = value if not isinstance(value, Mapping) or "file" in value else edited(parent.get(key), value)
        else:
            merged[key] = edited(parent.get(key), older.predictors(value) if key == "predictors" else value)
    return merged


def _merge_part(part: str, parent: Any, value: Any, where: str) -> dict[str, Any]:
    child: Any = {"type": value} if isinstance(value, str) else value
    if not isinstance(child, Mapping) or not isinstance(child.get("type", ""), str):
        raise SpecError(f"{where}: {part} is a name, or a mapping with `type` and options; got {value!r}")
    if parent is None or child.get("type", parent["type"]) != parent["type"]:
        if "type" not in child:
            raise SpecError(f"{where}: {part} has no `type`, and there is no inherited {part} to edit")
        return dict(child)
    return edited(parent, child)


def edited(parent: Any, child: Any) -> Any:
    """`child` upon `parent`, key by key where both are mappings; otherwise `child`."""
    if not isinstance(parent, Mapping) or not isinstance(child, Mapping):
        return child
    return {**parent, **{key: edited(parent.get(key), value) for key, value in child.items()}}


# ---------------------------------------------------------------------------------------------------- validating


def _renewed(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A merged tree whose keys of older specs say what is said today. Raises SpecError where that cannot be.

    `prompt_encoder` had no types but an option `draw`; `carry_mask` stood beside the policy that it is a part of now.
    """
    renewed = {key: value for key, value in tree.items() if key not in OLDER}
    encoder = dict(tree.get("prompt_encoder") or {})
    if "draw" in encoder:
        encoder["type"] = "drawn" if encoder.pop("draw") else "sam"
    renewed["prompt_encoder"] = {**USUAL["prompt_encoder"], **encoder}
    if tree.get("carry_mask"):
        policy = dict(tree.get("memory_policy") or {})
        if policy.get("type") not in ("recent", "carried_mask"):
            raise SpecError(
                f"{where}: carry_mask is an older word for the memory policy 'carried_mask', and this model has the "
                f"policy {policy.get('type')!r}; remove carry_mask, or name the policy"
            )
        renewed["memory_policy"] = {**policy, "type": "carried_mask"}
    return renewed


def validate(name: str, tree: Mapping[str, Any], where: str) -> ModelSpec:
    """A merged tree as a ModelSpec. Raises SpecError naming the key that does not fit."""
    values = {
        key: value for key, value in {**USUAL, **_renewed(tree, where)}.items() if key in FIELDS and key != "name"
    }
    if missing := [key for key in _REQUIRED if key != "name" and values.get(key) is None]:
        raise SpecError(f"{where}: {', '.join(missing)} missing")
    for part in PARTS:
        values[part] = _merge_part(part, None, values[part], where)
    values["image_size"] = image_size(values["image_size"], where)
    multimask = _structured(MultimaskSpec, values.pop("multimask", None) or {}, f"{where}: multimask")
    weights = values.pop("weights", None)
    weights = None if weights is None else _weights(weights, f"{where}: weights")
    for task, options in values.get("predictors", {}).items() if isinstance(values.get("predictors"), dict) else ():
        if not isinstance(options, dict):
            raise SpecError(f"{where}: predictors.{task} is a mapping of options; got {options!r}")
    for key in ("dim", "memory_dim"):
        if isinstance(values[key], int) and not 0 < values[key] <= WIDEST:
            raise SpecError(f"{where}: {key} is a positive number, at most {WIDEST}; got {values[key]}")
    whole: ModelSpec = _structured(ModelSpec, {"name": name, **values}, where)
    return dataclasses.replace(whole, multimask=multimask, weights=weights)


def _weights(values: Any, where: str) -> WeightsSpec:
    """Where weights are. What is fetched is one plain name: it becomes a path in a cache. Raises SpecError."""
    weights: WeightsSpec = _structured(WeightsSpec, values, where)
    if weights.package or weights.repo is not None or weights.url is not None:
        with _refused():
            weights.download().check(where)
    return weights


def _structured(schema: type[Any], values: Any, where: str) -> Any:
    """`values` as an instance of `schema`, with OmegaConf's check of every type; plain containers come back."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(values, Mapping):
        raise SpecError(f"{where}: a mapping is wanted; got {values!r}")
    names = [entry.name for entry in dataclasses.fields(schema)]
    if unknown := [key for key in values if key not in names]:
        raise SpecError(f"{where} has no key {unknown[0]!r}.{known_words(unknown[0], names)}")
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
        if side > LARGEST:
            raise SpecError(
                f"{where}: image_size {value!r}: {side} is more than the {LARGEST} pixels that are built for"
            )
        if side < STRIDE or side % STRIDE:
            below, above = side // STRIDE * STRIDE, (side // STRIDE + 1) * STRIDE
            allowed = [size for size in (below, above) if size >= STRIDE] or [STRIDE]
            raise SpecError(
                f"{where}: image_size {value!r}: {side} is not a multiple of {STRIDE}. The backbone halves an image"
                f" five times, and every map must come out whole. Nearest: {', '.join(map(str, allowed))}"
            )
    return list(sides)


def known_words(word: str, known: Iterable[str]) -> str:
    names = list(known)
    match = nearest(word, names)
    return f"\n  known: {', '.join(names)}" + (f"\n  did you mean {match!r}?" if match else "")
