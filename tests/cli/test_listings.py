"""`models`, `show`, `plugins`, and verbs that plugins bring."""

from __future__ import annotations

import json

import pytest
import yaml

BROKEN = {"bad.py": "import filterpy_that_is_not_here\n"}


def test_models_lists_every_model_with_its_size(run):
    ended = run("models")
    assert ended.code == 0
    rows = {line.split()[0]: line for line in ended.out.splitlines()[1:]}
    assert "224.45 M" in rows["sam2.1_hiera_l"] and "1024" in rows["sam2.1_hiera_l"]
    assert "facebook/sam2.1-hiera-large" in rows["sam2.1_hiera_l"]
    assert "640" in rows["sam2core_nano"]
    assert "sam2.1" not in rows, "an abstract spec is no model"


def test_models_as_json(run):
    rows = {row["name"]: row for row in json.loads(run("models", "--json").out)}
    assert rows["sam2.1_hiera_t"]["image_size"] == [1024, 1024]
    assert rows["sam2.1_hiera_t"]["parameters"] // 10**4 == 3896
    assert rows["test_tiny"]["weights"] == "none"


def test_models_tells_cached_weights_from_remote_ones(run, tmp_path, monkeypatch):
    from sam2core.checkpoints import hub

    monkeypatch.setenv("SAM2CORE_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_hub_cached", lambda source, folder, tried: (None, False))

    def row():
        return next(row for row in json.loads(run("models", "--json").out) if row["name"] == "sam2.1_hiera_t")

    assert row()["weights"] == "remote" and row()["path"] is None
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    with file.open("wb") as out:
        out.truncate(row()["size"] - 1)
    assert row()["weights"] == "remote", "a partial file is not a cached one"
    with file.open("wb") as out:
        out.truncate(row()["size"])
    assert row()["weights"] == "cached" and row()["path"] == str(file)


def test_models_lists_the_others_when_one_cannot_be_read(run, installed):
    installed(
        "acme",
        {
            "acme.py": "from pathlib import Path\n"
            "from sam2core import hookimpl\n"
            "@hookimpl\n"
            "def register_specs(register):\n"
            "    register(Path(__file__).parent / 'specs')\n",
            "specs/acme.model.yaml": "extends: nobody\n",
        },
    )
    ended = run("models", "--json")
    assert ended.code == 0 and "sam2core_nano" in [row["name"] for row in json.loads(ended.out)]
    assert "left out: acme.model of acme 0.3: acme.model.yaml: extends 'nobody'" in ended.err


def test_show_prints_yaml_that_loads_again(run, tmp_path):
    ended = run("show", "sam2.1_hiera_t", "memory_policy.frames=4")
    tree = yaml.safe_load(ended.out)
    assert tree["memory_policy"]["frames"] == 4 and tree["backbone"] == {"type": "hiera_t"}
    tree.pop("name")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    again = yaml.safe_load(run("show", tmp_path / "mine.yaml").out)
    assert again.pop("name") == "mine" and again == tree
    assert json.loads(run("show", "sam2.1_hiera_t", "--json").out)["image_size"] == [1024, 1024]


@pytest.mark.parametrize(
    "words, code, complaint",
    [
        (["sam2.1_hiera_x"], 1, "did you mean 'sam2.1_hiera_"),
        (["sam2.1_hiera_t", "memory_polcy.frames=4"], 1, "did you mean 'memory_policy'"),
        (["sam2.1_hiera_t", "frames"], 2, "KEY=VALUE"),
        ([], 2, "NAME"),
    ],
)
def test_show_says_what_is_wrong(run, words, code, complaint):
    ended = run("show", *words)
    assert ended.code == code and complaint in ended.err and not ended.out and "Traceback" not in ended.err


def test_plugins_shows_good_and_broken_ones(run, installed):
    installed(
        "good",
        {
            "good.py": "from sam2core import hookimpl\n"
            "@hookimpl\n"
            "def register_components(register):\n"
            "    register('memory_policy', 'good.policy', 'good:Policy')\n"
        },
    )
    installed("bad", BROKEN, version="0.7")
    ended = run("plugins")
    assert ended.code == 0
    good, bad = (next(line for line in ended.out.splitlines() if line.startswith(name)) for name in ("good", "bad"))
    assert "ok" in good and "memory_policy:good.policy" in good and "failed" in bad and "0.7" in bad
    assert "No module named 'filterpy_that_is_not_here'" in ended.out
    records = {record["name"]: record for record in json.loads(run("plugins", "--json").out)}
    assert records["good"]["status"] == "ok" and records["sam2core"]["status"] == "ok"
    assert records["bad"]["status"] == "failed" and "filterpy" in records["bad"]["error"]


def test_a_plugin_adds_a_verb(run, installed):
    installed(
        "friendly",
        {
            "friendly.py": "import click\n"
            "from sam2core import hookimpl\n"
            "@hookimpl\n"
            "def register_commands(commands):\n"
            "    @commands.command()\n"
            "    @click.argument('name')\n"
            "    def greet(name):\n"
            "        'Say hello.'\n"
            "        click.echo(f'hello {name}')\n"
        },
    )
    assert run("greet", "you").out == "hello you\n"
    assert "Say hello." in run("--help").out


def test_a_plugin_that_takes_a_verb_fails_alone(run, installed):
    installed(
        "greedy",
        {
            "greedy.py": "import click\n"
            "from sam2core import hookimpl\n"
            "@hookimpl\n"
            "def register_commands(commands):\n"
            "    commands.add_command(click.Command('doctor'))\n"
        },
    )
    assert run("--help").code == 0
    records = {record["name"]: record for record in json.loads(run("plugins", "--json").out)}
    assert records["greedy"]["status"] == "failed" and "'doctor' exists already" in records["greedy"]["error"]


def test_a_broken_plugin_is_named_when_a_name_is_unknown(run, installed):
    installed("bad", BROKEN)
    ended = run("show", "bad.model")
    assert ended.code == 1 and "filterpy" in ended.err
