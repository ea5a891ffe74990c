"""What a spec says about weights, made true: a file is found, its names become ours, and it is loaded strictly.

The embedded model's file lies in this folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import SpecError, UnknownName, WeightsError
from registry.places import locate, locate_repository, read_spec, source
from registry.plugins import current
from registry.resolve import load as load_spec

if TYPE_CHECKING:
    from torch import Tensor

    from registry.spec import ModelSpec
    from sam2core.checkpoints.layout import Layout
    from sam2core.model import Sam2

__all__ = ["check", "fitting", "layouts", "load", "locate", "locate_repository", "read", "read_spec", "source"]

logger = logging.getLogger(__name__)


def load(
    model: Sam2,
    spec: ModelSpec,
    weights: bool | str | Path = True,
    *,
    partial: bool = False,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    revision: str | None = None,
) -> None:
    """Fill `model` with the weights the spec names, or with those of a file.

    Strict: every tensor of the model is in the file, every tensor of the file has a home, all shapes agree. Tensors
    keep the dtype the model was built with and are mapped from the file rather than copied (writing to one does not
    change the file). They lie on the CPU: move the model afterwards.

    weights     True: what the spec names. A path: that file, its layout recognised by its keys
    partial     the file holds some parts, such as a decoder alone: the spec's weights come first, the file's over them;
                a warning lists which tensors were kept
    cache_dir, offline, revision    as `locate`

    A transformers `Sam2Model` file holds no memory parts. It is loaded, the memory parts are zeros,
    ``model.image_only`` is set, and a warning is logged: images work, and what needs memory raises.

    Raises
        WeightsError: no such weights, not to be had, damaged, or made for another model (grouped by part).
    """
    import torch

    if partial:
        if isinstance(weights, bool):
            raise WeightsError("partial=True loads a file over the model's own weights: pass weights='a/file' with it")
        load(model, spec, cache_dir=cache_dir, offline=offline, revision=revision)
        _load_over(model, spec, Path(weights))
        return
    if weights is False:
        raise WeightsError("weights=False asks for a model without weights: there is nothing to load")
    if weights is True:
        path = locate(spec, cache_dir=cache_dir, offline=offline, revision=revision)
        assert spec.weights is not None
        state, layout = read(path, layout=spec.weights.layout)
    else:
        path = Path(weights)
        state, layout = read(path)

    wanted = model.state_dict()
    absent: set[str] = set()
    if layout.without:
        absent = _left_out(layout, wanted, spec) - set(state)
    zeros = {name: torch.zeros(wanted[name].shape, dtype=wanted[name].dtype) for name in absent}
    check(path.name, spec, {name: wanted[name] for name in wanted if name not in absent}, state, layout)
    state |= zeros
    model.load_state_dict(
        {
            name: tensor if tensor.dtype == wanted[name].dtype else tensor.to(wanted[name].dtype)
            for name, tensor in state.items()
        },
        strict=True,
        assign=True,
    )
    model.image_only = bool(absent)
    if absent:
        logger.warning(
            "%s holds an image model: %d tensors of memory are absent, so videos cannot be tracked with it",
            path.name,
            len(absent),
        )


def layouts() -> list[Layout]:
    """The layouts on offer, ours and plugins'."""
    components = current().components
    return [components.resolve("layout", name) for name in components.names("layout")]


def read(path: str | Path, *, layout: str | None = None) -> tuple[dict[str, Tensor], Layout]:
    """The tensors of a checkpoint under our names, and the layout it was in.

    layout      what the file is said to be; None: recognised by its keys

    Raises
        WeightsError: no such file, damaged, unsafe, of no known layout, or not of the one it is said to be.
    """
    from sam2core.checkpoints import files
    from sam2core.checkpoints.layout import LayoutError, recognise
    from sam2core.checkpoints.wrappers import is_wrapped, without_prefixes

    path = Path(path).expanduser()
    try:
        state, _ = files.read(path)
        known = layouts() if layout is None else [current().components.resolve("layout", layout)]
        if is_wrapped(state) or not any(each.fits(state) for each in known):
            state = without_prefixes(state, path.name)
        found = recognise(state, layouts())
        if layout is not None and not known[0].fits(state):
            raise LayoutError(f"the file is said to be of layout {layout!r}, and its keys are of {found.name!r}")
        found = found if layout is None else known[0]
        return found.rename(state), found
    except files.FileError as error:
        raise WeightsError(str(error)) from error
    except LayoutError as error:
        raise WeightsError(f"{path.name}: {error}") from error


def check(
    file: str, spec: ModelSpec, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], layout: Layout | None = None
) -> None:
    """Nothing, where the tensors `state` of a file are those that the model of `spec`, with tensors `wanted`, asks for.

    Raises
        WeightsError: they are not. Grouped by part: missing, without a home, shape differs; and the model they do fit.
    """
    problem = _differences(wanted, state)
    if not problem:
        _check_values(file, wanted, state)
        return
    others = fitting(state, layout)
    if spec.name in others:
        advice = f"the file fits {spec.name} without the overrides"
    elif others:
        advice = f"the file fits {others[0]}: build that, or pass other weights"
    else:
        advice = "pass weights=False, or give the spec weights of its own"
    raise WeightsError(f"{file} does not fit {spec.name}.\n{problem}\n  {advice}")


def _check_values(file: str, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for the first tensor that is of another kind of number, or holds one that is not finite."""
    for name, tensor in state.items():
        if wanted[name].is_floating_point() != tensor.is_floating_point() or tensor.is_complex():
            kind = "floating-point numbers" if wanted[name].is_floating_point() else "whole numbers"
            raise WeightsError(f"{file}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, wanted {kind}")
    for name in _doubtful(state):
        finite = state[name].float().isfinite()  # the smallest types have no such operator
        if not finite.all():
            raise WeightsError(
                f"{file}: {name} holds {int((~finite).sum())} of {finite.numel()} values that are NaN or infinite: "
                "the file is damaged, or its training diverged"
            )


def _doubtful(state: Mapping[str, Tensor]) -> list[str]:
    """The tensors whose sum is not finite, by name: some number in them is not, or they are huge.

    A sum reads each number once, as fast as memory gives it: the check is a tenth of building a model, no more.
    """
    import torch

    names = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.is_meta]
    if not names:
        return []
    sums = [state[name].sum(dtype=torch.float32) for name in names]
    finite = torch.stack([one.cpu() for one in sums]).isfinite().tolist()
    return [name for name, fine in zip(names, finite, strict=True) if not fine]


def _load_over(model: Sam2, spec: ModelSpec, path: Path) -> None:
    """Put a file's tensors in the place of those that a model has, and tell which were kept. Raises WeightsError."""
    wanted = model.state_dict()
    state = _read_parts(path, wanted)
    there = {name: tensor for name, tensor in wanted.items() if name in state}
    if problem := _differences(there, state):
        raise WeightsError(f"{path.name} does not fit {spec.name}, not even in part.\n{problem}")
    _check_values(path.name, there, state)
    model.load_state_dict(
        {name: tensor.to(wanted[name].dtype) for name, tensor in state.items()}, strict=False, assign=True
    )
    kept: dict[str, int] = {}
    for name in wanted:
        if name not in state:
            kept[name.split(".")[0]] = kept.get(name.split(".")[0], 0) + 1
    listed = ", ".join(f"{part} ({count})" for part, count in kept.items()) or "nothing"
    logger.warning("%s: %d tensors loaded over those of %s; kept: %s", path.name, len(state), spec.name, listed)


def _read_parts(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that holds some of a model, under our names: by whichever layout gives most of them.

    Names may lack the name of their part, as a module saved alone has them. Raises WeightsError.
    """
    from sam2core.checkpoints import files
    from sam2core.checkpoints.layout import LayoutError
    from sam2core.checkpoints.wrappers import without_prefixes

    try:
        given, _ = files.read(path)
        bare = without_prefixes(given, path.name)
    except files.FileError as error:
        raise WeightsError(str(error)) from error
    best: dict[str, Tensor] = {}
    parts = dict.fromkeys(name.split(".")[0] for name in wanted)
    ours = [{f"{part}.{name}": tensor for name, tensor in bare.items()} for part in parts]
    for names in (given, bare, *ours):
        for layout in layouts():
            try:
                renamed = layout.rename(names)
            except LayoutError:
                continue
            if len(renamed.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
                best = renamed
    if not best:
        first = next(iter(given))
        raise WeightsError(f"{path.name} holds no tensor of the model, by the names of any layout (first: {first})")
    return best


def fitting(state: Mapping[str, Tensor], layout: Layout | None = None) -> list[str]:
    """The models on offer whose tensors have these names and shapes.

    Specs that cannot be built (their plugin is broken) are passed over. Several may fit: a spec that changes no weight,
    such as one with another memory policy, fits as well as its parent. Ours come before plugins'.

    layout      the layout the tensors came from, when that leaves parts of a model out
    """

    from registry.assemble import assemble, init_empty_weights
    from sam2core.hooks import PROJECT

    zoo = current()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found: list[tuple[bool, str]] = []
    for name in zoo.specs.names():
        try:
            spec = load_spec(name, zoo=zoo)
            if any(shapes.get(key, (wide,))[-1:] != (wide,) for key, wide in _widths(spec).items()):
                continue  # told apart without building
            with init_empty_weights():
                model = assemble(spec, zoo.components)
        except (UnknownName, SpecError) as error:
            logger.debug("passing over %s: %s", name, error)
            continue
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        if layout is not None and layout.without:
            try:
                for key in _left_out(layout, model.state_dict(), spec):
                    del wanted[key]
            except WeightsError:
                continue
        if wanted == shapes:
            entry = zoo.specs.get(name)
            found.append((entry is None or entry.owner.split()[0] != PROJECT, name))
    return [name for _, name in sorted(found)]


def _differences(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What keeps a file from fitting a model, a line per part; empty when nothing does."""
    parts = list(dict.fromkeys(name.split(".")[0] for name in [*wanted, *state]))
    width = max(map(len, parts), default=0)
    lines = []
    for part in parts:
        prefix = part + "."

        def own(names: Iterable[str], prefix: str = prefix, part: str = part) -> list[str]:
            return [name.removeprefix(prefix) for name in names if name == part or name.startswith(prefix)]

        missing = own(name for name in wanted if name not in state)
        left = own(name for name in state if name not in wanted)
        differing = own(name for name in state if name in wanted and state[name].shape != wanted[name].shape)
        says = []
        if missing:
            says.append(f"{_tensors(missing)} missing (first: {missing[0]})")
        if left:
            says.append(f"{_tensors(left)} without a home (first: {left[0]})")
        if says:
            lines.append(f"  {part:<{width}}   {', '.join(says)}")
        if differing:
            first = part if differing[0] == part else prefix + differing[0]
            more = f" ({len(differing) - 1} more differ)" if len(differing) > 1 else ""
            lines.append(
                f"  {part:<{width}}   shape differs: {differing[0]} is {tuple(state[first].shape)}, "
                f"model wants {tuple(wanted[first].shape)}{more}"
            )
    return "\n".join(lines)


def _tensors(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _widths(spec: ModelSpec) -> dict[str, int]:
    """The last dimension of two tensors that every model has."""
    return {"memory_readout.no_memory": spec.dim, "memory_readout.slot_embed": spec.memory_dim}


def _left_out(layout: Layout, state: Mapping[str, Tensor], spec: ModelSpec) -> set[str]:
    """The tensors of a model that files of this layout never hold."""
    import torch

    from sam2core.checkpoints.layout import LayoutError

    blank = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    try:
        return set(blank) - set(layout.rename(layout.inverse(blank)))
    except LayoutError as error:
        raise WeightsError(f"layout {layout.name!r} has no names for the parts of {spec.name}: {error}") from error
