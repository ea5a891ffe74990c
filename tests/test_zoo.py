"""Every model on offer: it builds, it is as large as recorded, and the small one runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import registry
from registry.assemble import assemble, init_empty_weights
from registry.plugins import current
from sam2core import FrameMemory, Prompt, Sam2
from sam2core.memory.bank import MemoryBank
from sam2core.types import Keep

EIGHT = [f"{family}_hiera_{size}" for family in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")]


def on_meta(name: str) -> Sam2:
    with init_empty_weights():
        return assemble(registry.spec(name), current().components)


def test_the_models_are_these() -> None:
    assert {*EIGHT, "sam2core_nano", "test_tiny"} <= set(registry.models())
    assert not {"sam2", "sam2.1"} & set(registry.models())
    assert {"sam2", "sam2.1"} <= set(registry.models(abstract=True))


@pytest.mark.parametrize("name", registry.models())
def test_builds_on_meta_with_the_recorded_size(name: str) -> None:
    spec = registry.spec(name)
    state = on_meta(name).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == spec.parameters
    assert all(tensor.is_meta for tensor in state.values())


@pytest.mark.parametrize("name", registry.models())
def test_holds_nothing_that_a_file_could_not_fill(name: str) -> None:
    model = on_meta(name)
    saved = set(model.state_dict())
    assert {key for key, _ in (*model.named_parameters(), *model.named_buffers())} == saved


@pytest.mark.parametrize("name", registry.models())
def test_its_training_can_start_fresh(name: str) -> None:
    with init_empty_weights():
        model = assemble(registry.spec(name), current().components)
        before = list(model.state_dict())
        current().components.make("initialisation", {"type": "fresh"})(model)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("name", EIGHT)
def test_official_weights_are_pinned(name: str) -> None:
    weights = registry.spec(name).weights
    assert weights is not None and weights.layout == "facebook" and not weights.package
    assert weights.repo is not None and weights.repo.startswith("facebook/")
    assert registry.spec(weights.repo).name == name  # the repository's name is an alias
    assert weights.url is not None and weights.url.endswith("/" + weights.file)
    assert weights.size is not None and weights.size > 150_000_000
    assert weights.sha256 is not None and len(bytes.fromhex(weights.sha256)) == 32


def test_no_two_models_share_weights() -> None:
    seen = [weights.sha256 for name in EIGHT if (weights := registry.spec(name).weights) is not None]
    assert len(set(seen)) == 8


def test_families_differ_in_two_parts() -> None:
    old, new = registry.spec("sam2_hiera_t"), registry.spec("sam2.1_hiera_t")
    assert new.memory_encoder == {**old.memory_encoder, "occlusion_embed": True}
    assert new.memory_readout == {**old.memory_readout, "pointer_time": "signed"}
    for part in ("backbone", "neck", "mask_decoder", "memory_attention", "memory_policy", "multimask", "predictors"):
        assert getattr(old, part) == getattr(new, part), part


def test_building_large_without_weights_is_quick() -> None:
    on_meta("sam2.1_hiera_l")
    started = time.perf_counter()
    on_meta("sam2.1_hiera_l")
    assert time.perf_counter() - started < 2  # 0.13 s on a busy machine


QUICK = """
import sys, registry
from registry.assemble import assemble, init_empty_weights
with init_empty_weights():
    assemble(registry.spec("sam2.1_hiera_t"), registry.current().components)
assert "torch._dynamo" not in sys.modules  # torch's own way to fill tensors without storage imports it, for seconds
"""


def test_the_first_empty_model_is_quick_too() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", QUICK], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_only_empty_weights_stay_unfilled() -> None:
    with init_empty_weights():
        made = torch.nn.Linear(3, 3)
        real = torch.zeros(3, device="cpu")
        torch.nn.init.normal_(real)
        assert torch.randn(2, 3, generator=None).is_meta
    assert made.weight.is_meta and made.weight.requires_grad
    assert real.device.type == "cpu" and (real != 0).all()
    assert not torch.randn(2).is_meta


def track(model: Sam2, size: tuple[int, int]) -> list[FrameMemory]:
    """Three frames of one object, clicked on the first."""
    # an untrained model may hold the object absent, and absent objects all have one mask
    torch.nn.init.constant_(list(model.mask_decoder.presence_head.parameters())[-1], 10.0)
    bank, memories = MemoryBank(), []
    policy = model.memory_policy
    for frame in range(3):
        features = model.encode(torch.randn(1, 3, *size))
        recall = policy.recall(bank, frame, backwards=False, length=None, state=None) if frame else None
        prompt = Prompt.nothing(1)
        if frame == 0:
            prompt = Prompt(torch.tensor([[[size[1] / 2, size[0] / 2]]]), torch.tensor([[1]]))
        candidates = model.segment(features, model.condition(features, recall), prompt, multimask_output=True)
        answer = candidates.take(policy.choose(candidates, None))
        memory = model.memorize(features, answer, frame=frame, hard=frame == 0)
        bank.put(memory, Keep.PROMPTED if frame == 0 else Keep.RECENT)
        memories.append(memory)
    return memories


@pytest.mark.parametrize("size", [(128, 128), (64, 64), (64, 128)], ids=str)
def test_the_tiny_model_runs_and_tracks(size: tuple[int, int]) -> None:
    model = registry.build("test_tiny", weights=False, image_size=size)
    assert model.image_size == size
    with torch.no_grad():
        memories = track(model, size)
    for memory in memories:
        assert memory.logits.shape == (1, 1, size[0] // 4, size[1] // 4)
        assert memory.blocks is not None
        assert memory.blocks[0].tokens.shape == (1, size[0] // 16 * size[1] // 16, 16)
        assert memory.logits.isfinite().all() and memory.object_pointer.isfinite().all()
    assert not torch.equal(memories[1].logits, memories[2].logits)


def test_the_tiny_model_takes_a_training_step() -> None:
    model = registry.build("test_tiny", weights=False, memory_policy={"future_object_pointers": True}).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sum(memory.logits.mean() + memory.iou.mean() for memory in track(model, (128, 128))).backward()
    optimizer.step()
    after = dict(model.named_parameters())
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name, _ in model.named_children()}


def test_nano_is_the_training_documents_model() -> None:
    spec = registry.spec("sam2core_nano")
    assert (spec.image_size, spec.dim, spec.memory_dim) == ([640, 640], 128, 32)
    assert spec.memory_readout["slots"] == spec.memory_policy["frames"] + 1
    assert spec.weights is not None and spec.weights.package
