"""Names and signatures, against a table recorded from Meta's `sam2` 1.1.0 by `record_surface.py`."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest
from record_surface import signature

TABLE = json.loads((Path(__file__).parent / "surface.json").read_text())


def found(name: str):
    """A function, a class or a method by its dotted name."""
    module, *path = name.rsplit(".", 2) if name.split(".")[-2][0].isupper() else name.rsplit(".", 1)
    thing = importlib.import_module(module)
    for step in path:
        thing = inspect.getattr_static(thing, step) if inspect.isclass(thing) else getattr(thing, step)
    return getattr(thing, "__func__", thing)


def test_the_table_is_of_some_size():
    assert len(TABLE) > 120 and "sam2.build_sam.build_sam2" in TABLE


@pytest.mark.parametrize("name", list(TABLE))
def test_a_name_is_here_and_takes_the_same(name):
    thing = found(name)
    if inspect.isclass(thing):
        thing = thing.__init__
    assert signature(thing) == TABLE[name]
