"""A package for a part of your own, written to a folder: the entry point, the part, a model, tests, a README."""

from __future__ import annotations

import re
import string
from pathlib import Path

import registry
import sam2core
from registry.errors import hint
from registry.kinds import KINDS

TEMPLATES = Path(registry.__file__).parent / "skeletons"
WITH_WEIGHTS = ("memory_policy", "predictor")  # these change no weight: their model is the embedded one
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

USAGE = {
    "memory_policy": 'model = registry.build("sam2.1_hiera_l", memory_policy="$part")',
    "predictor": 'tool = registry.predictor("$model", "$part")\npicture, mask = tool.cut(photo, (10, 10, 60, 40))',
    "layout": 'model = registry.build("$model", weights="weights.pt")',
    "detector": 'print(registry.components("detector"))',
    "writer": 'print(registry.components("writer"))',
    "engine": 'print(registry.components("engine"))',
}


def write_skeleton(name: str, kind: str, folder: Path) -> list[Path]:
    """Write the package `name` with a part of a kind to ``folder / name``: the files, in the order to read them.

    Raises ValueError for a name that no distribution can have or an unknown kind, and FileExistsError when the folder
    is there already; nothing is overwritten.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a package: lower-case words and hyphens, such as acme-motion")
    if name.partition("-")[0] in ("sam2core", "registry", "torch") and "-" not in name:
        raise ValueError(f"{name!r} is the name of a package that is needed here; choose your own, such as acme-motion")
    if kind not in KINDS:
        raise ValueError(f"no kind is called {kind!r}.\n  known: {', '.join(KINDS)}{hint(kind, KINDS)}")
    home = folder / name
    if home.exists():
        raise FileExistsError(f"{home} is there already; nothing was written")
    fields = _fields(name, kind)
    package = fields["package"]
    templates = {
        f"{package}/{kind}.py": _template(kind, "py"),
        f"{package}/__init__.py": _template(kind, "__init__.py"),
        f"{package}/specs/{fields['model']}.yaml": _template(kind, "yaml"),
        f"tests/test_{kind}.py": _template(kind, "test.py"),
        "tests/conftest.py": _template(kind, "conftest.py"),
        "pyproject.toml": _template(kind, "pyproject.toml"),
        "README.md": _template(kind, "README.md"),
    }
    files = {home / path: template for path, template in templates.items() if template is not None}
    for file, template in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        text = string.Template(template.read_text(encoding="utf-8")).substitute(fields)
        file.write_text(text, encoding="utf-8")
    return list(files)


def _template(kind: str, name: str) -> Path | None:
    """The kind's own template, or the one that kinds share; None where a kind needs no such file."""
    own, shared = TEMPLATES / f"{kind}.{name}.txt", TEMPLATES / f"{name}.txt"
    return own if own.exists() else shared if shared.exists() else None


def _fields(name: str, kind: str) -> dict[str, str]:
    """What the templates leave open."""
    part = name.replace("-", ".", 1)
    fields = {
        "name": name,
        "package": name.replace("-", "_"),
        "part": part,
        "target": "LAYOUT" if kind == "layout" else "".join(word.capitalize() for word in name.split("-")),
        "kind": kind,
        "words": kind.replace("_", " "),
        "protocol": KINDS[kind].protocol.partition(":")[2],
        "model": f"{part}_{'nano' if kind in WITH_WEIGHTS else 'tiny'}",
        "version": sam2core.__version__,
    }
    usage = USAGE.get(kind, 'model = registry.build("$model", weights=False)')
    return fields | {"usage": string.Template(usage).safe_substitute(fields)}
