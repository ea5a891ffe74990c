"""What somebody reads at a command line can be typed there: no message asks for Python."""

from __future__ import annotations

import re

import pytest

from sam2core.cli.wording import in_options
from tests.cli.conftest import _fresh, run  # noqa: F401

PYTHON = re.compile(r"registry\.|weights=|=True|=False")


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        (
            "pass weights=False for a fresh one, or weights='file'",
            "pass --weights none for a fresh one, or --weights FILE",
        ),
        (
            "name the model and pass the file: registry.build('sam2.1_hiera_l', weights='a b.pt')",
            "name the model and pass the file: --model sam2.1_hiera_l --weights 'a b.pt'",
        ),
        ("copy it here and pass weights='path/to/a.pt'", "copy it here and pass --weights path/to/a.pt"),
        ("choose one with annotations=; there are a, b", "choose one with --option annotations=; there are a, b"),
        ("say where with images=", "say where with --option images="),
        ("predictors.image.mask_threshold=0.5", "predictors.image.mask_threshold=0.5"),
    ],
)
def test_keywords_are_options(said, typed):
    assert in_options(said) == typed


@pytest.mark.parametrize(
    "words",
    [
        ("segment", "a.png", "-p", "1,1", "-m", "test_tiny"),
        ("segment", "a.png", "-p", "1,1", "-m", "weights.safetensors"),
        ("automask", "a.png", "-m", "test_tiny"),
    ],
)
def test_what_cannot_be_built_is_told_in_options(run, tmp_path, monkeypatch, words):  # noqa: F811
    from PIL import Image
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    save_file({}, "weights.safetensors")
    ended = run(*words)
    assert ended.code == 1 and not PYTHON.search(ended.err), ended.err
