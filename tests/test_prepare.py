"""What is done to a model for a device, and that the plain model knows nothing of it."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import registry
from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.ops.cpu.decoding import DrawsFiltered
from sam2core.ops.cpu.two_way import FoldedBlock
from sam2core.prepare import BLOCKS, prepare, unprepare
from sam2core.types import Label, Prompt
from tests.scores import threshold_between

ROOT = Path(__file__).parent.parent / "sam2core"
PLAIN = [ROOT / "model.py", *(file for room in ("backbones", "memory", "heads") for file in (ROOT / room).glob("*.py"))]
PLAIN += [ROOT / "ops" / "attention.py", ROOT / "ops" / "layers.py"]
DEVICES = re.compile(r"\b(cpus?|processors?|caches?|cuda|gpus?|mps|oneDNN|MKL|AMX)\b|\.type\b", re.IGNORECASE)


@pytest.mark.parametrize("file", PLAIN, ids=lambda file: str(file.relative_to(ROOT)))
def test_parts_and_model_read_without_a_word_about_a_device(file):
    found = [f"{number}: {line.strip()}" for number, line in enumerate(file.read_text().splitlines(), 1)]
    assert not [line for line in found if DEVICES.search(line)]
    imported = [node.module or "" for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if name.startswith(("sam2core.ops.cpu", "sam2core.ops.cuda"))]


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return registry.build("test_tiny", weights=False)


def classes(model: nn.Module) -> list[type]:
    return [type(part) for part in model.modules()]


def test_a_built_model_is_ready_and_one_call_undoes_it():
    model = tiny()
    names = {name for name, _ in model.named_parameters()}
    ready = [block for _, block in BLOCKS["cpu"] if any(issubclass(found, block) for found in classes(model))]
    assert ready == [block for _, block in BLOCKS["cpu"]]
    assert unprepare(model) is model and not [found for found in classes(model) if "plain_class" in vars(found)]
    assert {name for name, _ in model.named_parameters()} == names
    prepare(model, "meta")  # nothing is kept for it
    assert not [found for found in classes(model) if "plain_class" in vars(found)]


def test_what_was_put_in_place_survives_copies_and_pickles():
    model = tiny()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [found.__mro__ for found in classes(other)] == [found.__mro__ for found in classes(model)]
        for (name, mine), (_, theirs) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
            assert torch.equal(mine, theirs), name


@torch.inference_mode()
def test_ready_or_plain_a_model_gives_the_same_masks():
    model = tiny()
    features = model.encode(torch.randn(1, 3, 128, 128))
    points = 128 * torch.rand(5, 2, 2)
    prompt = Prompt(points, torch.tensor([[Label.POSITIVE, Label.NEGATIVE]] * 5, dtype=torch.int32))
    embedding = model.condition(features, None)
    limit = threshold_between(model.decode(features, embedding, prompt).iou)

    def answers():
        output = model.decode(features, embedding, prompt)
        kept = model.decode_filtered(features, embedding, prompt, lambda iou: iou > limit)
        return model.encode(torch.ones(1, 3, 128, 128)).embedding, output.masks, output.iou, kept.row, kept.logits

    ready = answers()
    unprepare(model)
    for found, expected in zip(ready, answers(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_class_that_writes_anew_what_a_block_stands_in_for_is_left_alone():
    class Louder(SamMaskDecoder):
        def forward(self, *arguments):
            return super().forward(*arguments)

    decoder = prepare(Louder(32, heads=2, hidden=16), "cpu")
    assert not isinstance(decoder, DrawsFiltered)
    assert isinstance(decoder.transformer.layers[0], FoldedBlock)
