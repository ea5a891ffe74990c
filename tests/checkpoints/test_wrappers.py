"""What trainers put around a model's tensors is taken off, and told."""

from __future__ import annotations

import logging

import pytest
import torch

from sam2core.checkpoints import files
from sam2core.checkpoints.files import FileError
from sam2core.checkpoints.wrappers import KEYS, PREFIXES, is_wrapped, state_of, without_prefixes


@pytest.fixture
def state():
    return {"a.weight": torch.rand(3, 4), "b": torch.arange(5), "c": torch.tensor(1.5).half()}


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_bare_and_training_checkpoints_are_read(tmp_path, state):
    torch.save(state, tmp_path / "bare.pt")
    torch.save(
        {"model": state, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, tmp_path / "train.pt"
    )
    torch.save({"model": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("bare.pt", "train.pt", "old.pt"):
        assert same(files.read(tmp_path / name)[0], state)


@pytest.mark.parametrize("key", KEYS)
def test_a_state_dict_is_found_under_a_trainers_key_and_that_is_told(state, key, caplog):
    caplog.set_level(logging.WARNING)
    assert same(state_of({key: state, "epoch": 3}, "w.pt"), state)
    assert ("w.pt" in caplog.text) == (key != "model")
    assert same(state_of({"state_dict": {key: state}}, "w.pt"), state)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "holds a list"),
        ({"epoch": 3}, "epoch is no tensor"),
        ({}, "it is empty"),
        ({"model": {"a": 1}}, "'model'"),
    ],
    ids=["list", "no state", "empty", "no tensors"],
)
def test_what_is_no_state_dict_says_what_it_is(content, words):
    with pytest.raises(FileError, match=f"w.pt.*{words}"):
        state_of(content, "w.pt")


@pytest.mark.parametrize("prefix", [*PREFIXES, "module._orig_mod.", "_orig_mod.module."])
def test_words_of_wrappers_are_taken_off_and_told(state, prefix, caplog):
    caplog.set_level(logging.WARNING)
    wrapped = {prefix + name: value for name, value in state.items()}
    assert same(without_prefixes(wrapped, "w.pt"), state) and "w.pt" in caplog.text
    caplog.clear()
    assert same(without_prefixes(state, "w.pt"), state) and not caplog.text
    some = {**state, f"{prefix}x": torch.ones(1)} if prefix in PREFIXES and prefix != "_orig_mod." else state
    assert without_prefixes(some, "w.pt").keys() == some.keys(), "a word before some of the names is theirs"


def test_words_inside_names_are_of_wrapped_parts(state):
    wrapped = {f"trunk._orig_mod.{name}": value for name, value in state.items()}
    assert is_wrapped(wrapped) and not is_wrapped(state)
    assert without_prefixes(wrapped, "w.pt").keys() == {f"trunk.{name}" for name in state}


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(FileError, match="two tensors would have one name"):
        without_prefixes({"a._orig_mod.b": torch.ones(1), "a.b": torch.ones(1)}, "w.pt")
