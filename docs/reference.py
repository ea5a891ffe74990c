"""Writes what documents here repeat from elsewhere: ``python docs/reference.py``; a test says when that is wanted.

`commands.md` is made whole, from the commands themselves. In other pages the text between ``<!-- made from SOURCE -->``
and ``<!-- end -->`` is: a table of a file of benchmarks/results, the table of models, or README's of plugins. A block
of text that follows a block of code is what that code prints.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
ROOT = HERE.parent
MADE = re.compile(r"(<!-- made from (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PRINTED = re.compile(r"(```python\n(.*?)```\n\n```text\n)(.*?)(```\n)", re.DOTALL)
TABLE = re.compile(r"^\|.*\n(?:\|.*\n?)+", re.MULTILINE)

COMMANDS_HEAD = """# Command line

<!-- made by docs/reference.py from the commands themselves -->

What `sam2core VERB --help` says. Results go to stdout, everything else to stderr. Every verb takes `-v` for logs and
tracebacks, and `-h` for help. Trailing `KEY=VALUE` pairs change the model's spec, or the recipe. Plugins add verbs of
their own, such as `sam2core serve` and `sam2core export`.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | an error; of many images or videos, some could not be done |
| 2 | wrong usage |
| 3 | an optional package is missing |
| 130 | interrupted by Ctrl-C |
| 143 | asked to stop by SIGTERM |

## Stopping, files, completion

**Being asked to stop.** SIGTERM (`docker stop`, systemd, slurm) is Ctrl-C, in every verb. What is known is saved at
once; the frame, image or step at hand is given ten seconds to be finished, and a second request does not wait. What
can be resumed resumes with the same line (`train`, `automask` on images) or with `--resume` added, and ends as if
there had been no stop. A signal that the shell has the program ignore, as `nohup` does, stays ignored.

**What is there already.** What a folder holds of another image or another run is replaced with `--force` alone; what
is there of the same image is replaced as a whole, so that nothing older stays beside it; what the program did not
write is never replaced. The error says so, with exit code 1.

**Completion.** `eval "$(_SAM2CORE_COMPLETE=bash_source sam2core)"` in `~/.bashrc` (`zsh_source` in `~/.zshrc`; for fish
`_SAM2CORE_COMPLETE=fish_source sam2core | source`) completes verbs, options and the names of models.
"""


def commands() -> str:
    """The page of all verbs, as Markdown."""
    from sam2core.cli import VERBS, main

    root = click.Context(main, info_name="sam2core")
    assert isinstance(main, click.Group)
    parts = [COMMANDS_HEAD]
    for verb in VERBS:
        command = main.get_command(root, verb)
        assert command is not None
        parts += _command(command, click.Context(command, parent=root, info_name=verb), 2)
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context, level: int) -> list[str]:
    """A command's section, then those of its subcommands."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"{'#' * level} {context.command_path}\n", f"```text\n{usage}\n```\n", _words(command.help or "")]
    rows = [_option(param) for param in command.params if isinstance(param, click.Option) and not _everywhere(param)]
    if rows:
        parts.append("\n".join(["| option | |", "|---|---|", *rows]) + "\n")
    for name in sorted(getattr(command, "commands", ())):
        inner = command.commands[name]  # type: ignore[attr-defined]
        parts += _command(inner, click.Context(inner, parent=context, info_name=name), level + 1)
    return parts


def _everywhere(option: click.Option) -> bool:
    return bool({"--help", "--verbose"} & {*option.opts})


def _option(option: click.Option) -> str:
    """An option as a row: its names and what it takes, then its help; in words of ours, as click's change."""
    kind = option.type
    takes = option.metavar or ("|".join(kind.choices) if isinstance(kind, click.Choice) else kind.name.upper())
    takes = {"INTEGER": "N", "INTEGER RANGE": "N", "FLOAT": "X", "FLOAT RANGE": "X"}.get(takes, takes)
    names = " / ".join(filter(None, [", ".join(option.opts), ", ".join(option.secondary_opts)]))
    words = " ".join((option.help or "").split())
    if option.show_default and option.default is not None:
        default = option.default
        if option.is_flag:
            default = (option.opts if default else option.secondary_opts)[-1].lstrip("-")
        words += f" [default: {default}]"
    words = words.strip()
    shown = names if option.is_flag else f"{names} {takes}"
    return "| `{}` | {} |".format(*(text.replace("|", "\\|") for text in (shown, words)))


def _words(text: str) -> str:
    """A help text as Markdown."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if block.startswith("\b"):  # what click is told not to wrap
            blocks.append("```text\n" + block[1:].strip("\n") + "\n```")
        else:
            blocks.append(" ".join(line.strip() for line in block.split("\n")))
    return "\n\n".join(blocks) + "\n"


def models() -> str:
    """The table of models that can be built."""
    import registry

    rows = ["| name | parameters | sees | weights | download |", "|---|---|---|---|---|"]
    for name in registry.models():
        spec = registry.spec(name)
        if not spec.weights:
            continue
        where = "in the package" if spec.weights.package else f"`{spec.weights.repo}`"
        size = f"{spec.weights.size / 1e6:.0f} MB" if spec.weights.size else "-"
        rows.append(f"| `{name}` | {spec.parameters / 1e6:.2f} M | {spec.image_size[0]} px | {where} | {size} |")
    return "\n".join(rows) + "\n"


def plugins() -> str:
    """README's table of plugins, with its links as they are from here."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = TABLE.search(text, text.index("## Plugins"))
    assert rows is not None
    return rows[0].replace("](docs/", "](").replace("](plugins/", "](../plugins/")


def table(source: str) -> str:
    """A table of a results file: "image_t.md, table 1"."""
    name, _, number = source.partition(", table ")
    text = (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8")
    return TABLE.findall(text + "\n")[int(number) - 1].strip() + "\n"


def with_made(text: str) -> str:
    """A page's text with the parts that are made as they should be now; its code runs where the samples lie."""
    names: dict[str, Any] = {}

    def run(match: re.Match[str]) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(match[2], "page", "exec"), names)
        return f"{match[1]}{said.getvalue()}{match[4]}"

    def make(match: re.Match[str]) -> str:
        makers = {"the registry": models, "README.md, plugins": plugins}
        made = makers[match[2]]() if match[2] in makers else table(match[2])
        return f"{match[1]}{made}{match[4]}"

    before = Path.cwd()
    os.chdir(ROOT / "registry" / "samples")
    try:
        return PRINTED.sub(run, MADE.sub(make, text))
    finally:
        os.chdir(before)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    (HERE / "commands.md").write_text(commands(), encoding="utf-8")
    for page in (ROOT / "README.md", *HERE.glob("*.md")):
        page.write_text(with_made(page.read_text(encoding="utf-8")), encoding="utf-8")
