"""The blocks of a GPU, run on a CPU that they take for one: equal masks, drawn for kept prompts alone."""

from __future__ import annotations

import pytest
import torch

import registry
from sam2core.ops.cuda import decoding, precision
from sam2core.prepare import prepare, unprepare
from sam2core.types import Label, Prompt
from tests.scores import threshold_between


def tiny():
    torch.manual_seed(0)
    return registry.build("test_tiny", weights=False)


@torch.inference_mode()
@pytest.mark.parametrize("share", ["some", "all", "none"])
def test_masks_are_drawn_for_kept_prompts_alone(share, monkeypatch):
    monkeypatch.setattr(decoding, "predicts_on_cuda", lambda x: True)
    model = unprepare(tiny())
    features = model.encode(torch.randn(1, 3, 128, 128))
    labels = torch.tensor([[Label.POSITIVE, Label.NEGATIVE]] * 6, dtype=torch.int32)
    prompt = Prompt(128 * torch.rand(6, 2, 2), labels)
    embedding = model.condition(features, None)
    limit = {"some": threshold_between(model.decode(features, embedding, prompt).iou), "all": 0.0, "none": 1.0}[share]
    expected = model.decode_filtered(features, embedding, prompt, lambda iou: iou > limit)
    prepare(model, "cuda")
    drawn, enlarge = [], model.mask_decoder.enlarge

    def counted(maps, finer):
        drawn.append(len(maps))
        return enlarge(maps, finer)

    monkeypatch.setattr(model.mask_decoder, "enlarge", counted)
    found = model.decode_filtered(features, embedding, prompt, lambda iou: iou > limit)
    assert drawn == [len(set(expected.row.tolist()))]
    for name in ("row", "mask", "iou"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)


def test_a_model_for_a_gpu_computes_the_same_where_there_is_none():
    model, other = tiny(), prepare(tiny(), "cuda")
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        mine, theirs = unprepare(model).encode(image), other.encode(image)
    assert torch.equal(mine.embedding, theirs.embedding)
    assert isinstance(other, decoding.ModelOnCuda) and isinstance(other.mask_decoder, decoding.DrawsKept)


def test_tf32_lasts_as_long_as_the_calls_that_want_it():
    matmul = torch.backends.cuda.matmul
    assert not matmul.allow_tf32
    with precision.tf32():
        with precision.tf32():
            assert matmul.allow_tf32
        assert matmul.allow_tf32
    assert not matmul.allow_tf32
    with pytest.raises(ZeroDivisionError), precision.tf32():
        raise ZeroDivisionError
    assert not matmul.allow_tf32


@pytest.mark.parametrize(
    ("dtype", "device", "wanted"),
    [(torch.bfloat16, "cuda", True), (torch.float32, "cuda", False), (torch.bfloat16, "cpu", False)],
)
def test_tf32_is_for_models_of_mixed_precision_alone(dtype, device, wanted):
    class Model:
        pass

    model = Model()
    model.dtype, model.device = dtype, torch.device(device)
    seen = precision.rounded(lambda self: torch.backends.cuda.matmul.allow_tf32)(model)
    assert seen is wanted and not torch.backends.cuda.matmul.allow_tf32
