"""What several verbs ask for in the same way: prompts, a model and how to run it."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from sam2core.annotations import DTYPES, dtype_name

DEFAULT_MODEL = "sam2core_nano"
Function = TypeVar("Function", bound=Callable[..., Any])


format_option = click.option(
    "--format",
    "format_name",
    default="",
    metavar="NAME",
    help="The format of the data, see docs/data.md.  [default: what the folder looks like]",
)


class Numbers(click.ParamType):
    """Numbers between commas, such as 210,350."""

    def __init__(self, name: str, counts: tuple[int, ...], example: str) -> None:
        self.name, self.counts, self.example = name, counts, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(word) for word in re.split(r"\s*,\s*", value.strip()))
        except ValueError:
            numbers = ()
        if len(numbers) not in self.counts or not all(abs(number) < 1e9 for number in numbers):
            self.fail(f"{value!r} is not {self.name}, such as {self.example}", param, ctx)
        return numbers


class Point(Numbers):
    """X,Y for a click inside the object, X,Y,0 for one outside."""

    def __init__(self) -> None:
        super().__init__("X,Y[,0|1]", (2, 3), "210,350 (inside) or 80,90,0 (outside)")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        x, y, *label = super().convert(value, param, ctx)
        if label not in ([], [0.0], [1.0]):
            self.fail(f"the third number of {value!r} is 1 (inside the object) or 0 (outside)", param, ctx)
        return (x, y, label[0] if label else 1.0)


class Box(Numbers):
    """X0,Y0,X1,Y1: two opposite corners, the upper left first."""

    def __init__(self) -> None:
        super().__init__("X0,Y0,X1,Y1", (4,), "120,40,390,310")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        x0, y0, x1, y1 = super().convert(value, param, ctx)
        if x1 <= x0 or y1 <= y0:
            self.fail(f"{value!r} has no inside: the upper left corner comes first", param, ctx)
        return (x0, y0, x1, y1)


class Size(click.ParamType):
    """N, or HxW where height and width differ."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", value.strip())
        if not match:
            self.fail(f"{value!r} is not a size, such as 512 or 384x512 (height x width)", param, ctx)
        height, width = match.groups()
        return int(height) if width is None else (int(height), int(width))


AUTO = "auto"


class Dtype(click.Choice):
    """A floating type, by its short name or torch's, or another word."""

    def __init__(self, *words: str) -> None:
        super().__init__([*words, *DTYPES, *DTYPES.values()])


class Model(click.ParamType):
    """The name of a model, or a file that says which it is for; a shell completes the names."""

    name = "NAME"
    SIZES = {"t": "hiera_t", "s": "hiera_s", "b": "hiera_b+", "l": "hiera_l"}
    """ultralytics' letters, as in sam2.1_b.pt -> ours."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = Path(value)
        if path.suffix not in (".pt", ".pth", ".ckpt", ".bin"):
            return value
        version, _, letter = path.stem.rpartition("_")
        known = version in ("sam2", "sam2.1") and letter in self.SIZES
        name = f"{version}_{self.SIZES[letter]}" if known else "NAME"
        self.fail(f"{value!r} does not say which model it is for: --model {name} --weights {value}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        import registry

        return [CompletionItem(name) for name in registry.models() if name.startswith(incomplete)]


def model_options(function: Function) -> Function:
    """Add `model_flags` and the trailing overrides to a verb."""
    return model_flags(click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function))


def model_flags(function: Function) -> Function:
    """Add --model, --weights, --device, --dtype, --image-size and --threads to a verb."""
    for decorate in reversed(
        [
            click.option(
                "-m",
                "--model",
                type=Model(),
                help=f"A name of `sam2core models`, or a .yaml or .safetensors file.  [default: {DEFAULT_MODEL}]",
            ),
            click.option("--weights", metavar="FILE|none", help="Other weights; none: random ones."),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps"),
            click.option(
                "--dtype",
                type=Dtype(AUTO),
                default=AUTO,
                show_default=True,
                help="auto: bf16 on a CUDA device that computes in it, fp32 elsewhere.",
            ),
            click.option("--image-size", type=Size(), help="Pixels the model sees; smaller is faster and coarser."),
            click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]"),
        ]
    ):
        function = decorate(function)
    return function


def pairs(words: Iterable[str]) -> tuple[str, ...]:
    """Check that trailing words are pairs such as ``memory_policy.frames=4``; what they mean is the registry's to say.

    Raises:
        click.BadParameter: a word that is no pair.
    """
    for word in words:
        if not _is_pair(word):
            raise click.BadParameter(f"{word!r} is not KEY=VALUE, such as memory_policy.frames=4")
    return tuple(words)


def divided(words: Sequence[str], first: int = 1) -> tuple[list[str], tuple[str, ...]]:
    """The files that a verb's words name, and the pairs that follow them; the `first` words are files in any case.

    Raises:
        click.BadParameter: a word that is neither.
    """
    files, changes = list(words[:first]), []
    for word in words[first:]:
        if "://" in word or glob.has_magic(word) or Path(word).exists() or Path(word).suffix and not _is_pair(word):
            files.append(word)
        elif _is_pair(word):
            changes.append(word)
        else:
            raise click.BadParameter(
                f"{word!r} is no file or folder, and not KEY=VALUE, such as memory_policy.frames=4"
            )
    return files, tuple(changes)


def _is_pair(word: str) -> bool:
    return re.match(r"[A-Za-z_][\w.]*=", word) is not None


def check_folder(path: Path) -> None:
    """Raise ValueError when the folder that a file is to be written to is not there."""
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: {path.parent} is no folder")


def open_model(options: Mapping[str, Any], changes: Iterable[str], say: Callable[[str], None]) -> str:
    """The name of the model that the options of `model_options` ask for, its weights fetched when they are not here."""
    import registry
    from sam2core.cli.download import fetch

    name = options["model"] or DEFAULT_MODEL
    if options["model"] is None:
        say(f"{name} is a small model for trying things out; an official one: --model sam2.1_hiera_l (sam2core models)")
    if options["weights"] is None:
        fetch(registry.spec(name, *changes), options["quiet"])
    return name


def chosen_dtype(options: Mapping[str, Any]) -> str:
    """The type that the options of `model_options` come to, in the words of --dtype; for what is written down."""
    if options["dtype"] != AUTO:
        return options["dtype"]
    from registry.assemble import computes_in_bfloat16, device_of

    return "bf16" if computes_in_bfloat16(device_of(options["device"])) else "fp32"


def build_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the options of `model_options`, all but the overrides, into keywords of `registry.build`.

    Sets the threads, and the seed of random weights.
    """
    if options["threads"]:
        import torch

        torch.set_num_threads(options["threads"])
    arguments = {"device": options["device"], "dtype": None}
    if options["dtype"] != AUTO:
        arguments["dtype"] = dtype_name(options["dtype"])
    if (
        options["weights"] == "none"
    ):  # the same random ones in every run and worker, so that one that was stopped goes on
        import torch

        torch.manual_seed(0)
    if options["weights"] is not None:
        arguments["weights"] = False if options["weights"] == "none" else options["weights"]
    if options["image_size"] is not None:
        arguments["image_size"] = options["image_size"]
    return arguments
