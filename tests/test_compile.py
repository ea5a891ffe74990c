"""Compiled parts: same answers, and no compilation once one object and several have been seen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

import registry
from sam2core.compile import PARTS, compile_model
from sam2core.ops.shapes import FixedShapes
from sam2core.predictors.video import VideoPredictor
from sam2core.types import Label, Prompt, TokenBlock


def shaken_model():
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False, image_size=64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def drive(predictor: VideoPredictor, frames: np.ndarray, objects: int, points: int) -> list[torch.Tensor]:
    session = predictor.open(frames)
    rng = np.random.default_rng(objects * 100 + points)
    results = []
    for object in range(objects):
        results.append(session.prompt(0, object, rng.uniform(0, 48, (points, 2))).logits)
    results += [result.logits for result in session.propagate()]
    results.append(session.prompt(3, 0, rng.uniform(0, 48, (points, 2)), np.zeros(points)).logits)  # with a mask input
    return results


def test_answers_are_the_same_and_nothing_compiles_after_the_warm_up():
    frames = np.random.default_rng(0).integers(0, 256, (9, 48, 80, 3), dtype=np.uint8)
    torch._dynamo.reset()
    counters = {part: CompileCounter() for part in PARTS}
    model = shaken_model()
    for part in PARTS:
        compile_model(model, [part], backend=counters[part])
    plain, compiled = VideoPredictor(shaken_model()), VideoPredictor(model, objects_per_call=8)
    for objects, points in ((1, 1), (2, 3)):
        for mine, theirs in zip(drive(compiled, frames, objects, points), drive(plain, frames, objects, points)):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    warm = {part: counter.frame_count for part, counter in counters.items()}
    assert all(warm.values())
    for objects, points in ((8, 2), (1, 10), (3, 1)):
        drive(compiled, frames, objects, points)
    assert {part: counter.frame_count for part, counter in counters.items()} == warm
    assert max(warm.values()) <= 2


def test_prompts_are_filled_up_with_ignored_points():
    fixed = FixedShapes(points=4)
    for count, filled in ((1, 4), (4, 4), (5, 8)):
        prompt = fixed.pad_prompt(Prompt(torch.rand(2, count, 2), torch.ones(2, count, dtype=torch.int32)))
        assert prompt.labels.shape == (2, filled) and prompt.ragged
        assert (prompt.labels[:, count:] == Label.IGNORED).all() and (prompt.labels[:, :count] == 1).all()


def test_pasts_are_filled_up_and_marked():
    fixed = FixedShapes(slots=3, object_pointer_tokens=8)

    def block(length, grid):
        return TokenBlock(torch.rand(2, length, 4), torch.rand(1, length, 4), grid)

    blocks, memory_mask = fixed.pad_memory([block(6, (2, 3))] * 4 + [block(5, None)])
    assert [each.tokens.shape[1] for each in blocks] == [6] * 6 + [8]
    assert memory_mask.shape == (1, 44) and memory_mask.sum() == 4 * 6 + 5
    blocks, memory_mask = fixed.pad_memory([block(6, (2, 3))])
    assert [each.tokens.shape[1] for each in blocks] == [6, 6, 6, 8] and memory_mask.sum() == 6


def test_a_full_past_needs_no_mask():
    fixed = FixedShapes(slots=3, object_pointer_tokens=8)

    def block(length, grid):
        return TokenBlock(torch.rand(2, length, 4), torch.rand(1, length, 4), grid)

    full = [block(6, (2, 3))] * 3 + [block(8, None)]
    blocks, memory_mask = fixed.pad_memory(full)
    assert memory_mask is None and [each.tokens.shape[1] for each in blocks] == [6, 6, 6, 8]
    assert torch.equal(blocks[-1].tokens, full[-1].tokens)
    blocks, memory_mask = FixedShapes(slots=None).pad_memory(full[2:])
    assert memory_mask is None and [each.tokens.shape[1] for each in blocks] == [6, 8]


def test_objects_are_filled_up_to_groups():
    fixed = FixedShapes(objects=(1, 2, 4))
    assert [fixed.group(count) for count in (1, 2, 3, 4, 5)] == [1, 2, 4, 4, 5]
    assert FixedShapes().group(3) == 3


def overwriting(graph, inputs, **options):
    """A backend whose outputs last until the next call of any graph, as those of CUDA graphs do."""

    def run(*values):
        for tensor in LAST:
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
        given = graph(*values)
        LAST[:] = [one for one in given if isinstance(one, torch.Tensor) and one.is_floating_point()]
        return given

    return run


LAST: list[torch.Tensor] = []


def test_what_recorded_parts_give_outlives_the_next_replay():
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 80, 3), dtype=np.uint8)
    torch._dynamo.reset()
    model = compile_model(shaken_model(), mode="reduce-overhead", backend=overwriting)
    recorded, plain = VideoPredictor(model), VideoPredictor(shaken_model())
    assert recorded.objects_per_call == 16
    LAST.clear()
    for mine, theirs in zip(drive(recorded, frames, 1, 2), drive(plain, frames, 1, 2), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert LAST  # the backend was asked


def test_layers_compiled_one_by_one_take_pasts_of_any_length(monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (7, 48, 80, 3), dtype=np.uint8)
    torch._dynamo.reset()
    counter = CompileCounter()
    model = shaken_model()
    monkeypatch.setattr(type(model), "device", SimpleNamespace(type="cuda"))
    compile_model(model, ["memory_attention"], backend=counter)
    monkeypatch.undo()
    assert model.fixed.slots is None and model.memory_attention._compiled_call_impl is None
    compiled, plain = VideoPredictor(model), VideoPredictor(shaken_model())
    for mine, theirs in zip(drive(compiled, frames, 2, 1), drive(plain, frames, 2, 1), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert 0 < counter.frame_count <= 8  # torch gives up compiling beyond


def test_a_group_that_is_filled_up_has_the_answers_of_its_own():
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 80, 3), dtype=np.uint8)
    model = shaken_model()
    filled, plain = VideoPredictor(model, objects_per_call=8), VideoPredictor(shaken_model())
    model.fixed = FixedShapes(objects=(1, 2, 4))
    for mine, theirs in zip(drive(filled, frames, 3, 2), drive(plain, frames, 3, 2), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="no part 'encoder'.*backbone"):
        compile_model(shaken_model(), ["encoder"])


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="no mode 'reduce_overhead'.*did you mean 'reduce-overhead'"):
        compile_model(shaken_model(), "reduce_overhead")
