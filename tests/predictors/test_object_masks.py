"""One vocabulary for the results of images, videos and automatic masks: numbers, images, and what others read."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from sam2core.ops import rle
from sam2core.ops.polygons import extent, fill_rings
from sam2core.predictors.object_masks import ObjectMasks

SIZE = (48, 64)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
POINTS = [[[20, 20]], [[50, 30]], [[8, 40]]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # default initialisation gives masks of one value
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def followed(model, **options):
    session = registry.predictor(model, "video", cleaning={"fill_holes": 0}, **options).open([PICTURE, PICTURE[::-1]])
    for name, points in zip(("cup", "dog", 7), POINTS):
        session.prompt(0, name, points=points)
    return list(session.propagate())[1]


def found(model):
    loose = {"iou_threshold": 0.0, "stability_threshold": 0.0, "nms_threshold": 1.0}
    return registry.predictor(model, "automask", points_per_side=2, **loose).generate(PICTURE)


RESULTS = {
    "image": lambda model: registry.predictor(model)(PICTURE, points=POINTS),
    "candidates": lambda model: registry.predictor(model)(PICTURE, points=POINTS, multimask_output=True),
    "video": followed,
    "non_overlapping": lambda model: followed(model, non_overlapping=True),
    "automask": found,
}


@pytest.fixture(scope="module", params=RESULTS)
def result(request, model) -> ObjectMasks:
    return RESULTS[request.param](model)


def plain_masks(result) -> np.ndarray:
    """The masks as each kind of result had them before there was a vocabulary."""
    if isinstance(result, list):
        return np.stack([one.mask for one in result])
    if isinstance(result.masks, dict):
        return np.stack([mask.numpy() for mask in result.masks.values()])
    best = result.iou.argmax(1)
    return result.masks[torch.arange(len(best)), best].numpy()


def test_masks_and_what_is_measured_of_them(result):
    masks = result.numpy()
    assert masks.dtype == bool and (masks == plain_masks(result)).all() and masks.any() and not masks.all()
    assert len(result) == len(masks) == len(result.objects) == len(result.scores) >= 3
    assert result.areas.tolist() == masks.sum((1, 2)).tolist()
    assert result.boxes.tolist() == [list(extent(mask)) for mask in masks]
    assert all((rle.decode(coded) == mask).all() for coded, mask in zip(result.rle(), masks))
    for rings, mask in zip(result.polygons(), masks):
        filled = fill_rings(rings, SIZE)
        assert (filled & mask).sum() == mask.sum() and (not rings) == (not mask.any())


def test_one_object_some_of_them_and_each(result):
    masks, names = result.numpy(), result.objects
    for row, one in enumerate(result):
        assert isinstance(one, ObjectMasks) and len(one) == 1 and (one.numpy()[0] == masks[row]).all()
        assert one.scores[0] == result.scores[row] and (result[names[row]].numpy()[0] == masks[row]).all()
    chosen = result.areas > np.median(result.areas)
    for key, rows in (
        (slice(1, None), np.arange(len(masks))[1:]),
        ([names[2], names[0]], [2, 0]),
        (chosen, np.flatnonzero(chosen)),
        (torch.from_numpy(chosen), np.flatnonzero(chosen)),
    ):
        assert type(result[key]) is type(result) and (result[key].numpy() == masks[rows]).all()
    assert len(result[[]]) == 0 and result[[]].numpy().shape == (0, *SIZE)
    assert (result.cpu().numpy() == masks).all()


def test_what_is_not_there_is_said(result):
    with pytest.raises((ValueError, IndexError), match="'cat'|no object 99|object 99 of"):
        result[99 if isinstance(result, list) else "cat"]
    with pytest.raises(ValueError, match="2 booleans do not choose"):
        result[[True, False]]
    with pytest.raises(ValueError, match="plot takes no 'lables'.*did you mean 'labels'"):
        result.plot(lables=[1])


def test_a_line_for_people(result):
    line = repr(result)
    assert "\n" not in line and len(line) < 200 and "64x48" in line and f"{len(result)} objects" in line
    assert f"{result.scores[0]:.2f}" in line and repr(result.objects[1]) in line


def test_drawn_shown_and_saved(result, tmp_path, monkeypatch):
    drawn = result.plot(names=True, boxes=True)
    assert drawn.shape == (*SIZE, 3) and drawn.dtype == np.uint8
    base = PICTURE[::-1] if "FrameResult" in repr(result) else PICTURE
    assert (result[[]].plot() == base).all() and (drawn != base).any()
    assert (np.array(Image.open(io.BytesIO(result._repr_png_()))) == result.plot()).all()
    result.save(tmp_path / "a.png")
    assert (np.array(Image.open(tmp_path / "a.png")) == result.plot()).all()
    result.save(tmp_path / "a.jpg", PICTURE[:, ::-1])
    assert Image.open(tmp_path / "a.jpg").size == SIZE[::-1]
    with pytest.raises(ValueError, match=r"a\.xyz.*\.png"):
        result.save(tmp_path / "a.xyz")
    with pytest.raises(ValueError, match="20x10 pixels, the masks are for 64x48"):
        result.plot(np.zeros((10, 20, 3), np.uint8))
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(np.array(self)))
    result.show()
    assert (shown[0] == result.plot()).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pycocotools_loads_what_is_told_to_coco(result, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    labels = {name: "even" if row % 2 else "odd" for row, name in enumerate(result.objects)}
    (tmp_path / "coco.json").write_text(json.dumps(result.to_coco("a.jpg", labels=labels)))
    held = coco.COCO(str(tmp_path / "coco.json"))
    masks = [mask for mask in result.numpy() if mask.any()]
    annotations = held.loadAnns(held.getAnnIds())
    assert len(annotations) == len(masks) and held.loadImgs([1])[0]["file_name"] == "a.jpg"
    assert {one["name"] for one in held.loadCats(held.getCatIds())} == {"even", "odd"}
    for one, mask in zip(annotations, masks):
        assert (held.annToMask(one) == mask).all() and one["area"] == mask.sum() and 0 <= one["score"] <= 1
    with pytest.raises(ValueError, match="labels say nothing of object"):
        result.to_coco(labels={"nobody": "x"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_supervision_takes_the_objects(result):
    supervision = pytest.importorskip("supervision")
    detections = result.to_supervision()
    masks = result.numpy()
    assert isinstance(detections, supervision.Detections) and (detections.mask == masks).all()
    assert (detections.xyxy == supervision.mask_to_xyxy(masks)).all()
    assert (detections.confidence == result.scores).all() and detections.area.tolist() == masks.sum((1, 2)).tolist()
    assert detections.data["object"].tolist() == [str(name) for name in result.objects]
    colour = supervision.MaskAnnotator(color_lookup=supervision.ColorLookup.INDEX)
    assert (colour.annotate(PICTURE.copy(), detections) != PICTURE).any()
    assert len(detections[detections.area > 0]) == (result.areas > 0).sum()
    if isinstance(result, list):  # what supervision makes of the records of Meta's generator
        theirs = supervision.Detections.from_sam([one.record() for one in result])
        order = np.argsort([-one.area for one in result], kind="stable")
        assert (theirs.mask == masks[order]).all() and (theirs.xyxy == detections.xyxy[order]).all()
    assert len(result[[]].to_supervision()) == 0


def test_a_table_of_pandas(result):
    pytest.importorskip("pandas")
    table = result.to_frame()
    assert table["object"].tolist() == list(result.objects) and table["area"].tolist() == result.areas.tolist()
    assert table[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == result.boxes.tolist()
    assert len(result[[]].to_frame()) == 0


def test_numbers_of_objects_are_supervisions_tracks(model):
    pytest.importorskip("supervision")
    session = registry.predictor(model, "video").open([PICTURE])
    session.prompt(0, 7, points=POINTS[0])
    assert session.prompt(0, np.int64(3), points=POINTS[1]).to_supervision().tracker_id.tolist() == [7, 3]
    assert session.prompt(0, "dog", points=POINTS[2]).to_supervision().tracker_id is None


def test_masks_of_an_image_are_made_when_asked_for(model):
    result = registry.predictor(model)(PICTURE, points=POINTS, multimask_output=True)
    one = result[1]
    assert "masks" not in vars(result) | vars(one)
    masks = result.numpy()
    assert "masks" not in vars(result)
    assert (result.best.masks[:, 0].numpy() == masks).all() and torch.equal(one.masks[0], result.masks[1])
    result.masks[1] = False  # they are the user's, to be edited
    assert not result[1].masks.any() and not result.numpy()[1].any()


def test_candidates_by_rank(model):
    result = registry.predictor(model)(PICTURE, points=POINTS, multimask_output=True)
    ranked = result.ranked
    assert ranked.iou.tolist() == [sorted(row, reverse=True) for row in result.iou.tolist()]
    assert torch.equal(ranked.masks[:, 0], result.best.masks[:, 0]) and (ranked.numpy() == result.numpy()).all()
    assert torch.equal(ranked.logits[:, 0], result.best.logits[:, 0])


def test_a_result_holds_no_frame(model):
    live = registry.predictor(model, "video").open()
    first = live.step(PICTURE, {1: {"points": POINTS[0]}})
    assert first[[]].plot().tolist() == PICTURE.tolist()
    live.step(PICTURE)
    with pytest.raises(ValueError, match="frame 0 of this live session has passed"):
        first.plot()
    assert first._repr_png_() is None and first.plot(PICTURE).shape == PICTURE.shape


def test_what_is_built_says_what_it_is(model, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    predictor, videos = registry.predictor(model), registry.predictor(model, "video")
    photo = predictor.encode(tmp_path / "a.png")
    photo.save(tmp_path / "a.safetensors")
    again = predictor.load(tmp_path / "a.safetensors")
    batch = predictor.encode([PICTURE] * 6)
    session = videos.open([PICTURE])
    for thing, words in (
        (predictor, "ImagePredictor of 'test_tiny'"),
        (videos, "VideoPredictor of 'test_tiny'"),
        (registry.predictor(model, "automask", points_per_side=3), "MaskGenerator of 'test_tiny', 9 clicks"),
        (photo, "ImageHandle: 64x48"),
        (batch, "6 images (64x48, 64x48, 64x48, 64x48 and 2 more)"),
        (session, "1 frames, objects: none"),
        (videos.open(), "live"),
    ):
        assert words in repr(thing) and " at 0x" not in repr(thing)
    assert (photo.predict(box=[4, 4, 40, 40])[[]].plot() == PICTURE).all()
    answer = again.predict(box=[4, 4, 40, 40])
    assert (
        answer._repr_png_() is None and photo.predict(box=[4, 4, 40, 40]).to_coco()["images"][0]["file_name"] == "a.png"
    )
    with pytest.raises(ValueError, match=r"plot\(image\)"):
        answer.plot()


def test_all_in_one_call(model):
    predictor, videos = registry.predictor(model), registry.predictor(model, "video")
    wanted = predictor.encode(PICTURE).predict(points=POINTS[0], labels=[1])
    assert torch.equal(predictor(PICTURE, POINTS[0], [1]).logits, wanted.logits)
    assert [len(one) for one in predictor([PICTURE, PICTURE], [{"box": [1, 1, 9, 9]}, None])] == [1, 0]
    frames = [result.frame for result in videos([PICTURE] * 3, frame=1, object="cup", points=POINTS[0])]
    assert frames == [1, 2]
    with pytest.raises(ValueError, match="predict takes no 'bboxes'; ours is box"):
        predictor(PICTURE, bboxes=[1, 1, 9, 9])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda image, video, mask: image.encode(PICTURE, imgsz=64), "encode takes no 'imgsz'"),
        (lambda image, video, mask: video.open(video_path="a.mp4"), "open takes no 'video_path'; ours is source"),
        (lambda image, video, mask: video.open([PICTURE]).propagate(start_frame_idx=1), "ours is start"),
        (lambda image, video, mask: video.open().step(PICTURE, prompt={}), "did you mean 'prompts'"),
        (lambda image, video, mask: mask.generate(PICTURE, progres=None), "did you mean 'progress'"),
        (lambda image, video, mask: type(mask)(mask.model, pred_iou_thresh=0.5), "ours is iou_threshold"),
        (lambda image, video, mask: type(image)(image.model, max_hole_area=9), "ours is cleaning={'fill_holes': ...}"),
        (lambda image, video, mask: type(video)(video.model, fill_hole_area=9), "ours is cleaning={'fill_holes': ...}"),
    ],
)
def test_the_words_of_others_are_answered_with_ours(model, call, words):
    tools = [registry.predictor(model, task) for task in ("image", "video", "automask")]
    with pytest.raises(ValueError, match=words):
        call(*tools)


def test_no_heavy_package_is_imported(model):
    heavy = "supervision pandas matplotlib IPython"
    code = (
        "import sys, sam2core.predictors.automask, sam2core.predictors.video\n"
        f"assert not [name for name in {heavy!r}.split() if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
