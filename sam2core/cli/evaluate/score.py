"""`sam2core evaluate score`: a folder of mask PNGs against the true ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sam2core.cli.options import format_option

if TYPE_CHECKING:
    from sam2core.data.footage import Footage
    from sam2core.evaluation.scoring import Scores

PROTOCOLS = ("davis", "davis2016", "sav")
INCOMPLETE = 2  # the exit code when answers are missing


@click.command()
@click.argument("truth", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("answers", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="[default: sav for folders per object, else davis]")
@click.option("--subset", metavar="NAME", help="The videos of ImageSets/**/NAME.txt, such as val.")
@format_option
@click.option("--video", "videos", multiple=True, metavar="NAME", help="Only this video; may be repeated.")
@click.option("--ends", is_flag=True, help="Count the first and the last frame too.")
@click.option("--compat", is_flag=True, help="The decay of davis2017-evaluation, wrong beyond 256 frames.")
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Where the reports go.  [default: ANSWERS]"
)
def score(
    truth: Path,
    answers: Path,
    protocol: str | None,
    subset: str | None,
    format_name: str,
    videos: tuple[str, ...],
    ends: bool,
    compat: bool,
    out: Path | None,
) -> None:
    """Score the masks in ANSWERS against those of the data set TRUTH, or of its folder of annotations.

    Prints a table and writes scores.json, scores.csv and scores.md. When answers are missing, they are
    listed, nothing is scored, and the exit code is 2.
    """
    from sam2core.evaluation.scoring import truths

    if subset and videos:
        raise click.UsageError("--subset and --video exclude each other")
    footage = truths(truth, format_name, list(videos), subset)
    report(footage, answers, protocol, ends=ends, compat=compat, out=out or answers)


def report(
    footage: list[Footage],
    answers: Path,
    protocol: str | None,
    *,
    ends: bool = False,
    compat: bool = False,
    out: Path,
) -> None:
    """Score, print the table, write the reports; exit with 2 when answers are missing."""
    from sam2core.evaluation.scoring import IncompleteError, Scores
    from sam2core.evaluation.scoring import score as score_folder

    if protocol is None:
        protocol = "sav" if footage[0].overlapping else "davis"
    found = []
    try:
        with click.progressbar(length=len(footage), label="scoring", file=sys.stderr) as bar:
            for _, objects in score_folder(footage, answers, protocol=protocol, ends=ends, narrow_bins=compat):
                found += objects
                bar.update(1)
    except IncompleteError as error:
        click.echo(f"sam2core: {error}", err=True)
        click.get_current_context().exit(INCOMPLETE)
    scores = Scores(protocol, tuple(found))
    write_reports(scores, out)
    click.echo(scores.markdown(), nl=False)


def write_reports(scores: Scores, out: Path) -> None:
    """``scores.json``, ``scores.csv`` and ``scores.md`` in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(json.dumps(scores.document(), indent=1, allow_nan=False) + "\n")
    (out / "scores.csv").write_text(scores.csv())
    (out / "scores.md").write_text(scores.markdown())
