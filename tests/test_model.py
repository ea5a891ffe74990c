"""Sam2's verbs together: other image sizes, precision without autocast, gradients through memory, sharing, export."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from sam2core.memory.bank import MemoryBank
from sam2core.types import Keep, Prompt
from tests.parity import oracle
from tests.scores import threshold_between

SIZE = 64
SHAPE = oracle.SHAPES["mini"].at(image=SIZE)


@cache
def tiny(image=SIZE):
    """A randomised small model in eval mode that is sure an object is there; tests must not change it."""
    return randomised(image)


def randomised(image=SIZE, seed=1):
    model = oracle.randomise(oracle.ours(SHAPE.at(image=image)), seed)
    with torch.no_grad():
        model.mask_decoder.presence_head.layers[-1].weight.mul_(0.05)
        model.mask_decoder.presence_head.layers[-1].bias.fill_(5.0)
    return model


def pixels(batch=1, size=(SIZE, SIZE), seed=0):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def click(batch=1, x=20.0, y=30.0):
    return Prompt(torch.tensor([[[x, y]]]).repeat(batch, 1, 1), torch.ones(batch, 1, dtype=torch.int32))


def track(model, frames, prompt):
    """Prompt the first of `frames` and track through the rest: the believed answer of every frame."""
    bank, answers = MemoryBank(), []
    policy = model.memory_policy
    for index, image in enumerate(frames):
        features = model.encode(image)
        if index == 0:
            embedding, given = model.condition(features, None), prompt
        else:
            recall = policy.recall(bank, index, backwards=False, length=len(frames), state=None)
            embedding, given = model.condition(features, recall), model.tracking_prompt([recall])
        candidates = model.segment(features, embedding, given, multimask_output=True)
        answer = candidates.take(policy.choose(candidates, None))
        memory = model.memorize(features, answer, frame=index, hard=index == 0 and not model.training)
        bank.put(memory, Keep.PROMPTED if index == 0 else Keep.RECENT)
        answers.append(answer)
    return answers


@torch.no_grad()
def test_the_four_verbs_on_images_that_are_not_square():
    model = tiny()
    wide = (32, 96)
    made = randomised()
    made.image_size = made.prompt_encoder.image_size = wide
    answers = track(made, [pixels(size=wide, seed=seed) for seed in range(3)], click())
    assert all(answer.logits.shape == (1, 1, 8, 24) and answer.logits.isfinite().all() for answer in answers)
    assert model.encode(pixels(size=wide)).embedding.shape == (1, SHAPE.dim, 2, 6)


def test_sizes_that_strides_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 32.*33"):
        tiny().encode(torch.zeros(1, 3, 64, 33))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        tiny().encode(torch.zeros(3, 64, 64))


@torch.no_grad()
def test_several_objects_equal_one_by_one():
    model, image = tiny(), pixels()
    features = model.encode(image)
    embedding = model.condition(features, None)
    both = Prompt(torch.tensor([[[20.0, 30.0]], [[50.0, 9.0]]]), torch.ones(2, 1, dtype=torch.int32))
    together = model.segment(features, embedding, both, multimask_output=True)
    for row in range(2):
        alone = model.segment(features, embedding, both.rows(slice(row, row + 1)), multimask_output=True)
        for name in ("logits", "iou", "object_pointers", "object_score"):
            assert oracle.error(getattr(together, name)[row : row + 1], getattr(alone, name)) < 1e-5


@torch.no_grad()
def test_many_prompts_in_slices_equal_one_call(monkeypatch):
    from sam2core.ops.cpu import decoding

    model, image = tiny(), pixels(batch=1)
    features = model.encode(image)
    embedding = model.condition(features, None)
    generator = torch.Generator().manual_seed(2)
    many = Prompt(SIZE * torch.rand(11, 2, 2, generator=generator), torch.ones(11, 2, dtype=torch.int32))
    many = Prompt(
        many.points, many.labels, mask_input=torch.randn(11, 1, 16, 16), has_mask_input=torch.arange(11) % 2 == 0
    )
    whole = model.decode(features, embedding, many)
    monkeypatch.setattr(decoding, "CALL_BYTES", 4 * embedding[0].numel() * embedding.element_size())
    sliced = model.decode(features, embedding, many)
    copied = model.decode(features.expand(11), embedding.expand(11, -1, -1, -1), many)
    for name in ("masks", "iou", "tokens", "object_score"):
        assert oracle.error(getattr(sliced, name), getattr(whole, name)) < 1e-5
        assert oracle.error(getattr(copied, name), getattr(whole, name)) < 1e-5


@torch.no_grad()
def test_adopting_a_mask_keeps_it():
    model = tiny()
    features = model.encode(pixels())
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[0, :, 16:48, 8:40] = 1.0
    adopted = model.mask_as_output(features.expand(2), mask)
    assert adopted.logits.shape == (2, 1, 16, 16) and adopted.object_score.tolist() == [[10.0], [-10.0]]
    assert adopted.logits[0, 0, 8, 6] == 10.0 and adopted.logits[0, 0, 1, 1] == -10.0
    assert torch.equal(adopted.object_pointers[1], model.object_pointer.absent)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_runs_every_verb_without_autocast(dtype):
    frames = [pixels(seed=seed) for seed in range(4)]
    exact = track(tiny(), frames, click())
    model = randomised().to(dtype)
    found = track(model, frames, click())
    assert model.dtype == dtype
    for answer, expected in zip(found, exact):
        assert answer.object_pointer.dtype == dtype
        assert oracle.error(answer.iou.float(), expected.iou) < 0.1
    assert oracle.error(found[0].logits.float(), exact[0].logits) < 0.1
    features = model.encode(frames[0])
    mask = torch.ones(1, 1, SIZE, SIZE)
    assert model.mask_as_output(features, mask).object_pointers.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_lowered_models_keep_ends_sums_norms_and_heads_in_fp32(dtype):
    frames = [pixels(seed=seed) for seed in range(4)]
    exact = track(tiny(), frames, click())
    lowered, cast = randomised().to_mixed_precision(dtype), randomised().to(dtype)
    assert lowered.dtype == dtype and lowered.head_dtype == torch.float32
    assert {p.dtype for p in lowered.mask_decoder.transformer.parameters()} == {torch.float32}
    assert {p.dtype for p in lowered.backbone.blocks[0].norm1.parameters()} == {torch.float32}
    assert {p.dtype for p in lowered.backbone.blocks[0].mlp.parameters()} == {dtype}
    for part in (lowered.backbone.patch_embed, lowered.neck):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    features = lowered.encode(frames[0])
    assert {features.embedding.dtype, *(level.dtype for level in features.high_res_features)} == {torch.float32}
    off = [
        sum(oracle.error(answer.logits.float(), right.logits) for answer, right in zip(answers, exact))
        for answers in (track(lowered, frames, click()), track(cast, frames, click()))
    ]
    assert off[0] < 0.8 * off[1], off
    mask = torch.ones(1, 1, SIZE, SIZE)
    assert lowered.mask_as_output(lowered.encode(frames[0]), mask).object_pointers.dtype == torch.float32


@torch.no_grad()
def test_a_decoder_that_cannot_be_lowered_in_part_is_cast_with_all_heads():
    model = randomised()
    whole = type("Whole", (type(model.mask_decoder),), {"to_mixed_precision": property()})
    model.mask_decoder.__class__ = whole
    model.to_mixed_precision(torch.bfloat16)
    assert model.head_dtype == torch.bfloat16
    assert {p.dtype for p in model.object_pointer.parameters()} == {torch.bfloat16}
    assert track(model, [pixels(seed=seed) for seed in range(2)], click())[1].logits.isfinite().all()


def test_gradients_reach_every_parameter_through_memory():
    model = randomised().train()
    frames = [pixels(seed=seed) for seed in range(3)]
    answers = track(model, frames, click())
    loss = sum(
        answer.logits.float().square().mean() + answer.iou.sum() + answer.object_score.sum() for answer in answers
    )
    features = model.encode(frames[0])
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 10:50, 10:50] = 1.0
    box = Prompt(torch.tensor([[[1.0, 2.0], [40.0, 50.0], [7.0, 7.0]]]), torch.tensor([[2, 3, 0]]))
    hinted = Prompt(box.points, box.labels, mask_input=torch.randn(1, 1, 16, 16))
    corrected = model.segment(features, model.condition(features, None), hinted, multimask_output=False)
    loss = (
        loss + model.mask_as_output(features, mask).object_pointers.square().mean() + corrected.logits.square().mean()
    )
    loss = loss + corrected.object_pointers.square().mean()
    loss.backward()
    # what a present object never reads
    spared = {"object_pointer.absent", "memory_encoder.occlusion_embed", "prompt_encoder.label_embed.1.weight"}
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without <= spared, sorted(without - spared)


def test_the_loss_of_a_late_frame_reaches_the_first():
    model = randomised().train()
    first = pixels().requires_grad_()
    answers = track(model, [first, pixels(seed=1), pixels(seed=2)], click())
    answers[-1].logits.square().mean().backward()
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_prediction_in_inference_mode_does_not_poison_training():
    model = randomised()
    frames = [pixels(size=(64, 64), seed=seed) for seed in range(2)]
    with torch.inference_mode():
        track(model.eval(), frames, click())
    answers = track(model.train(), frames, click())
    answers[-1].logits.square().mean().backward()
    assert model.backbone.pos_embed.grad is not None


@torch.no_grad()
def test_nothing_is_kept_between_calls():
    model = tiny()
    features = model.encode(pixels())
    before = model.segment(features, model.condition(features, None), click(), multimask_output=True)
    track(model, [pixels(seed=5), pixels(seed=6)], click(x=3.0))
    model.encode(pixels(size=(96, 32)))
    after = model.segment(features, model.condition(features, None), click(), multimask_output=True)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.object_pointers, after.object_pointers)


def test_weights_without_memory_say_so():
    model = randomised()
    model.image_only = True
    features = model.encode(pixels())
    with pytest.raises(ValueError, match="no memory parts"):
        answers = model.segment(features, model.condition(features, None), click(), multimask_output=False)
        model.memorize(features, answers.take(torch.zeros(1, dtype=torch.long)), frame=0, hard=True)


class _Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        features = self.model.encode(image)
        return self.model.condition(features, None), *features.high_res_features


class _Decoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, embedding, stride4, stride8, points, labels):
        from sam2core.types import ImageFeatures

        features = ImageFeatures(embedding, torch.zeros_like(embedding), (stride4, stride8))
        output = self.model.decode(features, embedding, Prompt(points, labels))
        return output.masks, output.iou, output.object_score


@torch.no_grad()
def test_encode_and_decode_export():
    """On a size that nothing asked for before, so no table is there yet; afterwards the model itself still runs."""
    model, image = randomised(image=160), pixels(size=(160, 160))
    encoder = torch.export.export(_Encoder(model), (image,)).module()
    encoded, expected = encoder(image), _Encoder(model)(image)
    assert all(oracle.error(found, wanted) < 1e-5 for found, wanted in zip(encoded, expected))
    prompt = click()
    given = (*expected, prompt.points, prompt.labels)
    decoder = torch.export.export(_Decoder(model), given).module()
    assert all(oracle.error(f, w) < 1e-5 for f, w in zip(decoder(*given), _Decoder(model)(*given)))
    assert type(model.encode(image).position) is torch.Tensor


@pytest.mark.parametrize("draw", [False, True])
@torch.inference_mode()
def test_wanted_masks_are_those_of_all_masks_drawn_prompts_or_not(draw):
    """Enough prompts for several calls of the decoder; with drawn prompts each sees an image of its own."""
    import registry

    model = registry.build("test_tiny", weights=False, prompt_encoder="drawn" if draw else "sam")
    features = model.encode(torch.randn(1, 3, *model.image_size))
    embedding = model.condition(features, None)
    points = torch.rand(70, 1, 2) * model.image_size[0]
    prompt = Prompt(points, torch.ones(70, 1, dtype=torch.int32))
    whole = model.decode(features, embedding, prompt)
    middle = threshold_between(whole.iou)
    found = model.decode_filtered(features, embedding, prompt, lambda iou: iou > middle)
    expected = torch.nonzero(whole.iou > middle)
    assert torch.equal(torch.stack([found.row, found.mask], dim=1), expected)
    assert torch.allclose(found.logits, whole.masks[found.row, found.mask], atol=1e-4)
