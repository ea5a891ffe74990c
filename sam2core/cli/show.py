"""`sam2core show`: a model's spec after inheritance and overrides, as YAML that can be edited and used."""

from __future__ import annotations

import dataclasses
import json

import click

from sam2core.cli.options import pairs


@click.command()
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of YAML.")
def command(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the resolved spec of a model.

    \b
    sam2core show sam2.1_hiera_l
    sam2core show sam2.1_hiera_t memory_policy.frames=4
    """
    from registry import spec as resolve

    spec = resolve(name, *pairs(overrides))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(spec), indent=1))
    else:
        click.echo(f"# {spec.name}, resolved\n{spec.to_yaml()}", nl=False)
