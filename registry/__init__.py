"""The zoo: models by name. `from sam2core import registry`, or `import registry`.

    model = registry.build("sam2.1_hiera_l", device="cuda")
    predictor = registry.predictor("sam2core_nano")

Names and specs are plain text until something is built: importing this package and listing names imports no torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

# The modules `components`, `plugins` and `spec` share a name with a function below: imported before these are defined,
# they stay importable (`from registry.spec import load`) and the functions stay what the names mean.
from registry.errors import DuplicateName, SpecError, UnknownName, WeightsError, hint
from registry.kinds import KINDS
from registry.plugins import PluginRecord, current
from registry.resolve import load, looks_like_path
from registry.spec import FIELDS, ModelSpec, edited

if TYPE_CHECKING:
    import torch

    from sam2core.model import Sam2
    from sam2core.predictors.automask import MaskGenerator
    from sam2core.predictors.image import ImagePredictor
    from sam2core.predictors.video import VideoPredictor

    Name = str | os.PathLike[str] | Mapping[str, Any] | ModelSpec

__all__ = [
    "KINDS",
    "DuplicateName",
    "ModelSpec",
    "PluginRecord",
    "SpecError",
    "UnknownName",
    "WeightsError",
    "build",
    "components",
    "models",
    "plugins",
    "predictor",
    "spec",
]

logger = logging.getLogger(__name__)

_ARGUMENTS = ("weights", "device", "dtype", "image_size", "cache_dir", "offline", "revision")
_BUILD_ARGUMENTS = (*_ARGUMENTS, "partial")


def models(*, abstract: bool = False) -> list[str]:
    """The names of the models on offer, sorted; with `abstract` also the families that only serve `extends`."""
    return current().specs.names(abstract=abstract)


def components(kind: str | None = None) -> dict[str, list[str]] | list[str]:
    """The names of the parts on offer: those of one kind, sorted, or a list for each kind. Raises UnknownName."""
    offered = current().components
    return offered.names(kind) if kind is not None else {kind: offered.names(kind) for kind in KINDS}


def plugins() -> list[PluginRecord]:
    """What became of each installed plugin, the failed ones included; the first record is this distribution's own."""
    return current().records


def spec(
    name: Name,
    *pairs: str,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    revision: str | None = None,
    **overrides: Any,
) -> ModelSpec:
    """The resolved spec of a model, with overrides applied: a plain value, nothing is built.

    name         a model or alias ("sam2.1_hiera_l", "facebook/sam2.1-hiera-large"); a .yaml file; a .safetensors file
                 that carries its spec; "hub:org/repo" or "hub:org/repo@revision" with such a file; a mapping; a spec
    pairs        dotted overrides: "memory_policy.frames=4"
    overrides    fields of `ModelSpec`; a part is a name, or a mapping: without `type` it edits the part, with another
                 `type` it replaces it
    cache_dir, offline, revision    for "hub:" names

    Raises UnknownName for a name nobody offers, SpecError for everything that does not fit.
    """
    _fields(overrides, "the spec", ())
    return load(name, pairs, cache_dir=cache_dir, offline=offline, revision=revision, **overrides)


def build(
    name: Name,
    *pairs: str,
    weights: bool | str | os.PathLike[str] = True,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    image_size: int | tuple[int, int] | list[int] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    revision: str | None = None,
    partial: bool = False,
    **overrides: Any,
) -> Sam2:
    """A model in evaluation mode, with its resolved spec as ``.spec``.

    name, pairs, overrides    as for `spec`
    weights      True: the spec's own, downloaded once; False: fresh initialisation; a path: that file instead
    device       "cpu" (None), "cuda", "cuda:1", "mps", or "auto": the first of cuda, mps, cpu that is there
    dtype        "float32", "bfloat16" or "float16", or torch's; no autocast is needed in any of them. None: bfloat16 on
                 a CUDA device that computes in it, said in one line of the log, and float32 elsewhere
    image_size   pixels of a square, or (height, width), multiples of 32; None: the spec's
    cache_dir    where downloads are kept; None: the hub's own cache
    offline      True: never ask the network; None: as HF_HUB_OFFLINE says
    revision     branch, tag or commit of the weights' repository
    partial      the file that `weights` names holds some parts alone: it is loaded over the spec's own weights, and a
                 warning lists what was kept of these

    Raises UnknownName, SpecError, WeightsError (all ValueErrors), and ValueError for a device or dtype.
    """
    _fields(overrides, "build", _BUILD_ARGUMENTS)
    if image_size is not None:
        overrides["image_size"] = image_size
    value = load(name, pairs, cache_dir=cache_dir, offline=offline, revision=revision, **overrides)
    hub = {"cache_dir": cache_dir, "offline": offline, "revision": revision}
    return _build(name, value, weights, device, dtype, partial=partial, **hub)


@overload
def predictor(name: Name | Sam2, task: Literal["image"] = "image", *pairs: str, **options: Any) -> ImagePredictor: ...
@overload
def predictor(name: Name | Sam2, task: Literal["video"], *pairs: str, **options: Any) -> VideoPredictor: ...
@overload
def predictor(name: Name | Sam2, task: Literal["automask"], *pairs: str, **options: Any) -> MaskGenerator: ...
@overload
def predictor(name: Name | Sam2, task: str, *pairs: str, **options: Any) -> Any: ...


def predictor(
    name: Name | Sam2,
    task: str = "image",
    *pairs: str,
    weights: bool | str | os.PathLike[str] = True,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    image_size: int | tuple[int, int] | list[int] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    revision: str | None = None,
    **options: Any,
) -> Any:
    """The tool for a task, over a model built as `build` does, or over one that is built already.

    Keywords that are fields of `ModelSpec` edit the spec; all others are the predictor's options, whose defaults are
    the spec's ``predictors[task]``. A built model takes the predictor's options alone, and tools may share it. Raises
    what `build` raises, and SpecError for an option the predictor lacks.
    """
    offered = current().components
    offered.get("predictor", task)
    overrides = {key: options.pop(key) for key in list(options) if key in FIELDS}
    _fields(overrides, "predictor", _ARGUMENTS)
    if image_size is not None:
        overrides["image_size"] = image_size
    given = {"weights": weights, "device": device, "dtype": dtype, "cache_dir": cache_dir, "offline": offline}
    given["revision"] = revision
    model = _built(name, [*pairs, *overrides, *(key for key, value in given.items() if value not in (None, True))])
    if model is not None:
        defaults = model.spec.predictors.get(task, {}) if hasattr(model, "spec") else {}
    else:
        value = load(name, pairs, cache_dir=cache_dir, offline=offline, revision=revision, **overrides)
        defaults = value.predictors.get(task, {})
    chosen = {**edited(defaults, options), "type": task}
    offered.check("predictor", chosen, ("model",), also=(*_ARGUMENTS, *FIELDS))  # before anything slow
    if model is None:
        model = _build(name, value, weights, device, dtype, cache_dir=cache_dir, offline=offline, revision=revision)
    return offered.make("predictor", chosen, model=model)


def _built(name: Name | Sam2, edits: list[str]) -> Sam2 | None:
    """`name` where it is a model that is built already, otherwise None. Raises SpecError for edits of a built model."""
    if name is None or isinstance(name, str | os.PathLike | Mapping | ModelSpec):
        return None
    from sam2core.model import Sam2

    if not isinstance(name, Sam2):
        return None
    if edits:
        raise SpecError(f"the model is built already: {', '.join(edits)} can no longer be chosen; build another one")
    return name


def _fields(overrides: Mapping[str, Any], what: str, arguments: tuple[str, ...]) -> None:
    known = (*arguments, *(key for key in FIELDS if key not in ("name", "parameters", *arguments)))
    if unknown := [key for key in overrides if key not in known]:
        raise SpecError(f"{what} takes no {unknown[0]!r}.\n  known: {', '.join(known)}{hint(unknown[0], known)}")


@contextmanager
def _in_file(name: Name | Sam2) -> Iterator[None]:
    """What a spec file asks for and cannot be built is an error that names the file."""
    try:
        yield
    except (SpecError, UnknownName) as error:
        text = os.fspath(name) if isinstance(name, str | os.PathLike) else ""
        if not looks_like_path(text) or Path(text).name in str(error):
            raise
        raise type(error)(f"{Path(text).name}: {error}") from error


def _build(
    name: Name | Sam2,
    value: ModelSpec,
    weights: bool | str | os.PathLike[str],
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    **hub: Any,
) -> Sam2:
    import torch

    from registry.assemble import assemble, device_of, dtype_of, init_empty_weights
    from sam2core.ops.cpu.products import multiplies
    from sam2core.prepare import prepare

    if not isinstance(weights, bool | str | os.PathLike):
        raise WeightsError(f"weights is True, False or a path; got {weights!r}")
    place = device_of(device)
    precision = dtype_of(dtype, place)
    if dtype is None and precision != torch.float32:
        logger.info("%s is built in bfloat16, which %s computes in; dtype='float32' asks for fp32", value.name, place)
    if weights is True and value.weights is None:
        raise WeightsError(
            f"{value.name} has no weights of its own: pass weights=False for a fresh initialisation, or weights='file'"
        )
    if place.type == "cpu" and not multiplies(precision):
        logger.warning(
            "%s in %s: this processor multiplies no matrices of that type, so float32 is many times faster",
            value.name,
            str(precision).removeprefix("torch."),
        )
    zoo = current()
    zoo.ask_once("register_kernels")
    # first without storage: what cannot work is found out before memory is taken
    with init_empty_weights(), _in_file(name):
        model = assemble(value, zoo.components)
    if weights is False:
        if place.type != "meta":
            model = assemble(value, zoo.components)
    else:
        from registry.weights import load as load_weights

        load_weights(model, value, Path(weights) if isinstance(weights, os.PathLike) else weights, **hub)
        _all_there(model)
    model.spec = value
    model.to(place).float()
    model = model if precision == torch.float32 else model.to_mixed_precision(precision)
    return prepare(model, place).eval()


def _all_there(model: Sam2) -> None:
    """Raise SpecError for a buffer that no file could fill; parameters the loader has checked."""
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in saved:
            raise SpecError(
                f"{name} is a buffer that is not in the state dict, so it has no values when a model is filled from a"
                " file; the part must compute it on first use, or keep it in the state dict"
            )
    unfilled = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not unfilled, f"left without values after loading: {unfilled}"
