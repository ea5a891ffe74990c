"""Files written under the words of before are read as if they were of today; `older/` holds what that code wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import registry
from sam2core.checkpoints import files
from sam2core.jobs.folder import earlier_run
from sam2core.older import renamed
from sam2core.predictors.image import ImagePredictor
from sam2core.predictors.video import VideoPredictor

OLDER = Path(__file__).parent / "older"


@pytest.fixture(scope="module")
def model():
    made = registry.build("test_tiny", weights=False, image_size=32)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        made.mask_decoder.presence_head.layers[-1].bias.fill_(1.0)
    return made


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, (24, 32, 3), dtype=np.uint8) for _ in range(5)]


def test_a_session_goes_on_as_an_unbroken_one(model, frames, tmp_path):
    """Prompted and recent frames, a correction that is still pending, a policy's options, `exclusive`."""
    predictor = VideoPredictor(model, non_overlapping=True)
    unbroken = predictor.open(frames)
    unbroken.prompt(0, "a", points=[[10, 10]])
    unbroken.prompt(1, 2, box=[3, 4, 20, 18])
    list(unbroken.propagate(stop=4))
    unbroken.prompt(2, "a", points=[[20, 12]], labels=[0])

    found = predictor.load(OLDER / "session.safetensors", frames)
    assert list(found.tracks["a"].bank.prompted) == [0] and list(found.tracks["a"].bank.recent) == [1, 2, 3]
    assert found.tracks["a"].pending[2].keep == unbroken.tracks["a"].pending[2].keep
    again = tmp_path / "again.safetensors"
    found.save(again)
    for session in (found, predictor.load(again, frames)):
        for mine, other in zip(session.propagate(start=2), unbroken.fork().propagate(start=2), strict=True):
            torch.testing.assert_close(mine.logits, other.logits)
            torch.testing.assert_close(mine.object_score, other.object_score)


def test_a_live_session_goes_on(model, frames):
    found = VideoPredictor(model).load(OLDER / "live.safetensors")
    unbroken = VideoPredictor(model).open()
    unbroken.step(frames[0], {"a": {"points": [[10, 10]]}})
    torch.testing.assert_close(found.step(frames[1]).logits, unbroken.step(frames[1]).logits)


def test_a_handle_answers(model, frames, tmp_path):
    predictor = ImagePredictor(model)
    expected = predictor.encode(frames[0]).predict(points=[[10, 10]], multimask_output=True)
    found = predictor.load(OLDER / "handle.safetensors")
    found.save(tmp_path / "again.safetensors")
    for handle in (found, predictor.load(tmp_path / "again.safetensors")):
        assert len(handle.features.high_res_features) == 2
        torch.testing.assert_close(handle.predict(points=[[10, 10]], multimask_output=True).logits, expected.logits)


def test_the_spec_in_a_file():
    spec = {"memory_policy": {"pointers": 4, "anchors": None}, "predictors": {"video": {"exclusive": True}}}
    found = files.embedded_spec({"sam2core.spec": json.dumps(spec)})
    assert found == {
        "memory_policy": {"object_pointers": 4, "prompted": None},
        "predictors": {"video": {"non_overlapping": True}},
    }


def test_the_settings_of_a_run(tmp_path):
    run = {
        "status": "stopped",
        "frames": 3,
        "live": False,
        "prompts": [],
        "settings": {"exclusive": True, "keep": "all"},
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    earlier = earlier_run(tmp_path, ["rle"], resume=True, force=False)
    assert earlier is not None and earlier["settings"] == {"non_overlapping": True, "keep": "all"}


def test_names_that_users_gave_stay():
    """Words are renamed where they are keys of ours; an object may be called as one was."""
    assert renamed({"tracks": [{"id": "anchor", "trail": []}]}) == {"tracks": [{"id": "anchor", "recent": []}]}


@pytest.mark.parametrize(
    ("word", "ours"), [("point_coords", "points"), ("boxes", "box"), ("several", "multimask_output")]
)
def test_keywords_of_other_packages_and_of_before_are_answered_with_ours(model, frames, word, ours):
    image = ImagePredictor(model)
    with pytest.raises(ValueError, match=f"predict takes no '{word}'; ours is {ours}"):
        image.encode(frames[0]).predict(**{word: [[1, 1]]})
    with pytest.raises(ValueError, match=f"image 0: a prompt takes no '{word}'; ours is {ours}"):
        image.encode(frames[:1]).predict([{word: [[1, 1]]}])
    with pytest.raises(ValueError, match=f"prompt takes no '{word}'"):
        VideoPredictor(model).open(frames).prompt(0, 1, **{word: [[1, 1]]})


@pytest.mark.parametrize(("word", "near"), [("mask", "mask_input"), ("poinst", "points"), ("lable", "labels")])
def test_keywords_that_are_nearly_ours_are_answered_with_the_nearest(model, frames, word, near):
    with pytest.raises(ValueError, match=rf"predict takes no '{word}'.*did you mean '{near}'\?"):
        ImagePredictor(model).encode(frames[0]).predict(**{word: [[1, 1]]})


def test_steps_of_cleaning_that_stood_beside_other_options(tmp_path):
    (tmp_path / "parent.yaml").write_text(
        "extends: test_tiny\npredictors: {video: {fill_holes: 3, keep_clicked: true}}\n"
    )
    (tmp_path / "mine.yaml").write_text("extends: parent.yaml\npredictors: {video: {cleaning: {fill_holes: 5}}}\n")
    mine = str(tmp_path / "mine.yaml")
    assert registry.spec(mine).predictors["video"]["cleaning"] == {"fill_holes": 5, "keep_clicked": True}
    written = registry.spec(mine, "predictors.video.fill_holes=0").predictors["video"]
    assert written["cleaning"] == {"fill_holes": 0, "keep_clicked": True} and "fill_holes" not in written
    tool = registry.predictor(mine, "video", weights=False, cleaning={"drop_islands": 2})
    assert (tool.cleaning.fill_holes, tool.cleaning.drop_islands, tool.cleaning.keep_clicked) == (5, 2, True)
