"""The image predictor: every input, every combination of prompts, batches equal to one by one, no hidden state."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import registry
from sam2core.media.images import read_image
from sam2core.predictors.image import ImageHandle, ImagePredictor

SIZES = [(48, 80), (100, 60), (64, 64), (33, 47)]


@pytest.fixture(scope="module")
def predictor() -> ImagePredictor:
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # default initialisation hides bugs
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return ImagePredictor(model)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def assert_same(a, b) -> None:
    assert a.masks.shape == b.masks.shape
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.iou, b.iou, rtol=1e-4, atol=1e-5)


def test_every_kind_of_image_gives_the_same_features(predictor, tmp_path):
    array = picture((40, 60))
    Image.fromarray(array).save(tmp_path / "a.png")
    kinds = [
        array,
        Image.fromarray(array),
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        torch.from_numpy(array).permute(2, 0, 1),
        array.astype(np.float32) / 255,
        torch.from_numpy(array).permute(2, 0, 1).double() / 255,
        np.dstack([array, np.full(array.shape[:2], 7, np.uint8)]),
        Image.fromarray(array).convert("RGBA"),
        array.astype(np.uint16) * 257,
    ]
    first = predictor.encode(kinds[0])
    assert first.size == (40, 60)
    for kind in kinds[1:]:
        other = predictor.encode(kind)
        assert other.size == first.size
        torch.testing.assert_close(other.features.embedding, first.features.embedding, rtol=1e-4, atol=1e-4)


def test_grey_is_three_equal_channels(predictor, tmp_path):
    grey = picture((20, 30))[..., 0]
    colour = predictor.encode(np.repeat(grey[..., None], 3, axis=2)).features.embedding
    deep = grey.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for kind in (
        grey,
        grey[..., None],
        Image.fromarray(grey),
        torch.from_numpy(grey)[None],
        deep,
        tmp_path / "deep.png",
    ):
        torch.testing.assert_close(predictor.encode(kind).features.embedding, colour, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("error")
def test_an_array_that_cannot_be_written_to_gives_no_warning(predictor):
    image = np.zeros((48, 64, 3), np.uint8)
    image.flags.writeable = False
    assert predictor.encode(image).predict(points=[[10, 10]]).masks.shape == (1, 1, 48, 64)


def test_a_file_is_seen_as_its_exif_tag_says(predictor, tmp_path):
    array = picture((20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    assert predictor.encode(tmp_path / "turned.png").size == (30, 20)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((3, 40, 50), np.uint8), "channels last"),
        (torch.zeros(40, 50, 3), "channels first"),
        (np.zeros((4, 4, 2), np.uint8), "(H, W)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), np.nan, np.float32), "not finite"),
        (np.full((4, 4, 3), 200.0, np.float32), "divide by 255"),
        (np.full((4, 4, 3), -0.5, np.float32), "[0, 1]"),
        ("nowhere.jpg", "nowhere.jpg"),
        (None, "NoneType"),
        ([], "empty"),
    ],
)
def test_bad_images_are_told_apart(predictor, image, message):
    with pytest.raises(ValueError) as error:
        predictor.encode(image)
    assert message in str(error.value)


def test_a_text_file_named_jpg(predictor, tmp_path):
    (tmp_path / "notes.jpg").write_text("not an image")
    with pytest.raises(ValueError, match="not an image"):
        predictor.encode(tmp_path / "notes.jpg")
    Image.fromarray(picture((64, 64))).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="could not be read"):
        predictor.encode(tmp_path / "cut.png")


PROMPTS = [
    {"points": [[10, 20]]},
    {"points": [[10, 20], [30, 8]], "labels": [1, 0]},
    {"box": [4, 5, 30, 25]},
    {"box": [4, 5, 30, 25], "points": [[10, 20]]},
    {"points": [[[10, 20], [12, 21]], [[3, 4], [8, 8]], [[1, 1], [2, 2]]]},
    {"box": [[4, 5, 30, 25], [0, 0, 10, 10]]},
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("multimask_output", [None, True, False])
def test_shapes_and_mask_inputs(predictor, prompt, multimask_output):
    handle = predictor.encode(picture((48, 80)))
    result = handle.predict(**prompt, multimask_output=multimask_output)
    batch = max(
        np.ndim(prompt.get("points", [])) == 3 and len(prompt["points"]),
        np.ndim(prompt.get("box", 0)) == 2 and len(prompt["box"]),
        1,
    )
    count = 3 if multimask_output else 1
    size = predictor.model.prompt_encoder.mask_input_size
    assert result.masks.shape == (batch, count, 48, 80) and result.masks.dtype == torch.bool
    assert result.iou.shape == (batch, count)
    assert result.logits.shape == (batch, count, *size) and result.logits.abs().max() <= 32
    assert result.best.masks.shape == (batch, 1, 48, 80)

    hinted = handle.predict(**prompt, mask_input=result.logits[:, 0], multimask_output=multimask_output)
    assert not torch.equal(hinted.logits, result.logits)
    alone = handle.predict(mask_input=result.logits[:1, :1], multimask_output=True)
    assert alone.masks.shape == (1, 3, 48, 80)


def test_objects_together_equal_one_by_one(predictor):
    handle = predictor.encode(picture((48, 80)))
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 48, (9, 4, 2))
    labels = rng.integers(0, 2, (9, 4))
    labels[2, 2:] = labels[5, 1:] = -1
    for multimask_output in (None, True, False):
        together = handle.predict(points, labels, multimask_output=multimask_output)
        for row in range(9):
            keep = labels[row] >= 0
            one = handle.predict(points[row][keep], labels[row][keep], multimask_output=multimask_output)
            assert_same(
                one,
                together[row],
            )


def test_a_ragged_batch_equals_one_by_one(predictor, monkeypatch):
    images = [picture(size, seed) for seed, size in enumerate(SIZES)]
    mask_input = predictor.encode(images[3]).predict([[5, 5]]).logits[:, 0]
    prompts = [
        {"box": [[1, 2, 30, 40], [5, 5, 20, 20], [0, 0, 80, 48]]},
        {"box": [1, 2, 30, 40], "points": [[10, 12], [20, 22]], "multimask_output": True},
        None,
        {"mask_input": mask_input},
    ]
    calls = []
    model = predictor.model
    for name in ("encode", "decode"):
        original = getattr(model, name)
        monkeypatch.setattr(
            type(model),
            name,
            lambda self, *args, _name=name, _original=original, **kw: (calls.append(_name), _original(*args, **kw))[1],
        )
    together = predictor.encode(images).predict(prompts)
    assert calls == ["encode", "decode"]
    monkeypatch.undo()
    assert [result.masks.shape for result in together] == [
        (3, 1, 48, 80),
        (1, 3, 100, 60),
        (0, 1, 64, 64),
        (1, 1, 33, 47),
    ]
    for image, prompt, result in zip(images, prompts, together, strict=True):
        if prompt is not None:
            assert_same(predictor.encode(image).predict(**prompt), result)


def test_one_image_of_a_batch_has_a_handle_of_its_own(predictor):
    images = [picture(size, seed) for seed, size in enumerate(SIZES)]
    batch = predictor.encode(images)
    assert len(batch) == 4 and batch[-1].size == SIZES[-1]
    assert_same(batch[1].predict([[3, 4]]), predictor.encode(images[1]).predict([[3, 4]]))
    with pytest.raises(IndexError):
        batch[4]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "needs points, a box or a mask"),
        ({"labels": [1]}, "without points"),
        ({"points": [10, 20]}, "(N, 2)"),
        ({"points": np.zeros((0, 2))}, "(N, 2)"),
        ({"points": [[1, 2, 3]]}, "(N, 2)"),
        ({"points": [["a", "b"]]}, "numbers"),
        ({"points": [[1, 2]], "labels": [2]}, "labels are 1"),
        ({"points": [[1, 2]], "labels": [0.5]}, "labels are 1"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "one label per point"),
        ({"points": [[float("nan"), 2]]}, "not finite"),
        ({"points": [[81, 2]]}, "outside the image of 80x48"),
        ({"box": [1, 2, 3]}, "(4,)"),
        ({"box": [10, 10, 5, 20]}, "empty"),
        ({"box": [100, 100, 120, 120]}, "outside"),
        ({"box": [[1, 1, 5, 5], [2, 2, 8, 8]], "points": [[1, 2]]}, "box for 2, points for 1"),
        ({"mask_input": np.zeros((5, 5))}, "low-resolution logits"),
        ({"mask_input": np.full((32, 32), np.nan)}, "not finite"),
    ],
)
def test_bad_prompts_are_told_apart(predictor, prompt, message):
    handle = predictor.encode(picture((48, 80)))
    with pytest.raises(ValueError) as error:
        handle.predict(**prompt)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="image 1" if prompt else "2 images and one"):
        batch = predictor.encode([picture((48, 80)), picture((48, 80))])
        batch.predict([None, prompt] if prompt else {})


def test_a_batch_wants_one_prompt_per_image(predictor):
    batch = predictor.encode([picture((20, 20)), picture((20, 20))])
    with pytest.raises(ValueError, match="2 images and 1 prompts"):
        batch.predict([None])
    with pytest.raises(ValueError, match="image 1: a prompt takes no 'point'"):
        batch.predict([None, {"point": [[1, 2]]}])
    with pytest.raises(ValueError, match="image 0.*outside"):
        batch.predict([{"points": [[21, 1]]}, None])


def test_eight_threads_share_a_model(predictor):
    images = [picture((40, 40), seed) for seed in range(4)]
    jobs = [(seed % 4, [[float(seed % 37), float(seed * 7 % 39)]]) for seed in range(64)]

    def answer(job):
        index, points = job
        return predictor.encode(images[index]).predict(points, multimask_output=True)

    serial = [answer(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(serial, pool.map(answer, jobs), strict=True):
            assert torch.equal(one.masks, other.masks)
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-5, atol=1e-5)


def test_results_can_be_edited_and_learned_from(predictor):
    handle = predictor.encode(picture(SIZES[0]))
    result = handle.predict([[5, 6]])
    result.masks[0, 0, :4] = True
    assert result.masks[0, 0, :4].all()
    embedding = handle.features.embedding
    torch.nn.Conv2d(embedding.shape[1], 1, 1)(embedding).sum().backward()
    (torch.nn.Linear(1, 1)(result.iou).sum() + result.logits.sum()).backward()
    none = handle.predict(box=np.zeros((0, 4)))
    none.iou[:] = 1.0


@pytest.mark.parametrize("nothing", [np.zeros((0, 4)), [], torch.zeros(0, 4)])
def test_no_box_at_all_gives_no_mask(predictor, nothing):
    size = SIZES[0]
    handle = predictor.encode(picture(size))
    mask_input = predictor.model.prompt_encoder.mask_input_size
    for multimask_output, count in ((None, 1), (False, 1), (True, 3)):
        result = handle.predict(box=nothing, multimask_output=multimask_output)
        assert result.masks.shape == (0, count, *size) and result.masks.dtype == torch.bool
        assert result.iou.shape == (0, count) and result.logits.shape == (0, count, *mask_input)
    batch = predictor.encode([picture(size), picture(size, 1)])
    found = batch.predict([{"box": nothing}, {"box": [[2, 2, 20, 20]]}])
    assert [len(result.masks) for result in found] == [0, 1]
    with pytest.raises(ValueError, match="same number of objects"):
        handle.predict(box=nothing, points=[[5, 6]])


def test_arrays_of_any_strides_order_and_kind(predictor):
    handle = predictor.encode(picture(SIZES[0]))
    wanted = handle.predict([[5, 6]])
    turned = np.array([[6, 5]], np.float32)[:, ::-1]
    swapped = np.array([[5, 6]], ">f4")
    half = torch.tensor([[5.0, 6.0]], dtype=torch.bfloat16)
    for points in (turned, swapped, half, np.array([[5, 6]], ">i2")):
        assert torch.equal(handle.predict(points).logits, wanted.logits)
    mask_input = wanted.logits[0, 0].numpy()
    again = handle.predict([[5, 6]], mask_input=mask_input)
    assert torch.equal(handle.predict([[5, 6]], mask_input=mask_input[::-1].copy()[::-1]).logits, again.logits)
    with pytest.raises(ValueError, match="one regular shape"):
        handle.predict([[1, 2], [3]])


def test_values_that_resizing_left_beside_the_range(predictor):
    white = torch.nn.functional.interpolate(
        torch.ones(1, 3, 700, 1001), size=(333, 500), mode="bilinear", antialias=True
    )[0]
    exact = read_image(torch.ones(3, 333, 500))
    assert torch.equal(read_image(white + 1e-6), exact) and torch.equal(read_image(-1e-6 * exact), exact * 0)
    for wrong in (white * 1.01, white - 1.01):
        with pytest.raises(ValueError, match="lie in"):
            read_image(wrong)


def test_handles_are_saved_and_loaded(predictor, tmp_path):
    images = [picture(size, seed) for seed, size in enumerate(SIZES)]
    one = predictor.encode(images[0])
    one.save(tmp_path / "one.safetensors")
    loaded = predictor.load(tmp_path / "one.safetensors")
    assert loaded.size == one.size
    assert torch.equal(loaded.predict([[5, 6]]).logits, one.predict([[5, 6]]).logits)

    batch = predictor.encode(images)
    batch.save(tmp_path / "batch.safetensors")
    again = predictor.load(tmp_path / "batch.safetensors")
    assert again.sizes == batch.sizes
    assert torch.equal(again[2].predict([[5, 6]]).logits, batch[2].predict([[5, 6]]).logits)

    other = ImagePredictor(registry.build("test_tiny", weights=False))
    with pytest.raises(ValueError, match="another model"):
        other.load(tmp_path / "one.safetensors")
    other.model.load_state_dict(predictor.model.state_dict())
    other.load(tmp_path / "one.safetensors")
    guided = registry.build("test_tiny", weights=False, mask_decoder={"type": "guided", "heads": 4, "hidden": 64})
    guided.load_state_dict(predictor.model.state_dict())  # the same weights, other skips and other masks
    with pytest.raises(ValueError, match="another model.*SamMaskDecoder.*GuidedMaskDecoder"):
        ImagePredictor(guided).load(tmp_path / "one.safetensors")
    with torch.no_grad():
        next(other.model.backbone.parameters())[0] += 1.0
    with pytest.raises(ValueError, match="another model"):
        other.load(tmp_path / "one.safetensors")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_needs_no_autocast(predictor, dtype):
    model = registry.build("test_tiny", weights=False, dtype=dtype)
    model.load_state_dict(predictor.model.state_dict())
    half = ImagePredictor(model)
    image = picture((48, 80))
    exact = predictor.encode(image).predict([[10, 20], [30, 8]], multimask_output=True)
    rough = half.encode(image).predict([[10, 20], [30, 8]], multimask_output=True)
    assert rough.logits.dtype == torch.float32
    spread = exact.logits.std()
    assert (exact.logits - rough.logits).abs().mean() < 0.1 * spread


def test_non_square_and_other_sizes(predictor):
    for size in ((64, 64), (96, 160), (256, 128)):
        model = registry.build("test_tiny", weights=False, image_size=size)
        model.load_state_dict(predictor.model.state_dict())
        result = ImagePredictor(model).encode(picture((48, 80))).predict([[10, 20]])
        assert result.logits.shape == (1, 1, size[0] // 4, size[1] // 4)
        assert result.masks.shape == (1, 1, 48, 80)


def test_keep_clicked_leaves_what_the_click_is_on(predictor):
    image = picture((48, 80))
    clicked = ImagePredictor(predictor.model, cleaning={"keep_clicked": True})
    points = [[[10.0, 20.0], [60.0, 5.0]], [[30.0, 30.0], [5.0, 5.0]]]
    plain, kept = (
        tool.encode(image).predict(points, [[1, 0], [1, 0]], multimask_output=True) for tool in (predictor, clicked)
    )
    assert torch.equal(plain.logits, kept.logits)  # what is fed back is what the model said
    assert not (kept.masks & ~plain.masks).any() and (kept.masks != plain.masks).any()
    box = {"box": [4, 5, 30, 25]}
    assert torch.equal(predictor.encode(image).predict(**box).masks, clicked.encode(image).predict(**box).masks)


class Made(TorchDispatchMode):
    """How many operators ran, and the elements of the largest tensor that one of them gave."""

    def __init__(self):
        super().__init__()
        self.operators, self.largest = 0, 0

    def __torch_dispatch__(self, operator, types, given=(), options=None):
        result = operator(*given, **(options or {}))
        self.operators += 1
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return result


@pytest.mark.parametrize("prompt", [{"points": [[30.0, 20.0]]}, {"box": [5, 5, 30, 40]}])
@pytest.mark.parametrize("cleaning", [None, {"fill_holes": 8, "keep_clicked": True}])
def test_a_click_costs_the_same_on_a_picture_of_50_megapixels(predictor, prompt, cleaning):
    chosen = ImagePredictor(predictor.model, cleaning=cleaning)
    handle = chosen.encode(picture((48, 80)))
    handle.predict(**prompt)  # the first call makes what later ones find made
    seen = []
    for size in ((48, 80), (7000, 7143)):
        one = ImageHandle(chosen, handle.features, size)
        with Made() as made:
            result = one.predict(**prompt)
            result.logits, result.iou, result.best, result.scores  # noqa: B018 -- asked for as a user does
        seen.append((made.operators, made.largest))
    assert seen[0] == seen[1] and seen[1][1] < 7000 * 7143
