"""SIGTERM at random moments: what follows is, byte for byte, what an unbroken run leaves."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

TURNS = range(1)
"""Each is a run that is stopped several times, at moments of its own."""
MOMENTS = 2
TINY = ("-m", "test_tiny", "--device", "cpu", "--image-size", "64")
FIND = ("--points", "2", "--iou", "0", "--stability", "0")
RECIPE = """
model: test_tiny
sources:
  - {path: ., reader: label_folder, options: {instances: true}}
stages:
  - {name: clips, steps: 8, size: 64, frames: 2, batch: 1, objects: 1, prompts: {mask: 0.5, corrections: 1}}
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Images, a video as frames and as a film, a labelled data set, a recipe, weights."""
    import registry
    from sam2core.checkpoints import files
    from sam2core.media.render import VideoWriter

    place = tmp_path_factory.mktemp("material")
    torch.manual_seed(0)
    files.write(place / "w.safetensors", registry.build("test_tiny", weights=False).state_dict())
    frames = []
    for number in range(8):
        frame = np.random.default_rng(number).integers(0, 90, (48, 64, 3), dtype=np.uint8)
        frame[10:26, 8 + 3 * number : 24 + 3 * number] = (250, 220, 40)
        frames.append(frame)
        save(place / "pictures" / f"{number}.png", frame)
    with VideoWriter(place / "clip.mp4", (48, 64)) as film:
        for frame in frames:
            film.write(frame)
    ids = np.zeros((48, 64), np.uint8)
    ids[10:26, 8:24] = 1
    for video in "abc":
        for number in range(4):
            save(place / "mose" / "JPEGImages" / video / f"{number:05d}.jpg", frames[number])
            save(place / "mose" / "Annotations" / video / f"{number:05d}.png", ids)
    for number in range(2):
        save(place / "train" / "images" / f"{number}.png", frames[number])
        save(place / "train" / "labels" / f"{number}.png", ids)
    (place / "train" / "recipe.yaml").write_text(RECIPE)
    return place


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def lines(material: Path) -> dict[str, tuple[list, list[str]]]:
    """What is run -> its words, and those that make it go on."""
    weights = ["--weights", material / "w.safetensors"]
    tiny = [*TINY, *weights]
    train = ["train", "--recipe", material / "train" / "recipe.yaml", "--data", material / "train", "--workers", "0"]
    return {
        "track": (["track", material / "clip.mp4", "-p", "0:14,16", *tiny], ["--resume"]),
        "both ways": (
            ["track", material / "pictures", "-p", "3:24,16", "--direction", "both", *tiny, "--write", "masks,rle"],
            ["--resume"],
        ),
        "pictures": (["automask", material / "pictures", *FIND, *tiny], []),
        "clip": (["automask", material / "clip.mp4", "--every", "3", *FIND, *tiny], ["--resume"]),
        "train": ([*train, "--save", "2", "--device", "cpu"], []),
        "vos": (["evaluate", "vos", material / "mose", "--no-score", *TINY[:4], *weights], ["--resume"]),
    }


def content(folder: Path) -> dict[str, bytes | dict]:
    """Every file, without the seconds that some tell of and what is kept of the codec's state."""
    found: dict[str, bytes | dict] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("overlay.mp4", "losses.png", "metrics.csv") or "pack" in path.parts or path.is_dir():
            found[name] = b""
        elif path.name == "manifest.json":
            found[name] = json.loads(path.read_text())
            for record in found[name]["done"].values():
                del record["seconds"]
        elif path.suffix == ".pt":
            found[name] = b"".join(_bytes(torch.load(path, weights_only=True)))
        else:
            found[name] = path.read_bytes()
    return found


def _bytes(tree):
    """The tensors and numbers of a checkpoint, in order: the file's own bytes hold its temporary name."""
    if isinstance(tree, dict):
        for key in tree:
            yield from _bytes(tree[key])
    elif isinstance(tree, list | tuple):
        for each in tree:
            yield from _bytes(each)
    else:
        yield tree.numpy().tobytes() if isinstance(tree, torch.Tensor) else repr(tree).encode()


class Stopper:
    """Sends this process a SIGTERM after a while, unless the block is over by then."""

    def __init__(self, seconds: float) -> None:
        self.timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGTERM, lambda *_: None)  # what comes too late
        self.timer.start()

    def __exit__(self, *_) -> None:
        self.timer.cancel()
        self.timer.join()
        signal.signal(signal.SIGTERM, self.before)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("what", ["track", "both ways", "pictures", "clip", "train", "vos"])
def test_stopped_at_random_and_gone_on(run, material, tmp_path, what, turn):
    if "clip.mp4" in str(lines(material)[what]):
        pytest.importorskip("av", reason="films are an extra")
    words, again = lines(material)[what]
    out = tmp_path / "whole"
    begun = time.monotonic()
    assert run(*words, "-o", out).code == 0
    seconds = time.monotonic() - begun
    draws = np.random.default_rng([turn, len(what)])
    parts, codes = tmp_path / "parts", []
    for _ in range(MOMENTS):
        going_on = again if _holds(parts) else []
        with Stopper(float(draws.uniform(0.05, 0.6)) * seconds):
            ended = run(*words, "-o", parts, *going_on)
        codes.append(ended.code)
        assert ended.code in (0, 143) and "Traceback" not in ended.err, ended.err
        if ended.code == 0:
            break
    if codes[-1]:
        ended = run(*words, "-o", parts, *(again if _holds(parts) else []))
        assert ended.code == 0, ended.err
    assert content(parts) == content(out), codes


def _holds(folder: Path) -> bool:
    """Whether a run has begun in a folder."""
    return any((folder / name).exists() for name in ("run.json", "manifest.json"))
