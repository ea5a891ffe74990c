"""What --workers, --engine and --detector mean to a verb."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sam2core.cli import engine
from sam2core.jobs.engines import LocalEngine

HERE = {"engine": "local", "workers": 1}
BUILD = {
    "model": "test_tiny",
    "weights": "none",
    "device": "cpu",
    "dtype": "float32",
    "image_size": 64,
    "threads": None,
    "overrides": ("predictors.image.mask_threshold=0.25",),
}


def test_one_worker_of_the_local_engine_is_this_process() -> None:
    assert engine.is_here(HERE)
    assert not engine.is_here({**HERE, "workers": 2}) and not engine.is_here({**HERE, "engine": "ray"})
    assert isinstance(engine.open_engine(HERE), LocalEngine)
    with pytest.raises(ValueError, match="no engine is called 'locl'[^?]*did you mean 'local'"):
        engine.open_engine({**HERE, "engine": "locl"})


def test_other_engines_are_told_whole_paths() -> None:
    assert engine.placed(Path("out"), HERE) == Path("out")
    assert engine.placed(Path("out"), {**HERE, "engine": "ray"}) == Path("out").absolute()


def test_a_predictor_is_made_where_it_is_wanted_of_words_alone() -> None:
    maker = pickle.loads(pickle.dumps(engine.PredictorMaker({**BUILD, **HERE}, "image", cleaning={"fill_holes": 3})))
    made = maker(0)
    assert made.mask_threshold == 0.25 and made.cleaning.fill_holes == 3 and made.model.image_size == (64, 64)


def test_workers_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.os, "cpu_count", lambda: 8)
    assert engine.PredictorMaker({**BUILD, **HERE}, "image").options["threads"] is None
    assert engine.PredictorMaker({**BUILD, **HERE, "workers": 3}, "image").options["threads"] == 2
    assert engine.PredictorMaker({**BUILD, **HERE, "workers": 3, "threads": 5}, "image").options["threads"] == 5


def test_a_detector_is_made_of_words(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"a.png": [[1, 2, 3, 4]]}')
    maker = engine.DetectorMaker({"detector": "boxes", "detect": (f"file={boxes}",)})
    assert maker.document() == {"detector": "boxes", "file": str(boxes)}
    assert pickle.loads(pickle.dumps(maker))().detect(None, source="a.png", frame=0).boxes.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="no detector is called 'boxs'"):
        engine.DetectorMaker({"detector": "boxs", "detect": ()})()
    with pytest.raises(ValueError, match="threshold"):
        engine.DetectorMaker({"detector": "boxes", "detect": ("threshold",)})
