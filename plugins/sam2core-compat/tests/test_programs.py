"""Programs as people write them for Meta's package get the same from this one: `programs.py`, run on both."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from both import META, OURS, run, write_place

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(META is None, reason="Meta's package is the reference: pip install sam2==1.1.0")

NAMES = [
    line.name
    for line in ast.parse((HERE / "programs.py").read_text()).body
    if isinstance(line, ast.FunctionDef) and any(getattr(one, "id", "") == "program" for one in line.decorator_list)
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Everything that the programs computed, with Meta's package and with this one."""
    place = write_place(tmp_path_factory.mktemp("programs"), 4)
    files = [(META, place / "theirs.npz"), (OURS, place / "ours.npz")]
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda one: run(one[0], HERE / "programs.py", place, one[1]), files))
    with np.load(files[0][1]) as first, np.load(files[1][1]) as second:
        return dict(first), dict(second)


def test_there_are_twenty_and_metas_notebooks():
    assert len(NAMES) > 20 and sum(name.startswith("notebook") for name in NAMES) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_program_gets_the_same(name, answers):
    theirs, ours = ({key: one for key, one in each.items() if key.split(" ")[0] == name} for each in answers)
    failed = [str(one) for key, one in theirs.items() if key.endswith("failed")]
    assert not failed, f"Meta's: {failed}"
    assert list(ours) == list(theirs), [str(one) for key, one in ours.items() if key.endswith("failed")]
    assert len(theirs) > 2
    for key, value in theirs.items():
        own = ours[key]
        assert own.shape == value.shape, key
        if value.dtype.kind == "U":
            assert str(own) == str(value), key
            continue
        assert own.dtype == value.dtype, key
        if value.dtype.kind in "biu":
            assert (own != value).mean() < 5e-3 if value.size else True, key
            continue
        real = np.abs(value) < 1000  # the mark of an absent object is compared as such
        assert np.array_equal(real, np.abs(own) < 1000), key
        apart = np.abs(own - value)[real].max(initial=0.0)
        assert apart <= 1e-3 * max(np.abs(value[real]).max(initial=0.0), 1e-6), key
