"""`bench`: every stage is measured, counted, written and drawn."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("av")

MODEL = ("--model", "test_tiny", "--weights", "none", "--image-size", "64", "--device", "cpu")
COUNTS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)  # operators in inference mode
SMALL = (*MODEL, "--rounds", "1", "--frames", "3")
QUICK = ("predictors.automask={points_per_side: 2}",)


def test_every_stage_is_measured(run, tmp_path):
    file, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    more = ("--plot", plot) if _has_matplotlib() else ()
    ended = run("bench", *SMALL, "--objects", "1,2", "--json", file, *more, *QUICK)
    assert ended.code == 0, ended.err
    report = json.loads(file.read_text())
    rows = {row["stage"]: row for row in report["rows"]}
    assert list(rows) == ["build", "decode", "encode", "prompt", "track 1", "track 2", "automask"]
    assert report["peak_gflops"] > 1 and report["image"] == "64x64" and report["dtype"] == "float32"
    for stage in ("encode", "prompt", "track 1", "track 2", "automask"):
        row = rows[stage]
        assert row["first"] > 0 and all(value > 0 for value in row["warm"])
        if not COUNTS:
            assert row["gflop"] is None
            continue
        assert row["gflop"] > 0
        assert row["share"] == pytest.approx(row["gflop"] / statistics.median(row["warm"]) / report["peak_gflops"])
    work = [rows[stage]["gflop"] for stage in ("track 2", "track 1", "encode", "prompt")]
    assert not COUNTS or work == sorted(work, reverse=True)
    assert rows["decode"]["gflop"] is None and len(rows["decode"]["warm"]) == 2
    assert all(stage in ended.out for stage in rows) and "encode" in ended.err
    assert not more or plot.stat().st_size > 1000


def test_attention_that_averages_first_is_counted(monkeypatch):
    from sam2core.cli.bench import counter
    from sam2core.ops import attention, cpu  # noqa: F401

    query, key, tokens = torch.randn(2, 1, 9, 8), torch.randn(2, 1, 10, 8), torch.randn(2, 10, 4)
    project = torch.nn.Linear(4, 8, bias=False)
    monkeypatch.setattr(attention, "LONG", 0)
    with torch.no_grad(), counter() as found:
        attention.attend_projected(query, key, tokens, project)
    assert found.get_total_flops() == 2 * 2 * 9 * (10 * (8 + 4) + 4 * 8)


def test_linear_layers_in_one_go_are_counted(monkeypatch):
    from sam2core.cli.bench import counter
    from sam2core.ops.cpu import products
    from sam2core.ops.layers import linear_act

    monkeypatch.setattr(products, "FUSED_PRODUCTS", 0)
    layer, x = torch.nn.Linear(6, 10), torch.randn(3, 5, 6)
    with torch.no_grad(), counter() as found:
        linear_act(x, layer, torch.nn.functional.gelu)
    assert found.get_total_flops() == 2 * 15 * 6 * 10


def test_a_cpus_attention_is_counted():
    from sam2core.cli.bench import counter

    query, key, value = (torch.randn(2, 3, tokens, 8) for tokens in (5, 7, 7))
    with torch.no_grad(), counter() as found:
        torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert found.get_total_flops() == 2 * 2 * 3 * 5 * 7 * (8 + 8)


def test_compiled_parts_stand_beside_eager_ones(run, tmp_path, monkeypatch):
    import sam2core.compile

    made = sam2core.compile.compile_model
    monkeypatch.setattr(sam2core.compile, "compile_model", lambda model: made(model, backend="eager"))
    ended = run("bench", *SMALL, "--stages", "prompt,encode", "--compile", "--json", tmp_path / "b.json", "--quiet")
    assert ended.code == 0 and not ended.err
    rows = [(row["stage"], row["parts"], row["gflop"]) for row in json.loads((tmp_path / "b.json").read_text())["rows"]]
    assert [row[:2] for row in rows[1:]] == [
        ("encode", "eager"), ("prompt", "eager"), ("encode", "compiled"), ("prompt", "compiled")
    ]  # fmt: skip
    assert not COUNTS or rows[1][2] == rows[3][2] > 0  # the work of compiled parts is that of eager ones


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stages", "encode,fly"), "no stage 'fly'"),
        (("--objects", "0"), "numbers of objects"),
        (("--rounds", "0"), "0"),
    ],
)
def test_wrong_words(run, words, said):
    ended = run("bench", *MODEL, *words)
    assert ended.code == 2 and said in ended.err


def test_what_cannot_be_written_is_said_before_the_measuring(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sam2core.cli.bench.measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    for option in ("--json", "--plot"):
        ended = run("bench", option, tmp_path / "none" / "file")
        assert ended.code == 1 and "none is no folder" in ended.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = run("bench", "--plot", tmp_path / "bench.png")
    assert ended.code == 3 and "pip install 'sam2core[plot]'" in ended.err


def test_a_file_that_fails_costs_no_measurement(run, tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    monkeypatch.setattr("sam2core.cli.bench.measure", lambda *_: {"rows": []})
    monkeypatch.setattr("sam2core.cli.bench.show", lambda _: "the table")
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    ended = run("bench", "--json", file)
    assert ended.code == 1 and ended.out == "the table\n" and "disk full" in ended.err


def _has_matplotlib() -> bool:
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None
