"""Specs: the one merge rule, names and files, overrides, and a message for everything that does not fit."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf

import registry
from registry.errors import SpecError, UnknownName
from registry.resolve import load
from registry.spec import WeightsSpec, image_size, merge, pair, parse

ROOT = Path(__file__).parent.parent.parent
RECENT = {"type": "recent", "frames": 6, "stride": 1, "object_pointers": 16, "future_object_pointers": False}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(ask: Callable[[], Any], error: type[ValueError] = SpecError) -> str:
    with pytest.raises(error) as caught:
        ask()
    assert type(caught.value) is error
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- the one merge rule


def test_a_part_without_type_edits_the_inherited_part() -> None:
    assert registry.spec("sam2.1_hiera_t", memory_policy={"frames": 4}).memory_policy == {**RECENT, "frames": 4}


def test_a_part_with_another_type_replaces_it_whole() -> None:
    new = {"type": "acme.pooled", "pool": 2}
    parent = {"memory_attention": registry.spec("sam2.1_hiera_t").memory_attention}
    assert merge(parent, {"memory_attention": new}, "here")["memory_attention"] == new
    assert merge(parent, {"memory_attention": "acme.pooled"}, "here")["memory_attention"] == {"type": "acme.pooled"}


def test_a_part_with_the_same_type_edits() -> None:
    spec = registry.spec("sam2.1_hiera_t", memory_policy={"type": "recent", "frames": 4})
    assert spec.memory_policy == {**RECENT, "frames": 4}
    assert registry.spec("sam2.1_hiera_t", memory_policy="recent").memory_policy == RECENT


OFFERED = """
from sam2core import hookimpl

@hookimpl
def register_components(register):
    register("memory_policy", "acme.motion", "sam2core.memory.policy:RecentFrames")
    register("neck", "acme.neck", "sam2core.backbones.fpn:Fpn")
"""


def test_a_replaced_part_can_be_edited_further(installed: Any) -> None:
    with pytest.raises(UnknownName, match=r"no neck is called 'acme\.neck'"):
        load("sam2.1_hiera_t", ["neck=acme.neck"])
    installed("acme-parts", {"acme_parts.py": OFFERED})
    spec = load("sam2.1_hiera_t", ["memory_policy.type=acme.motion", "memory_policy.weight=0.5", "neck=acme.neck"])
    assert spec.memory_policy == {"type": "acme.motion", "weight": 0.5}
    assert spec.neck == {"type": "acme.neck"}


def test_options_merge_key_by_key_and_lists_are_replaced() -> None:
    spec = registry.spec("sam2.1_hiera_t", "mask_decoder.stability.delta=0.1", "neck.top_down=[16, 8]")
    assert spec.mask_decoder["stability"] == {"delta": 0.1, "threshold": 0.98}
    assert spec.neck["top_down"] == [16, 8]
    assert registry.spec("sam2.1_hiera_t", mask_decoder={"stability": None}).mask_decoder["stability"] is None


def test_weights_follow_the_rule_with_file_in_the_place_of_type() -> None:
    official = registry.spec("sam2.1_hiera_t").weights
    assert official is not None
    other = registry.spec("sam2.1_hiera_t", weights={"file": "mine.safetensors"}).weights
    assert other == WeightsSpec("mine.safetensors")
    assert registry.spec("sam2.1_hiera_t", "weights.repo=mirror/sam2").weights == dataclasses.replace(
        official, repo="mirror/sam2"
    )
    assert registry.spec("sam2.1_hiera_t", weights=None).weights is None


def test_merging_changes_neither_tree() -> None:
    parent = {"neck": {"type": "fpn", "places": {"a": 1}}, "dim": 1}
    child = {"neck": {"places": {"b": 2}}}
    assert merge(parent, child, "x") == {"neck": {"type": "fpn", "places": {"a": 1, "b": 2}}, "dim": 1}
    assert parent == {"neck": {"type": "fpn", "places": {"a": 1}}, "dim": 1}
    assert child == {"neck": {"places": {"b": 2}}}


def test_nobodys_edits_reach_anyone_else() -> None:
    registry.spec("sam2.1_hiera_t").neck["top_down"].append(99)
    assert registry.spec("sam2.1_hiera_t").neck["top_down"] == [16]
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry.spec("sam2.1_hiera_t").dim = 3  # type: ignore[misc]


def test_what_is_said_of_one_spec_is_not_inherited(here: Path) -> None:
    (here / "mine.yaml").write_text("extends: sam2.1_hiera_t\nmemory_policy: {frames: 4}\n")
    spec = registry.spec("./mine.yaml")
    assert (spec.name, spec.description, spec.parameters) == ("mine", "", None)
    assert spec.weights == registry.spec("sam2.1_hiera_t").weights  # a policy has none of its own


def test_the_recorded_size_holds_as_long_as_no_weight_is_touched() -> None:
    assert registry.spec("test_tiny", image_size=64, memory_policy={"frames": 1}).parameters is not None
    assert registry.spec("test_tiny", memory_attention={"layers": 1}).parameters is None


# ---------------------------------------------------------------------------------------------- names and files


def test_an_alias_is_its_model() -> None:
    assert registry.spec("facebook/sam2.1-hiera-large") == registry.spec("sam2.1_hiera_l")


@pytest.mark.parametrize("write", [str, lambda p: f"./{p.name}", lambda p: p, lambda p: Path(p.name), lambda p: p.name])
def test_a_yaml_file_by_any_path(here: Path, write: Callable[[Path], Any]) -> None:
    file = here / "mine.yaml"
    file.write_text("# ${not read}\nextends: test_tiny\nmemory_policy: {frames: 1}\n")
    assert registry.spec(write(file)).memory_policy["frames"] == 1


def test_files_extend_each_other_relative_to_themselves(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "base.yaml").write_text("extends: test_tiny\ndim: 64\n")
    (here / "sub" / "base.yaml").write_text("extends: ../base.yaml\nmemory_dim: 8\n")
    spec = registry.spec("sub/base.yaml")
    assert (spec.dim, spec.memory_dim) == (64, 8)


def test_weights_of_a_file_lie_relative_to_it(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "base.yaml").write_text("extends: test_tiny\nweights: {file: w.safetensors}\n")
    (here / "mine.yaml").write_text("extends: sub/base.yaml\n")
    for name in ("sub/base.yaml", "mine.yaml"):
        spec = registry.spec(f"./{name}")
        assert spec.weights == WeightsSpec(str(here / "sub" / "w.safetensors"))
        assert registry.spec(spec) == spec
    for text in ("package: true", "repo: org/name", "url: https://a.b/w.safetensors"):
        (here / "mine.yaml").write_text(f"extends: test_tiny\nweights: {{file: w.safetensors, {text}}}\n")
        weights = registry.spec("./mine.yaml").weights
        assert weights is not None and weights.file == "w.safetensors"


def test_a_mapping_is_a_spec() -> None:
    inline = {"extends": "test_tiny", "memory_policy": {"frames": 1}}
    spec = registry.spec(inline)
    assert spec.name == "inline" and spec.memory_policy["frames"] == 1
    assert registry.spec({**inline, "name": "mine"}).name == "mine"
    assert inline == {"extends": "test_tiny", "memory_policy": {"frames": 1}}


@pytest.mark.parametrize("name", registry.models())
def test_a_resolved_spec_is_a_spec_again(name: str) -> None:
    spec = registry.spec(name)
    assert registry.spec(spec) == spec
    assert registry.spec(dataclasses.asdict(spec)) == spec
    assert registry.spec(parse(spec.to_yaml(), "printed")) == spec


def test_a_path_that_is_not_there_is_told_in_both_readings(here: Path) -> None:
    text = refused(lambda: registry.spec("facebook/sam2.1-hiera-larg"), UnknownName)
    assert text == (
        "'facebook/sam2.1-hiera-larg' is neither a model nor a file."
        "\n  as a name: no model is called that\n  did you mean 'facebook/sam2.1-hiera-large'?"
        f"\n  as a file: {here / 'facebook/sam2.1-hiera-larg'} does not exist"
    )
    assert "is a folder" in refused(lambda: registry.spec("./"), UnknownName)
    assert "neither" in refused(lambda: registry.spec(Path("sam2.1_hiera_l")), UnknownName)  # a Path is a path


def test_an_unknown_name() -> None:
    text = refused(lambda: registry.spec("sam2.1_hiera_large"), UnknownName)
    assert text.startswith("no model is called 'sam2.1_hiera_large'.\n  known: ")
    assert text.endswith("did you mean 'sam2.1_hiera_l'?")


def test_a_file_without_suffix_is_pointed_out(here: Path) -> None:
    (here / "mine").write_text("extends: test_tiny\n")
    assert "to use it write './mine'" in refused(lambda: registry.spec("mine"), UnknownName)


def test_a_checkpoint_carries_no_spec(here: Path) -> None:
    (here / "sam2.1_hiera_large.pt").write_bytes(b"")
    text = refused(lambda: registry.spec("sam2.1_hiera_large.pt"))
    assert "registry.build('sam2.1_hiera_l', weights='sam2.1_hiera_large.pt')" in text and "sam2core convert" in text


def test_a_family_is_no_model() -> None:
    text = refused(lambda: registry.spec("sam2.1"))
    assert "abstract" in text and "sam2.1_hiera_b+, sam2.1_hiera_l" in text


@pytest.mark.parametrize("name", ["hub:", "hub:sam2", "hub:a/b/c", "hub:a/b@", "hub:../b c/d"])
def test_hub_names_are_checked(name: str) -> None:
    assert "hub:organisation/name" in refused(lambda: registry.spec(name))


def test_hub_revisions_must_agree() -> None:
    assert "'v1'" in refused(lambda: registry.spec("hub:org/repo@v1", revision="v2"))


# ---------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-4", -4),
        ("0.5", 0.5),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("acme.motion", "acme.motion"),
        ("'4'", "4"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{a: 1}", {"a": 1}),
        ("a=b", "a=b"),
    ],
)
def test_dotted_values_are_yaml(text: str, value: Any) -> None:
    found = pair(f"memory_policy.x={text}")["memory_policy"]["x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["memory_policy", "=4", "a..b=4", ".a=4", "a.=4", ""])
def test_a_pair_is_a_pair(text: str) -> None:
    assert "memory_policy.frames=4" in refused(lambda: registry.spec("test_tiny", text))


def test_overrides_apply_in_order_and_keywords_last() -> None:
    pairs = ["memory_policy.frames=1", "memory_policy.frames=2"]
    assert load("sam2.1_hiera_t", pairs).memory_policy["frames"] == 2
    assert load("sam2.1_hiera_t", pairs, memory_policy={"frames": 3}).memory_policy["frames"] == 3
    assert load("sam2.1_hiera_t", [{"dim": 128}]).dim == 128


def test_unknown_keys_are_named_with_their_nearest() -> None:
    assert "did you mean 'memory_policy'" in refused(lambda: registry.spec("test_tiny", memory_polcy="recent"))
    assert "did you mean 'memory_policy'" in refused(lambda: registry.spec("test_tiny", "memory_polcy.frames=3"))
    assert "multimask has no key 'max_point'" in refused(lambda: registry.spec("test_tiny", "multimask.max_point=3"))
    assert "did you mean 'sha256'" in refused(lambda: registry.spec("sam2.1_hiera_t", "weights.sha=3"))
    text = refused(lambda: registry.spec({"extends": "test_tiny", "bakcbone": "hiera_t"}))
    assert "'bakcbone'" in text and "did you mean 'backbone'" in text


def test_a_task_that_nobody_offers_is_named_with_its_nearest(here: Path) -> None:
    for ask in (
        lambda: registry.spec("test_tiny", "predictors.imag.mask_threshold=0.5"),
        lambda: registry.spec("test_tiny", predictors={"imag": {}}),
        lambda: registry.spec({"extends": "test_tiny", "predictors": {"imag": {}}}),
    ):
        text = refused(ask, UnknownName)
        assert "no predictor is called 'imag'" in text and "did you mean 'image'" in text
    (here / "mine.yaml").write_text("extends: test_tiny\npredictors: {acme.tree: {depth: 3}}\n")
    assert registry.spec("./mine.yaml").predictors["acme.tree"] == {"depth": 3}  # of a plugin that is not here
    refused(lambda: registry.spec("test_tiny", predictors={"acme.tree": {}}), UnknownName)


@pytest.mark.parametrize("key", ["name", "extends", "abstract", "aliases", "parameters"])
def test_what_a_spec_says_of_itself_is_no_override(key: str) -> None:
    assert f"nothing called {key!r}" in refused(lambda: load("test_tiny", [{key: "x"}]))
    assert f"nothing called {key!r}" in refused(lambda: registry.spec("test_tiny", f"{key}=x"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"dim": "wide"}, "dim: Value 'wide'"),
        ({"dim": True}, "dim"),
        ({"dim": 0}, "dim is a positive number"),
        ({"memory_dim": 1.5}, "memory_dim"),
        ({"memory_dim": None}, "memory_dim missing"),
        ({"backbone": 3}, "backbone is a name, or a mapping"),
        ({"backbone": None}, "backbone is a name, or a mapping"),
        ({"backbone": {"type": 3}}, "backbone is a name, or a mapping"),
        ({"memory_readout": 3}, "memory_readout"),
        ({"predictors": {"image": 3}}, "predictors"),
        ({"multimask": 3}, "multimask"),
        ({"multimask": {"min_points": "few"}}, "multimask: min_points"),
        ({"weights": "file.pt"}, "weights: a mapping"),
        ({"memory_policy": {1: 2}}, "keys are words"),
        ({"memory_policy": {"a": print}}, "only text, numbers"),
        ({"memory_policy": {"a": {1, 2}}}, "only text, numbers"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(override: dict[str, Any], words: str) -> None:
    assert words in refused(lambda: registry.spec("test_tiny", **override))


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a ${b}", ["${x}"], {"deep": {"er": "${x}"}}], ids=str)
def test_interpolation_is_refused_everywhere(value: Any, here: Path) -> None:
    assert "interpolation" in refused(lambda: registry.spec("test_tiny", memory_policy={"a": value}))
    config = OmegaConf.create({"a": value})
    assert "interpolation" in refused(lambda: registry.spec("test_tiny", memory_policy=config))
    assert "interpolation" in refused(lambda: registry.spec({"extends": "test_tiny", "neck": {"a": value}}))
    (here / "mine.yaml").write_text(f"extends: test_tiny\nneck: {{a: {value!r}}}\n")
    assert "mine.yaml: neck.a" in refused(lambda: registry.spec("mine.yaml")).replace(".deep.er", "")


def test_interpolation_in_a_pair_or_a_key_is_refused() -> None:
    assert "interpolation" in refused(lambda: registry.spec("test_tiny", "memory_policy.a=${oc.env:HOME}"))
    assert "interpolation" in refused(lambda: registry.spec("test_tiny", memory_policy={"${a}": 1}))


def test_omegaconf_and_tuples_come_out_plain() -> None:
    config = OmegaConf.create({"places": [1, [2]], "deep": {"er": (3, 4)}, "path": Path("x")})
    policy = registry.spec("test_tiny", memory_policy=config, neck={"top_down": (16, 8)})

    def walk(value: Any) -> None:
        assert type(value) in (dict, list, str, int, float, bool, type(None)), type(value)
        assert not isinstance(value, DictConfig | ListConfig)
        for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(entry)

    walk(dataclasses.asdict(policy))
    assert policy.memory_policy["places"] == [1, [2]] and policy.neck["top_down"] == [16, 8]


# ---------------------------------------------------------------------------------------------- files that are wrong


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dim: [1", "not readable as YAML"),
        ("- a\n- b\n", "a spec is a mapping"),
        ("", "a spec is a mapping"),
        ("extends: test_tiny\ndim: 1\ndim: 2\n", "'dim' is written twice"),
        ("extends: test_tiny\nneck: &a {type: fpn}\nmask_decoder: *a\n", "anchors and aliases are not used"),
        ("extends: test_tiny\nneck: !!python/object/apply:os.system [ls]\n", "not readable as YAML"),
        ("extends: test_tiny\nname: other\n", "called after its file"),
        ("extends: [test_tiny]\n", "extends names one spec"),
        ("extends: mine.yaml\n", "extends itself: mine.yaml -> mine.yaml"),
        ("backbone: hiera_t\n", "image_size, dim, memory_dim"),
        ("neck: {top_down: [16]}\n", "no inherited neck to edit"),
        ("extends: test_tiny\nneck: " + "{a: " * 20 + "1" + "}" * 20 + "\n", "levels deep"),
        ("[" * 5000, "not readable as YAML"),
    ],
    ids=lambda value: value[:30],
)
def test_files_that_are_wrong(here: Path, text: str, words: str) -> None:
    (here / "mine.yaml").write_text(text)
    assert words in refused(lambda: registry.spec("mine.yaml"))


def test_a_file_that_is_no_text(here: Path) -> None:
    (here / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    assert "mine.yaml is no text" in refused(lambda: registry.spec("mine.yaml"))


def test_an_unknown_parent_names_the_child(here: Path) -> None:
    (here / "mine.yaml").write_text("extends: sam2.1_hiera_x\n")
    text = refused(lambda: registry.spec("mine.yaml"), UnknownName)
    assert "mine.yaml: extends 'sam2.1_hiera_x': no model is called" in text


# ---------------------------------------------------------------------------------------------- image sizes


@pytest.mark.parametrize(
    ("given", "size"), [(512, [512, 512]), ((512, 1024), [512, 1024]), ([64, 32], [64, 32])], ids=str
)
def test_image_sizes(given: Any, size: list[int]) -> None:
    assert registry.spec("test_tiny", image_size=given).image_size == size


@pytest.mark.parametrize("given", [1000, (1024, 1000), 0, -32, "big", 64.0, True, (64,), (64, 64, 3), None], ids=str)
def test_other_image_sizes_are_refused(given: Any) -> None:
    refused(lambda: image_size(given))


def test_the_nearest_sizes_are_told() -> None:
    text = refused(lambda: image_size(1000))
    assert "Nearest: 992, 1024" in text and "halves an image five times" in text


# ---------------------------------------------------------------------------------------------- strangers

HYDRA = """
import sys
from hydra import initialize_config_dir
import pathlib
pathlib.Path("conf").mkdir()
pathlib.Path("conf/config.yaml").write_text("dim: 3\\n")
initialize_config_dir(str(pathlib.Path("conf").resolve()), version_base=None)
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from sam2core import registry
assert registry.build("test_tiny", weights=False).spec.dim == 32
assert registry.spec("sam2.1_hiera_l", "memory_policy.frames=4").memory_policy["frames"] == 4
assert GlobalHydra.instance().is_initialized() and compose("config").dim == 3
"""

PLAIN = """
import sys
from sam2core import registry
registry.build("test_tiny", weights=False)
registry.predictor("test_tiny", weights=False)
assert not [name for name in sys.modules if name.partition(".")[0] == "hydra"]
"""


@pytest.mark.parametrize("program", [PLAIN, HYDRA], ids=["no hydra", "hydra in use"])
def test_from_an_empty_folder_whatever_hydra_does(here: Path, program: str) -> None:
    if program is HYDRA:
        pytest.importorskip("hydra")
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
