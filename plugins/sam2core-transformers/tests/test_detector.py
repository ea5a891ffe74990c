"""Tiny random models as detectors: the contract, words and classes, and a folder that is cut out by one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sam2core_transformers.detector import PipelineDetector

from sam2core.testing import check


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    """A model of fixed classes in a folder, as the hub has them."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    place = tmp_path_factory.mktemp("yolos")
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 48],
        patch_size=16,
        num_detection_tokens=5,
        id2label={0: "cat", 1: "cup"},
        label2id={"cat": 0, "cup": 1},
    )
    YolosForObjectDetection(config).save_pretrained(place)
    YolosImageProcessor(size={"height": 32, "width": 48}).save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def worded(tmp_path_factory) -> str:
    """A model that looks for what a text says."""
    from transformers import (
        CLIPTokenizer,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        OwlViTProcessor,
    )

    place = tmp_path_factory.mktemp("owl")
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = OwlViTConfig(
        text_config={**small, **ends, "vocab_size": len(words), "max_position_embeddings": 16},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    OwlViTForObjectDetection(config).save_pretrained(place)
    tokenizer = CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=16)
    OwlViTProcessor(OwlViTImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(place)
    return str(place)


def test_the_contract(plain, worded):
    check("detector", PipelineDetector, options={"model": plain, "threshold": 0.0, "device": "cpu"})
    check("detector", PipelineDetector, options={"model": worded, "text": "red cup", "threshold": 0.0, "device": "cpu"})


def test_words_and_classes(plain, worded):
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    found = PipelineDetector(model=worded, text="red cup, dog", threshold=0.0, device="cpu").detect(
        picture, source="a.png", frame=0
    )
    assert set(found.labels) <= {"red cup", "dog"} and len(found.labels) > 0
    every = PipelineDetector(model=plain, threshold=0.0, device="cpu").detect(picture, source="a.png", frame=0)
    cups = PipelineDetector(model=plain, threshold=0.0, classes="cup", device="cpu").detect(
        picture, source="a.png", frame=0
    )
    assert len(cups.labels) == every.labels.count("cup") and len(every.labels) == 5
    with pytest.raises(ValueError, match="has no class 'dog'; it has cat, cup"):
        PipelineDetector(model=plain, classes="dog", device="cpu").detect(picture, source="a.png", frame=0)
    for options, complaint in (({"threshold": 2.0}, "from 0 to 1"), ({"text": "a", "classes": "b"}, "beside it")):
        with pytest.raises(ValueError, match=complaint):
            PipelineDetector(**options)


def test_a_folder_by_one_command(plain, tmp_path):
    from sam2core.cli import main

    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    words = ["segment", str(tmp_path / "photos"), "--detector", "transformers", "--detect", f"model={plain}"]
    words += ["--detect", "threshold=0", "--detect", "device=cpu", "-m", "test_tiny", "--weights", "none"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--image-size", "64", "-o", str(tmp_path / "out")], prog_name="sam2core")
    assert not ended.value.code
    masks = json.loads((tmp_path / "out" / "a.json").read_text())["masks"]
    assert masks and {mask["category"] for mask in masks} <= {"cat", "cup"} and "score" in masks[0]
