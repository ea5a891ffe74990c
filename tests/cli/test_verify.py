"""`verify`: the embedded model answers as recorded, and a record that is none is refused."""

from __future__ import annotations

import json

import pytest

from sam2core.cli import verify
from sam2core.ops import rle


def test_the_embedded_model_answers_as_recorded(run, tmp_path):
    done = run("verify", "sam2core_nano", "--device", "cpu")
    assert done.code == 0 and done.out.count(" ok ") >= 4 and "DIFFERS" not in done.out, done.out + done.err
    record = json.loads(verify._own_record("sam2core_nano").read_text(encoding="utf-8"))
    asked = [{"image": answer["image"], "prompt": answer["prompt"]} for answer in record["answers"]]
    assert asked == list(verify.QUESTIONS)
    mask = rle.decode(record["answers"][1]["mask"])
    record["answers"][1]["mask"] = rle.encode(mask[::-1])
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record), encoding="utf-8")
    done = run("verify", "sam2core_nano", "--device", "cpu", "--against", other)
    assert done.code == 1 and "masks      DIFFERS" in done.out and "0.99 or more" in done.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": []}, "'answers' is empty"),
        ({"answers": [{"image": "coffee.jpg"}]}, "the key 'prompt' is missing"),
        ({"image": "/etc/passwd"}, "none of the package's images"),
        ({"prompt": {"points": [[1, 1]], "crop": [0, 0, 9, 9]}}, "points, labels or a box"),
    ],
)
def test_a_record_that_is_none_is_refused_by_its_name(run, tmp_path, change, said):
    answer = {"image": "coffee.jpg", "prompt": {"points": [[1, 1]]}, "mask": {}, "iou": 0.5} | change
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"answers": change.get("answers", [answer])}), encoding="utf-8")
    done = run("verify", "sam2core_nano", "--against", record)
    assert done.code == 1 and "record.json" in done.err and said in done.err
    assert run("verify", "sam2core_nano", "--against", tmp_path / "none.json").code == 1
    assert "names no weights" in run("verify", "test_tiny").err
