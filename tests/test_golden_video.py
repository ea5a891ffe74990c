"""Our sessions against sessions recorded from Meta's sam2: no reference implementation needs to be installed.

`tests/golden/video.py` holds the sessions and records them anew; `tests/parity/test_video.py` plays many more, live.
"""

from __future__ import annotations

import ast
import json
from functools import cache

import pytest
from safetensors import safe_open

from tests.golden.video import CASES, HERE, ONLY_NEWER, SHAPE, base
from tests.parity import oracle, scripts
from tests.parity.scripts import Ours, Shown, Tally

RECORDING = HERE / "video.safetensors"


@cache
def recording():
    with safe_open(RECORDING, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["order"])


@cache
def model(family: str, stability: bool):
    changed = {name[6:]: value.float() for name, value in recording()[0].items() if name.startswith("state/")}
    state = {name: v for name, v in (base() | changed).items() if family == "2.1" or name not in ONLY_NEWER}
    return oracle.ours(SHAPE.at(family=family), oracle.to_ours(state), stability=stability)


def test_the_recording_is_small_and_has_every_case():
    tensors, order = recording()
    assert RECORDING.stat().st_size < 1_500_000
    assert {case: len(steps) for case, steps in order.items()} == {case: len(CASES[case][1]) for case in CASES}
    logits = [row for name, value in tensors.items() if name.endswith("/logits") for row in value]
    absent = sum(float(row.max()) < -1000 for row in logits)
    assert 0.05 * len(logits) < absent < 0.7 * len(logits)


@pytest.mark.parametrize("case", CASES)
def test_session(case):
    settings, steps = CASES[case]
    tensors, order = recording()
    ours = Ours(model(settings.family, settings.stability), tensors["frames"].numpy(), settings)
    tally = Tally()
    for number, step in enumerate(steps):
        expected = []
        for place, (frame, objects) in enumerate(order[case][number]):
            name = f"expect/{case}/{number}.{place}"
            shown = tensors[f"{name}/logits"]
            raw = tensors.get(f"{name}/raw", shown)
            certain = tuple(tensors[f"{name}/certain"].tolist())
            expected.append(Shown(frame, ast.literal_eval(objects), raw, shown, certain))
        scripts.compare(f"step {number} ({step})", scripts.show(ours, step), expected, 1e-3, tally)
    assert tally.frames > 10
