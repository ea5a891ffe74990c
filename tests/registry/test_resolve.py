"""A name becomes a spec: of the zoo, a file, a mapping; what is none of these says what it was taken for."""

from __future__ import annotations

import pytest

import registry
from registry.errors import SpecError, UnknownName
from registry.plugins import current
from registry.resolve import find, load, looks_like_path


@pytest.mark.parametrize(
    ("name", "path"),
    [("sam2.1_hiera_l", False), ("mine", False), ("./mine", True), ("a/b", True), ("~x", True), ("x.YAML", True)]
    + [(f"x.{suffix}", True) for suffix in ("yml", "safetensors", "pt", "pth", "ckpt")],
)
def test_what_is_meant_as_a_file(name, path):
    assert looks_like_path(name) == path


def test_a_name_an_alias_a_file_a_mapping_and_a_spec_mean_the_same(tmp_path):
    zoo = current()
    spec = load("test_tiny")
    (tmp_path / "mine.yaml").write_text("extends: test_tiny\n")
    for name in (tmp_path / "mine.yaml", str(tmp_path / "mine.yaml"), {"extends": "test_tiny"}, spec):
        found = load(name)
        assert (found.backbone, found.dim) == (spec.backbone, spec.dim)
    for alias in zoo.specs.aliases():
        assert find(alias, zoo).name in zoo.specs.names(abstract=True)


def test_a_file_here_is_no_model_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("extends: test_tiny\n")
    with pytest.raises(UnknownName, match="write './mine'"):
        find("mine", current())
    with pytest.raises(UnknownName, match="did you mean 'test_tiny'"):
        find("test_tinny", current())
    with pytest.raises(UnknownName, match=r"neither a model nor a file(.|\n)*is a folder"):
        find("./", current())


@pytest.mark.parametrize(
    ("name", "words"),
    [({"name": ""}, "name is a word"), (3, "got int"), ("hub:a", "organisation/name"), ("hub:a/b@", "@revision")],
    ids=["no name", "number", "no organisation", "no revision"],
)
def test_what_names_no_model_is_refused(name, words):
    with pytest.raises(SpecError, match=words):
        registry.spec(name)


def test_weights_alone_do_not_say_which_model_they_are_for(tmp_path):
    (tmp_path / "w.pt").touch()
    with pytest.raises(SpecError, match="w.pt: a .pt carries no spec(.|\n)*sam2core convert"):
        find(tmp_path / "w.pt", current())
