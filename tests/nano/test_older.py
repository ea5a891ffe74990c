"""Specs that were written before the small model's parts were parts are read as what they mean."""

from __future__ import annotations

import pytest

import registry
from registry.errors import SpecError

WRITTEN = {
    "extends": "test_tiny",
    "prompt_encoder": {"draw": True},
    "mask_decoder": {"type": "guided", "heads": 4, "hidden": 64},
    "carry_mask": True,
}


def test_older_keys_name_the_parts_of_today():
    spec = registry.spec(WRITTEN)
    assert (spec.prompt_encoder, spec.mask_decoder["type"]) == ({"type": "drawn"}, "guided")
    assert spec.memory_policy == {**registry.spec("test_tiny").memory_policy, "type": "carried_mask"}
    plain = registry.spec({"extends": "test_tiny", "prompt_encoder": {"draw": False}, "carry_mask": False})
    assert plain.prompt_encoder == {"type": "sam"} and plain.memory_policy["type"] == "recent"


def test_an_older_key_that_cannot_be_read_says_so():
    with pytest.raises(SpecError, match="carry_mask is an older word for the memory policy 'carried_mask'"):
        registry.spec({**WRITTEN, "memory_policy": {"type": "acme.steady"}})
