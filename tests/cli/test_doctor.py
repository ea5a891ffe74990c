"""`doctor`: it says what is here, and each thing that can be broken is found and explained."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import pytest
import torch
import torchvision

from sam2core.cli import doctor


@pytest.fixture
def examine(run):
    def call():
        ended = run("doctor", "--json")
        report = json.loads(ended.out)
        assert ended.code == (1 if report["problems"] else 0) and report["ok"] == (not report["problems"])
        return report["facts"], " | ".join(report["problems"])

    return call


def test_it_names_the_versions(examine):
    facts, _ = examine()
    assert platform.python_version() in facts["python"]
    assert facts["torch"] == torch.__version__
    assert (
        facts["torchvision"] == f"{torchvision.__version__.partition('+')[0]}, fits torch"
        or "fits" in facts["torchvision"]
    )
    assert facts["devices"][0].startswith("cpu")
    assert "GiB free" in facts["disk"]
    assert any(line.startswith("sam2core (sam2core ") for line in facts["plugins"])


def test_the_table_has_what_the_json_has(run, examine):
    facts, _ = examine()
    lines = run("doctor").out.splitlines()
    for name in facts:
        assert any(line.startswith(name) for line in lines), name


def test_torchvision_that_does_not_fit_is_explained(examine, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("torchvision.ops.nms", fail)
    facts, problems = examine()
    assert "does not fit" in facts["torchvision"]
    assert (
        "torchvision::nms does not exist" in problems and "pip install --force-reinstall torch torchvision" in problems
    )


def test_a_failed_plugin_is_a_problem(examine, installed):
    installed("gone", {"gone.py": "import no_such_module_anywhere\n"})
    facts, problems = examine()
    assert "gone (gone 0.3): failed" in facts["plugins"]
    assert "no_such_module_anywhere" in problems


def test_missing_weights_are_a_problem(examine, monkeypatch):
    monkeypatch.setattr("sam2core.cli.models.whereabouts", lambda spec: ("missing", None))
    _, problems = examine()
    assert "the weights of sam2core_nano" in problems


def test_the_owners_of_sam2_are_named(examine, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"sam2": ["SAM-2", "ultra-sam"]})
    facts, problems = examine()
    assert "SAM-2" in facts["sam2 package"]
    assert "SAM-2 and ultra-sam both install a package `sam2`" in problems
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"sam2": ["sam2", "sam2core-compat"]})
    _, problems = examine()
    assert "pip uninstall -y sam2 sam2core-compat, then pip install sam2core-compat" in problems
    assert "--no-deps" in problems
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"sam2": ["sam2core-compat"]})
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "hydra" else real(name))
    facts, _ = examine()
    assert "programs that import hydra need pip install hydra-core" in facts["sam2 package"]
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    facts, _ = examine()
    assert facts["sam2 package"] == "not installed"
    assert "not installed (pip install 'sam2core[video]')" in facts["extras"][0]


@pytest.mark.parametrize("kind", [ImportError, NameError])
def test_an_extra_that_does_not_import_is_a_problem(examine, monkeypatch, kind):
    pytest.importorskip("av")
    real = importlib.import_module

    def fail(name, *rest):
        if name == "av":
            raise kind("libavutil.so.57: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    _, problems = examine()
    assert f"av is installed and does not import: {kind.__name__}" in problems and "libavutil" in problems


def test_a_module_is_told_with_the_version_of_its_distribution(examine, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"av": ["pluggy", "pluggy"]})
    assert f"video: av {importlib.metadata.version('pluggy')}" in examine()[0]["extras"]
