"""Three programs of other people, from PyPI, run on this package where Meta's is absent.

Each gets an environment of its own in which everything heavy comes from the one that runs the tests, by links, except
any `sam2`. Installing needs an index, running gets no network. `SAM2CORE_CLIENTS=1 pytest` this folder.
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
    "SAM2CORE_CLIENTS" not in os.environ, reason="installs from PyPI, two minutes; set SAM2CORE_CLIENTS to run it"
)

CLIENTS = {
    "simple_sam2": (["simple-sam2==1.0.1"], ["opencv-python-headless"]),
    "segment_geospatial": (
        ["segment-geospatial==1.4.2", "segment_anything", "smoothify"],
        "geopandas rasterio gdown patool pyproj shapely matplotlib xyzservices tqdm scikit-image scipy joblib "
        "opencv-python-headless".split(),
    ),
    "pixano_inference_sam": (
        ["pixano-inference-sam==0.2.1", "pixano-inference==0.7.1", "pixano-inference-torch==0.2.0"],
        "httpx pydantic pydantic-settings prometheus-client pycocotools".split(),
    ),
}
"""What is installed alone, and what is installed with what it needs."""

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


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Links to all packages of this environment but those called sam2, sam2core or installed in place."""
    folder = tmp_path_factory.mktemp("shared")
    for source in packages():
        for entry in source.iterdir():
            if not NOT_SHARED.fullmatch(entry.name) and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """sam2core and this package as wheels, built from copies: nothing is written into the tree."""
    folder = tmp_path_factory.mktemp("wheels")
    for source, parts in ((ROOT, ("sam2core", "registry")), (PLUGIN, ("sam2",))):
        copy = folder / source.name
        copy.mkdir()
        for part in parts:
            shutil.copytree(source / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            if (source / name).exists():
                shutil.copy(source / name, copy)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, copy)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Random weights of the tiny model in Meta's layout."""
    path = tmp_path_factory.mktemp("weights") / "sam2.1_hiera_tiny.pt"
    program = (
        "import sys, torch; from sam2.build_sam import build_sam2; torch.manual_seed(0); "
        "torch.save({'model': build_sam2(sys.argv[1], device='cpu').state_dict()}, sys.argv[2])"
    )
    files = {}
    for family in ("sam2.1", "sam2"):
        files[family] = path.with_name(f"{family}_hiera_tiny.pt")
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(PLUGIN), str(ROOT)]))
        run(sys.executable, "-c", program, f"configs/{family}/{family}_hiera_t.yaml", files[family], env=environment)
    return files


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_runs_unchanged(name, shared, wheels, checkpoint, tmp_path):
    place = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place)
    python = place / "bin" / "python"
    library = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    (library / "shared.pth").write_text(str(shared))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    alone, needs = CLIENTS[name]
    run(*pip, "--no-deps", *wheels, *alone)
    run(*pip, *needs)
    whose = "import importlib.metadata as m, sam2; print(m.packages_distributions()['sam2'], sam2.__file__)"
    assert "['sam2core-compat']" in run(python, "-c", whose, cwd=tmp_path)
    (library / "offline.pth").write_text("import offline\n")
    (library / "offline.py").write_text(OFFLINE)
    weights = checkpoint["sam2" if name == "segment_geospatial" else "sam2.1"]
    data = tmp_path / "data"
    data.mkdir()
    told = run(python, HERE / f"uses_{name}.py", data, weights, cwd=data, env=dict(os.environ, MPLBACKEND="Agg"))
    sys.stdout.write("\n" + told.strip().splitlines()[-1])
