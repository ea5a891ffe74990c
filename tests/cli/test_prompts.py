"""What is said on the command line: FRAME:WHAT, and to which object it belongs by the order of the words."""

from __future__ import annotations

import os

import click
import pytest

from sam2core.cli.prompts import InOrder, OnFrame, spoken
from sam2core.jobs.prompts import Prompts

NUMBER = OnFrame(click.INT, "FRAME:NUMBER", "3:7")
PATH = OnFrame(None, "FRAME:PNG", "0:a.png")


def test_a_frame_and_what_is_said_on_it():
    assert NUMBER.convert("12:7", None, None) == (12, 7)
    assert NUMBER.convert((1, 2), None, None) == (1, 2), "what was read once is left alone"
    assert PATH.convert("0:a:b.png", None, None) == (0, "a:b.png")


@pytest.mark.parametrize("value", ["7", ":7", "3:", "-1:7", "a:7", "1.5:7", "\u0663:7", ""])
def test_what_has_no_frame_is_refused_with_an_example(value):
    with pytest.raises(click.BadParameter, match="such as 3:7"):
        NUMBER.convert(value, None, None)


def said(words: list[str], *, still: bool = False) -> list[tuple]:
    """What becomes of the words after a verb."""
    found: list[tuple] = []

    class Told(Prompts):
        def add(self, *what):
            if what[1] == 99:
                raise ValueError("there is no frame 99")
            found.append(what)

    @click.command(cls=InOrder)
    @click.option("--object", "objects", multiple=True)
    @click.option("--point", "points", multiple=True, type=None if still else NUMBER)
    @click.option("--box", "boxes", multiple=True, type=None if still else NUMBER)
    @click.option("--mask", "masks", multiple=True, type=None if still else PATH)
    @click.pass_context
    def verb(context, **given):
        spoken(context.meta["sam2core.order"], given, Told(), still=still)

    verb.main(words, standalone_mode=False)
    return found


def test_prompts_belong_to_the_object_before_them():
    words = ["--point", "0:1", "--object", "a:dog", "--box", "2:3", "--point", "2:4", "--object", "b", "--mask", "5:m"]
    assert said(words) == [
        ("1", 0, "points", 1, ""),
        ("a", 2, "box", 3, "dog"),
        ("a", 2, "points", 4, "dog"),
        ("b", 5, "mask", os.path.abspath("m"), ""),
    ]
    assert said(["--point", "7"], still=True) == [("1", 0, "points", "7", "")]


@pytest.mark.parametrize("words", [["--object", "a"], ["--object", "a", "--object", "b", "--point", "0:1"]])
def test_an_object_of_which_nothing_is_said_is_named(words):
    with pytest.raises(click.UsageError, match="--object a says nothing"):
        said(words)


def test_what_prompts_refuse_is_an_error_of_usage():
    with pytest.raises(click.UsageError, match="there is no frame 99"):
        said(["--point", "99:1"])
