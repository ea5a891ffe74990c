"""One program written for Meta's `sam2`, run on it and on the package of that name in `plugins/sam2core-compat`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity import oracle, scripts
from tests.parity.whose import need_upstream

need_upstream()

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = ROOT / "plugins" / "sam2core-compat"
SEEDS = int(os.environ.get("SAM2CORE_PARITY_SEEDS", "4"))
"""How many random flows of each kind; set the variable for a longer search."""
TOLERANCE = 1e-3

# The released architecture with a small trunk, two layers of attention and small images, said in Hydra's notation.
SMALL = {
    "image_size": 256,
    "image_encoder.trunk.embed_dim": 16,
    "image_encoder.trunk.stages": [1, 2, 3, 1],
    "image_encoder.trunk.global_att_blocks": [4],
    "image_encoder.neck.backbone_channel_list": [128, 64, 32, 16],
    "memory_attention.num_layers": 2,
    "memory_attention.layer.self_attention.feat_sizes": [16, 16],
    "memory_attention.layer.cross_attention.feat_sizes": [16, 16],
}
OVERRIDES = [f"++model.{key}={str(value).replace(' ', '')}" for key, value in SMALL.items()]
SHAPE = oracle.Shape(
    16, 1, (1, 2, 3, 1), (8, 4, 14, 7), (4,), (7, 7), image=256, dim=256, memory_dim=64, attention_layers=2
)


def checkpoint(shape: oracle.Shape, path: Path) -> Path:
    """Random weights in Meta's layout, with which objects are absent now and then."""
    model = oracle.upstream(shape, video=True)
    oracle.randomise(model, 11)
    scripts.balance(model, scripts.Settings(shape.family, shape.image, weights=1), absent=0.25)
    torch.save({"model": model.state_dict()}, path)
    return path


def run(program: Path, first: list[Path], out: Path, *arguments: str) -> dict[str, np.ndarray]:
    """Everything the program saved, run by a process of its own with these folders first on its path."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, first)), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, str(program), *arguments], env=environment, cwd=out.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(out) as file:
        return dict(file)


def both(folder: Path, weights: Path, *arguments: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the program got from Meta's package and from ours."""
    theirs, ours = folder / "theirs.npz", folder / "ours.npz"
    found = [
        run(HERE / program, path, out, str(weights), str(folder / out.stem), str(out), *arguments)
        for program, path, out in (
            ("compat_meta.py", [], theirs),
            ("compat_program.py", [OURS, ROOT], ours),
        )
    ]
    return found[0], found[1]


def sessions(saved: dict[str, np.ndarray]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Flow and seed -> what it saved, in order."""
    found: dict[str, list[tuple[str, np.ndarray]]] = {}
    for key in sorted(saved, key=lambda key: int(key.split(" ")[2])):
        flow, seed, _, name = key.split(" ", 3)
        found.setdefault(f"{flow} {seed}", []).append((name, saved[key]))
    return found


def difference(name: str, mine: np.ndarray, theirs: np.ndarray) -> float:
    """How far apart, relative to the spread; the share of different pixels for masks."""
    assert mine.shape == theirs.shape, f"{name}: shape {mine.shape} instead of {theirs.shape}"
    assert mine.dtype == theirs.dtype, f"{name}: {mine.dtype} instead of {theirs.dtype}"
    if theirs.size == 0:
        return 0.0
    if name in ("masks", "record mask"):
        return float((mine != theirs).mean())
    if name == "video" and len(theirs) > 1:
        mine = _same_owners(mine, theirs)
    real = theirs > -1000  # the mark of an absent object is compared as such
    assert name == "state pred_masks" or np.array_equal(real, mine > -1000), f"{name}: other objects are absent"
    spread = float(np.abs(theirs[real]).max()) if real.any() else 1.0
    return float(np.abs(mine.astype(np.float64) - theirs)[real].max() / max(spread, 1e-6)) if real.any() else 0.0


def _same_owners(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Ours, with Meta's values in the few pixels that two objects claim with equal logits and one of them gets."""
    tops = mine.max(axis=0, keepdims=True), theirs.max(axis=0, keepdims=True)
    equal = np.abs(tops[0] - tops[1]) <= TOLERANCE * np.abs(theirs).max()
    other = equal & (mine.argmax(axis=0) != theirs.argmax(axis=0))[None]
    assert other.mean() <= 1e-3, f"{other.sum()} pixels have another owner"
    return np.where(other, theirs, mine)


def compare(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of every kind of value; fails where the two part."""
    worst: dict[str, float] = {}
    mine = sessions(ours)
    for session, saved in sessions(theirs).items():
        for place, (name, value) in enumerate(saved):
            if name == "stopped":  # Meta's sam2 fails here; what ours does then is tested where it lives
                break
            assert place < len(mine[session]), f"{session}: ours ends at {place}, before {name}"
            own_name, own = mine[session][place]
            assert own_name == name, f"{session}: at {place} ours saved {own_name}, upstream {name}"
            found = difference(f"{name}", own, value)
            limit = 0.01 if name in ("state maskmem_features", "masks", "record mask") else TOLERANCE
            assert found <= limit, f"{session}: {name} at {place} differs by {found:.2e}"
            key = f"{session.split(' ')[0]} {name}"
            worst[key] = max(worst.get(key, 0.0), found)
    return worst


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return checkpoint(SHAPE, tmp_path_factory.mktemp("weights") / "small.pt")


def test_one_program_gets_the_same_from_both(tmp_path, weights):
    seeds = [str(seed) for seed in range(SEEDS)]
    arguments = [*seeds, *(f"--override={text}" for text in OVERRIDES)]
    theirs, ours = both(tmp_path, weights, *arguments)
    worst = compare(theirs, ours)
    print("\n" + "\n".join(f"{name:35} {value:.2e}" for name, value in sorted(worst.items())))
    kinds = {name.split(" ", 1)[0] for name in worst}
    assert kinds == {"images", "automatic", "video"}


@pytest.mark.skipif(
    "SAM2CORE_PARITY_RELEASED" not in os.environ, reason="two minutes; set SAM2CORE_PARITY_RELEASED to run it"
)
def test_the_released_size(tmp_path):
    """The tiny model as released, at 1024 pixels, 2.1."""
    shape = oracle.SHAPES["t"].at(image=1024)
    model = oracle.randomise(oracle.upstream(shape, video=True), 3)
    torch.save({"model": model.state_dict()}, tmp_path / "t.pt")
    del model
    worst = compare(*both(tmp_path, tmp_path / "t.pt", "4", "--config", "configs/sam2.1/sam2.1_hiera_t.yaml"))
    print("\n" + "\n".join(f"{name:35} {value:.2e}" for name, value in sorted(worst.items())))
