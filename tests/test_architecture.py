"""docs/architecture.md is true: the files it names are there, and hold what it says they hold."""

from __future__ import annotations

import re

import pytest

from tests.documents import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# a line of the thought, as it stands in the file that the document names
LINES = {
    "the way an image's orientation is applied": r"ORIENTATION|orientation",
    "a COCO polygon that becomes a mask": r"def fill_rings\(",
    "a box that becomes two points": r"Label\.TOP_LEFT\), int\(Label\.BOTTOM_RIGHT",
    "a memory's slot that gets its code": r"slot",
    "an mp4 that is written": r"class VideoWriter",
    "a run that is resumed": r"resume",
    "a checkpoint's key that is renamed": r"def rename\(",
    "a plugin's failure that is recorded": r"except \(Exception",
    "a loss that is weighed": r"def step_losses\(",
    "a flag of `track` that is read": r'click\.option\("--object"',
}
ROWS = dict(re.findall(r"^\| ((?:the|a|an) [^|]+?) \| `([^`|]+)` \|$", TEXT, re.MULTILINE))


def test_the_table_has_each_of_the_ten() -> None:
    assert set(ROWS) == set(LINES)


@pytest.mark.parametrize("thought", LINES)
def test_a_thought_stands_where_the_document_says(thought: str) -> None:
    assert re.search(LINES[thought], (ROOT / ROWS[thought]).read_text(encoding="utf-8"))


def test_every_room_that_is_named_is_there() -> None:
    drawing = TEXT.partition("```text\n")[2].partition("```")[0]
    named = set(re.findall(r"(?<![\w/*])((?:[a-z]+/)+)", drawing)) - {"plugins/"}
    assert len(named) > 12
    for room in named:
        assert any((ROOT / top / room).is_dir() for top in ("", "sam2core"))


def test_every_room_is_named() -> None:
    rooms = {folder.name for folder in (ROOT / "sam2core").iterdir() if (folder / "__init__.py").is_file()}
    assert not [room for room in rooms if f"{room}/" not in TEXT]
