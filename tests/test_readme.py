"""The README's examples and the plugin's of docs/plugins.md, run as they are printed, on the smallest model."""

from __future__ import annotations

import re

import pytest

from tests.documents import ROOT, blocks, small

README = (ROOT / "README.md").read_text(encoding="utf-8")
START = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
PLUGIN = blocks((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), 'python title="acme_sure"', "toml")
FILES = {block.partition("\n")[0].removeprefix("# "): block for block in PLUGIN if block.startswith("# ")}
SCRIPTS = [block for block in blocks(README, "python") if block.startswith("from sam2core import registry\n")]


def test_the_readme_is_short_and_has_an_image_and_a_video():
    assert len(SCRIPTS) == 2 and len(FILES) == 3
    words = re.findall(r"\w\S*", re.sub(r"<!--.*?-->|\]\([^)]*\)", " ", README))
    assert len(words) < 1000, len(words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_examples_run(script, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    assert "test_tiny" in small(script)
    exec(compile(small(script), "README.md", "exec"), names)
    if "parts" in names:
        assert names["coffee"].masks.shape == (1, 1, 400, 600) and names["parts"].iou.shape == (1, 3)
    else:
        assert names["chair"].shape == (360, 540) and len(names["again"]) == 4
        assert names["session"].position == 11 and names["session"].objects == ("chair",)


def test_the_plugin_example_works(installed):
    import registry

    (entry,) = re.findall(
        r"^(\S+) = \"(\w+)\"$", FILES["acme_sure/pyproject.toml"].split("entry-points.sam2core]")[1], re.M
    )
    sources = {name.partition("/")[2]: text for name, text in FILES.items() if name.endswith(".py")}
    installed("acme-sure", sources, dict([entry]), version="0.1")
    (call,) = (block for block in PLUGIN if block.startswith("model = registry.build"))
    names = {"registry": registry}
    # the tiny model has codes for fewer frames than the one of the example
    exec(compile(small(call).replace("0.8}", "0.8, 'frames': 2}"), "README.md", "exec"), names)
    assert type(names["model"].memory_policy).__name__ == "SureFrames" and names["model"].memory_policy.min_iou == 0.8
    policy = {"type": "acme.sure", "frames": 2}
    assert registry.build("test_tiny", weights=False, memory_policy=policy).memory_policy.min_iou == 0.7


def test_the_table_of_models_is_true():
    import registry

    table = "\n".join(line for line in README.splitlines() if re.match(r"\| `sam2", line) and " px " in line)
    for name in registry.models():
        if name == "test_tiny":
            continue
        spec = registry.spec(name)
        (row,) = (line for line in table.splitlines() if f"`{name}`" in line)
        assert f"{spec.parameters / 1e6:.2f} M" in row, name
        assert f"{spec.image_size[0]} px" in row
        if spec.weights.size:
            (megabytes,) = re.findall(r"(\d+) MB", row)
            assert abs(spec.weights.size / 1e6 - int(megabytes)) < 1, name


def test_every_verb_is_in_the_table():
    from sam2core.cli import VERBS

    for verb in VERBS:
        assert f"`sam2core {verb}" in START, verb
