"""The kernel within models: the same masks, eager and compiled; never while training."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import sam2core_amx
import torch
from sam2core_amx import library
from sam2core_amx.kernel import averages, turned
from torch._dynamo.testing import CompileCounter

from sam2core import registry
from sam2core.compile import compile_model
from sam2core.ops import attention
from sam2core.ops.attention import attend_projected, average_tokens
from sam2core.ops.cpu.attention import average_in_blocks
from sam2core.ops.cpu.rope import rotary_in_chunks
from sam2core.ops.rope import rotary_pairs
from sam2core.predictors.video import VideoPredictor

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 48, 80, 3), dtype=np.uint8)


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of queries that meet an attached kernel: this one, or where it cannot run, the portable one."""
    registry.current().ask_once("register_kernels")  # building a model would, and attach it anew
    shapes = []

    def counting(query, key, tokens, memory_mask=None):
        shapes.append(tuple(query.shape))
        return (average_tokens.portable if library.missing() else averages)(query, key, tokens, memory_mask)

    monkeypatch.setattr(average_tokens, "_kernels", {**average_tokens._kernels, ("cpu", torch.bfloat16): counting})
    monkeypatch.setattr(attention, "LONG", 0)
    return shapes


def model():
    torch.manual_seed(0)
    made = registry.build("test_tiny", weights=False, image_size=64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made.to_mixed_precision(torch.bfloat16)


def tracked(made, objects: int = 2) -> torch.Tensor:
    session = VideoPredictor(made, objects_per_call=8).open(FRAMES)
    for number in range(objects):
        session.prompt(0, number, [(20 + 20 * number, 20)])
    return torch.stack([result.logits for result in session.propagate()])


def test_tracking_finds_the_same_masks(calls):
    found = tracked(model())
    assert (2, 1, 16, 32) in calls  # both objects, to their memories
    made = len(calls)
    del average_tokens._kernels["cpu", torch.bfloat16]
    expected = tracked(model())
    assert len(calls) == made
    spread = expected.std()
    assert (found - expected).abs().max() < 0.1 * spread and (found - expected).abs().mean() < 0.01 * spread
    both, either = ((found > 0) & (expected > 0)).sum(), ((found > 0) | (expected > 0)).sum()
    assert both > 0.98 * either


def test_compiled_models_take_it_with_their_filled_up_pasts(calls):
    expected = tracked(model())
    torch._dynamo.reset()
    calls.clear()
    counter, made = CompileCounter(), model()
    compile_model(made, ["memory_attention"], backend=counter, fullgraph=True)
    for objects in (1, 2):
        found = tracked(made, objects)
    assert calls and counter.frame_count == 2
    spread = expected.std()
    assert (found - expected).abs().max() < 0.1 * spread and (found - expected).abs().mean() < 0.01 * spread
    tracked(made, 3)
    assert counter.frame_count == 2


def test_training_and_other_types_never_meet_it(calls):
    project = torch.nn.Linear(32, 64)
    query, key, tokens = torch.randn(1, 1, 9, 64), torch.randn(1, 1, 10, 64), torch.randn(1, 10, 32)
    with torch.no_grad():
        attend_projected(query, key, tokens, project)
    low = [tensor.bfloat16().requires_grad_() for tensor in (query, key, tokens)]
    attend_projected(*low, project.bfloat16()).sum().backward()
    assert not calls and all(tensor.grad is not None for tensor in low)
    with torch.no_grad():
        attend_projected(*low, project, torch.randn(1, 1, 9, 10).bfloat16())  # numbers that scores get added
        assert not calls
        attend_projected(*low, project)
    assert len(calls) == 1


def test_the_plugin_attaches_where_it_can_and_says_so_where_not(monkeypatch, caplog):
    core = {average_tokens: {("cpu", None): average_in_blocks}, rotary_pairs: {("cpu", None): rotary_in_chunks}}
    for operator, kernels in core.items():
        monkeypatch.setattr(operator, "_kernels", dict(kernels))
    monkeypatch.setattr(library, "missing", lambda: "no such processor")
    with caplog.at_level(logging.INFO):
        sam2core_amx.register_kernels()
    assert all(operator._kernels == kernels for operator, kernels in core.items())
    assert "no such processor" in caplog.text
    monkeypatch.setattr(library, "missing", lambda: "")
    sam2core_amx.register_kernels()
    for operator, kernel in ((average_tokens, averages), (rotary_pairs, turned)):
        assert operator._kernels == {**core[operator], ("cpu", torch.bfloat16): kernel}


def test_a_library_that_was_not_compiled_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "PATH", tmp_path / "average.so")
    library.load.cache_clear()
    with pytest.raises(ImportError, match="install a C.. compiler"):
        library.load()
    library.load.cache_clear()


@pytest.mark.usefixtures("tiles")
def test_the_library_finds_torchs_threads_whatever_is_imported_first():
    code = "from sam2core_amx.library import missing; print(repr(missing()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "''"
