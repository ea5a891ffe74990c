"""`sam2core plugins`: what the installed distributions offer, and which of them failed and why."""

from __future__ import annotations

import dataclasses
import json

import click

from registry.cli.table import table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the plugins: their distribution, whether they work, what they offer.

    SAM2CORE_PLUGINS chooses: unset all, empty none, or a comma-separated list of names.
    """
    from registry.plugins import current

    ctx.find_root().command.list_commands(ctx)  # type: ignore[attr-defined]  # asks every plugin for its verbs too
    records = current().records
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(record) for record in records], indent=1))
        return
    click.echo(
        table(
            ("plugin", "distribution", "version", "status", "offers"),
            [
                (record.name, record.distribution, record.version, record.status, _count(record.provides))
                for record in records
            ],
        )
    )
    for record in records:
        if record.error:
            click.echo(f"\n{record.name}: {record.error}")


def _count(provides: tuple[str, ...]) -> str:
    """Sum up what a plugin offers: names when they are few, numbers when they are many."""
    if len(provides) <= 4:
        return ", ".join(provides)
    kinds = [entry.partition(":")[0] for entry in provides]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
