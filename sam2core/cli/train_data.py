"""What a training run is told: a recipe with overrides, and the data that the recipe's sources name."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.errors import UnknownName, hint
from registry.plugins import current
from sam2core.cli.options import pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sam2core.data.footage import Footage
    from sam2core.training.augment import Mixture
    from sam2core.training.clips import LabelledImage
    from sam2core.training.recipe import Recipe

FILES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".json")  # what readers of images read


def read_recipe(name: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tree of a recipe with overrides applied. Raises ValueError for an unknown name or key, or no YAML mapping."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from sam2core import configuration
    from sam2core.storage import read_text

    path = Path(name)
    if path.suffix != ".yaml":
        offered = current().recipes
        if name not in offered:
            known = sorted(offered)
            raise ValueError(
                f"there is no recipe {name!r}; there are {', '.join(known)}, or give a .yaml file{hint(name, known)}"
            )
        path = offered[name]
    written = configuration.parse(read_text(path, limit=configuration.TEXT_LIMIT), str(path), aliases=True)
    if not isinstance(written, dict):
        kind = "list" if isinstance(written, list) else type(written).__name__
        raise ValueError(f"{path}: a recipe is a mapping, such as {current().recipes['finetune_image']}; got a {kind}")
    tree = OmegaConf.create(written)
    for text in pairs(overrides):
        key, _, value = text.partition("=")
        try:
            OmegaConf.update(tree, key, configuration.parse(value, "its value"), force_add=True)
        except (OmegaConfBaseException, ValueError, IndexError) as error:
            raise ValueError(f"override {text!r}: {error}") from error
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def with_format(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A recipe's tree whose only source is read in a format, or, with "auto", in the one that its folder looks like.

    Options of another reader are left out. Raises ValueError where the recipe has several sources.
    """
    sources = tree.get("sources")
    if not name or not isinstance(sources, list):
        return tree
    if len(sources) != 1:
        raise ValueError(f"--format says how one source is read; this recipe has {len(sources)}: say sources.N.reader")
    (source,) = sources
    if source.get("reader") != name:
        tree["sources"] = [{**source, "reader": name, "options": {}}]
    return tree


def initialisation(recipe: Recipe) -> Any:
    """What gives a run of this recipe its first weights; None to go on from the model's.

    Raises UnknownName for a start that nobody offers.
    """
    if recipe.start == "weights":
        return None
    components = current().components
    try:
        return components.make("initialisation", {"type": recipe.start})
    except UnknownName as error:
        raise ValueError(f"recipe: start is 'weights', or an initialisation: {error}") from None


def check_sources(recipe: Recipe) -> None:
    """Raise ValueError for a reader that there is not, or an option that it does not take, before anything is read."""
    from registry.components import check
    from sam2core.training.readers import FOOTAGE, JOBS, READERS

    readers = {**READERS, **FOOTAGE}
    for number, source in enumerate(recipe.sources):
        if source.reader not in readers:
            known = f"there are {', '.join(readers)}{hint(source.reader, readers)}"
            raise ValueError(f"sources.{number}: there is no reader {source.reader!r}; {known}")
        target = JOBS.get(source.reader, readers[source.reader])  # what makes jobs says which options there are
        check(f"sources.{number}: reader {source.reader!r}", target, source.options, ("root",))


def open_source(
    recipe: Recipe, number: int, data: Path, folder: Path, writes: bool
) -> Sequence[LabelledImage] | Sequence[Footage]:
    """One source: footage is listed; images are decoded into `folder` when they are not there yet.

    Processes that do not write wait for the one that does. `check_sources` comes first.
    """
    from sam2core.training.clips import Pack
    from sam2core.training.readers import FOOTAGE, READERS

    source = recipe.sources[number]
    if source.reader in FOOTAGE:
        return FOOTAGE[source.reader](data / source.path, **source.options)
    place = folder / f"{number}_{Path(source.path).name}"
    own = (folder, folder.parent) if folder.name == "pack" else (folder,)
    origin = _origin(recipe, number, data, own)
    if Pack.origin_of(place) != origin:
        if writes:
            click.echo(f"decoding {data / source.path}", err=True)
            pictures = READERS[source.reader](data / source.path, **source.options)
            return Pack.write(place, pictures, side=recipe.side, origin=origin)
        while Pack.origin_of(place) != origin:
            time.sleep(1)
    return Pack(place)


def open_sources(recipe: Recipe, data: Path, folder: Path, writes: bool) -> Mixture:
    """All sources of a recipe, mixed and augmented as it says; see `open_source`."""
    from sam2core.training.augment import Mixture

    return Mixture(
        [open_source(recipe, number, data, folder, writes) for number in range(len(recipe.sources))],
        [source.weight for source in recipe.sources],
        augment=recipe.augment,
        seed=recipe.seed,
        pasting=[source.paste for source in recipe.sources],
    )


def _origin(recipe: Recipe, number: int, data: Path, own: tuple[Path, ...]) -> str:
    """What a source's decoded images depend on, the files' names, sizes and times included; `own`: not these."""
    source = recipe.sources[number]
    root = (data / source.path).resolve()
    skipped = {folder.resolve() for folder in own} - {root, *root.parents}
    digest = hashlib.sha256()
    for below, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if Path(below, name) not in skipped)
        for name in sorted(names):
            if name.endswith(FILES):
                stat = os.stat(os.path.join(below, name))
                digest.update(f"{os.path.relpath(below, root)}/{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    told = {"reader": source.reader, "options": source.options, "side": recipe.side, "files": digest.hexdigest()}
    return json.dumps({"path": str(root), **told}, sort_keys=True)
