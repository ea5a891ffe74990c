"""Every stage of the published sizes, live against Meta's sam2, on equal inputs and with every tensor re-randomised."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from tests.parity import answers, oracle, stages
from tests.parity.whose import need_upstream

need_upstream()

MODELS = [
    ("t", 0, "2.1"),
    ("t", 1, "2.0"),
    ("b+", 2, "2.1"),
    ("mini", 3, "2.1"),
    ("mini", 4, "2.1"),
    ("mini", 5, "2.0"),
]
PROMPTS = list(stages.PROMPTS)


@lru_cache(maxsize=1)
def pair(size: str, seed: int, family: str):
    """Meta's model and ours with the same random tensors, and Meta's view of two random images."""
    shape = oracle.SHAPES[size].at(family=family)
    theirs = oracle.upstream(shape)
    oracle.randomise(theirs, seed)
    oracle.force_object_score(theirs, 5.0)
    ours = oracle.ours(shape, oracle.to_ours(theirs.state_dict()))
    pixels = torch.randn(2, 3, shape.image, shape.image, generator=torch.Generator().manual_seed(seed))
    return shape, theirs, ours, pixels, stages.encode(theirs, pixels)


@pytest.fixture(params=MODELS, ids=[f"{size}-{family}-seed{seed}" for size, seed, family in MODELS], scope="module")
def models(request):
    return pair(*request.param)


def compare(found, expected, skip=()):
    errors = {name: oracle.error(found[name], tensor) for name, tensor in expected.items() if name not in skip}
    wrong = {name: f"{error:.1e}" for name, error in errors.items() if not error <= 1e-4}
    assert errors and not wrong, f"relative errors {wrong}"


def test_image_encoder(models):
    _, _, ours, pixels, expected = models
    compare(answers.encode(ours, pixels), expected)


def test_prompt_encoder(models):
    shape, theirs, ours, *_ = models
    generator = torch.Generator().manual_seed(9)
    mask_input = 3.0 * torch.randn(1, 1, shape.image // 4, shape.image // 4, generator=generator)
    grid = (shape.image // 16, shape.image // 16)
    for mask in (None, mask_input):
        for name in PROMPTS:
            points = stages.prompt_tensors(name, shape.image)
            if points is not None:
                compare(answers.prompt(ours, points, mask, grid), stages.prompt(theirs, points, mask))


def test_token_counts(models):
    """A box is two tokens and a padding one; a mask alone none; tracking's own padding point is padded once more."""
    shape, _, ours, *_ = models
    grid = (shape.image // 16, shape.image // 16)
    counts = {"one": 2, "five": 6, "box": 3, "box_and_point": 4, "tracking": 2}
    for name, count in counts.items():
        found = answers.prompt(ours, stages.prompt_tensors(name, shape.image), None, grid)
        assert found["sparse"].shape[1] == count, name
    mask_input = torch.zeros(1, 1, shape.image // 4, shape.image // 4)
    assert answers.prompt(ours, None, mask_input, grid)["sparse"].shape[1] == 0


def test_labels_without_a_code_of_their_own(models):
    shape, theirs, ours, *_ = models
    points = (torch.tensor([[[3.0, 4.0], [0.0, 0.0], [shape.image - 1.0, 7.0]]]), torch.tensor([[4, -1, 9]]))
    grid = (shape.image // 16, shape.image // 16)
    compare(answers.prompt(ours, points, None, grid), stages.prompt(theirs, points, None))


@pytest.mark.parametrize("name", PROMPTS)
def test_decoder_and_selection(models, name):
    shape, theirs, ours, _, encoded = models
    embedding, high_res_features = encoded["conditioned"], [encoded["skip.0"], encoded["skip.1"]]
    points = stages.prompt_tensors(name, shape.image, batch=2)
    spelled = points or (torch.zeros(2, 1, 2), -torch.ones(2, 1, dtype=torch.int32))
    compare(
        answers.decode(ours, embedding, high_res_features, points, None),
        stages.decode(theirs, embedding, high_res_features, spelled, None),
    )
    expected = stages.segment(theirs, embedding, high_res_features, points, None)
    compare(answers.segment(ours, embedding, high_res_features, points, None), expected, skip=("full",))


def test_decoder_with_a_mask_input(models):
    shape, theirs, ours, _, encoded = models
    embedding, high_res_features = encoded["conditioned"], [encoded["skip.0"], encoded["skip.1"]]
    mask_input = 3.0 * torch.randn(2, 1, shape.image // 4, shape.image // 4, generator=torch.Generator().manual_seed(1))
    for points in (None, stages.prompt_tensors("two", shape.image, batch=2)):
        expected = stages.decode(theirs, embedding, high_res_features, points, mask_input)
        compare(answers.decode(ours, embedding, high_res_features, points, mask_input), expected)
        expected = stages.segment(theirs, embedding, high_res_features, points, mask_input)
        compare(answers.segment(ours, embedding, high_res_features, points, mask_input), expected, skip=("full",))


def test_mask_prompt(models):
    shape, theirs, ours, _, encoded = models
    high_res_features = [encoded["skip.0"], encoded["skip.1"]]
    mask = torch.zeros(2, 1, shape.image, shape.image)
    mask[0, :, 20:90, 33:101] = 1.0
    mask[0, :, 40:41, :] = 0.0  # a line one pixel wide
    compare(
        answers.mask_as_output(ours, encoded["embedding"], high_res_features, mask),
        stages.mask_as_output(theirs, encoded["embedding"], high_res_features, mask),
    )


@pytest.mark.parametrize("hard", [False, True])
def test_memory(models, hard):
    shape, theirs, ours, _, encoded = models
    logits = 4.0 * torch.randn(2, 1, shape.image // 4, shape.image // 4, generator=torch.Generator().manual_seed(2))
    full = torch.nn.functional.interpolate(logits, (shape.image, shape.image), mode="bilinear", align_corners=False)
    object_score = torch.tensor([[2.0], [-2.0]])
    expected = stages.memorize(theirs, encoded["embedding"], full, object_score, hard)
    compare(answers.memory_encoder(ours, encoded["embedding"], full, object_score, hard), expected)
    compare(answers.memorize(ours, encoded["embedding"], logits, object_score, hard), expected)


@pytest.mark.parametrize("name", stages.PASTS)
def test_recall_readout_and_memory_attention(models, name):
    shape, theirs, ours, _, encoded = models
    if shape.dim == 256 and name not in ("gaps", "two_anchors", "backwards", "nearest_two"):
        pytest.skip("the small model covers the rest: the code is the same")
    generator = torch.Generator().manual_seed(3)
    cells = (shape.image // 16) ** 2
    memories = torch.randn(stages.FRAMES, 2, cells, shape.memory_dim, generator=generator)
    object_pointers = torch.randn(stages.FRAMES, 2, shape.dim, generator=generator)
    full = torch.zeros(2, 1, shape.image, shape.image)
    where = stages.memorize(theirs, encoded["embedding"], full, torch.ones(2, 1), False)["position"][:1]
    given = (name, encoded["embedding"], encoded["position"], memories, object_pointers, where)
    compare(answers.past(ours, *given), stages.past(theirs, *given))


@pytest.mark.parametrize("size", ["t", "mini"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: oracle.force_object_score(m, -5.0), id="absent"),
        *(pytest.param(lambda m, i=i: oracle.force_best(m, i), id=f"best{i}") for i in (1, 2, 3)),
        pytest.param(lambda m: oracle.force_stability(m, True), id="stable"),
        pytest.param(lambda m: oracle.force_stability(m, False), id="unstable"),
    ],
)
def test_every_branch_of_selection_and_gating(size, change):
    shape = oracle.SHAPES[size]
    theirs = oracle.upstream(shape)
    oracle.randomise(theirs, 6)
    oracle.force_object_score(theirs, 5.0)
    change(theirs)
    ours = oracle.ours(shape, oracle.to_ours(theirs.state_dict()))
    generator = torch.Generator().manual_seed(6)
    side = shape.image // 16
    embedding = torch.randn(2, shape.dim, side, side, generator=generator)
    high_res_features = [
        torch.randn(2, shape.dim // f, side * s, side * s, generator=generator) for f, s in ((8, 4), (4, 2))
    ]
    for name in ("tracking", "one", "two", "box", "box_and_point"):
        points = stages.prompt_tensors(name, shape.image, batch=2)
        expected = stages.segment(theirs, embedding, high_res_features, points, None)
        compare(answers.segment(ours, embedding, high_res_features, points, None), expected, skip=("full",))


def test_object_score_of_exactly_zero_is_absence():
    shape = oracle.SHAPES["mini"]
    theirs = oracle.upstream(shape)
    oracle.randomise(theirs, 7)
    head = theirs.sam_mask_decoder.pred_obj_score_head.layers[-1]
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    ours = oracle.ours(shape, oracle.to_ours(theirs.state_dict()))
    encoded = stages.encode(theirs, torch.randn(1, 3, shape.image, shape.image))
    given = (encoded["conditioned"], [encoded["skip.0"], encoded["skip.1"]], None, None)
    expected = stages.segment(theirs, *given)
    assert (expected["best"] == -1024).all()
    compare(answers.segment(ours, *given), expected, skip=("full",))


def test_stability_at_the_edge_of_the_band():
    """Logits of exactly +-0.05 are outside both areas' strict inequalities; an empty mask is stable."""
    from sam2core.heads.select import Stability, candidates
    from sam2core.types import DecoderOutput

    theirs = oracle.upstream(oracle.SHAPES["mini"]).sam_mask_decoder
    single = torch.full((6, 1, 10, 10), -1.0)
    single[1, :, :5], single[1, :, 5, 0] = 1.0, 0.05  # above -0.05, not above 0.05: 50 / 51
    single[2, :, :5], single[2, :, 5, 0] = 1.0, -0.05  # not above -0.05: stable
    single[3, 0, 0, :], single[3, 0, 1, :5] = 1.0, 0.0  # clearly unstable
    single[4, 0].flatten()[:98], single[4, 0].flatten()[98:] = 1.0, 0.0  # 98 of 100: just stable
    single[5, 0].flatten()[:97], single[5, 0].flatten()[97:] = 1.0, 0.0
    masks = torch.cat([single, torch.randn(6, 3, 10, 10)], dim=1)
    iou = torch.rand(6, 4)
    iou[3, 1:] = 0.5  # a tie: the first wins
    expected, expected_iou = theirs._dynamic_multimask_via_stability(masks, iou)
    output = DecoderOutput(masks, iou, torch.randn(6, 4, 8), torch.ones(6, 1))
    found, found_iou, tokens = candidates(output, multimask_output=False, stability=Stability())
    assert torch.equal(found, expected) and torch.equal(found_iou, expected_iou)
    assert torch.equal(tokens, output.tokens[:, :1])


def test_training_does_not_fall_back():
    shape = oracle.SHAPES["mini"]
    theirs = oracle.upstream(shape)
    oracle.randomise(theirs, 8)
    oracle.force_object_score(theirs, 5.0)
    oracle.force_stability(theirs, False)
    ours = oracle.ours(shape, oracle.to_ours(theirs.state_dict()))
    encoded = stages.encode(theirs, torch.randn(1, 3, shape.image, shape.image))
    points = stages.prompt_tensors("box", shape.image)
    given = (encoded["conditioned"], [encoded["skip.0"], encoded["skip.1"]], points, None)
    theirs.train(), ours.train()
    compare(answers.segment(ours, *given), stages.segment(theirs, *given), skip=("full",))


def test_memory_attention_at_full_size():
    """1024 pixels, two frames and object pointers: long enough for the way that a CPU takes through a long past."""
    shape = oracle.SHAPES["t"].at(image=1024)
    theirs = oracle.upstream(shape)
    oracle.randomise(theirs, 15)
    ours = oracle.ours(shape, oracle.to_ours(theirs.state_dict()))
    generator = torch.Generator().manual_seed(15)
    embedding = torch.randn(1, 256, 64, 64, generator=generator)
    position = theirs.image_encoder.neck.position_encoding(embedding)
    memories = torch.randn(stages.FRAMES, 1, 4096, 64, generator=generator)
    object_pointers = torch.randn(stages.FRAMES, 1, 256, generator=generator)
    where = torch.randn(1, 4096, 64, generator=generator)
    given = ("third_frame", embedding, position, memories, object_pointers, where)
    compare(answers.past(ours, *given), stages.past(theirs, *given))


def test_large_once():
    shape = oracle.SHAPES["l"]
    theirs = oracle.upstream(shape)
    oracle.randomise(theirs, 10)
    oracle.force_object_score(theirs, 5.0)
    ours = oracle.ours(shape, oracle.to_ours(theirs.state_dict()))
    pixels = torch.randn(1, 3, shape.image, shape.image, generator=torch.Generator().manual_seed(10))
    encoded = stages.encode(theirs, pixels)
    compare(answers.encode(ours, pixels), encoded)
    embedding, high_res_features = encoded["conditioned"], [encoded["skip.0"], encoded["skip.1"]]
    for name in ("one", "box"):
        points = stages.prompt_tensors(name, shape.image)
        compare(
            answers.decode(ours, embedding, high_res_features, points, None),
            stages.decode(theirs, embedding, high_res_features, points, None),
        )


def test_images_that_are_not_square():
    """Meta's parts take them once told the sizes; only its constructor insists on a square."""
    shape = oracle.SHAPES["mini"]
    height, width = 96, 160
    grid = (height // 16, width // 16)
    theirs = oracle.upstream(shape)
    oracle.randomise(theirs, 11)
    oracle.force_object_score(theirs, 5.0)
    ours = oracle.ours(shape, oracle.to_ours(theirs.state_dict()))
    encoder = theirs.sam_prompt_encoder
    encoder.input_image_size, encoder.image_embedding_size = (height, width), grid
    encoder.mask_input_size = (4 * grid[0], 4 * grid[1])
    for layer in theirs.memory_attention.layers:
        for part in (layer.self_attn, layer.cross_attn_image):
            part.freqs_cis = part.compute_cis(end_x=grid[1], end_y=grid[0])
    ours.image_size = ours.prompt_encoder.image_size = (height, width)

    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(11))
    encoded = stages.encode(theirs, pixels)
    compare(answers.encode(ours, pixels), encoded)
    embedding, high_res_features = encoded["conditioned"], [encoded["skip.0"], encoded["skip.1"]]
    points = (torch.tensor([[[150.0, 20.0], [30.0, 90.0]]]), torch.tensor([[1, 0]], dtype=torch.int32))
    mask_input = torch.randn(1, 1, height // 4, width // 4, generator=torch.Generator().manual_seed(12))
    for mask in (None, mask_input):
        compare(answers.prompt(ours, points, mask, grid), stages.prompt(theirs, points, mask))
        expected = stages.decode(theirs, embedding, high_res_features, points, mask)
        compare(answers.decode(ours, embedding, high_res_features, points, mask), expected)
    full = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(13))
    memory = stages.memorize(theirs, encoded["embedding"], full, torch.ones(1, 1), False)
    compare(answers.memory_encoder(ours, encoded["embedding"], full, torch.ones(1, 1), False), memory)
    generator = torch.Generator().manual_seed(14)
    memories = torch.randn(stages.FRAMES, 1, grid[0] * grid[1], shape.memory_dim, generator=generator)
    object_pointers = torch.randn(stages.FRAMES, 1, shape.dim, generator=generator)
    for name in ("gaps", "two_anchors", "backwards"):
        given = (name, encoded["embedding"], encoded["position"], memories, object_pointers, memory["position"])
        compare(answers.past(ours, *given), stages.past(theirs, *given))
