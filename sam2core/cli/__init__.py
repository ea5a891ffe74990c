"""The program `sam2core`: one file a verb, imported when asked for, so that help is quick and imports no torch.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 an error, 2 wrong usage, 3 an optional package is
missing, 130 interrupted (Ctrl-C), 143 asked to stop (SIGTERM).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

import sam2core
from sam2core.cli.allocator import keep_freed_memory
from sam2core.cli.wording import in_options
from sam2core.jobs.interrupt import ended_at_once, exit_code
from sam2core.older import nearest

VERBS = (
    "segment",
    "automask",
    "track",
    "train",
    "evaluate",
    "data",
    "models",
    "show",
    "convert",
    "download",
    "verify",
    "bench",
    "plugins",
    "doctor",
)
EXTRAS = {  # extra -> the modules it brings
    "video": ("av",),
    "raster": ("tifffile",),
    "baselines": ("cv2", "skimage"),
    "lora": ("peft",),
    "plot": ("matplotlib",),
    "medical": ("nibabel",),
    "geo": ("rasterio",),
}


class Failure(click.ClickException):
    """An error the user can act on: one message, exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"sam2core: {self.message}", file=file, err=True)


class MissingExtra(Failure):
    """A feature whose optional package is not installed."""

    exit_code = 3

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(f"this needs the package {module!r}, which is not installed: pip install 'sam2core[{extra}]'")


class Program(click.Group):
    """The verbs of this package, then those of plugins. Plugins are loaded only for help or an unknown verb."""

    _joined = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._join_plugins()
        return [*VERBS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in VERBS:
            command = importlib.import_module(f"sam2core.cli.{cmd_name}").command
        else:
            self._join_plugins()
            command = self.commands.get(cmd_name)
        return command and _with_verbose(command)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            match = nearest(args[0], self.list_commands(ctx))
            ctx.fail(f"no such command: {args[0]!r}." + (f" Did you mean {match!r}?" if match else ""))
        return super().resolve_command(ctx, args)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Take a plugin's command; a name that is taken is refused, not replaced."""
        name = name or cmd.name or ""
        if name in VERBS or name in self.commands:
            from registry.errors import DuplicateName

            raise DuplicateName(f"the command {name!r} exists already")
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb and turn invalid input into one message and an exit code."""
        ctx.meta["sam2core.allocator"] = keep_freed_memory()
        try:
            with ended_at_once():
                return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort) as error:
            click.echo("interrupted", err=True)
            ctx.exit(exit_code(error))
        except BrokenPipeError:  # `| head`: the reader has enough, that is no error worth a word
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except ModuleNotFoundError as error:
            _trace(ctx)
            for extra, modules in EXTRAS.items():
                if (error.name or "").partition(".")[0] in modules:
                    raise MissingExtra(extra, str(error.name)) from error
            raise
        except (ValueError, OSError) as error:
            _trace(ctx)
            raise Failure(in_options(str(error)) or type(error).__name__) from error

    def _join_plugins(self) -> None:
        if not self._joined:
            self._joined = True
            from registry.plugins import current

            current().ask("register_commands", commands=self)


def _trace(ctx: click.Context) -> None:
    if ctx.meta.get("sam2core.verbose"):
        import traceback

        click.echo(traceback.format_exc(), err=True)


def _be_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        import logging

        ctx.meta["sam2core.verbose"] = True
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def _verbose() -> click.Option:
    return click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_be_verbose,
        help="Log to stderr, and show tracebacks.",
    )


def _with_verbose(command: click.Command) -> click.Command:
    """Let every verb take -v too, where people type it."""
    taken = {flag for param in command.params for flag in param.opts}
    if not taken & {"-v", "--verbose"}:
        command.params.append(_verbose())
    return command


@click.command(
    cls=Program,
    params=[_verbose()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(sam2core.__version__, message="%(version)s")
def main() -> None:
    """Segment what you point at, in images and videos, with SAM 2.

    \b
    sam2core segment photo.jpg --point 300,130        one click, one object
    sam2core automask photo.jpg                       everything in it
    sam2core track clip.mp4 --point 0:300,130         the same, followed through a video
    sam2core models                                   what can be used

    Results are written to stdout, all else to stderr. Exit codes: 0 done, 1 error, 2 wrong usage,
    3 an optional package is missing, 130 interrupted (Ctrl-C), 143 asked to stop (SIGTERM).
    """
