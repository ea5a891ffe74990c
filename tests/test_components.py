"""Every registered component is what its kind says: it resolves, takes what the registry passes, keeps its shapes."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

import registry
from registry.assemble import hollow
from registry.components import Components, call, check
from registry.errors import DuplicateName, SpecError, UnknownName
from registry.kinds import KINDS
from registry.plugins import current
from sam2core import DecoderOutput, Sam2
from sam2core.checkpoints.layout import Layout

REGISTERED = [(kind, name) for kind in KINDS for name in registry.components(kind)]


def protocol(kind: str) -> type:
    module, _, name = KINDS[kind].protocol.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.fixture(scope="module")
def tiny() -> Sam2:
    return registry.build("test_tiny", weights=False)


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_resolves_and_takes_what_it_is_passed(kind: str, name: str) -> None:
    target = current().components.resolve(kind, name)
    if not KINDS[kind].called:
        assert isinstance(target, Layout) and target.name == name
        return
    check(name, target, {}, KINDS[kind].passes)
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name not in KINDS[kind].passes:
            assert parameter.kind is parameter.KEYWORD_ONLY, f"{name}: option {parameter.name} is not keyword-only"
            assert parameter.default is not parameter.empty, f"{name}: option {parameter.name} has no default"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("predictor", "engine", "layout")])
def test_the_tiny_models_parts_meet_their_protocols(kind: str, tiny: Sam2) -> None:
    assert isinstance(getattr(tiny, kind), protocol(kind))


@pytest.mark.parametrize("name", registry.components("backbone"))
def test_backbones_describe_their_maps(name: str) -> None:
    with hollow():
        backbone = current().components.make("backbone", {"type": name})
        maps = backbone(torch.empty(2, 3, 256, 192))
    shapes = [(2, width, 256 // stride, 192 // stride) for width, stride in zip(backbone.channels, backbone.strides)]
    assert [tuple(x.shape) for x in maps] == shapes


def test_neck_makes_three_maps_of_one_width(tiny: Sam2) -> None:
    maps = tiny.neck(tiny.backbone(torch.randn(2, 3, 128, 64)))
    assert [tuple(x.shape) for x in maps] == [(2, 32, 128 // s, 64 // s) for s in (4, 8, 16)]


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("images", [1, 2])
def test_mask_decoder_gives_all_four(tiny: Sam2, tokens: int, images: int) -> None:
    maps = tiny.neck(tiny.backbone(torch.randn(images, 3, 128, 64)))
    output = tiny.mask_decoder(
        maps[-1],
        torch.randn(1, 32, 8, 4),
        torch.randn(2, tokens, 32),
        torch.zeros(1, 32, 1, 1),
        tiny.mask_decoder.project_skips(maps),
    )
    assert isinstance(output, DecoderOutput)
    shapes = [tuple(x.shape) for x in (output.masks, output.iou, output.tokens, output.presence)]
    assert shapes == [(2, 4, 32, 16), (2, 4), (2, 4, 32), (2, 1)]
    assert (output.iou >= 0).all() and (output.iou <= 1).all()


def test_memory_goes_round(tiny: Sam2) -> None:
    features = torch.randn(1, 32, 8, 4)
    blocks = tiny.memory_encoder(features, torch.rand(3, 1, 128, 64), torch.tensor([[1.0], [-1.0], [2.0]]))
    for block in blocks:
        assert block.tokens.shape == (3, 32, 16) and block.position.shape[1:] == (32, 16)
        assert block.grid == (8, 4)
    conditioned = tiny.memory_attention(features, torch.randn(1, 32, 8, 4), blocks)
    assert conditioned.shape == (3, 32, 8, 4)


# ------------------------------------------------------------------------------------------------ Components itself


def part(dim: int, *, layers: int = 4, theta: float = 10000.0) -> tuple[int, int, float]:
    return dim, layers, theta


def test_names_are_checked_before_anything_is_made() -> None:
    assert call("part", part, {"layers": 2}, dim=8) == (8, 2, 10000.0)
    with pytest.raises(SpecError) as caught:
        call("memory_attention 'rope'", part, {"layer": 2}, dim=8)
    assert str(caught.value) == (
        "memory_attention 'rope' has no option 'layer'.\n  options: layers=4, theta=10000.0\n  did you mean 'layers'?"
    )
    with pytest.raises(SpecError, match="'dim' is passed by the registry"):
        call("part", part, {"dim": 2}, dim=8)
    with pytest.raises(SpecError, match="takes no 'memory_dim'"):
        call("part", part, {}, dim=8, memory_dim=2)
    with pytest.raises(SpecError, match="needs the option 'dim'"):
        call("part", part, {})


def test_a_part_cannot_change_the_spec_it_was_made_from() -> None:
    options = {"places": [1, 2]}

    def greedy(*, places: list[int]) -> list[int]:
        places.append(3)
        return places

    assert call("greedy", greedy, options) == [1, 2, 3]
    assert options == {"places": [1, 2]}


def test_duplicates_are_refused_with_both_owners() -> None:
    offered = Components()
    offered.add("memory_policy", "acme.motion", part, "acme 1.0")
    with pytest.raises(DuplicateName, match="'acme.motion' is offered by acme 1.0 and by other 2.0"):
        offered.add("memory_policy", "acme.motion", part, "other 2.0")
    offered.add("neck", "acme.motion", part, "other 2.0")  # another kind, another name


@pytest.mark.parametrize(
    ("kind", "name", "target", "error", "words"),
    [
        ("policy", "x", part, UnknownName, "did you mean 'memory_policy'"),
        ("neck", "a b", part, SpecError, "letters, digits"),
        ("neck", 3, part, SpecError, "letters, digits"),
        ("neck", "x", "os.system", SpecError, "package.module:attribute"),
        ("neck", "x", 3, SpecError, "cannot be called"),
    ],
)
def test_bad_registrations(kind: str, name: object, target: object, error: type[ValueError], words: str) -> None:
    with pytest.raises(error, match=words):
        Components().add(kind, name, target, "acme 1.0")  # type: ignore[arg-type]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    offered = current().components
    with pytest.raises(UnknownName, match=r"known: .*hiera_t\n  did you mean 'hiera_l'"):
        offered.get("backbone", "hiera_large")
    with pytest.raises(UnknownName, match="no kind is called 'backbones'"):
        registry.components("backbones")


@pytest.mark.parametrize("target", ["no_such_module:Thing", "registry.errors:Nothing", "registry.errors:SpecError.no"])
def test_a_target_that_cannot_be_had_names_its_owner(target: str) -> None:
    offered = Components()
    offered.add("neck", "acme.neck", target, "acme 1.0")
    with pytest.raises(SpecError, match=r"neck 'acme.neck' of acme 1.0 cannot be had from"):
        offered.resolve("neck", "acme.neck")
