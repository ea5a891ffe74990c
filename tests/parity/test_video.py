"""Our sessions live against upstream's ``SAM2VideoPredictor``: hundreds of random scripts, every frame compared."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from tests.parity import oracle, scripts
from tests.parity.scripts import Different, Ours, Propagate, Settings, Tally, Theirs, clip, driven, play

pytest.importorskip("sam2", reason="upstream is the reference: pip install sam2==1.1.0")

SCRIPTS = int(os.environ.get("SAM2CORE_PARITY_SCRIPTS", "40"))
"""How many random sessions per model; set the variable for a longer search."""
TOLERANCE = 1e-3

# each with weights of its own
MODELS = {
    "2.1": Settings("2.1", 64, weights=0),
    "2.1-96": Settings("2.1", 96, weights=1),
    "2.1-stable": Settings("2.1", 64, weights=2, stability=False),
    "2.1-128": Settings("2.1", 128, weights=4),
    "2.0": Settings("2.0", 64, weights=7),
    "2.0-96": Settings("2.0", 96, weights=6, stability=False),
}


@lru_cache(maxsize=2)
def pair(name: str):
    """Upstream's model and ours with equal tensors, in which objects are absent now and then."""
    settings = MODELS[name]
    shape = oracle.SHAPES["mini"].at(image=settings.image, family=settings.family)
    theirs = oracle.upstream(shape, stability=settings.stability, video=True)
    oracle.randomise(theirs, 40 + settings.weights)
    scripts.balance(theirs, settings, reach=60.0 if settings.weights % 2 else 15.0)
    return theirs, oracle.ours(shape, oracle.to_ours(theirs.state_dict()), stability=settings.stability)


@lru_cache(maxsize=16)
def encoded(name: str, length: int, size: tuple[int, int]):
    """A clip, its pixels, and what upstream makes of each frame."""
    theirs, _ = pair(name)
    frames = clip(length, size)
    values = scripts.pixels(frames, MODELS[name].image)
    with torch.inference_mode():
        known = {at: (image[None], theirs.forward_image(image[None])) for at, image in enumerate(values)}
    return frames, values, known


def run(name: str, settings: Settings, steps, tally: Tally | None = None) -> None:
    theirs, ours = pair(name)
    frames, values, known = encoded(name, settings.length, settings.size)
    with driven(theirs):
        play(Ours(ours, frames, settings), Theirs(theirs, values, settings, known), steps, TOLERANCE, tally)


def fails(name: str, settings: Settings, steps) -> bool:
    try:
        run(name, settings, steps)
    except Different:
        return True
    return False


@pytest.mark.parametrize("name", MODELS)
def test_random_scripts(name):
    tally = Tally()
    for seed in range(SCRIPTS):
        settings, steps = scripts.script(seed, MODELS[name])
        try:
            run(name, settings, steps, tally)
        except Different as error:
            least = scripts.shorter(settings, steps, lambda fewer: fails(name, settings, fewer))  # noqa: B023
            told = "\n".join(f"  {step}" for step in least)
            pytest.fail(f"script {seed}: {error}\n{settings}\nshortest script that differs:\n{told}")
    print(f"\n{name}: {tally}")
    assert tally.scripts == SCRIPTS and tally.masks >= 10 * SCRIPTS
    assert 0.05 < tally.absent / tally.masks < 0.6, "objects should sometimes be there and sometimes not"


def click(frame, object="cup", point=(20.0, 12.0), label=1, **more):
    return scripts.Prompt(frame, object, (point,), (label,), **more)


@pytest.mark.parametrize("name", ["2.1-96", "2.0"])
def test_equally_near_anchors_are_taken_in_the_order_they_were_prompted(name):
    settings = replace(MODELS[name], length=9, anchors=3)
    steps = [click(frame, point=(5.0 * frame, 12.0)) for frame in (8, 2, 4, 6)]
    run(name, settings, [*steps, Propagate(5, 1), click(8, point=(9.0, 9.0)), Propagate(5, 1)])
