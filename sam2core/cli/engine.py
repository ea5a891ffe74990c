"""Many workers, for every verb that goes through many files: how many, where, and how each makes its tool."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sam2core.cli.options import DEFAULT_MODEL, build_arguments, pairs

if TYPE_CHECKING:
    from sam2core.protocols import Detector, Engine

Function = TypeVar("Function", bound=Callable[..., Any])


def engine_options(what: str) -> Callable[[Function], Function]:
    """Add --workers and --engine to a verb that goes through many of `what`."""

    def decorate(function: Function) -> Function:
        function = click.option(
            "--engine", default="local", show_default=True, metavar="NAME", help="Where workers run; plugins add more."
        )(function)
        return click.option(
            "--workers", type=click.IntRange(min=1), default=1, show_default=True, help=f"{what} at once; a GPU each."
        )(function)

    return decorate


def open_engine(options: Mapping[str, Any]) -> Engine:
    """The engine that --engine names. Raises ValueError with the nearest match."""
    from registry.plugins import current

    return current().components.make("engine", {"type": options["engine"]}, workers=options["workers"])


def is_here(options: Mapping[str, Any]) -> bool:
    """Whether all is done in this process."""
    return options["engine"] == "local" and options["workers"] == 1


def detector_options(function: Function) -> Function:
    """Add --detector and --detect to a verb that can be told what to look at by a detector."""
    function = click.option(
        "--detect",
        "detect",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the detector, such as text='red cup' or threshold=0.3; may be repeated.",
    )(function)
    return click.option(
        "--detector", metavar="NAME", help="What finds the objects: boxes (--detect file=FILE); plugins add more."
    )(function)


class DetectorMaker:
    """Makes a worker's detector; holds the words of the command line alone, so that it can be sent anywhere.

    Raises ValueError for an option without a value, and for an unknown detector or option when it is made.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        from sam2core.configuration import pair

        self.name = options["detector"]
        self.options: dict[str, Any] = {}
        for word in options["detect"]:
            self.options |= pair(word, "threshold=0.3")

    def __call__(self) -> Detector:
        from registry.plugins import current

        return current().components.make("detector", {"type": self.name, **self.options})

    def document(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"detector": self.name, **self.options}


def placed(path: Path, options: Mapping[str, Any]) -> Path:
    """A path as workers find it: those of other engines may not start in this folder."""
    return path if options["engine"] == "local" else path.absolute()


class PredictorMaker:
    """Builds a worker's predictor; holds the words of the command line alone, so that it can be sent anywhere.

    options     those of `model_options` and `engine_options`
    task        the predictor's name, such as "image"
    also        options of the predictor
    """

    def __init__(self, options: Mapping[str, Any], task: str, **also: Any) -> None:
        kept = ("model", "weights", "device", "dtype", "image_size", "threads", "overrides", "workers")
        self.options = {key: options[key] for key in kept}
        self.task, self.also = task, also
        if self.options["threads"] is None and options["workers"] > 1:
            self.options["threads"] = max(1, (os.cpu_count() or 1) // options["workers"])

    def __call__(self, number: int) -> Any:
        import registry

        arguments = build_arguments(self.options)
        if self.options["workers"] > 1 and arguments["device"] in ("auto", "cuda"):
            import torch

            if torch.cuda.device_count() > 1:
                arguments["device"] = f"cuda:{number % torch.cuda.device_count()}"
        name = self.options["model"] or DEFAULT_MODEL
        return registry.predictor(name, self.task, *pairs(self.options["overrides"]), **arguments, **self.also)
