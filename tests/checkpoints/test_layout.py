"""Rules are data with a derived inverse, and a table that is no bijection on what it is given is refused."""

from __future__ import annotations

import pytest
import torch

import registry
from registry.assemble import assemble
from registry.plugins import current
from registry.weights import layouts
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.huggingface import HUGGINGFACE, HUGGINGFACE_IMAGE
from sam2core.checkpoints.layout import NATIVE, Copy, Layout, LayoutError, Rename, Split, Unused, recognise


def state(*names):
    return {name: torch.full((1, 2), float(number)) for number, name in enumerate(names)}


def table(*rules, **options):
    return Layout("mine", probe=("a",), tables=(rules,), **options)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("rule", "theirs", "ours"),
    [
        (Rename("a.{rest}", "b.{rest}"), "a.x.0.weight", "b.x.0.weight"),
        (Rename("a.{n}.{p}", "b.{p}.{n}"), "a.12.bias", "b.bias.12"),
        (Rename("a.{m:x.y|z}.w", "{m}"), "a.x.y.w", "x.y"),
        (Rename("l.{m}.{p}", "s.{m}.{p}", {"m": {"0": "3", "1": "2", "2": "1", "3": "0"}}), "l.0.weight", "s.3.weight"),
        (Rename("{m}.w", "k.{m}", {"m": {"in": "0", "in.deep": "1"}}), "in.deep.w", "k.1"),
    ],
)
def test_a_rule_reads_both_ways(rule, theirs, ours):
    assert rule.to_ours(theirs) == ours
    assert rule.to_theirs(ours) == theirs


@pytest.mark.parametrize("name", ["a.x", "xa.1.weight", "a.1.weights", "a.1x.weight", "a..weight"])
def test_a_rule_fits_whole_names_only(name):
    assert Rename("a.{n}.{p}", "b.{n}.{p}").to_ours(name) is None


def test_dots_in_a_rule_are_dots():
    assert Rename("a.b", "c").to_ours("axb") is None


@pytest.mark.parametrize(
    "rule",
    [
        lambda: Rename("a.{n}", "b.{rest}").sides,
        lambda: Rename("a.{what}", "b.{what}").sides,
        lambda: Rename("a.{n}.{n}", "b.{n}").sides,
        lambda: Rename("{m}", "{m}", {"m": {"x": "0", "y": "0"}}).sides,
    ],
)
def test_a_malformed_rule_is_our_own_mistake(rule):
    with pytest.raises(AssertionError):
        rule()


def test_the_first_rule_that_fits_wins():
    layout = table(Rename("a.x.{rest}", "special.{rest}"), Rename("a.{rest}", "b.{rest}"))
    given = state("a.x.w", "a.y.w")
    assert set(layout.rename(given)) == {"special.w", "b.y.w"}
    assert same(layout.inverse(layout.rename(given)), given)


def test_a_key_without_a_rule_is_an_error_grouped_by_part():
    with pytest.raises(LayoutError) as error:
        table(Rename("a", "b")).rename(state("a", "x.0", "x.1", "y"))
    assert error.value.names == ("x.0", "x.1", "y") and error.value.layout == "mine"
    assert "3 of the tensors" in str(error.value) and "x  2 (first: x.0)" in str(error.value)
    with pytest.raises(LayoutError):
        table(Rename("a", "b")).inverse(state("a"))


def test_two_keys_must_not_meet():
    layout = table(Rename("a.{n}", "b.{n}"), Rename("c.{n}", "b.{n}"))
    with pytest.raises(LayoutError, match="leads back to a.1"):
        layout.rename(state("a.1", "c.1"))


def test_a_name_that_does_not_lead_back_is_ambiguous():
    layout = table(Rename("decoder.conv.{p}", "d.skip.{p}"), Rename("decoder.{rest}", "d.{rest}"))
    assert set(layout.rename(state("decoder.conv.weight"))) == {"d.skip.weight"}
    with pytest.raises(LayoutError, match="ambiguous"):
        layout.rename(state("decoder.skip.weight"))
    with pytest.raises(LayoutError, match="ambiguous"):
        layout.inverse(state("d.conv.weight"))


def test_rows_become_tensors_and_rows_again():
    layout = table(Split("p.weight", ("e.0.weight", "e.1.weight", "e.2.weight")))
    given = {"p.weight": torch.arange(6.0).reshape(3, 2)}
    ours = layout.rename(given)
    assert list(ours) == ["e.0.weight", "e.1.weight", "e.2.weight"]
    assert ours["e.1.weight"].tolist() == [[2.0, 3.0]]
    assert same(layout.inverse(ours), given)
    ours["e.0.weight"].zero_()
    assert given["p.weight"][0].tolist() == [0.0, 1.0]  # its own memory
    with pytest.raises(LayoutError, match="cannot be cut into 3 equal parts"):
        layout.rename({"p.weight": torch.zeros(4, 2)})
    wider = {"p.weight": torch.arange(12.0).reshape(6, 2)}
    assert layout.rename(wider)["e.1.weight"].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert same(layout.inverse(layout.rename(wider)), wider)
    with pytest.raises(LayoutError, match="needs e.1.weight"):
        layout.inverse({name: ours[name] for name in ("e.0.weight", "e.2.weight")})


def test_a_copy_is_checked_read_once_and_written_twice():
    layout = table(Rename("a", "b"), Copy("twin", of="a"))
    given = {"a": torch.ones(2), "twin": torch.ones(2)}
    assert set(layout.rename(given)) == {"b"}
    assert same(layout.inverse(layout.rename(given)), given)
    assert set(layout.rename({"a": torch.ones(2)})) == {"b"}
    with pytest.raises(LayoutError, match="must be equal"):
        layout.rename(given | {"twin": torch.zeros(2)})
    with pytest.raises(LayoutError, match="not a"):
        layout.rename({"twin": torch.zeros(2)})


def test_what_is_unused_is_dropped_and_written_as_zeros():
    layout = table(Rename("a", "b"), Unused("spare", like="b"))
    assert set(layout.rename(state("a", "spare"))) == {"b"}
    back = layout.inverse({"b": torch.ones(1, 1, 4, dtype=torch.bfloat16)})
    assert back["spare"].shape == (1, 1, 4) and back["spare"].dtype == torch.bfloat16 and not back["spare"].any()


def test_a_layout_may_leave_parts_out_when_writing():
    assert set(table(Rename("{rest}", "o.{rest}"), without=("y.",)).inverse(state("o.x.w", "o.y.w"))) == {"x.w"}


def test_layouts_are_recognised_by_their_keys():
    known = [NATIVE, FACEBOOK, HUGGINGFACE, HUGGINGFACE_IMAGE]
    tiny = model_state("test_tiny")
    for layout in known:
        assert recognise(layout.inverse(tiny), known) is layout
    with pytest.raises(LayoutError, match="no known layout.*start with a, b.*(?s:.*)native, facebook"):
        recognise(state("a", "b"), known)


def test_every_layout_is_on_offer():
    assert {layout.name for layout in layouts()} >= {"native", "facebook", "huggingface", "huggingface-image"}


def model_state(name):
    with torch.device("meta"):
        return assemble(registry.spec(name), current().components).state_dict()


@pytest.mark.parametrize("layout", [NATIVE, FACEBOOK, HUGGINGFACE], ids=lambda layout: layout.name)
@pytest.mark.parametrize("name", registry.models())
def test_the_tables_are_bijections_on_every_model(layout, name):
    ours = model_state(name)
    theirs = layout.inverse(ours)
    again = layout.rename(theirs)
    assert {name: tensor.shape for name, tensor in again.items()} == {name: ours[name].shape for name in ours}
    extra = {"native": 0, "facebook": 1, "huggingface": -1}[layout.name]  # one unused; then four rows in one, one twice
    assert len(theirs) == len(ours) + extra


def test_values_survive_the_way_there_and_back():
    generator = torch.Generator().manual_seed(0)
    ours = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in model_state("test_tiny").items()}
    for layout in (FACEBOOK, HUGGINGFACE):
        assert same(layout.rename(layout.inverse(ours)), ours)
    part = HUGGINGFACE_IMAGE.rename(HUGGINGFACE_IMAGE.inverse(ours))
    assert all(torch.equal(part[name], ours[name]) for name in part)
    assert {name.split(".")[0] for name in set(ours) - set(part)} == {
        "memory_attention",
        "memory_encoder",
        "memory_readout",
        "object_pointer",
    }
    assert "memory_readout.no_memory" in part


def test_no_rule_is_idle():
    used = set()
    for name in ("sam2.1_hiera_t", "sam2_hiera_t"):
        state = model_state(name)
        for tables in (HUGGINGFACE.tables,):
            names = set(state)
            for rules in reversed(tables):
                back = set()
                for key in names:
                    for rule in rules:
                        if isinstance(rule, Rename) and (new := rule.to_theirs(key)) is not None:
                            used.add(id(rule))
                            back.add(new)
                            break
                        if isinstance(rule, Split) and key in rule.ours:
                            used.add(id(rule))
                            break
                back |= {rule.theirs for rule in rules if isinstance(rule, Unused)}
                names = back
    idle = [
        rule
        for rules in HUGGINGFACE.tables
        for rule in rules
        if isinstance(rule, Rename | Split) and id(rule) not in used
    ]
    assert idle == []


def test_the_finest_level_of_the_neck_comes_first_here_and_last_there():
    ours = {f"neck.lateral.{level}.bias": torch.full((1,), float(level)) for level in range(4)}
    theirs = FACEBOOK.inverse(ours)
    assert [theirs[f"image_encoder.neck.convs.{level}.conv.bias"].item() for level in range(4)] == [3, 2, 1, 0]
