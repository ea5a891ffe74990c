"""`sam2core models`: what can be built, and whether its weights are here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.table import table

if TYPE_CHECKING:
    from registry.spec import ModelSpec


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def command(as_json: bool) -> None:
    """List the models: parameters, the image size they see, and where their weights are.

    embedded: part of this package; cached: downloaded before; remote: downloaded when first used (or with
    `sam2core download NAME`); none: random until you pass --weights FILE.
    """
    from registry.plugins import current
    from registry.resolve import load

    rows = []
    specs = current().specs
    for name in specs.names():
        try:
            rows.append(describe(load(name)))
        except ValueError as error:  # a plugin's fails alone
            source = specs.get(name)
            assert source is not None
            click.echo(f"left out: {name} of {source.owner}: {error}", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    click.echo(
        table(
            ("model", "parameters", "image", "weights", "from"),
            [
                (
                    row["name"],
                    _count(row["parameters"]),
                    "x".join(str(side) for side in dict.fromkeys(row["image_size"])),
                    row["weights"],
                    row["source"] or "",
                )
                for row in rows
            ],
            right=(1, 2),
        )
    )


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Say of a model what the table shows, as plain values."""
    state, path = whereabouts(spec)
    weights = spec.weights
    source = None
    if weights is not None and state != "embedded":
        source = weights.repo or weights.url or weights.file
    return {
        "name": spec.name,
        "parameters": spec.parameters,
        "image_size": list(spec.image_size),
        "weights": state,
        "path": str(path) if path else None,
        "source": source,
        "size": weights.size if weights else None,
        "description": spec.description,
    }


def whereabouts(spec: ModelSpec) -> tuple[str, Path | None]:
    """Find weights without asking the network: embedded, cached, remote, local, missing or none; and their path."""
    from registry.errors import WeightsError
    from registry.weights import locate

    if spec.weights is None:
        return "none", None
    remote = not spec.weights.package and bool(spec.weights.repo or spec.weights.url)
    try:
        path = locate(spec, offline=True)
    except WeightsError:
        return "remote" if remote else "missing", None
    return "embedded" if spec.weights.package else "cached" if remote else "local", path


def _count(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"
