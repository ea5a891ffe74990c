"""What a stranger's spec or weights may not do, and what cannot work: refused when it is read or built."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

import registry
from registry import SpecError, UnknownName, WeightsError
from registry.plugins import Zoo
from registry.resolve import load
from registry.spec import ModelSpec
from sam2core.checkpoints import files

ADDRESS = "https://example.org/w.safetensors"


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (
            {"file": "/home/me/.bashrc", "url": ADDRESS, "size": 24},
            "weights: file: '/home/me/.bashrc'.*begins at the root",
        ),
        ({"file": "../../x", "url": ADDRESS}, "leaves its folder"),
        ({"file": "a\\b", "repo": "org/name"}, "backslash"),
        ({"file": "../w.safetensors", "package": True}, "leaves its folder"),
        ({"file": "w.pt", "url": "file:///etc/passwd"}, "only http and https are asked, not file"),
        ({"file": "w.pt", "url": "ftp://example.org/w.pt"}, "not ftp"),
        ({"file": "w.pt", "repo": "../.."}, "organisation/name"),
        ({"file": "w.pt", "repo": "org/.."}, "organisation/name"),
        ({"file": "w.pt", "repo": "org/name", "revision": "../../../x"}, "revision: .*leaves its folder"),
        ({"file": "w.pt", "url": ADDRESS, "sha256": "abc"}, "64 hexadecimal digits"),
        ({"file": "w.pt", "url": ADDRESS, "size": -1}, "a number of bytes"),
    ],
)
def test_what_is_fetched_has_a_plain_name_and_a_web_address(
    tmp_path: Path, weights: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=f"inline.*weights: {words.removeprefix('weights: ')}|inline.*{words}"):
        registry.spec({"extends": "test_tiny", "weights": weights})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"memory_attention": {"layers": 100_000_000}}, "more than 20000 tensors"),
        ({"dim": 10**12}, "dim is a positive number, at most 65536"),
        ({"memory_dim": 10**12}, "memory_dim is a positive number, at most"),
        ({"image_size": 10**9}, "more than the 16384 pixels"),
        ({"memory_encoder": {"layers": 10**9}}, "more than 20000 tensors|has no option"),
        ({"description": "x" * 30_000_000}, "at most 10000 are read"),
        ({"dim": 60, "memory_dim": 12}, "mask_decoder 'sam': .*60 is no multiple of 8"),
        ({"mask_decoder": {"heads": 7}}, "mask_decoder 'sam': attention width .* cannot be split into 7 heads"),
        (
            {"memory_attention": {"heads": 3}},
            "memory_attention 'rope': attention width .* cannot be split into 3 heads",
        ),
        ({"memory_dim": 24}, "cannot be cut into tokens of width 24"),
        ({"neck": {"top_down": [12]}}, r"neck 'fpn': top_down names strides \[12\]; the backbone has"),
    ],
)
def test_what_cannot_be_built_is_refused_at_once(edit: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        registry.build("test_tiny", weights=False, **edit)


class Pyramid(torch.nn.Module):
    """A backbone with maps at chosen strides."""

    def __init__(self, strides: list[int]) -> None:
        super().__init__()
        self.strides, self.channels = tuple(strides), tuple(8 for _ in strides)
        self.stems = torch.nn.ModuleList(torch.nn.Conv2d(3, 8, stride, stride) for stride in strides)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [stem(image) for stem in self.stems]


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Zoo:
    plugins = importlib.import_module("registry.plugins")  # a function of the package has the same name
    zoo = plugins.discover([], {})
    zoo.components.add("backbone", "acme.pyramid", Pyramid, "acme 1.0")
    monkeypatch.setattr(plugins, "_zoo", zoo)
    return zoo


def pyramid(*strides: int, **more: Any) -> Any:
    backbone = {"type": "acme.pyramid", "strides": list(strides)}
    return registry.build("test_tiny", weights=False, backbone=backbone, **more)


def test_a_pyramid_that_a_decoder_cannot_read_is_refused_with_both_names(zoo: Zoo) -> None:
    with pytest.raises(
        SpecError, match=r"'sam' reads maps at strides \[4, 8\], and backbone 'acme.pyramid' has none at 4"
    ):
        pyramid(8, 16, 32)
    with pytest.raises(
        SpecError, match=r"neck 'fpn' .* stride 16, and backbone 'acme.pyramid' has maps at strides \[4, 8\]"
    ):
        pyramid(4, 8)
    with pytest.raises(SpecError, match="the finest map first"):
        pyramid(16, 8, 4)


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (4, 8, 16), (1, 2, 4, 8, 16)])
def test_a_pyramid_with_finer_maps_answers(zoo: Zoo, strides: tuple[int, ...]) -> None:
    model = pyramid(*strides)
    with torch.inference_mode():
        features = model.encode(torch.zeros(1, 3, *model.image_size))
    assert features.embedding.shape[-1] == model.image_size[1] // 16


def test_a_decoder_that_reads_the_embedding_alone_needs_no_finer_maps(zoo: Zoo) -> None:
    assert pyramid(16, 32, mask_decoder={"high_res_features": False}).image_size


def test_a_part_nobody_offers_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no memory_policy is called 'nope.nothing'"):
        registry.spec("test_tiny", "memory_policy.type=nope.nothing")
    with pytest.raises(UnknownName, match="weights: no layout is called 'nope'"):
        registry.spec("test_tiny", weights={"file": "w.pt", "layout": "nope"})


def test_a_missing_plugin_is_named_where_a_checkpoint_asks_for_it(tmp_path: Path, zoo: Zoo) -> None:
    tree = dataclasses.asdict(registry.spec("test_tiny"))
    for name, words in (
        ("edgetam.repvit_m1", "comes with the plugin sam2core-edgetam, which is not installed"),
        ("acme.other", "did you mean 'acme.pyramid'"),
        ("stranger.part", "names that begin with 'stranger.' come from a plugin"),
    ):
        spec = {**tree, "backbone": {"type": name}}
        path = files.write(tmp_path / f"{name}.safetensors", {"a": torch.zeros(1)}, files.describe(spec=spec))
        with pytest.raises(UnknownName, match=f"{path.name}: no backbone is called '{name}'(.|\n)*{words}"):
            load(path)


def test_a_plugin_that_is_left_out_is_named(tmp_path: Path) -> None:
    from registry.installed import Point

    plugins = importlib.import_module("registry.plugins")  # a function of the package has the same name
    zoo = plugins.discover([Point("acme", "acme")], {"SAM2CORE_PLUGINS": ""})
    with pytest.raises(UnknownName, match="'acme' is plugin 'acme' .*, which SAM2CORE_PLUGINS leaves out"):
        load("test_tiny", ["memory_policy.type=acme.memory"], zoo=zoo)


# ---------------------------------------------------------------------------------------------------- weights


@pytest.fixture(scope="module")
def tiny() -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False)
    return model.spec, model.state_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.to(torch.int64), "holds int64, wanted floating-point numbers"),
        (lambda t: t.to(torch.complex64), "holds complex64, wanted floating-point"),
        (lambda t: torch.full_like(t, float("nan")), "values that are NaN or infinite"),
        (lambda t: torch.full_like(t, float("inf")), "values that are NaN or infinite"),
        (lambda t: torch.full_like(t, float("-inf"), dtype=torch.float16), "values that are NaN or infinite"),
    ],
)
def test_weights_of_nonsense_are_refused_with_the_tensors_name(
    tmp_path: Path, tiny: tuple[ModelSpec, dict[str, torch.Tensor]], change: Any, words: str
) -> None:
    name = "mask_decoder.iou_head.layers.0.weight"
    path = files.write_pt(tmp_path / "w.pt", {**tiny[1], name: change(tiny[1][name])})
    with pytest.raises(WeightsError, match=f"w.pt: {name} .*{words}|w.pt: {name} {words}"):
        registry.build("test_tiny", weights=path)


def wrapped(state: dict[str, torch.Tensor], how: str) -> dict[str, Any]:
    for word in reversed(how.split()):
        state = {f"{word}{name}": tensor for name, tensor in state.items()} if word.endswith(".") else {word: state}  # type: ignore[dict-item]
    return state


@pytest.mark.parametrize(
    "how",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "state_dict",
        "model_state_dict",
        "model",
        "state_dict model.",
        "model state_dict",
    ]
    + ["state_dict module. _orig_mod.", "model_state_dict _orig_mod. module."],
)
def test_wrappers_are_taken_off_and_told(
    tmp_path: Path, tiny: tuple[ModelSpec, dict[str, torch.Tensor]], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(wrapped(tiny[1], how), tmp_path / "w.pt")
    built = registry.build("test_tiny", weights=tmp_path / "w.pt")
    assert all(torch.equal(tensor, tiny[1][name]) for name, tensor in built.state_dict().items())
    assert all(word in caplog.text for word in how.split()) or how == "model"


def test_a_compiled_part_has_its_word_taken_off(
    tmp_path: Path, tiny: tuple[ModelSpec, dict[str, torch.Tensor]]
) -> None:
    state = {name.replace("backbone.", "backbone._orig_mod."): tensor for name, tensor in tiny[1].items()}
    files.write(tmp_path / "w.safetensors", state)
    built = registry.build("test_tiny", weights=tmp_path / "w.safetensors")
    assert built.state_dict().keys() == tiny[1].keys()


@pytest.mark.parametrize("prefix", ["", "mask_decoder."])
def test_a_decoder_alone_is_loaded_over_named_weights(
    tmp_path: Path, tiny: tuple[ModelSpec, dict[str, torch.Tensor]], prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = files.write(tmp_path / "whole.safetensors", tiny[1])
    named = {"file": str(whole), "layout": "native"}
    own = {n.removeprefix("mask_decoder."): t + 1 for n, t in tiny[1].items() if n.startswith("mask_decoder.")}
    part = files.write_pt(tmp_path / "decoder.pt", {prefix + name: tensor for name, tensor in own.items()})
    spec = registry.spec("test_tiny", weights=named)
    built = registry.build(spec, weights=part, partial=True)
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, tiny[1][name] + name.startswith("mask_decoder.")), name
    assert f"decoder.pt: {len(own)} tensors loaded over those of test_tiny; kept: " in caplog.text
    assert "backbone (" in caplog.text and "mask_decoder (" not in caplog.text
    with pytest.raises(WeightsError, match="does not fit|no known layout"):
        registry.build(spec, weights=part)
    with pytest.raises(WeightsError, match="pass weights='a/file'"):
        registry.build(spec, partial=True)
    other = files.write_pt(tmp_path / "other.pt", {"nothing.of.ours": torch.zeros(1)})
    with pytest.raises(WeightsError, match="holds no tensor of the model"):
        registry.build(spec, weights=other, partial=True)


def test_nan_out_of_a_mask_decoder_is_an_error_and_not_an_empty_mask() -> None:
    import numpy as np

    for damaged in ("iou_head.layers.2.bias", "upscale.3.bias"):
        model = registry.build("test_tiny", weights=False)
        model.mask_decoder.get_parameter(damaged).data.fill_(float("nan"))
        model.mask_decoder.get_parameter("presence_head.layers.2.bias").data.fill_(10)  # an absent one has no mask
        picture = np.zeros((64, 64, 3), dtype=np.uint8)
        with pytest.raises(ValueError, match="answers with NaN"):
            registry_predictor(model, "image").encode(picture).predict(points=[[5, 5]], labels=[1])
        with pytest.raises(ValueError, match="answers with NaN"):
            registry_predictor(model, "automask", iou_threshold=0.0).generate(picture)
        with pytest.raises(ValueError, match="answers with NaN"):
            session = registry_predictor(model, "video").open([picture])
            session.prompt(0, 1, points=[[5, 5]], labels=[1])


def registry_predictor(model: Any, task: str, **options: Any) -> Any:
    from registry.plugins import current

    return current().components.make("predictor", {"type": task, **options}, model=model)
