"""Plain values against annotations: what is plainly of another type is refused, everything else is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest

from sam2core.annotations import fits


class Colour(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (4, int),
        (4, "float"),
        (1, bool),
        (True, "int"),
        (None, "int | None"),
        (None, Optional[int]),  # noqa: UP045 -- as others write it
        ("auto", "int | str"),
        (3, Union[int, str]),  # noqa: UP007
        ([16, 8], Sequence[int]),
        ((16, 8), "typing.List[int]"),
        ([0.9, 1], "tuple[float, float]"),
        ([], "tuple[int, ...]"),
        ("all", "bool | Sequence[str]"),
        ({"delta": 1}, Mapping[str, float]),
        ({}, dict),
        # not judged
        (np.float64(3), int),
        (np.int64(3), "str"),
        (Colour.RED, "int"),
        (object(), "int"),
        ("x", Any),
        ("x", "MemoryPolicy | None"),
        ("x", Literal["x"]),
        ("x", "'int'"),
        (4, "np.str"),
        (4, "no annotation at all"),
        ([object()], "list[int]"),
    ],
)
def test_what_fits_or_cannot_be_judged(value: Any, annotation: Any) -> None:
    assert fits(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("4", int),
        (4.0, "int"),
        (None, "int"),
        ("high", float),
        (4, "str"),
        ("yes", bool),
        (2, "bool"),
        ("x", "int | None"),
        ([1], Optional[int]),  # noqa: UP045
        (16, Sequence[int]),
        (["a"], "Sequence[int]"),
        ("16", "Sequence[int]"),
        ("backbone", "tuple[str, ...]"),
        ([0.9], "tuple[float, float]"),
        ({"a": 1}, "list"),
        (5, "Mapping[str, float] | None"),
        ({"delta": "x"}, "Mapping[str, float] | None"),
    ],
)
def test_what_does_not_fit(value: Any, annotation: Any) -> None:
    assert not fits(value, annotation)
