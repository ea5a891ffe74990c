"""The engine on a Ray of this machine: the contract, the command line, the same files as without Ray."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import ray
from click.testing import CliRunner
from PIL import Image
from sam2core_ray.engine import RayEngine

from sam2core.cli import main
from sam2core.testing import check

SIZE = (48, 64)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_the_contract():
    check("engine", RayEngine(workers=2))


def test_it_is_registered():
    import registry

    assert "ray" in registry.components("engine")
    assert [record.status for record in registry.plugins() if record.name == "ray"] == ["ok"]


def test_actors_that_die_whatever_they_are_given_end_the_run():
    def dying(number):
        return lambda item: os._exit(7)

    [(index, lost)] = RayEngine(workers=1, attempts=2).map(dying, ["a"])
    assert index == 0 and isinstance(lost, ChildProcessError) and "2 workers died over it" in str(lost)
    with pytest.raises(ChildProcessError, match="die whatever they are given: 1 workers died over it"):
        list(RayEngine(workers=1, attempts=1).map(dying, ["a", "b"]))
    with pytest.raises(ValueError, match="1 or more, not 0 and 3"):
        RayEngine(workers=0)


def test_an_error_in_preparing_is_told():
    def broken(number):
        raise FileNotFoundError("no such weights")

    with pytest.raises(FileNotFoundError, match="no such weights"):
        list(RayEngine(workers=2).map(broken, [1, 2]))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for video in ("a", "b", "c"):
        for frame in range(3):
            for kind in ("JPEGImages", "Annotations"):
                (root / kind / video).mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([frame, ord(video)]).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "JPEGImages" / video / f"{frame:05d}.jpg")
            ids = np.zeros(SIZE, np.uint8)
            ids[5:25, 5 + frame : 30 + frame] = 1
            Image.fromarray(ids).save(root / "Annotations" / video / f"{frame:05d}.png")
    return root


def test_the_union_is_the_run_on_one_machine(data, tmp_path):
    done = {}
    # the embedded weights: random ones would differ from worker to worker
    for engine, workers in (("local", 1), ("ray", 2)):
        out = tmp_path / engine
        words = ["evaluate", "vos", data, "-o", out, "--model", "sam2core_nano", "--image-size", 128, "--device", "cpu"]
        words += ["--engine", engine, "--workers", workers, "--threads", 1]
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        manifest = json.loads((out / "manifest.json").read_text())
        done[engine] = {name: record["sha256"] for name, record in manifest["done"].items()}
        done[engine]["scores"] = json.loads((out / "scores.json").read_text())
    assert done["ray"] == done["local"] and set(done["ray"]) == {"a", "b", "c", "scores"}


def test_pictures_on_ray_are_those_without(tmp_path, monkeypatch):
    """Relative paths, as they are typed: workers elsewhere find them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    words = ["segment", "photos", "-b", "4,4,40,30", "-m", "test_tiny", "--weights", "none", "--image-size", "64"]
    words += ["--threads", "1", "-q", "--write", "masks,coco", "-o"]
    for out, more in (("here", []), ("there", ["--engine", "ray", "--workers", "2"])):
        ended = CliRunner().invoke(main, [*words, out, *more])
        assert ended.exit_code == 0, ended.output
    for file in (tmp_path / "here").rglob("*"):
        twin = tmp_path / "there" / file.relative_to(tmp_path / "here")
        if file.suffix == ".json" and file.parent.name == "here" and file.name != "labels.json":
            first, second = json.loads(file.read_text()), json.loads(twin.read_text())
            assert Path(second["image"].pop("path")).is_absolute() and first["image"].pop("path")
            assert first == second
        elif file.is_file():
            assert file.read_bytes() == twin.read_bytes()
