"""A half-overwritten installation says so, and who owns `sam2` can be told."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sam2"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(PACKAGE, tmp_path / "sam2", ignore=shutil.ignore_patterns("__pycache__")))


def test_an_installation_of_our_own_is_whole(copy):
    import sam2

    sam2._check(copy)


@pytest.mark.parametrize("name", ["sam2_video_predictor_legacy.py", "benchmark.py", "_C.so"])
def test_files_of_the_other_distribution_are_noticed(copy, name):
    import sam2

    (copy / name).write_text("")
    with pytest.raises(ImportError, match=rf"mixture.*{name}.*(?s:.)*pip uninstall -y sam2"):
        sam2._check(copy)


def test_files_put_over_ours_are_noticed(copy):
    import sam2

    (copy / "modeling" / "sam2_base.py").write_text("class SAM2Base:\n    pass\n")
    with pytest.raises(ImportError, match="modeling/sam2_base.py is not ours"):
        sam2._check(copy)


def test_the_shim_is_sam2_to_pip_and_holds_nothing(tmp_path):
    source = shutil.copytree(PACKAGE.parent / "shim", tmp_path / "shim")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(tmp_path / "there"), str(source)], check=True, capture_output=True)
    (found,) = importlib.metadata.distributions(path=[str(tmp_path / "there")])
    assert (found.name, found.version) == ("sam2", "1.1.0") and found.requires == ["sam2core-compat>=0.1"]
    assert not (tmp_path / "there" / "sam2").exists()
