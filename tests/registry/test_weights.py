"""Weights are found, named as ours, and loaded strictly; what does not fit is told part by part."""

from __future__ import annotations

import dataclasses
import hashlib
import logging

import pytest
import torch

import registry
from registry import WeightsError, places, weights
from registry.assemble import assemble
from registry.plugins import current
from sam2core.checkpoints import files
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.huggingface import HUGGINGFACE, HUGGINGFACE_IMAGE


@pytest.fixture(scope="module")
def tiny():
    """A tiny model with every tensor random, as a state dict."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(t.shape, generator=generator) for name, t in empty("test_tiny").state_dict().items()}


def empty(name, **overrides):
    with torch.device("meta"):
        return assemble(registry.spec(name, **overrides), current().components)


def filled(state, path, name="test_tiny", **overrides):
    model = empty(name, **overrides)
    weights.load(model, registry.spec(name, **overrides), path)
    return model


def same(model, state):
    mine = model.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[name], state[name]) for name in state)


@pytest.mark.parametrize("layout", [None, FACEBOOK, HUGGINGFACE], ids=["native", "facebook", "huggingface"])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_file_of_any_layout_loads(tiny, tmp_path, layout, kind):
    theirs = layout.inverse(tiny) if layout else tiny
    path = tmp_path / f"m.{kind}"
    (files.write_pt if kind == "pt" else files.write)(path, theirs)
    model = filled(tiny, path)
    assert same(model, tiny) and not model.image_only
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_writing_to_a_loaded_parameter_does_not_reach_the_file(tiny, tmp_path):
    path = files.write(tmp_path / "m.safetensors", tiny)
    path.chmod(0o444)
    before = path.read_bytes()
    model = filled(tiny, path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert path.read_bytes() == before
    assert same(filled(tiny, path), tiny)


def test_another_dtype_in_the_file_becomes_the_models(tiny, tmp_path):
    half = {name: tensor.bfloat16() for name, tensor in tiny.items()}
    model = filled(tiny, files.write(tmp_path / "m.safetensors", half))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert same(model, {name: tensor.float() for name, tensor in half.items()})


def test_what_does_not_fit_is_told_part_by_part(tiny, tmp_path):
    wrong = dict(tiny)
    for name in [name for name in wrong if name.startswith("memory_attention.layers.1.")]:
        del wrong[name]
    wrong["memory_attention.extra.weight"] = torch.ones(1)
    wrong["neck.lateral.0.bias"] = torch.ones(7)
    wrong["backbone.pos_embed"] = torch.ones(1, 3, 7, 7)
    path = files.write(tmp_path / "m.safetensors", wrong)
    with pytest.raises(WeightsError) as error:
        filled(tiny, path)
    lines = str(error.value).splitlines()
    assert lines[0] == "m.safetensors does not fit test_tiny."
    assert [line.split()[0] for line in lines[1:-1]] == ["backbone", "neck", "memory_attention"]
    assert "shape differs: pos_embed is (1, 3, 7, 7), model wants (1," in lines[1]
    assert "tensors missing (first: layers.1." in lines[3]
    assert "1 tensor without a home (first: extra.weight)" in lines[3]
    assert "weights=False" in lines[-1]


def test_a_file_of_another_model_says_which(tiny, tmp_path):
    path = files.write(tmp_path / "m.safetensors", tiny)
    with pytest.raises(WeightsError, match="the file fits test_tiny without the overrides"):
        filled(tiny, path, "test_tiny", memory_attention={"layers": 1})
    with pytest.raises(WeightsError, match="does not fit sam2core_nano(?s:.*)the file fits test_tiny"):
        filled(tiny, path, "sam2core_nano")


def test_a_file_of_sam2_does_not_fit_its_sam21_twin(tiny, tmp_path):
    older = {"memory_encoder": {"occlusion_embed": False}, "memory_readout": {"pointer_time": "none"}}
    state = {name: torch.zeros(tensor.shape) for name, tensor in empty("test_tiny", **older).state_dict().items()}
    path = files.write_pt(tmp_path / "m.pt", FACEBOOK.inverse(state))
    assert not filled(state, path, **older).image_only
    with pytest.raises(WeightsError) as error:
        filled(tiny, path)
    assert "memory_encoder     1 tensor missing (first: occlusion_embed)" in str(error.value)
    assert "memory_readout     2 tensors missing (first: pointer_time.weight)" in str(error.value)


def test_strange_keys_are_told_by_part(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": {"encoder.0.weight": torch.ones(1)}}, path)
    with pytest.raises(WeightsError, match="m.pt: the keys are of no known layout: they start with encoder.0.weight"):
        filled({}, path)
    names = ("image_encoder.trunk.pos_embed_window", "maskmem_tpos_enc", "spatial_perceiver.latents")
    torch.save({"model": {name: torch.ones(1) for name in names}}, path)
    with pytest.raises(WeightsError, match="no rule names 1 of the tensors(?s:.*)spatial_perceiver"):
        filled({}, path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"<html></html>"])
def test_a_damaged_file_is_a_weights_error(tmp_path, content):
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="m.pt"):
        filled({}, path)
    with pytest.raises(WeightsError, match="no such file"):
        filled({}, tmp_path / "gone.safetensors")


def test_a_declared_layout_is_held_to(tiny, tmp_path):
    path = files.write_pt(tmp_path / "m.pt", FACEBOOK.inverse(tiny))
    with pytest.raises(WeightsError, match="said to be of layout 'native', and its keys are of 'facebook'"):
        weights.read(path, layout="native")
    spec = registry.spec("test_tiny", weights={"file": str(path), "layout": "facebook"})
    model = empty("test_tiny")
    weights.load(model, spec, True)
    assert same(model, tiny)


def test_an_image_model_loads_and_says_so(tiny, tmp_path, caplog):
    theirs = HUGGINGFACE_IMAGE.inverse(tiny)
    path = files.write(tmp_path / "image.safetensors", theirs)
    with caplog.at_level(logging.WARNING):
        model = filled(tiny, path)
    assert model.image_only and "videos cannot be tracked" in caplog.text
    state = model.state_dict()
    given = HUGGINGFACE_IMAGE.rename(theirs)
    assert all(torch.equal(state[name], given[name]) for name in given)
    assert all(not state[name].any() for name in state if name not in given)
    assert 0 < len(given) < len(state)


def test_an_image_model_that_lacks_more_than_memory_is_refused(tiny, tmp_path):
    theirs = HUGGINGFACE_IMAGE.inverse(tiny)
    del theirs["mask_decoder.iou_token.weight"]
    with pytest.raises(WeightsError) as error:
        filled(tiny, files.write(tmp_path / "image.safetensors", theirs))
    assert "mask_decoder" in str(error.value) and "memory_attention" not in str(error.value)


def test_the_model_an_image_file_is_for_is_found(tiny):
    image = HUGGINGFACE_IMAGE.rename(HUGGINGFACE_IMAGE.inverse(tiny))
    assert weights.fitting(image, HUGGINGFACE_IMAGE) == ["test_tiny"]
    assert weights.fitting(image) == []
    assert weights.fitting(tiny) == ["test_tiny"]


@pytest.mark.parametrize("name", ["sam2.1_hiera_b+", "sam2_hiera_b+", "sam2core_nano"])
def test_a_model_is_recognised_by_its_shapes(name):
    assert weights.fitting(empty(name).state_dict()) == [name]


def test_no_two_of_our_models_have_the_same_shapes():
    shapes = [frozenset((k, v.shape) for k, v in empty(name).state_dict().items()) for name in registry.models()]
    assert len(set(shapes)) == len(shapes)


def test_a_native_file_carries_its_spec(tiny, tmp_path):
    spec = registry.spec("test_tiny", memory_policy={"frames": 1})
    path = files.write(tmp_path / "mine.safetensors", tiny, files.describe(spec=dataclasses.asdict(spec)))
    assert weights.read_spec(path)["memory_policy"]["frames"] == 1
    model = registry.build(path)
    assert same(model, tiny) and model.memory_policy.frames == 1
    assert not model.training


def test_a_file_without_a_spec_says_what_to_do(tiny, tmp_path):
    path = files.write(tmp_path / "mine.safetensors", tiny)
    with pytest.raises(WeightsError, match="carries no spec(?s:.*)sam2core convert"):
        weights.read_spec(path)


def test_a_spec_that_asks_for_interpolation_is_refused(tiny, tmp_path):
    path = files.write(tmp_path / "bad.safetensors", tiny, {"sam2core.spec": '{"dim": "${oc.env:HOME}"}'})
    with pytest.raises(WeightsError, match="interpolation"):
        registry.build(str(path))


def test_weights_that_cannot_be_had_are_one_error(tmp_path):
    with pytest.raises(WeightsError) as error:
        registry.build("sam2.1_hiera_t", cache_dir=tmp_path, offline=True)
    text = str(error.value)
    assert "no weights for sam2.1_hiera_t: sam2.1_hiera_tiny.pt could not be had" in text
    assert str(tmp_path / "models--facebook--sam2.1-hiera-tiny") in text
    assert str(tmp_path / "sam2.1_hiera_tiny.pt") in text
    assert "facebook/sam2.1-hiera-tiny/resolve/main/sam2.1_hiera_tiny.pt" in text
    assert "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_tiny.pt" in text
    assert text.count("not asked: offline") == 2
    for way in ("on another machine", "sam2core download sam2.1_hiera_t", "weights=False", "sam2core_nano"):
        assert way in text


def test_a_model_without_weights_says_so():
    with pytest.raises(WeightsError, match="test_tiny names no weights"):
        weights.locate(registry.spec("test_tiny"))
    spec = registry.spec("test_tiny", weights={"file": "gone.safetensors", "package": True})
    with pytest.raises(WeightsError, match="the installation is incomplete"):
        weights.locate(spec)
    spec = registry.spec("test_tiny", weights={"file": "/gone.safetensors"})
    with pytest.raises(WeightsError, match="are not at /gone.safetensors"):
        weights.locate(spec)


def test_another_revision_is_not_held_to_the_recorded_checksum():
    spec = registry.spec("sam2.1_hiera_t")
    pinned, other = weights.source(spec), weights.source(spec, revision="v2")
    assert pinned.size == 156008466 and len(pinned.sha256) == 64 and pinned.url
    assert other.revision == "v2" and other.size is other.sha256 is other.url is None


@pytest.mark.parametrize("name", [name for name in registry.models() if "_hiera_" in name])
def test_every_official_checkpoint_is_pinned(name):
    source = weights.source(registry.spec(name))
    family = "092824" if name.startswith("sam2.1") else "072824"
    assert source.url == f"https://dl.fbaipublicfiles.com/segment_anything_2/{family}/{source.file}"
    assert source.repo.startswith("facebook/sam2") and source.size > 150_000_000 and len(source.sha256) == 64


def test_weights_in_the_repository_are_those_their_specs_say_and_all_others_are_released_files():
    for name in registry.models():
        said = registry.spec(name).weights
        if said is None or said.layout not in current().components.names("layout"):
            continue
        assert said.size and said.sha256, f"{name}: which file is meant?"
        if said.package:
            path = places.FOLDER / said.file
            assert path.stat().st_size == said.size, f"{name}: the size in the spec"
            assert hashlib.sha256(path.read_bytes()).hexdigest() == said.sha256, f"{name}: the checksum in the spec"
