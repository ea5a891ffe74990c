"""`sam2core export`: a model as four graphs, for runtimes without Python or without torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sam2core.cli import Failure
from sam2core.cli.options import Size, pairs

ONNX = ("onnx", "onnxruntime", "onnxscript")


class MissingOnnx(Failure):
    """A format whose optional packages are not installed."""

    exit_code = 3


def _sizes(function: Callable[..., None]) -> Callable[..., None]:
    """What is said of the model and of what is fixed in its graphs."""
    for decorate in (
        click.option(
            "--points",
            type=click.IntRange(min=1),
            default=12,
            show_default=True,
            help="Points of a prompt, for models that draw prompts; others take any number.",
        ),
        click.option(
            "--object-pointers", type=click.IntRange(min=1), help="Object pointers in a bank.  [default: the policy's]"
        ),
        click.option(
            "--slots", type=click.IntRange(min=1), help="Memories in an object's bank.  [default: the model's]"
        ),
        click.option("--image-size", type=Size(), help="Pixels the model sees: fixed in the graphs."),
        click.option("--weights", metavar="FILE|none", help="Other weights; none: random ones."),
        click.option("-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path)),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
        click.argument("name"),
    ):
        function = decorate(function)
    return function


@click.command("export")
@_sizes
@click.option("--format", "form", type=click.Choice(["onnx", "torch_export"]), default="onnx", show_default=True)
@click.option("--int8", is_flag=True, help="Lossy: weights of the matrix products in 8 bits (onnx only).")
def command(form: str, int8: bool, **said: Any) -> None:
    """Write a model's image encoder, mask decoder, memory attention and memory encoder as graphs.

    Beside them comes graphs.json: inputs, outputs, sizes and the few constants a runner needs.
    """
    if int8 and form != "onnx":
        raise click.BadParameter("only --format onnx can be quantised", param_hint="--int8")
    try:
        _write(form, int8=int8, **said)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ONNX:
            raise
        raise MissingOnnx(f"ONNX files need {error.name!r}: pip install 'sam2core-export[onnx]'") from error


@click.command("compile")
@_sizes
def compile_command(**said: Any) -> None:
    """Compile a model ahead of time: the four graphs as machine code, which start without compiling.

    Wants torch 2.6 and a C++ compiler here; where the files are used, the same torch and the same kind of processor.
    """
    import torch
    import torch._inductor

    if not hasattr(torch._inductor, "aoti_load_package"):
        raise Failure(f"packages are compiled by torch 2.6 or later, this is {torch.__version__}")
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        raise Failure("a C++ compiler is needed to compile a model, and neither g++ nor clang++ is on the PATH")
    _write("aoti", **said)


def _write(
    form: str,
    *,
    name: str,
    overrides: tuple[str, ...],
    folder: Path,
    weights: str | None,
    image_size: int | tuple[int, int] | None,
    **sizes: Any,
) -> None:
    import registry
    from sam2core_export.write import export

    chosen: bool | str = True if weights is None else False if weights == "none" else weights
    model = registry.build(name, *pairs(overrides), weights=chosen, image_size=image_size)

    def say(line: str) -> None:
        click.echo(line, err=True)

    export(model, folder, format=form, progress=say, **sizes)
    click.echo(folder / "graphs.json")
