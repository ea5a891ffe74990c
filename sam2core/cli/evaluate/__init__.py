"""`sam2core evaluate`: how good the masks are; a file for each of its verbs."""

from __future__ import annotations

import click

from sam2core.cli.evaluate.clicks import clicks
from sam2core.cli.evaluate.score import score
from sam2core.cli.evaluate.vos import vos


@click.group()
def command() -> None:
    """Measure a model: on labelled images with clicks, on videos with the evaluators of DAVIS and SA-V."""


for verb in (clicks, vos, score):
    command.add_command(verb)
