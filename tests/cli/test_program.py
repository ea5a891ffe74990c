"""The program itself: help without torch, exit codes, plugins' verbs."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from registry.errors import DuplicateName
from sam2core import cli


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["segment", "--help"],
        ["convert", "--help"],
        ["download", "-h"],
        ["doctor", "--help"],
        ["--version"],
        ["models"],
        ["plugins"],
    ],
)
def test_torch_is_not_imported(words):
    code = (
        "import sys\nfrom sam2core.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as ended: code = ended.code\n"
        "assert not code, code\n"
        "heavy = {'torch', 'torchvision', 'scipy', 'transformers', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


def test_help_names_every_verb(run):
    ended = run("--help")
    assert ended.code == 0 and not ended.err
    for verb in cli.VERBS:
        assert f"\n  {verb} " in ended.out


def test_an_unknown_verb_gets_a_hint(run):
    ended = run("segmnt", "x.jpg")
    assert ended.code == 2 and "Did you mean 'segment'?" in ended.err


@pytest.fixture
def verb(monkeypatch):
    """Put a function in the place of a verb."""

    def put(function):
        monkeypatch.setitem(cli.main.commands, "stand-in", click.command("stand-in")(function))

    return put


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("no such thing"), 1, "sam2core: no such thing\n"),
        (FileNotFoundError(2, "No such file", "x.png"), 1, "x.png"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (ModuleNotFoundError("No module named 'av'", name="av"), 3, "pip install 'sam2core[video]'"),
        (click.UsageError("like this"), 2, "like this"),
    ],
)
def test_exit_codes(run, verb, error, code, said):
    def fail():
        raise error

    verb(fail)
    ended = run("stand-in")
    assert ended.code == code and said in ended.err and "Traceback" not in ended.err and not ended.out


def test_verbose_shows_the_traceback_wherever_it_is_written(run, verb):
    def fail():
        raise ValueError("no such thing")

    verb(fail)
    for words in (["-v", "stand-in"], ["stand-in", "-v"], ["stand-in", "--verbose"]):
        ended = run(*words)
        assert ended.code == 1 and "Traceback" in ended.err and ended.err.endswith("sam2core: no such thing\n")


def test_a_fault_of_ours_is_not_dressed_up(verb):
    def fail():
        raise AssertionError("a bug")

    verb(fail)
    with pytest.raises(AssertionError, match="a bug"):
        cli.main(["stand-in"])


def test_a_plugin_cannot_take_a_verb_that_exists():
    for name in ("segment", "doctor"):
        with pytest.raises(DuplicateName, match=name):
            cli.main.add_command(click.Command(name))
    cli.main.add_command(click.Command("new"))
    with pytest.raises(DuplicateName):
        cli.main.add_command(click.Command("new"))


def test_python_dash_m_is_the_same_program():
    ended = subprocess.run([sys.executable, "-m", "sam2core", "--version"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stdout.strip()


def test_files_of_other_packages_are_told_how_to_say_their_model(run):
    ended = run("segment", "a.jpg", "-p", "1,1", "-m", "sam2.1_b.pt")
    assert ended.code == 2 and "--model sam2.1_hiera_b+ --weights sam2.1_b.pt" in ended.err
    ended = run("track", "a.mp4", "-p", "0:1,1", "-m", "mine.pth")
    assert ended.code == 2 and "--model NAME --weights mine.pth" in ended.err
    ended = run("train", "--data", ".")
    assert ended.code == 2 and "--recipe NAME, one of " in ended.err and "finetune_image" in ended.err


def test_a_shell_completes_models():
    from click.shell_completion import ShellComplete

    from sam2core.cli import main

    words = ShellComplete(main, {}, "sam2core", "_SAM2CORE_COMPLETE").get_completions
    assert "sam2.1_hiera_l" in {item.value for item in words(["segment", "--model"], "sam2.1_h")}
    assert "track" in {item.value for item in words([], "tr")}
