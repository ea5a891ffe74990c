"""`sam2core download`: the weights of a model, fetched, checked and named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from registry.spec import ModelSpec

SOURCES = {"any": ("hub", "direct"), "hub": ("hub",), "direct": ("direct",)}


@click.command()
@click.argument("name")
@click.option("--source", type=click.Choice(list(SOURCES)), default="any", show_default=True,
              help="The Hugging Face hub, its author's own address, or one after the other.")  # fmt: skip
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path),
              help="Folder to keep it in (cache_dir= of registry.build).  [default: the caches]")  # fmt: skip
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--verify", is_flag=True, help="Check the checksum of a file that was there already, too.")
def command(name: str, source: str, folder: Path | None, revision: str | None, verify: bool) -> None:
    """Download the weights of the model NAME and print their path.

    An interrupted download resumes. Length and checksum are checked. What is in a cache is not downloaded again.
    """
    import registry
    from registry import weights

    spec = registry.spec(name)
    with progress(f"downloading {name}") as report:
        path = weights.locate(spec, cache_dir=folder, revision=revision, sources=SOURCES[source], progress=report)
    if verify:
        _verify(spec, path, revision)
    click.echo(path)


def fetch(spec: ModelSpec, quiet: bool) -> None:
    """Download the model's weights with a bar on stderr, unless they are here."""
    from contextlib import nullcontext

    from registry.weights import locate
    from sam2core.cli.models import whereabouts

    if whereabouts(spec)[0] == "remote":
        with nullcontext() if quiet else progress(f"downloading {spec.name}") as report:
            locate(spec, progress=report)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that draws a bar on stderr from its first call on."""
    bars: list[Any] = []

    def report(done: int, total: int) -> None:
        if not bars:
            bars.append(click.progressbar(length=total or None, label=label, file=sys.stderr, show_pos=False))
            bars[0].__enter__()
        bars[0].update(done - bars[0].pos)

    try:
        yield report
    finally:
        if bars:
            bars[0].__exit__(None, None, None)


def _verify(spec: Any, path: Path, revision: str | None) -> None:
    from registry.errors import WeightsError
    from sam2core.checkpoints import files

    with progress(f"verifying {path.name}") as report:
        found = files.sha256(path, report)
    wanted = spec.weights.sha256 if revision is None else None
    if wanted is None:
        click.echo(f"sha256 {found}; none is recorded to compare it with", err=True)
    elif found != wanted:
        raise WeightsError(
            f"{path} is damaged or another file: its checksum is {found}, wanted {wanted}.\n"
            "  remove it and run this again"
        )
    else:
        click.echo(f"sha256 {found}: as recorded", err=True)
