"""Checkpoints live: all eight official models, there and back, every tensor, with the references' own keys."""

from __future__ import annotations

import json

import pytest
import torch
from torch.overrides import TorchFunctionMode

import registry
from registry.assemble import assemble
from registry.plugins import current
from sam2core.checkpoints import files
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.huggingface import HUGGINGFACE, HUGGINGFACE_IMAGE
from sam2core.types import Label, Prompt
from tests.parity.whose import need_upstream

MODELS = [name for name in registry.models() if "_hiera_" in name]
# Tensors in Meta's files; transformers holds two fewer.
TENSORS = {"t": 471, "s": 519, "b+": 615, "l": 903}


class _LinspaceOnCpu(TorchFunctionMode):
    """Meta's trunk reads numbers out of a linspace, which has none on the meta device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def upstream_shapes(name):
    """Names and shapes of Meta's model, built from its own config without storage."""
    need_upstream()
    from sam2.build_sam import build_sam2

    family, _, size = name.partition("_hiera_")
    with torch.device("meta"), _LinspaceOnCpu():
        model = build_sam2(f"configs/{family}/{name}.yaml", device="meta", apply_postprocessing=False)
    state = model.state_dict()
    assert len(state) == TENSORS[size] - (0 if family == "sam2.1" else 3)
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def numbers(shapes, seed):
    """Random 16-bit integers: names and places are what is compared, and the large model is quick that way."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randint(-(2**15), 2**15 - 1, shape, dtype=torch.int16, generator=generator)
        for key, shape in sorted(shapes.items())
    }


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def empty(name, **overrides):
    with torch.device("meta"):
        return assemble(registry.spec(name, **overrides), current().components)


def transformers_config(name, *, image_only=False):
    """The config `sam2core convert` writes, as transformers reads it."""
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    import dataclasses

    from sam2core.checkpoints import huggingface
    from sam2core.cli import convert

    spec = registry.spec(name)
    model = empty(name)
    written = huggingface.config(
        spec=dataclasses.asdict(spec),
        options=convert._options(spec, model),
        trunk=convert._trunk(spec, model),
        head_hidden=model.state_dict()["mask_decoder.iou_head.layers.0.weight"].shape[0],
        image_only=image_only,
    )
    kind = transformers.Sam2Config if image_only else transformers.Sam2VideoConfig
    return written, kind(**{key: value for key, value in written.items() if key != "architectures"})


@pytest.mark.parametrize("name", MODELS)
def test_meta_to_native_and_back_is_the_identity(name):
    theirs = numbers(upstream_shapes(name), seed=1)
    ours = FACEBOOK.rename(theirs)
    assert {key: tuple(tensor.shape) for key, tensor in ours.items()} == {
        key: tuple(tensor.shape) for key, tensor in empty(name).state_dict().items()
    }
    back = FACEBOOK.inverse(ours)
    unused = back.pop("no_mem_pos_enc")
    assert unused.shape == theirs.pop("no_mem_pos_enc").shape and not unused.any()
    assert same(back, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_meta_to_native_to_transformers_and_back_is_the_identity(name):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    theirs = numbers(upstream_shapes(name), seed=2)
    ours = FACEBOOK.rename(theirs)
    written = HUGGINGFACE.inverse(ours)
    with torch.device("meta"):
        model = transformers.Sam2VideoModel(transformers_config(name)[1])
        image = transformers.Sam2Model(transformers_config(name, image_only=True)[1])
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in written.items()} == wanted
    assert len(written) == len(theirs) - 2
    model.load_state_dict({key: tensor.to("meta") for key, tensor in written.items()}, strict=True)
    assert {key: tuple(tensor.shape) for key, tensor in image.state_dict().items()} == {
        key: tuple(tensor.shape) for key, tensor in HUGGINGFACE_IMAGE.inverse(ours).items()
    }
    again = HUGGINGFACE.rename(written)
    assert same(again, ours)
    back = FACEBOOK.inverse(again)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs if key != "no_mem_pos_enc")


@pytest.mark.parametrize("name", MODELS)
def test_the_written_config_is_the_published_one(name):
    """Numbers of transformers' own conversion of Meta's eight models."""
    _, config = transformers_config(name)
    size = name.rpartition("_")[2]
    trunk = config.vision_config.backbone_config
    width, heads, blocks, spread, windows, background = {
        "t": (96, 1, [1, 2, 7, 2], [5, 7, 9], [8, 4, 14, 7], [7, 7]),
        "s": (96, 1, [1, 2, 11, 2], [7, 10, 13], [8, 4, 14, 7], [7, 7]),
        "b+": (112, 2, [2, 3, 16, 3], [12, 16, 20], [8, 4, 14, 7], [14, 14]),
        "l": (144, 2, [2, 6, 36, 4], [23, 33, 43], [8, 4, 16, 8], [7, 7]),
    }[size]
    assert trunk.hidden_size == width
    assert list(trunk.embed_dim_per_stage) == [width, 2 * width, 4 * width, 8 * width]
    assert list(config.vision_config.backbone_channel_list) == [8 * width, 4 * width, 2 * width, width]
    assert list(trunk.num_attention_heads_per_stage) == [heads, 2 * heads, 4 * heads, 8 * heads]
    assert list(trunk.blocks_per_stage) == blocks
    assert list(trunk.global_attention_blocks) == spread
    assert list(trunk.window_size_per_stage) == windows
    assert list(trunk.window_positional_embedding_background_size) == background
    newer = name.startswith("sam2.1")
    assert config.enable_occlusion_spatial_embedding is newer
    assert config.enable_temporal_pos_encoding_for_object_pointers is newer
    # Everything else is transformers' default, which describes Meta's models.
    import transformers

    default = transformers.Sam2VideoConfig().to_dict()
    mine = config.to_dict()
    for tree in (default, mine):
        for key in ("architectures", "dtype", "transformers_version"):
            tree.pop(key, None)
        tree["vision_config"].pop("backbone_config")
        tree["vision_config"].pop("backbone_channel_list")
        tree.pop("enable_occlusion_spatial_embedding")
        tree.pop("enable_temporal_pos_encoding_for_object_pointers")
    assert mine == default


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model small enough to run, wide enough for transformers, every tensor random: a native file."""
    import dataclasses

    spec = registry.spec("test_tiny", dim=128, memory_dim=64)
    model = registry.build(spec, weights=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.uniform_(-0.2, 0.2, generator=generator)
            if "norm" in name and name.endswith("weight"):
                tensor.add_(1)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return files.write(path, model.state_dict(), files.describe(spec=dataclasses.asdict(spec)))


@pytest.mark.parametrize("layout", ["huggingface", "huggingface-image"])
def test_transformers_loads_the_written_folder_and_gives_the_same_masks(layout, tiny, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    from sam2core.cli import main

    folder = tmp_path / "folder"
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(tiny), str(folder), "--to", layout, "--verify"])
    assert not ended.value.code
    kind = transformers.Sam2VideoModel if layout == "huggingface" else transformers.Sam2Model
    theirs, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert json.loads((folder / "config.json").read_text())["architectures"] == [kind.__name__]
    ours = registry.build(tiny)
    assert {str(p.dtype) for p in theirs.parameters()} == {"torch.float32"}

    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(1, 3, 128, 128, generator=generator)
    points = torch.rand(1, 2, 2, generator=generator) * 128
    labels = torch.tensor([[Label.POSITIVE, Label.NEGATIVE]])
    with torch.no_grad():
        features = ours.encode(pixels)
        answer = ours.decode(features, ours.condition(features, None), Prompt(points=points, labels=labels))
        if layout == "huggingface-image":
            reply = theirs(
                pixel_values=pixels,
                input_points=points[:, None],
                input_labels=labels[:, None],
                multimask_output=True,
            )
            torch.testing.assert_close(answer.masks[:, 1:], reply.pred_masks[:, 0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(answer.iou[:, 1:], reply.iou_scores[:, 0], rtol=1e-4, atol=1e-4)
        else:
            maps = theirs.get_image_features(pixels, return_dict=True).fpn_hidden_states
            top = maps[-1].permute(1, 2, 0).reshape(features.embedding.shape)
            torch.testing.assert_close(features.embedding, top, rtol=1e-4, atol=1e-4)
            tokens = torch.randn(2, 128, generator=generator)
            torch.testing.assert_close(ours.object_pointer.proj(tokens), theirs.object_pointer_proj(tokens))
            mask = torch.rand(1, 1, 128, 128, generator=generator)
            (block,) = ours.memory_encoder(features.embedding, mask, torch.ones(1, 1))
            config = theirs.config
            scaled = mask * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
            written, where = (each.flatten(2).permute(2, 0, 1) for each in theirs.memory_encoder(top, scaled))
            torch.testing.assert_close(block.tokens.transpose(0, 1), written, rtol=1e-4, atol=1e-4)
            attended = theirs.memory_attention(
                current_vision_features=maps[-1],
                current_vision_position_embeddings=features.position.flatten(2).permute(2, 0, 1),
                memory=written,
                memory_posision_embeddings=where,
            )
            mine = ours.memory_attention(features.embedding, features.position, [block]).flatten(2).permute(2, 0, 1)
            torch.testing.assert_close(mine, attended.reshape(mine.shape), rtol=1e-4, atol=1e-4)


def test_what_transformers_saves_is_read(tiny, tmp_path):
    """Its own file, written by `save_pretrained`, becomes the same model here."""
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    from sam2core.cli import main

    with pytest.raises(SystemExit):
        main(["convert", str(tiny), str(tmp_path / "a"), "--to", "huggingface"])
    transformers.Sam2VideoModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    transformers.Sam2Model.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "c")
    wanted = registry.build(tiny).state_dict()
    spec = registry.spec(str(tiny))
    whole = registry.build(spec, weights=tmp_path / "b" / "model.safetensors")
    assert not whole.image_only and same(whole.state_dict(), wanted)
    image = registry.build(spec, weights=tmp_path / "c" / "model.safetensors")
    assert image.image_only
    state = image.state_dict()
    given = [name for name in state if name.split(".")[0] in ("backbone", "neck", "prompt_encoder", "mask_decoder")]
    assert all(torch.equal(state[name], wanted[name]) for name in [*given, "memory_readout.no_memory"])


def test_the_processor_config_is_read(tiny, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    from sam2core.cli import main

    for layout, kind in (("huggingface", "Sam2VideoProcessor"), ("huggingface-image", "Sam2Processor")):
        with pytest.raises(SystemExit):
            main(["convert", str(tiny), str(tmp_path / layout), "--to", layout])
        processor = getattr(transformers, kind).from_pretrained(tmp_path / layout)
        assert processor.target_size == 128
        assert dict(processor.image_processor.size) == {"height": 128, "width": 128}
        assert dict(processor.image_processor.mask_size) == {"height": 32, "width": 32}
