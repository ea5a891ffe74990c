"""The commands of the README and the guides, all of them, one after the other in one folder, on the smallest model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.conftest import _fresh, run  # noqa: F401  the program, in this process
from tests.documents import ROOT, blocks

SAMPLES = ROOT / "registry" / "samples"
ELSEWHERE = {
    "serve": "its tests are those of its package",
    "download": "there is no network",
    "--camera": "there is none",
    "huggingface": "the smallest model has other widths than transformers allows",
    "--like": "a mask of the smallest model may be empty; tests/cli/test_many.py has it",
    "--record": "the official weights are not here",
    "--against": "the official weights are not here",
    "cuda": "there is none",
    "--also": "slower methods, of an extra",
    "doctor": "it takes a quarter of a minute, and has tests of its own",
}
"""What a command says -> why it is not run here."""
SMALL = {
    "segment": ["--image-size", "64"],
    "automask": ["--image-size", "64", "--points", "2"],
    "track": ["--image-size", "64"],
    "clicks": ["--image-size", "64", "--objects", "1", "--no-baselines"],
    "vos": ["--image-size", "64"],
}
"""The verbs that take a model -> what makes them quick."""


def commands() -> list[tuple[str, list[str]]]:
    """(document, words) of every command of this program in README and the guides, in order."""
    found = []
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if document.name in ("commands.md", "tutorial.md"):  # made from the commands themselves; has a test below
            continue
        for block in blocks(document.read_text(encoding="utf-8"), "sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.partition("#")[0].split("&&"):
                    words = shlex.split(part)
                    if words and words[0].rpartition("/")[2] == "sam2core":
                        found.append((document.name, words[1:]))
    return found


def small(words: list[str]) -> list[str]:
    """The same command with the smallest model in the place of any other."""
    verb = next((word for word in words[:2] if word in SMALL), None)
    if verb is None:
        return words
    words = list(words)
    if "--model" in words:
        at = words.index("--model")
        if words[at + 1].endswith(".safetensors"):
            return [*words, *SMALL[verb]]
        del words[at : at + 2]
    if "--workers" in words:
        words[words.index("--workers") + 1] = "1"
    # the smallest model has codes for fewer slots
    told = [before != "--detect" and "=" in word for before, word in zip(["", *words], words)]
    pairs = [word.replace("frames=3", "frames=2") for word, pair in zip(words, told) if pair]
    words = [word for word, pair in zip(words, told) if not pair]
    more = SMALL[verb] if "--points" not in words else SMALL[verb][:2]
    return [*words, *more, "-m", "test_tiny", "--weights", "none", *pairs]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder that holds what the guides speak of, small."""
    import registry
    from sam2core.checkpoints import facebook, files
    from sam2core.media.render import VideoWriter

    monkeypatch.chdir(tmp_path)
    (tmp_path / "registry").mkdir()
    shutil.copytree(SAMPLES, tmp_path / "registry" / "samples")
    shutil.copy(SAMPLES / "coffee.jpg", tmp_path)
    colors = np.random.default_rng(0).integers(0, 255, (4, 360, 540, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "chair.mp4", (360, 540)) as film:
        for frame in colors:
            film.write(frame)
    (tmp_path / "boxes.json").write_text('{"0.png": [[10, 10, 60, 50]], "1.png": [[5, 5, 40, 40]]}')
    said = [
        {"file": "frames", "box": [80, 60, 300, 200]},
        {"file": "chair.mp4", "box": [80, 60, 300, 200], "object": "it"},
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, said)))
    ids = np.zeros((360, 540), np.uint8)
    ids[60:200, 80:300] = 1
    save(tmp_path / "scan.tif", colors[0])
    save(tmp_path / "dog.png", ids * 255)
    for number in range(2):
        save(tmp_path / "photos" / f"{number}.png", colors[number, :60, :80])
        save(tmp_path / "frames" / f"{number}.png", colors[number])
        save(tmp_path / "ROOT" / "images" / f"{number}.png", colors[number, :60, :80])
        save(tmp_path / "ROOT" / "labels" / f"{number}.png", ids[50:110, 60:140])
    for number in range(4):
        for name in ("DAVIS", "MOSE"):
            save(tmp_path / name / "JPEGImages" / "a" / f"{number:05d}.jpg", colors[number, :60, :80])
            save(tmp_path / name / "Annotations" / "a" / f"{number:05d}.png", ids[50:110, 60:140])
        save(tmp_path / "sav_val" / "JPEGImages_24fps" / "a" / f"{number:05d}.jpg", colors[number, :60, :80])
        save(tmp_path / "sav_val" / "Annotations_6fps" / "a" / "000" / f"{number:05d}.png", ids[50:110, 60:140])
    (tmp_path / "DAVIS" / "ImageSets").mkdir()
    (tmp_path / "DAVIS" / "ImageSets" / "val.txt").write_text("a\n")
    state = registry.build("test_tiny", weights=False).state_dict()
    files.write(tmp_path / "model.safetensors", state)
    files.write_pt(tmp_path / "sam2.1_hiera_tiny.pt", facebook.FACEBOOK.inverse(state))
    return tmp_path


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_the_commands_of_the_guides_one_after_the_other(run, place):  # noqa: F811
    pytest.importorskip("av", reason="videos are an extra")
    pytest.importorskip("tifffile", reason="tiles of TIFFs are an extra")
    done = 0
    for document, words in commands():
        if any(mark in words or mark in " ".join(words).split() for mark in ELSEWHERE):
            continue
        ended = run(*small(words))
        assert ended.code == 0, f"{document}: sam2core {' '.join(words)}\n{ended.err}"
        done += 1
    assert done > 20 and (place / "out" / "coffee.json").exists() and (place / "out" / "coffee.automask.json").exists()


FEW = {"segment": ["--image-size", "64"], "clicks": ["--image-size", "64"]}
"""The verbs of the tutorial -> what makes them quick; beside it training takes the smallest steps, see QUICK."""


def test_the_tutorial_runs_from_its_first_line_to_its_last(run, tmp_path, monkeypatch):  # noqa: F811
    """Every command in an empty folder, on two images of the tutorial's own script."""
    monkeypatch.chdir(tmp_path)
    done = []
    for block in blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), "sh"):
        for line in block.splitlines():
            words = shlex.split(line)
            if words[0] == "python":
                subprocess.run([sys.executable, ROOT / words[1], *words[2:], "2"], check=True)
                continue
            verb = next(word for word in words[1:3] if word in (*FEW, "convert", "check", "train"))
            verb = words[2] if words[2] in ("check", "clicks", "convert") else verb
            extra = {"check": QUICK["check"], "train": TUTORIAL_STEPS}.get(verb, FEW.get(verb, []))
            words = ["1" if word == "2" and words[at - 1] == "--last" else word for at, word in enumerate(words)]
            words = [word.replace("leaves/9.png", "leaves/1.png") for word in words]
            ended = run(*words[1:], *extra)
            assert ended.code == 0, f"{line}\n{ended.err}"
            done.append(verb)
    assert done == ["segment", "convert", "check", "clicks", "train", "clicks", "segment"]
    assert sorted(path.name for path in Path("dataset/labels").iterdir()) == ["0.png", "1.png"]
    assert np.asarray(Image.open("dataset/labels/0.png")).max() == 3
    assert Path("run/weights.safetensors").exists() and Path("found/1.overlay.png").exists()


QUICK = {
    "clicks": ["--last", "4", "--objects", "1", "--image-size", "64"],
    "train": [
        "--workers",
        "0",
        "stages.0.steps=1",
        "stages.0.size=64",
        "stages.0.batch=1",
        "sources.0.options.holdout=4",
        "side=64",
    ],
    "check": ["side=64"],
}
"""The verbs of the page on fine-tuning -> what makes them quick; what comes last counts."""
TUTORIAL_STEPS = [word.replace("holdout=4", "holdout=1") for word in QUICK["train"]]


def test_the_page_on_fine_tuning_runs_on_the_sample(run, tmp_path, monkeypatch):  # noqa: F811
    """From its first line in an empty folder: the nuclei are made, looked at, clicked on, trained on, clicked on."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    assert "`sam2core data sample nuclei` makes a folder" in text
    assert run("data", "sample", "nuclei").code == 0
    done = []
    for language, block in re.findall(r"^```([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in [] if language else block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["sam2core"] or "nuclei" not in words:
                continue
            verb = next(word for word in words[3::-1] if word in QUICK)
            if "optim.name=muon" in words and not hasattr(torch.optim, "Muon"):
                words = [word for word in words if not word.startswith("optim.")]
            ended = run(*words[1:], *QUICK[verb])
            assert ended.code == 0, f"{line}\n{ended.err}"
            done.append(verb)
    assert done == ["check", "clicks", "train", "clicks"]
    assert (tmp_path / "samples.png").exists() and (tmp_path / "nuclei-run" / "weights.safetensors").exists()
