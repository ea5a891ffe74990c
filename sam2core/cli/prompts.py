"""Prompts for a video on the command line; what they say is `sam2core.jobs.prompts`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from sam2core.jobs.prompts import Prompts

PROMPTS = {"objects": "object", "points": "points", "boxes": "box", "masks": "mask"}
"""The options that say something -> what they say."""


class OnFrame(click.ParamType):
    """A frame's number, a colon, and a point, a box or a path."""

    def __init__(self, inner: click.ParamType | None, name: str, example: str) -> None:
        self.inner, self.name, self.example = inner, name, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, Any]:
        if isinstance(value, tuple):
            return value
        frame, _, rest = value.partition(":")
        if not (frame.strip().isdecimal() and frame.isascii() and rest):
            self.fail(f"{value!r} is not {self.name}, such as {self.example}", param, ctx)
        return int(frame), self.inner.convert(rest, param, ctx) if self.inner else rest


class InOrder(click.Command):
    """Remembers in which order the prompts were written: those after an --object belong to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        ctx.meta["sam2core.order"] = [param.name for param in order if param.name in PROMPTS]
        return super().parse_args(ctx, args)


def spoken(order: list[str], given: Mapping[str, tuple], prompts: Prompts, *, still: bool = False) -> None:
    """Add the prompts of the command line, NAME[:CLASS] of an object first; those of an image have no frame before.

    Raises click.UsageError for an object of which nothing is said.
    """
    values = {name: iter(given[name]) for name in PROMPTS}
    current, category, silent = "1", "", False
    for name in order:
        value = next(values[name])
        if name == "objects":
            if silent:
                break
            (current, _, category), silent = value.partition(":"), True
        else:
            frame, said = (0, value) if still else value
            if name == "masks":  # run.json keeps what was said, and lies in another folder
                said = os.path.abspath(said)
            try:
                prompts.add(current, frame, PROMPTS[name], said, category)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            silent = False
    if silent:
        raise click.UsageError(f"--object {current} says nothing: its --point, --box or --mask comes after it")
