"""Programs of other people, from PyPI, run on this package where Meta's is absent.

They share an environment of their own, in which everything heavy comes from the one that runs the tests, by links,
except any `sam2`. Installing needs an index, running gets no network. `SAM2CORE_CLIENTS=1 pytest` this folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLUGIN = HERE.parents[1]
ROOT = PLUGIN.parents[1]

pytestmark = pytest.mark.skipif(
    "SAM2CORE_CLIENTS" not in os.environ, reason="installs from PyPI, a minute; set SAM2CORE_CLIENTS to run it"
)

CLIENTS = {
    "simple_sam2": ["simple-sam2==1.0.1"],
    "segment_geospatial": ["segment-geospatial==1.4.2", "segment_anything", "smoothify"],
    "pixano_inference_sam": ["pixano-inference-sam==0.2.1", "pixano-inference==0.7.1", "pixano-inference-torch==0.2.0"],
    "samexporter": ["samexporter==0.5.0"],
    "dafne_sam2_tools": ["dafne-sam2-tools==0.1.0"],
}
"""What is installed without what it asks for, Meta's package among that."""
if sys.version_info < (3, 11):
    del CLIENTS["samexporter"]
NEEDS = [
    *("opencv-python-headless", "scikit-image", "scipy", "joblib", "tqdm", "matplotlib", "pycocotools"),
    *("geopandas", "rasterio", "gdown", "patool", "pyproj", "shapely", "xyzservices"),
    *("httpx", "pydantic", "pydantic-settings", "prometheus-client"),
    *("onnx", "hydra-core"),
]
"""What they need, installed with what it asks for; most of it is in the environment that runs the tests."""

NOT_SHARED = re.compile(r"(sam[-_]?2(core.*)?|__editable__.*|distutils-precedence\.pth)([-.].*)?", re.IGNORECASE)
OFFLINE = """
import socket
def refuse(*_, **__):
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse
"""


def run(*command: str | Path, **more) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command[:6]))}:\n{done.stdout[-1500:]}\n{done.stderr[-4000:]}"
    return done.stdout


def packages() -> list[Path]:
    """The folders that this interpreter's packages lie in, those of .pth files included."""
    here = Path(sysconfig.get_paths()["purelib"])
    return [here, *(Path(path) for path in sys.path if path.endswith("site-packages") and Path(path) != here)]


def link_packages(folder: Path) -> Path:
    """Links to all packages of this environment but those called sam2, sam2core or installed in place."""
    folder.mkdir()
    for source in packages():
        for entry in source.iterdir():
            if not NOT_SHARED.fullmatch(entry.name) and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return folder


def copied(source: Path, parts: tuple[str, ...], folder: Path) -> Path:
    """A copy of what a package is built of: building writes into its folder."""
    copy = folder / source.name
    copy.mkdir()
    for part in parts:
        shutil.copytree(source / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        if (source / name).exists():
            shutil.copy(source / name, copy)
    return copy


@pytest.fixture(scope="session")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with sam2core, this package, the programs, and no network."""
    place = tmp_path_factory.mktemp("clients")
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    python = place / "venv" / "bin" / "python"
    library = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    (library / "shared.pth").write_text(str(link_packages(place / "shared")))
    ours = [copied(ROOT, ("sam2core", "registry"), place), copied(PLUGIN, ("sam2",), place)]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-deps", "--no-build-isolation", *ours)
    run(*pip, "--no-deps", *(name for names in CLIENTS.values() for name in names))
    run(*pip, *NEEDS)
    whose = "import importlib.metadata as m, sam2; print(m.packages_distributions()['sam2'], sam2.__file__)"
    assert "['sam2core-compat']" in run(python, "-c", whose, cwd=place)
    (library / "offline.pth").write_text("import offline\n")
    (library / "offline.py").write_text(OFFLINE)
    return python


@pytest.fixture(scope="session")
def checkpoints(python, tmp_path_factory) -> dict[str, Path]:
    """Random weights of both tiny models in Meta's layout."""
    folder = tmp_path_factory.mktemp("weights")
    program = (
        "import sys, torch; from sam2.build_sam import build_sam2; torch.manual_seed(0)\n"
        "for family in ('sam2.1', 'sam2'):\n"
        "    model = build_sam2(f'configs/{family}/{family}_hiera_t.yaml', device='cpu')\n"
        "    torch.save({'model': model.state_dict()}, f'{family}_hiera_tiny.pt')\n"
    )
    run(python, "-c", program, cwd=folder)
    return {family: folder / f"{family}_hiera_tiny.pt" for family in ("sam2.1", "sam2")}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_runs_unchanged(name, python, checkpoints, tmp_path):
    weights = checkpoints["sam2" if name == "segment_geospatial" else "sam2.1"]
    told = run(
        python, HERE / f"uses_{name}.py", tmp_path, weights, cwd=tmp_path, env=dict(os.environ, MPLBACKEND="Agg")
    )
    sys.stdout.write("\n" + told.strip().splitlines()[-1])
