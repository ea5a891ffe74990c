"""Where weights are: in the package, at a path, or nowhere, which says what to do."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import registry
from registry.errors import WeightsError
from registry.places import locate, read_spec, source
from registry.spec import WeightsSpec
from sam2core.checkpoints import files


def with_weights(**fields):
    spec = registry.spec("test_tiny")
    return dataclasses.replace(spec, weights=WeightsSpec(**fields) if fields else None)


def test_the_package_brings_weights():
    path = locate(registry.spec("sam2core_nano"), offline=True)
    assert path.is_file() and read_spec(path)["name"] == "sam2core_nano"


def test_a_path_is_taken_as_it_stands(tmp_path):
    path = tmp_path / "w.pt"
    with pytest.raises(WeightsError, match=r"test_tiny are not at .*w\.pt.*\n.*weights=False"):
        locate(with_weights(file=str(path)))
    path.touch()
    assert locate(with_weights(file=str(path))) == path


def test_a_spec_without_weights_says_what_to_pass():
    with pytest.raises(WeightsError, match="test_tiny names no weights"):
        locate(with_weights())


def test_what_is_not_in_the_cache_is_told_with_three_ways_on(tmp_path):
    spec = with_weights(file="w.pt", url="https://example.org/w.pt", size=9)
    with pytest.raises(WeightsError, match="no weights for test_tiny") as error:
        locate(spec, cache_dir=tmp_path, offline=True)
    assert all(
        words in str(error.value) for words in ("https://example.org/w.pt", "sam2core download", "weights=False")
    )


def test_another_revision_is_not_checked_against_this_ones_sum():
    spec = with_weights(file="w.pt", repo="a/b", revision="main", size=9, sha256="0" * 64)
    assert (source(spec).size, source(spec).sha256) == (9, "0" * 64)
    other = source(spec, revision="v2")
    assert (other.repo, other.revision, other.size, other.sha256) == ("a/b", "v2", None, None)


def test_a_file_without_a_spec_says_how_to_give_one(tmp_path):
    path = files.write(tmp_path / "w.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(WeightsError, match="w.safetensors carries no spec.*\n.*\n.*sam2core convert"):
        read_spec(path)
    with pytest.raises(WeightsError, match="gone.safetensors"):
        read_spec(tmp_path / "gone.safetensors")
