"""The beam predictor on a tiny model: one guess is greedy, several differ, sessions stay sessions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2core_tracking.beam import BeamMemory, BeamPredictor

import registry
from sam2core.predictors.video import VideoPredictor
from sam2core.testing import check

MEMORY = BeamMemory(frames=2)  # the tiny model has codes for two recent frames


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    built = registry.build("test_tiny", weights=False)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(1.5)
        built.mask_decoder.presence_head.layers[-1].bias.fill_(1.0)
    return built


@pytest.fixture(scope="module")
def clip():
    generator = np.random.default_rng(1)
    base = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return [np.roll(base, 3 * frame, axis=1) for frame in range(9)]


def run(predictor, clip, objects=("a",)):
    session = predictor.open(clip)
    for number, name in enumerate(objects):
        session.prompt(frame=0, object=name, points=[[20 + 9 * number, 24]], labels=[1])
    return session, {result.frame: result for result in session.propagate()}


@torch.inference_mode()
def test_one_guess_is_greedy_tracking_with_the_same_memory(model, clip):
    _, beam = run(BeamPredictor(model, beams=1, policy=MEMORY), clip)
    _, greedy = run(VideoPredictor(model, policy=MEMORY), clip)
    assert all(torch.equal(beam[at].logits, greedy[at].logits) for at in range(len(clip)))


@torch.inference_mode()
def test_guesses_are_few_sorted_and_share_their_past(model, clip):
    predictor = BeamPredictor(model, beams=3, policy=MEMORY)
    session, results = run(predictor, clip)
    guesses = session.tracks["a"].policy_state.rows
    assert len(guesses) == 3
    scores = [guess.score for guess in guesses]
    assert scores == sorted(scores, reverse=True) and scores[0] == 0.0
    assert torch.equal(results[8].logits[0], guesses[0].story.logits[0])
    first = guesses[0].bank.prompted[0]
    assert all(guess.bank.prompted[0] is first for guess in guesses)


@torch.inference_mode()
def test_the_best_story_is_told_from_its_end(model, clip):
    predictor = BeamPredictor(model, beams=3, policy=MEMORY)
    session, results = run(predictor, clip)
    settled = {result.frame: result for result in predictor.settled(session)}
    assert sorted(settled) == list(range(1, len(clip)))
    assert torch.equal(settled[8].logits, results[8].logits)
    story = session.tracks["a"].policy_state.rows[0].story
    while story.before is not None:
        assert story.before.frame == story.frame - 1
        story = story.before


@torch.inference_mode()
def test_objects_do_not_disturb_each_other(model, clip):
    predictor = BeamPredictor(model, beams=2, policy=MEMORY)
    _, alone = run(predictor, clip, ("a",))
    _, both = run(predictor, clip, ("a", "b"))
    for at in range(len(clip)):
        assert torch.allclose(both[at].logits[0], alone[at].logits[0], atol=1e-4)


@torch.inference_mode()
def test_forks_streams_and_later_prompts(model, clip):
    predictor = BeamPredictor(model, beams=2, policy=MEMORY)
    live, offline = predictor.open(), run(predictor, clip)[1]
    for at, image in enumerate(clip):
        prompts = {"a": {"points": [[20, 24]], "labels": [1]}} if at == 0 else {}
        result = live.step(image, prompts=prompts)
        if at == 4:
            fork = live.fork()
    assert fork.position == 4 and len(fork.tracks["a"].policy_state.rows) == 2
    # a live session does not know its length, a file does: the object pointers' time code of a short video differs by
    # design
    assert result.logits.shape == offline[8].logits.shape
    session = predictor.open(clip)
    session.prompt(frame=0, object="a", points=[[20, 24]])
    for _ in session.propagate(stop=5):
        pass
    session.prompt(frame=5, object="a", points=[[30, 24]])
    for _ in session.propagate(start=5):
        pass
    assert all(set(guess.bank.prompted) == {0, 5} for guess in session.tracks["a"].policy_state.rows)


@torch.inference_mode()
def test_the_options_of_a_video_predictor_are_those_of_a_beam_too(model, clip):
    expected = run(BeamPredictor(model, beams=3, policy=MEMORY), clip, ("a", "b"))[1]
    found = run(BeamPredictor(model, beams=3, policy=MEMORY, objects_per_call=1), clip, ("a", "b"))[1]
    assert all(torch.allclose(found[at].logits, expected[at].logits, atol=1e-4) for at in range(len(clip)))
    session, _ = run(BeamPredictor(model, beams=2, policy=MEMORY, forget_around_prompts=True), clip)
    session.prompt(frame=6, object="a", points=[[30, 24]])
    next(session.propagate(start=7))
    for guess in session.tracks["a"].policy_state.rows:
        assert set(guess.bank.prompted) == {0, 6} and not {4, 5} & set(guess.bank.recent)


def test_a_beam_says_that_it_is_not_saved(model, clip, tmp_path):
    session, _ = run(BeamPredictor(model, beams=2, policy=MEMORY), clip[:2])
    with pytest.raises(ValueError, match="this one holds a Guesses"):
        session.save(tmp_path / "session")


def test_wrong_options_say_what_is_allowed(model):
    with pytest.raises(ValueError, match="at least 1"):
        BeamPredictor(model, beams=0)
    with pytest.raises(ValueError, match="at least frames"):
        BeamMemory(reach=2)


@torch.inference_mode()
@pytest.mark.parametrize(
    "policy",
    [{"type": "tracking.motion", "frames": 2}, {"type": "tracking.distractor", "slots": 3, "prompted": 2}],
    ids=["motion", "distractor"],
)
def test_policies_by_name_on_any_model(policy, clip):
    built = registry.build("test_tiny", weights=False, memory_policy=policy)
    predictor = VideoPredictor(built)
    session = predictor.open(clip)
    session.prompt(frame=4, object=1, points=[[20, 24]])
    seen = [result.frame for result in session.propagate(direction="both")]
    assert sorted(set(seen)) == list(range(9))


@torch.inference_mode()
def test_a_session_with_motion_is_saved_and_goes_on(clip, tmp_path):
    built = registry.build("test_tiny", weights=False, memory_policy={"type": "tracking.motion", "frames": 2})
    predictor = VideoPredictor(built)
    session = predictor.open(clip)
    session.prompt(frame=0, object=1, points=[[20, 24]])
    whole = {result.frame: result.logits for result in session.propagate()}
    session = predictor.open(clip)
    session.prompt(frame=0, object=1, points=[[20, 24]])
    for _ in session.propagate(stop=5):
        pass
    session.save(tmp_path / "session")
    again = predictor.load(tmp_path / "session", clip)
    for result in again.propagate(start=5):
        assert torch.equal(result.logits, whole[result.frame])


def test_the_parts_keep_their_contracts():
    check("memory_policy", "tracking.motion")
    check("memory_policy", "tracking.distractor")
    check("predictor", "tracking.beam", options={"policy": MEMORY})
