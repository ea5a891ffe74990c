"""Remembered images: equal to a session over them, savable, in the words of every result, and unharmed by errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import registry
from sam2core.memory.policy import UnrelatedImages
from sam2core.model import Sam2
from sam2core.predictors.image import ImagePredictor, RememberedResult
from sam2core.predictors.video import VideoPredictor

SIZE = (48, 80)


def shaken(name: str, **overrides) -> Sam2:
    torch.manual_seed(0)
    model = registry.build(name, weights=False, **overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # default initialisation hides bugs
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.fixture(scope="module")
def model() -> Sam2:
    return shaken("test_tiny")


@pytest.fixture
def predictor(model) -> Iterator[ImagePredictor]:
    return ImagePredictor(model)


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def square(top: int, left: int, side: int = 20, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def assert_equal(found: RememberedResult, frame) -> None:
    """Bit for bit what a session says of its last frame."""
    assert found.objects == frame.objects
    limit = found.logits.abs().max()
    assert torch.equal(found.cleaned[:, 0], frame.logits) and limit <= 32
    assert torch.equal(found.iou[:, 0], frame.iou)
    assert torch.equal(found.object_score, frame.object_score)
    assert torch.equal(found.masks[:, 0], torch.stack(list(frame.masks.values())))


def test_equals_a_session_over_the_remembered_picture_and_the_other(model, predictor):
    predictor.remember(picture(0), square(5, 5))
    session = VideoPredictor(model, cleaning={"fill_holes": 0}).open([picture(0), picture(1)])
    session.prompt(0, 0, mask=square(5, 5))
    *_, frame = session.propagate()
    assert frame.frame == 1
    found = predictor(picture(1))
    assert isinstance(found, RememberedResult)
    assert_equal(found, frame)


def test_several_pictures_and_objects_are_the_prompted_frames_of_one_session(model, predictor):
    predictor.remember(picture(0), [square(5, 5), square(20, 50)], object_ids=["cup", 7])
    predictor.remember(predictor.encode(picture(1)), square(10, 30), object_ids=["cup"])
    predictor.remember(picture(2), square(1, 1)[None], object_ids=["spoon"])
    session = VideoPredictor(model, cleaning={"fill_holes": 0}).open(
        [picture(number) for number in range(4)], keep="all"
    )
    session.prompt(0, "cup", mask=square(5, 5))
    session.prompt(0, 7, mask=square(20, 50))
    session.prompt(1, "cup", mask=square(10, 30))
    session.prompt(2, "spoon", mask=square(1, 1))
    (frame,) = session.propagate(start=3)
    assert predictor.memory.images == 3
    assert_equal(predictor(picture(3)), frame)


def test_an_unrelated_picture_has_no_motion_whatever_the_models_own_policy_carries():
    model = shaken("sam2core_nano", image_size=64)
    predictor = ImagePredictor(model)
    predictor.remember(picture(0), square(5, 5))
    policy = UnrelatedImages(model.memory_policy)
    session = VideoPredictor(model, cleaning={"fill_holes": 0}, policy=policy).open(
        [picture(number) for number in range(3)]
    )
    session.prompt(0, 0, mask=square(5, 5))
    _, _, last = session.propagate()
    assert not session.tracks[0].bank.recent, "what is found on one image says nothing of the next"
    alone = session.predictor.open([picture(0), picture(1), picture(2)])
    alone.prompt(0, 0, mask=square(5, 5))
    (frame,) = alone.propagate(start=2)
    assert torch.equal(frame.logits, last.logits)
    carried = VideoPredictor(model, cleaning={"fill_holes": 0}).open([picture(0), picture(2)])
    carried.prompt(0, 0, mask=square(5, 5))
    *_, moved = carried.propagate()
    assert not torch.equal(moved.logits[0], predictor(picture(2)).cleaned[0, 0])


def test_what_was_asked_before_changes_no_answer(predictor):
    predictor.remember(picture(0), square(5, 5))
    first = predictor(picture(1))
    predictor(picture(2))
    assert torch.equal(predictor(picture(1)).cleaned, first.cleaned)
    together = predictor([picture(2), picture(1, (30, 40))])
    assert [each.size for each in together] == [SIZE, (30, 40)] and together[0].masks.shape == (1, 1, *SIZE)


def test_prompts_are_answered_as_without_a_memory(predictor):
    photo = predictor.encode(picture(1))
    before = photo.predict(points=[[20, 20]])
    predictor.remember(picture(0), square(5, 5))
    assert torch.equal(photo.predict(points=[[20, 20]]).cleaned, before.cleaned)
    predictor.forget()
    with pytest.raises(ValueError, match="a prompt needs points"):
        photo.predict()
    with pytest.raises(ValueError, match="no prompts, and no image was remembered"):
        predictor([picture(0)])


def test_a_result_is_remembered_and_its_objects_keep_their_names(predictor):
    predictor.remember(picture(0), [square(5, 5), square(20, 50)], object_ids=["a", "b"])
    found = predictor(picture(0))
    other = ImagePredictor(predictor.model)
    other.remember(picture(0), replace(found, cleaned=torch.full_like(found.cleaned, 9.0)))
    assert other(picture(1)).objects == ("a", "b")
    with pytest.raises(ValueError, match="object 'a': its mask is empty"):
        other.remember(picture(1), replace(found, cleaned=torch.full_like(found.cleaned, -9.0)))


def test_results_speak_the_words_of_all_results(predictor):
    predictor.remember(picture(0), [square(5, 5), square(20, 50)], object_ids=["a", "b"])
    found = predictor(picture(1))
    assert found.object_score.shape == (2,) and found.visible.dtype == bool
    assert found["b"].objects == ("b",) and torch.equal(found["b"].object_score, found.object_score[1:])
    assert len(found[found.visible]) == found.visible.sum()
    assert found.cpu().ranked.best.objects == found.objects == ("a", "b")
    assert found.plot().shape == (*SIZE, 3)
    assert {entry["name"] for entry in found.to_coco(labels={"a": "x", "b": "y"})["categories"]} <= {"x", "y"}
    with pytest.raises(ValueError, match="there is no object 'c'; known objects: 'a', 'b'"):
        found["c"]
    for index, shown in enumerate(found.visible):  # an absent object has no pixel
        assert shown or not found.masks[index].any()


def test_a_table_says_how_sure_the_model_is_of_each(predictor):
    pytest.importorskip("pandas")
    predictor.remember(picture(0), [square(5, 5)], object_ids=["a"])
    assert list(predictor(picture(1)).to_frame().columns[:3]) == ["object", "iou", "object_score"]


def test_a_memory_is_saved_and_read_by_the_same_model(model, predictor, tmp_path):
    predictor.remember(picture(0), [square(5, 5), square(20, 50)], object_ids=["a", 2])
    predictor.memory.save(tmp_path / "cups.memory")
    found = predictor(picture(1))
    other = ImagePredictor(model)
    other.load_memory(tmp_path / "cups.memory")
    again = other(picture(1))
    assert again.objects == ("a", 2) and torch.equal(again.cleaned, found.cleaned)
    other.remember(picture(2), square(1, 1), object_ids=["a"])  # and goes on
    predictor.remember(picture(2), square(1, 1), object_ids=["a"])
    assert torch.equal(other(picture(1)).cleaned, predictor(picture(1)).cleaned)
    with pytest.raises(ValueError, match="by another model"):
        ImagePredictor(shaken("test_tiny", image_size=96)).load_memory(tmp_path / "cups.memory")


def test_a_session_over_frames_is_no_memory(model, predictor, tmp_path):
    session = VideoPredictor(model, cleaning={"fill_holes": 0}, policy=predictor.memory.video.policy).open()
    session.step(picture(0), {0: {"mask": square(5, 5)}})
    session.save(tmp_path / "live")
    with pytest.raises(ValueError, match="session over frames"):
        predictor.load_memory(tmp_path / "live")


def test_an_encoded_image_can_be_remembered_also_from_a_file(predictor, tmp_path):
    photo = predictor.encode([picture(0), picture(1)])
    photo.save(tmp_path / "two.encoded")
    saved = predictor.load(tmp_path / "two.encoded")
    assert torch.equal(saved.features.embedding, photo.features.embedding)
    predictor.remember(photo[0], square(5, 5))
    first = photo[1].predict()
    predictor.forget()
    predictor.remember(saved[0], square(5, 5))
    assert torch.equal(saved[1].predict().cleaned, first.cleaned)
    saved.encoded = None  # as in a file of before
    with pytest.raises(ValueError, match="encode it anew"):
        saved[1].predict()


@pytest.mark.parametrize(
    "masks, ids, said",
    [
        (square(0, 0, size=(80, 48)), None, r"object 0: a mask \(H, W\) is as large as.*wrong way round"),
        (np.zeros(SIZE, dtype=bool), ["cup"], "object 'cup': its mask is empty"),
        (square(5, 5).astype(np.float32), None, "not float32"),
        (square(5, 5)[None, None], None, r"\(K, H, W\) for K, not \(1, 1, 48, 80\)"),
        ([square(5, 5)], ["a", "b"], "as many as the masks, 1, and all different"),
        ([square(5, 5), square(9, 9)], ["a", "a"], "all different"),
        (square(5, 5), "cup", "object_ids is a list, one for each of 1 masks"),
        ([], None, "no mask to remember"),
        ({"cup": square(5, 5)}, None, "object_ids says what they are called"),
    ],
    ids=["turned", "empty", "logits", "shape", "count", "twice", "word", "none", "mapping"],
)  # fmt: skip
def test_what_cannot_be_remembered_is_refused_and_changes_nothing(predictor, masks, ids, said):
    predictor.remember(picture(0), square(5, 5), object_ids=["known"])
    before = predictor.memory
    with pytest.raises(ValueError, match=said):
        predictor.remember(picture(1), masks, object_ids=ids)
    assert predictor.memory is before and len(before.tracks["known"].bank) == 1


def test_one_mask_an_object_and_none_without_memory_parts(predictor):
    predictor.remember(picture(0), square(5, 5))
    with pytest.raises(ValueError, match="one mask on an image"):
        predictor(picture(1), multimask_output=True)
    model = shaken("test_tiny")
    model.image_only = True
    with pytest.raises(ValueError, match="hold no memory parts"):
        ImagePredictor(model).remember(picture(0), square(5, 5))
