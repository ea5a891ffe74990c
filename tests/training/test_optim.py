"""Parameter groups, schedules and averages."""

from __future__ import annotations

import pytest
import torch

import registry
from sam2core.training.optim import (
    Average,
    Optim,
    OptimiserGroup,
    Rule,
    freeze,
    learning_rate,
    optimiser,
    parameter_groups,
)


def by_parameter(model, optim: Optim) -> dict[str, tuple[float, float]]:
    """Each trained parameter's weight decay and multiplier."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["weight_decay"], group["multiplier"])
        for group in parameter_groups(model, optim)
        for parameter in group["params"]
    }


def test_the_schedule_warms_up_and_ends_at_the_floor():
    optim = Optim(lr=1.0, floor=0.1, warmup=4)
    rates = [learning_rate(step, 20, optim) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[20] == pytest.approx(0.1) and rates[12] == pytest.approx(0.55)
    assert learning_rate(19, 20, Optim(lr=2.0, warmup=0, schedule="constant")) == 2.0
    with pytest.raises(ValueError, match="optim.schedule is one of cosine, constant, not 'linear'"):
        Optim(schedule="linear")


def test_freezing_by_part_and_by_pattern_names_what_matches_nothing():
    model = registry.build("test_tiny", weights=False)
    with pytest.raises(ValueError, match="no parameter matches 'trunk'; parts are backbone"):
        freeze(model, ["trunk"])
    freeze(model, ["backbone.", "*.norm?.bias"])
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not model.memory_attention.layers[0].norm1.bias.requires_grad
    assert model.memory_attention.layers[0].norm1.weight.requires_grad
    trained = by_parameter(model, Optim())
    assert set(trained) == {name for name, p in model.named_parameters() if p.requires_grad}
    freeze(model, [""])
    with pytest.raises(ValueError, match="nothing is left"):
        parameter_groups(model, Optim())


def test_weight_decay_spares_what_it_should():
    model = registry.build("test_tiny", weights=False)
    ours = by_parameter(model, Optim(weight_decay=0.1))
    assert ours["backbone.blocks.0.attn.qkv.weight"][0] == 0.1
    for name in ("backbone.pos_embed", "mask_decoder.mask_tokens.weight", "memory_encoder.mask_stem.1.weight"):
        assert ours[name][0] == 0.0
    theirs = by_parameter(model, Optim(weight_decay=0.1, decay="upstream"))
    for name in ("backbone.pos_embed", "mask_decoder.mask_tokens.weight", "memory_encoder.mask_stem.1.weight"):
        assert theirs[name][0] == 0.1
    assert theirs["memory_encoder.mask_stem.1.bias"][0] == theirs["backbone.blocks.0.norm1.weight"][0] == 0.0


def test_layers_and_rules_have_rates_of_their_own():
    model = registry.build("test_tiny", weights=False)  # five blocks
    rules = (Rule("backbone.*", lr=0.5), Rule("*.qkv.bias", weight_decay=0.3))
    found = by_parameter(model, Optim(layer_decay=0.9, rules=rules))
    assert found["backbone.blocks.4.mlp.layers.0.weight"][1] == pytest.approx(0.5 * 0.9)
    assert found["backbone.blocks.0.mlp.layers.0.weight"][1] == pytest.approx(0.5 * 0.9**5)
    assert found["backbone.patch_embed.proj.weight"][1] == pytest.approx(0.5 * 0.9**6)
    assert found["backbone.pos_embed"][1] == 0.5 and found["neck.lateral.0.weight"][1] == 1.0
    assert found["backbone.blocks.2.attn.qkv.bias"][0] == 0.3
    with pytest.raises(ValueError, match="optim.rules: no parameter matches 'trunk.*'"):
        parameter_groups(model, Optim(rules=(Rule("trunk.*"),)))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon needs torch 2.9 or newer")
def test_muon_moves_the_matrices_of_layers_and_adamw_all_else():
    model = registry.build("test_tiny", weights=False)
    optim = Optim(name="muon", warmup=0, rules=(Rule("memory_", lr=2.0),))
    update = optimiser(model, optim)
    assert isinstance(update, OptimiserGroup)
    plain, matrices = update.members
    assert isinstance(plain, torch.optim.AdamW) and isinstance(matrices, torch.optim.Muon)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by = [{names[id(p)] for group in member.param_groups for p in group["params"]} for member in update.members]
    assert by[0] | by[1] == set(names.values()) and not by[0] & by[1]
    assert "backbone.blocks.2.attn.qkv.weight" in by[1] and "memory_attention.layers.0.linear1.weight" in by[1]
    for name in ("backbone.patch_embed.proj.weight", "mask_decoder.mask_tokens.weight", "backbone.pos_embed"):
        assert name in by[0]
    assert all(name.endswith(".weight") for name in by[1]) and "mask_decoder.iou_head.layers.2.weight" in by[0]
    assert {group["multiplier"] for group in matrices.param_groups} == {1.0, 2.0}

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for group in update.param_groups:
        group["lr"] = 1e-3
    update.step()
    step = before["memory_attention.layers.0.linear1.weight"] * (1 - 1e-3 * optim.weight_decay)
    step = step - dict(model.named_parameters())["memory_attention.layers.0.linear1.weight"].detach()
    kept = torch.linalg.svdvals(step)  # of an orthogonalised step all singular values are much the same
    assert kept.min() > 0.5 * kept.max() and step.square().mean().sqrt().item() == pytest.approx(2e-4, rel=0.2)
    assert len(update.state) == len(names)


def test_an_optimiser_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(ValueError, match="optim.name is one of adamw, muon, not 'sgd'"):
        Optim(name="sgd")
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match="optim.name 'muon' needs torch 2.9 or newer, this is"):
        optimiser(registry.build("test_tiny", weights=False), Optim(name="muon"))


def test_the_average_follows_closely_at_first_and_without_decay_exactly():
    model = torch.nn.Linear(1, 1, bias=False)
    average, copy = Average(model, 0.9), Average(model, 0.0)
    with torch.no_grad():
        for value in (1.0, 2.0, 3.0):
            model.weight.fill_(value)
            average.update(model)
            copy.update(model)
    assert copy.weights["weight"].item() == 3.0 and 2.5 < average.weights["weight"].item() < 3.0
    other = Average(model, 0.9)
    other.load(average.state())
    assert other.count == 3 and torch.equal(other.weights["weight"], average.weights["weight"])
