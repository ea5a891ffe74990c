"""`sam2core plugins`: what the installed distributions offer, which of them failed and why; how to start a new one."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import click

from sam2core.cli.table import table


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the plugins: their distribution, whether they work, what they offer.

    SAM2CORE_PLUGINS chooses: unset all, empty none, or a comma-separated list of names.
    """
    if ctx.invoked_subcommand is not None:
        return
    from registry.plugins import current, stray

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
    for words in stray():
        click.echo(f"\nnot found: {words}")


@command.command()
@click.argument("name")
@click.option("--kind", required=True, metavar="KIND", help="The kind of part: see `plugins kinds`.")
@click.option(
    "--into", type=click.Path(file_okay=False, path_type=Path), default=".", help="Folder to write to.  [default: .]"
)
def new(name: str, kind: str, into: Path) -> None:
    """Write a package with a part of your own, ready to install, with tests: NAME is such as acme-motion."""
    from sam2core.cli.skeleton import write_skeleton

    files = write_skeleton(name, kind, into)
    for file in files:
        click.echo(file)
    home = into / name
    place = shlex.quote(str(home))
    click.echo(
        f"\nnext:  pip install -e {place}   and then   sam2core plugins   and   python -m pytest {place}", err=True
    )


@command.command()
def kinds() -> None:
    """List the kinds of parts, what each is, and what is on offer."""
    from registry import KINDS, components

    rows = [(kind.name, kind.summary, ", ".join(components(kind.name))) for kind in KINDS.values()]
    click.echo(table(("kind", "what it does", "on offer"), rows))


def _count(provides: tuple[str, ...]) -> str:
    """Sum up what a plugin offers: names when they are few, numbers when they are many."""
    if len(provides) <= 4:
        return ", ".join(provides)
    kinds = [entry.partition(":")[0] for entry in provides]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
