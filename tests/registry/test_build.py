"""Building: from every kind of name, with and without weights, on a device and in a type; and predictors."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import registry
from registry.errors import SpecError, UnknownName, WeightsError
from sam2core import ImagePredictor, Prompt, Sam2
from sam2core.checkpoints import files


def refused(ask: Callable[[], Any], error: type[Exception] = SpecError) -> str:
    with pytest.raises(error) as caught:
        ask()
    return str(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Sam2]:
    """A native file of a tiny model, and that model."""
    model = registry.build("test_tiny", "memory_policy.frames=1", weights=False, image_size=64)
    file = tmp_path / "mine.safetensors"
    files.write(file, model.state_dict(), files.describe(spec=dataclasses.asdict(model.spec)))
    return file, model


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_fresh_model_is_ready_to_use() -> None:
    model = registry.build("test_tiny", weights=False)
    assert isinstance(model, Sam2) and not model.training
    assert model.spec == registry.spec("test_tiny")
    assert {(tensor.device.type, tensor.dtype) for tensor in model.state_dict().values()} == {("cpu", torch.float32)}
    assert model.image_size == (128, 128) and model.multimask.max_points == 1


def test_fresh_models_follow_the_seed() -> None:
    torch.manual_seed(1)
    one = registry.build("test_tiny", weights=False)
    torch.manual_seed(1)
    assert same(one, registry.build("test_tiny", weights=False))
    assert not same(one, registry.build("test_tiny", weights=False))


def test_overrides_reach_the_parts() -> None:
    model = registry.build(
        "test_tiny", "memory_attention.layers=1", weights=False, image_size=(64, 96), memory_policy={"frames": 1}
    )
    assert len(model.memory_attention.layers) == 1
    assert model.memory_policy.frames == 1
    assert model.image_size == (64, 96) and model.spec.image_size == [64, 96]
    assert model.spec == registry.spec("test_tiny", "memory_attention.layers=1", "image_size=[64, 96]",
                                       memory_policy={"frames": 1})  # fmt: skip


def test_parts_get_plain_values() -> None:
    model = registry.build("test_tiny", weights=False)
    model.spec.mask_decoder["stability"]["delta"] = 9.0  # the model's own copy
    assert model.mask_decoder.stability.delta == 0.05
    assert registry.spec("test_tiny").mask_decoder["stability"]["delta"] == 0.05


def test_a_model_can_be_copied_and_pickled() -> None:
    model = registry.build("test_tiny", weights=False)
    assert copy.deepcopy(model).spec == model.spec
    assert pickle.loads(pickle.dumps(model.spec)) == model.spec


def test_every_kind_of_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: test_tiny\nmemory_policy: {frames: 1}\n")
    inline = {"extends": "test_tiny", "memory_policy": {"frames": 1}}
    for name in ("mine.yaml", "./mine.yaml", tmp_path / "mine.yaml", inline, registry.spec("mine.yaml")):
        assert registry.build(name, weights=False).memory_policy.frames == 1


def test_a_native_file_needs_no_name(saved: tuple[Path, Sam2]) -> None:
    file, model = saved
    for name in (file, str(file)):
        again = registry.build(name)
        assert same(again, model) and not again.training
        assert again.memory_policy.frames == 1 and again.image_size == (64, 64)
        assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    assert dataclasses.replace(registry.spec(file), weights=None) == model.spec
    assert not same(registry.build(file, weights=False), model)
    assert registry.build(file, image_size=128).image_size == (128, 128)
    assert same(registry.build(registry.spec(file)), model)  # its spec knows where the weights are


def test_a_hub_repository_is_a_native_file_elsewhere(
    saved: tuple[Path, Sam2], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, model = saved
    asked: list[Any] = []

    def locate_repository(repo: str, **options: Any) -> Path:
        asked.append((repo, options))
        return file

    monkeypatch.setattr("registry.places.locate_repository", locate_repository)
    assert same(registry.build("hub:acme/tiny"), model)
    assert same(registry.build("hub:acme/tiny@v1", cache_dir=tmp_path, offline=True), model)
    assert registry.predictor("hub:acme/tiny", revision="v2").model.memory_policy.frames == 1
    assert asked == [
        ("acme/tiny", {"cache_dir": None, "offline": None, "revision": None}),
        ("acme/tiny", {"cache_dir": tmp_path, "offline": True, "revision": "v1"}),
        ("acme/tiny", {"cache_dir": None, "offline": None, "revision": "v2"}),
    ]


def test_weights_from_a_file(saved: tuple[Path, Sam2], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, model = saved
    monkeypatch.chdir(tmp_path)
    for weights in (file, str(file), file.name, "./" + file.name):
        again = registry.build("test_tiny", weights=weights)
        assert same(again, model) and again.memory_policy.frames == 2  # the name's spec, the file's weights
    assert "does not fit" in refused(
        lambda: registry.build("test_tiny", weights=file, memory_attention={"layers": 1}), WeightsError
    )


def test_a_model_without_weights_says_so() -> None:
    text = refused(lambda: registry.build("test_tiny"), WeightsError)
    assert "test_tiny has no weights" in text and "weights=False" in text
    assert "True, False or a path" in refused(lambda: registry.build("test_tiny", weights=None), WeightsError)  # type: ignore[arg-type]


def test_a_model_from_a_file_can_be_trained(saved: tuple[Path, Sam2]) -> None:
    file, _ = saved
    before = file.read_bytes()
    model = registry.build(file).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert file.read_bytes() == before


# ------------------------------------------------------------------------------------------------ device and type


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_types_by_name_and_by_value(name: str) -> None:
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[name]
    for dtype in (name, short, getattr(torch, name)):
        model = registry.build("test_tiny", weights=False, dtype=dtype)
        assert model.dtype is getattr(torch, name) and model.head_dtype is torch.float32
        products = [m for m in model.backbone.blocks.modules() if isinstance(m, torch.nn.Linear)]
        assert {module.weight.dtype for module in products} == {getattr(torch, name)}
        assert {p.dtype for p in model.memory_attention.parameters()} == {getattr(torch, name)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_needs_no_autocast(dtype: str) -> None:
    model = registry.build("test_tiny", weights=False, dtype=dtype, image_size=64)
    with torch.no_grad():
        features = model.encode(torch.randn(1, 3, 64, 64))
        answer = model.segment(features, model.condition(features, None), Prompt.nothing(1), multimask_output=True)
    assert model.dtype == getattr(torch, dtype) and features.embedding.dtype == torch.float32
    assert answer.logits.dtype == torch.float32 and answer.logits.isfinite().all()


@pytest.mark.parametrize("dtype", ["float64", "half", torch.float64, torch.int8, "float 32", 3], ids=str)
def test_other_types_are_refused(dtype: Any) -> None:
    text = refused(lambda: registry.build("test_tiny", weights=False, dtype=dtype), ValueError)
    assert "the choices are float32, bfloat16, float16" in text


def test_devices() -> None:
    assert registry.build("test_tiny", weights=False, device="cpu").device.type == "cpu"
    assert registry.build("test_tiny", weights=False, device=torch.device("cpu")).device.type == "cpu"
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert registry.build("test_tiny", weights=False, device="auto").device.type == best
    assert "auto, cpu, cuda" in refused(lambda: registry.build("test_tiny", weights=False, device="gpu"), ValueError)
    far = f"cuda:{torch.cuda.device_count()}"
    assert "is not here" in refused(lambda: registry.build("test_tiny", weights=False, device=far), ValueError)


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_an_option_no_part_has_is_refused_when_the_part_is_made() -> None:
    text = refused(lambda: registry.build("test_tiny", "memory_attention.layer=3", weights=False))
    assert text == (
        "memory_attention 'rope' has no option 'layer'.\n  options: layers=4, heads=1, hidden=2048, theta=10000.0,"
        " dropout=0.1\n  did you mean 'layers'?"
    )
    text = refused(lambda: registry.build("test_tiny", "memory_readout.slot=3", weights=False))
    assert "memory_readout has no option 'slot'" in text and "did you mean 'slots'" in text


def test_an_argument_build_does_not_have() -> None:
    text = refused(lambda: registry.build("test_tiny", weights=False, divice="cpu"))
    assert "build takes no 'divice'" in text and "did you mean 'device'" in text


def test_a_component_nobody_offers() -> None:
    text = refused(lambda: registry.build("test_tiny", weights=False, memory_policy="recnt"), UnknownName)
    assert text == "no memory_policy is called 'recnt'.\n  known: carried_mask, recent\n  did you mean 'recent'?"


HOARDING = """
from sam2core import hookimpl

@hookimpl
def register_components(register):
    from sam2core.backbones.fpn import Fpn
    import torch

    class Hoarder(Fpn):
        def __init__(self, channels, strides, dim, *, top_down=(16,)):
            super().__init__(channels, strides, dim, top_down=top_down)
            self.register_buffer("table", torch.zeros(3), persistent=False)

    register("neck", "acme.hoarder", Hoarder)
"""


def test_a_buffer_no_file_could_fill_is_named(installed: Any, saved: tuple[Path, Sam2]) -> None:
    installed("acme-hoarder", {"acme_hoarder.py": HOARDING})
    neck = {"type": "acme.hoarder", "top_down": [16]}
    registry.build("test_tiny", weights=False, neck=neck)
    text = refused(lambda: registry.build("test_tiny", weights=saved[0], neck=neck))
    assert "neck.table is a buffer that is not in the state dict" in text


# ------------------------------------------------------------------------------------------------ predictors


def test_a_predictor_over_a_model() -> None:
    predictor = registry.predictor("test_tiny", weights=False, image_size=64, dtype="bfloat16")
    assert isinstance(predictor, ImagePredictor)
    assert predictor.model.image_size == (64, 64) and predictor.model.dtype is torch.bfloat16


def test_options_default_to_the_specs() -> None:
    inline = {"extends": "test_tiny", "predictors": {"image": {"mask_threshold": 0.25}}}
    assert registry.predictor(inline, weights=False).mask_threshold == 0.25
    assert registry.predictor(inline, weights=False, mask_threshold=0.5).mask_threshold == 0.5
    edited = registry.predictor("test_tiny", "image", "predictors.image.mask_threshold=0.75", weights=False)
    assert edited.mask_threshold == 0.75


def test_keywords_of_the_spec_edit_the_model() -> None:
    predictor = registry.predictor("test_tiny", "image", weights=False, memory_policy={"frames": 1})
    assert predictor.model.memory_policy.frames == 1


def test_an_option_the_predictor_lacks() -> None:
    text = refused(lambda: registry.predictor("test_tiny", weights=False, mask_treshold=0.5))
    assert "predictor 'image' has no option 'mask_treshold'" in text
    assert "mask_threshold=0.0" in text and "did you mean 'mask_threshold'" in text
    assert "did you mean 'device'" in refused(lambda: registry.predictor("test_tiny", weights=False, devise="cpu"))
    # told before anything is loaded
    refused(lambda: registry.predictor("sam2.1_hiera_l", offline=True, mask_treshold=0.5))


def test_a_task_nobody_offers() -> None:
    text = refused(lambda: registry.predictor("test_tiny", "imgae", weights=False), UnknownName)
    assert "no predictor is called 'imgae'" in text and "did you mean 'image'" in text


def test_a_predictor_over_a_model_that_is_built() -> None:
    """Two tools share one model; its spec's defaults hold, and nothing of the model can be chosen any more."""
    model = registry.build("test_tiny", weights=False, predictors={"image": {"cleaning": {"fill_holes": 7}}})
    image, video = registry.predictor(model), registry.predictor(model, "video", non_overlapping=True)
    assert image.model is video.model is model
    assert image.cleaning.fill_holes == 7 and video.non_overlapping
    with pytest.raises(registry.SpecError, match="built already: dtype"):
        registry.predictor(model, dtype="bfloat16")
    with pytest.raises(registry.SpecError, match="did you mean 'iou_threshold'"):
        registry.predictor(model, "automask", conf=0.5)


@pytest.mark.parametrize("has", [True, False])
def test_a_type_that_the_processor_crawls_in_is_told(monkeypatch, caplog, has):
    monkeypatch.setattr("sam2core.ops.cpu.products.multiplies", lambda dtype: has or dtype == torch.float32)
    registry.build("test_tiny", weights=False)
    assert not caplog.records
    registry.build("test_tiny", weights=False, dtype="bf16")
    told = [record.getMessage() for record in caplog.records]
    assert (not told) if has else "test_tiny in bfloat16" in told[0] and "float32 is many times faster" in told[0]
