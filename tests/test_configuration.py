"""One dialect of YAML for specs, recipes and what is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

import registry
from sam2core.cli.train_data import read_recipe
from sam2core.configuration import ConfigurationError, parse

SCALARS = {
    "010": "010",
    "on": "on",
    "yes": "yes",
    "1_000": "1_000",
    "1:30": "1:30",
    "2020-01-02": "2020-01-02",
    "1e-4": 1e-4,
    "true": True,
    "~": None,
    "-3": -3,
    "0x10": "0x10",
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_word_means_one_thing_everywhere(tmp_path: Path, text: str) -> None:
    wanted = SCALARS[text]
    (tmp_path / "spec.yaml").write_text(f"extends: test_tiny\nmemory_policy: {{a: {text}}}\n")
    (tmp_path / "recipe.yaml").write_text(f"a: {text}\n")
    recipe = str(tmp_path / "recipe.yaml")
    found = [
        registry.spec(tmp_path / "spec.yaml").memory_policy["a"],
        registry.spec("test_tiny", f"memory_policy.a={text}").memory_policy["a"],
        read_recipe(recipe)["a"],
        read_recipe(recipe, (f"b={text}",))["b"],
    ]
    assert [(type(value), value) for value in found] == [(type(wanted), wanted)] * 4


def test_recipes_may_repeat_a_value_by_its_name_and_specs_may_not() -> None:
    text = "a: &x {b: 1}\nc: {<<: *x, d: 2}\n"
    assert parse(text, "r", aliases=True) == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    with pytest.raises(ConfigurationError, match="not used in specs"):
        parse(text, "s")


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
        "a: &a [*a, *a, *a]\n",
        "x: [" + "1, " * 200_000 + "1]",
        "x: " + "a" * 20_000,
        "x: " + "a" * 2_000_000,
        "x: ${oc.env:HOME}",
        "x: " + "[" * 30 + "]" * 30,
        "[" * 5000,
        "x: !!python/object/apply:os.system [ls]",
        "x: !!timestamp 2020-99-99",
        "x: !!int y",
        "x: !!float [1]",
        "? [1, 2]\n: 3",
        "x: \x00",
        "%YAML 9.9\n---\n",
    ],
    ids=lambda text: text[:20],
)
def test_what_is_refused_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="^r.yaml: "):
        parse(text, "r.yaml", aliases=True)


def test_a_recipe_cannot_ask_for_interpolation(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("a: ${oc.env:HOME}\n")
    with pytest.raises(ValueError, match=r"r.yaml: a: .*interpolation"):
        read_recipe(str(tmp_path / "r.yaml"))
