"""The law of imports: who may import whom, as a table; and what no file here does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(file for package in ("sam2core", "registry") for file in (ROOT / package).rglob("*.py"))

LEAVES = {
    "sam2core.types",
    "sam2core.protocols",
    "sam2core.hooks",
    "sam2core.annotations",
    "sam2core.configuration",
    "sam2core.older",
    "sam2core.storage",
}
PARTS = {"sam2core.backbones", "sam2core.memory", "sam2core.heads"}
MEDIA = {"sam2core.media", "sam2core.data"}
BELOW_USES = (
    LEAVES
    | PARTS
    | MEDIA
    | {"sam2core.ops", "sam2core.model", "sam2core.compile", "sam2core.prepare", "sam2core.checkpoints"}
)

# room: the rooms it may import, beside itself
LAW: dict[str, set[str]] = {
    "sam2core.types": LEAVES,
    "sam2core.hooks": LEAVES,
    "sam2core.annotations": LEAVES,
    "sam2core.configuration": LEAVES,
    "sam2core.older": LEAVES,
    "sam2core.storage": LEAVES,
    # contracts speak of the values that parts pass around: for the type checker alone
    "sam2core.protocols": LEAVES | {"sam2core.memory.bank", "sam2core.heads.select"},
    "sam2core.ops": LEAVES,
    "sam2core.backbones": LEAVES | {"sam2core.ops"},
    "sam2core.memory": LEAVES | {"sam2core.ops"},
    "sam2core.heads": LEAVES | {"sam2core.ops"},
    "sam2core.model": LEAVES | PARTS | {"sam2core.ops"},
    "sam2core.compile": LEAVES | PARTS | {"sam2core.ops", "sam2core.model"},
    "sam2core.prepare": LEAVES | PARTS | {"sam2core.ops", "sam2core.model"},
    "sam2core.checkpoints": LEAVES,
    "sam2core.media": LEAVES | {"sam2core.ops"},
    "sam2core.data": LEAVES | {"sam2core.ops", "sam2core.media"},
    "sam2core.predictors": BELOW_USES,
    "sam2core.jobs": BELOW_USES | {"sam2core.predictors", "sam2core"},  # its version, for what is written
    "sam2core.training": BELOW_USES | {"sam2core.jobs"},
    "sam2core.evaluation": BELOW_USES | {"sam2core.predictors", "sam2core.jobs"},
    # the package's face: names only, for the type checker
    "sam2core": BELOW_USES | {"sam2core.predictors", "sam2core.jobs", "sam2core.training", "sam2core.evaluation"},
    "registry": BELOW_USES
    | {"sam2core", "sam2core.predictors", "sam2core.jobs", "sam2core.training", "sam2core.evaluation"},
}
STRANGERS = {"registry.plugins", "registry.components"}  # import what others wrote, and record or tell what it raises
OUTSIDE = {
    "sam2core.cli",
    "sam2core.nano",
    "sam2core.testing",
    "sam2core.__main__",
}  # may import anything; nothing imports them

FUNCTION_LINES, CLASS_LINES, PARAMETERS = 80, 300, 14
LARGE = {
    ("sam2core.predictors.automask:__init__", "parameters"),  # every option of Meta's automatic masks, by name
    ("sam2core.training.loop:train", "parameters"),  # every option of a run, by name
}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """The longest entry of the law that holds a module."""
    candidates = [room for room in (*LAW, *OUTSIDE) if name == room or name.startswith(room + ".")]
    room = max(candidates, key=len)
    assert room != "sam2core" or name == "sam2core", f"{name} is in no room of the law; give it one"
    return room


NAMES = {name_of(file) for file in FILES}


def imports(file: Path, *, at_run_time: bool = False) -> Iterator[tuple[int, str]]:
    """Our modules that a file imports anywhere in it, with the line; `at_run_time`: not those for the type checker."""
    own = name_of(file)
    package = own if file.name == "__init__.py" else own.rpartition(".")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` imports the module
            found = [f"{module}.{alias.name}" if f"{module}.{alias.name}" in NAMES else module for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in found if name.partition(".")[0] in ("sam2core", "registry"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_obey_the_law(file: Path) -> None:
    own = name_of(file)
    room = room_of(own)
    for line, other in imports(file):
        target = room_of(other)
        if target == room or room in OUTSIDE:
            continue
        assert target not in OUTSIDE, f"{own}:{line} imports {other}, which nothing imports"
        allowed = LAW[room]
        assert any(other == name or other.startswith(name + ".") for name in allowed if name != "sam2core") or (
            other == "sam2core" and "sam2core" in allowed
        ), f"{own}:{line} imports {other}; {room} may import only {', '.join(sorted(allowed))}"


def test_the_law_notices_a_wrong_import(tmp_path: Path) -> None:
    # one that the walk could overlook: relative, inside a function, of a module through its package
    text = "def f():\n    from ..predictors import image\n    import sam2core.cli\n    from sam2core import hooks\n"
    package = tmp_path / "sam2core" / "ops"
    package.mkdir(parents=True)
    (package / "wrong.py").write_text(text)
    global ROOT
    real, ROOT = ROOT, tmp_path
    try:
        found = {name for _, name in imports(package / "wrong.py")}
    finally:
        ROOT = real
    assert {room_of(name) for name in found} == {"sam2core.predictors", "sam2core.cli", "sam2core.hooks"}


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The groups of modules of which each imports every other, by whatever way."""
    reached = {}
    for name in graph:
        seen: set[str] = set()
        ahead = [name]
        while ahead:
            fresh = graph[ahead.pop()] - seen
            seen |= fresh
            ahead += fresh
        reached[name] = seen
    return sorted(
        {tuple(sorted(o for o in seen if name in reached[o])) for name, seen in reached.items() if name in seen}
    )


def test_no_circles_of_imports() -> None:
    graph = {
        name_of(file): {other for _, other in imports(file, at_run_time=True) if other in NAMES} - {name_of(file)}
        for file in FILES
    }
    assert circles(graph) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"g"}, "g": {"e", "a"}}
    assert circles(graph) == [("b", "c"), ("e", "f", "g")]


def sizes(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """What a module defines that is too large: name, "lines" or "parameters", how many."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > (CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES):
                yield node.name, "lines", lines
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
            if parameters > PARAMETERS:
                yield node.name, "parameters", parameters


def test_functions_and_classes_are_small() -> None:
    large = {
        f"{name_of(file)}:{name}": f"{count} {what}"
        for file in FILES
        for name, what, count in sizes(ast.parse(file.read_text(encoding="utf-8")))
        if (f"{name_of(file)}:{name}", what) not in LARGE
    }
    assert not large


def test_what_is_too_large_is_found() -> None:
    many = ", ".join(f"p{index}" for index in range(PARAMETERS))
    body = "    pass\n" * (FUNCTION_LINES - 1)
    allowed = f"def f({many}):\n{body}class C:\n" + "    pass\n" * (CLASS_LINES - 1)
    assert list(sizes(ast.parse(allowed))) == []
    beyond = f"async def f({many}, *, more):\n{body}    pass\nclass C:\n" + "    pass\n" * CLASS_LINES
    assert set(sizes(ast.parse(beyond))) == {
        ("f", "lines", FUNCTION_LINES + 1),
        ("f", "parameters", PARAMETERS + 1),
        ("C", "lines", CLASS_LINES + 1),
    }


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_forbidden_words(file: Path) -> None:
    own = name_of(file)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Call):
            function = node.func
            assert not (isinstance(function, ast.Name) and function.id == "print"), f"{own}:{line} prints"
            assert not (isinstance(function, ast.Attribute) and function.attr == "cuda"), f"{own}:{line} calls .cuda()"
        # a handler that ends in a bare `raise` cleans up and swallows nothing
        passes_on = (
            isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise) and not node.body[-1].exc
        )
        if isinstance(node, ast.ExceptHandler) and own not in STRANGERS and not passes_on:
            caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {None}
            assert not caught & {None, "Exception", "BaseException"}, f"{own}:{line} catches everything"
        if isinstance(node, ast.Import | ast.ImportFrom) and not own.startswith("sam2core.cli"):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert (module or "").partition(".")[0] not in {"tqdm", "hydra"}, f"{own}:{line} imports {module}"


def test_a_name_that_leaves_its_module_says_of_what() -> None:
    """`coco.read` says what is read; `read` alone, in another file, does not."""
    bare = {"describe", "layout", "plain", "read", "write"}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                taken = {alias.asname or alias.name for alias in node.names}
                assert not taken & bare, f"{name_of(file)}:{node.lineno} imports {', '.join(taken & bare)}"


@pytest.mark.parametrize("word", ["utils", "misc", "helpers", "common", "base"])
def test_no_file_is_a_drawer(word: str) -> None:
    assert not [name for name in NAMES if name.rpartition(".")[2] == word]


WRITERS = [*FILES, *(ROOT / "plugins").glob("*/sam2*/**/*.py")]
RENAMING = {("os", "replace"), ("os", "rename"), ("os", "renames"), ("shutil", "move"), ("tempfile", "mkstemp")}
RENAMES = {
    "sam2core/storage.py",
    "plugins/sam2core-labelstudio/sam2core_labelstudio/client.py",  # runs where sam2core is not installed
}


@pytest.mark.parametrize("file", WRITERS, ids=lambda file: str(file.relative_to(ROOT)))
def test_one_place_renames_a_finished_file(file: Path) -> None:
    name = str(file.relative_to(ROOT))
    if name in RENAMES:
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called = (node.value.id, node.attr)
            assert called not in RENAMING, f"{name}:{node.lineno} calls {'.'.join(called)}: sam2core.storage does that"


LIGHT = """
import sys
import sam2core
import registry
from sam2core import hookimpl
import sam2core.cli
registry.models(); registry.components(); registry.components("backbone"); registry.plugins()
registry.spec("sam2.1_hiera_l", "memory_policy.frames=4", image_size=512)
sam2core.__version__, dir(sam2core)
heavy = {"torch", "torchvision", "numpy", "scipy", "PIL", "hydra", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""


def test_listing_names_imports_no_torch(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LIGHT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "SAM2CORE_PLUGINS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_every_public_name_is_there() -> None:
    import registry
    import sam2core

    for name in sam2core.__all__:
        assert getattr(sam2core, name) is not None
    assert sam2core.registry is registry
    assert set(sam2core.__all__) <= set(dir(sam2core))
    with pytest.raises(AttributeError, match="no attribute 'Sam3'"):
        _ = sam2core.Sam3
    for name in registry.__all__:
        assert getattr(registry, name) is not None


SHADOW = """
import pathlib, sys
folder = pathlib.Path("shadow"); folder.mkdir()
(folder / "registry.py").write_text("raise SystemExit('a stranger ran')")
sys.path.insert(0, "shadow")
try:
    from sam2core import registry
except ImportError as error:
    text = str(error)
assert "registry.py" in text and "shadow" in text, text
sys.path.remove("shadow")
import importlib; importlib.invalidate_caches()
from sam2core import registry
registry.models()
"""


def test_a_shadowing_registry_is_named_and_not_run(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "SAM2CORE_PLUGINS": ""}
    run = subprocess.run([sys.executable, "-c", SHADOW], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
