"""Every registered component is what its kind says: it resolves, takes what the registry passes, keeps its shapes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import registry
from registry.assemble import init_empty_weights
from registry.components import Components, call
from registry.errors import DuplicateName, SpecError, UnknownName
from registry.kinds import KINDS
from registry.plugins import current
from sam2core.testing import check as check_contract

WITH_WEIGHTS = {("detector", "torchvision")}
"""What does nothing without a file of the user's; its own tests examine it."""
REGISTERED = [(kind, name) for kind in KINDS for name in registry.components(kind) if (kind, name) not in WITH_WEIGHTS]


HOLLOW = ("hiera_s", "hiera_b+", "hiera_l")  # the class of hiera_t, in sizes that take long: shapes alone


NEEDS = {"nifti": "nibabel", "geojson": "rasterio"}


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_every_part_keeps_its_contract(kind: str, name: str) -> None:
    if kind == "writer" and name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="of an extra")
    if name in HOLLOW:
        with init_empty_weights():
            check_contract(kind, current().components.make(kind, {"type": name}))
    else:
        check_contract(kind, name)


def test_what_is_built_in_is_named_as_it_names_itself() -> None:
    for name in registry.components("layout"):
        assert current().components.resolve("layout", name).name == name


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


def test_types_are_checked_before_anything_is_made() -> None:
    with pytest.raises(SpecError) as caught:
        call("memory_attention 'rope'", part, {"layers": "two"}, dim=8)
    assert str(caught.value) == (
        "memory_attention 'rope': the option 'layers' is int; got 'two'.\n  options: layers=4, theta=10000.0"
    )
    assert call("part", part, {"theta": 3}, dim=8) == (8, 4, 3)

    def implicit(*, policy: int = None, **more: int) -> object:  # type: ignore[assignment]
        return policy, more

    assert call("part", implicit, {"policy": None, "other": "x"}) == (None, {"other": "x"})


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"memory_policy": {"frames": "4"}}, "memory_policy 'recent': the option 'frames' is int; got '4'"),
        ({"neck": {"top_down": 16}}, "neck 'fpn': the option 'top_down' is Sequence"),
        ({"memory_readout": {"slots": 2.5}}, "memory_readout: the option 'slots' is int"),
    ],
)
def test_a_build_says_which_option_is_of_another_type(part: dict[str, dict[str, object]], words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        registry.build("test_tiny", weights=False, **part)
    with pytest.raises(SpecError, match="the option 'mask_threshold' is float; got 'high'"):
        registry.predictor("test_tiny", "image", "predictors.image.mask_threshold=high", weights=False)


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


@pytest.mark.parametrize(
    "raised", ["AssertionError('no GPU')", "SystemExit('no GPU')", "type('Odd', (Exception,), {})()"]
)
def test_a_target_may_raise_anything(raised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme_part.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    offered = Components()
    offered.add("neck", "acme.neck", "acme_part:Neck", "acme 1.0")
    with pytest.raises(SpecError, match=r"neck 'acme.neck' of acme 1.0 cannot be had from"):
        offered.resolve("neck", "acme.neck")
    assert "acme_part" not in sys.modules
