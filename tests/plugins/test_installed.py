"""A plugin that is a distribution of its own, installed by pip, is found and used; a broken one beside it is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

USE = """
import sys
import registry
assert "acme.pyramid_tiny" in registry.models()
assert "acme.pyramid" in registry.components("backbone")
assert "torch" not in sys.modules and "acme_pyramid.backbone" not in sys.modules
records = {record.name: record for record in registry.plugins()}
good = records["acme-pyramid"]
assert (good.status, good.distribution, good.version) == ("ok", "acme-pyramid", "0.3"), good
assert good.provides == ("backbone:acme.pyramid", "memory_policy:acme.sure", "spec:acme.pyramid_tiny")

import torch
from sam2core import Prompt
model = registry.build("acme.pyramid_tiny", weights=False)
assert type(model.backbone).__module__ == "acme_pyramid.backbone" and model.backbone.channels == (4, 8, 16, 32)
assert type(model.memory_policy).__name__ == "SureFrames" and model.memory_policy.least == 0.9
with torch.no_grad():
    features = model.encode(torch.randn(1, 3, 128, 128))
    answer = model.segment(features, model.condition(features, None), Prompt.nothing(1), multimask_output=True)
assert answer.logits.shape == (1, 3, 32, 32)

assert registry.build("acme/pyramid-tiny", "memory_policy.least=0.1", weights=False).memory_policy.least == 0.1
swapped = registry.build("test_tiny", weights=False, memory_policy={"type": "acme.sure", "frames": 2})
assert type(swapped.memory_policy).__name__ == "SureFrames"
registry.predictor("acme.pyramid_tiny", weights=False)

broken = records["acme-broken"]
assert broken.status == "failed" and "no_such_module_anywhere" in broken.error
try:
    registry.build("test_tiny", weights=False, memory_policy="acme.broken")
except registry.UnknownName as error:
    assert "plugin 'acme-broken' (acme-broken 1.0) failed: ModuleNotFoundError" in str(error), error
else:
    raise AssertionError("an unknown name was accepted")
"""


def test_a_plugin_installed_by_pip_is_used(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("pip is not installed")
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(Path(__file__).parent / "acme_plugin", source)  # building leaves folders behind
    install = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    run = subprocess.run(
        [sys.executable, "-m", "pip", *install, "--target", str(site), str(source)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr

    (site / "acme_broken.py").write_text("import no_such_module_anywhere\n")
    info = site / "acme_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sam2core]\nacme-broken = acme_broken\n")

    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "SAM2CORE_PLUGINS": "acme-pyramid,acme-broken"}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT)])
    run = subprocess.run([sys.executable, "-c", USE], cwd=empty, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
