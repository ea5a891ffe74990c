"""What a stranger reads of a plugin that does not work: in the list, from `doctor`, and when a build fails for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

import registry
from registry.errors import SpecError, UnknownName

HEAD = "from pathlib import Path\nfrom sam2core import hookimpl\n@hookimpl\n"
REGISTER = HEAD + "def register_components(register):\n    register({!r}, {!r}, {!r})\n"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call `sam2core`; the exit code and everything it printed, with blanks and line ends alike."""
    from sam2core.cli import main

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(main, "commands", {})
        monkeypatch.setattr(main, "_joined", False)
        ended = CliRunner().invoke(main, list(words))
        return ended.exit_code, ended.output

    return call


FAILURES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a package it needs is missing": (
        {"files": {"acme.py": "import os\nimport filterpy_absent.kalman\n"}},
        ("ModuleNotFoundError", "acme.py, line 2", "install what brings 'filterpy_absent'"),
    ),
    "raises when asked": (
        {"files": {"acme.py": HEAD + "def register_components(register):\n    1 / 0\n"}},
        ("ZeroDivisionError: division by zero", "acme.py, line 5"),
    ),
    "no Python": ({"files": {"acme.py": "def f(:\n"}}, ("SyntaxError", "acme.py, line 1")),
    "the entry point names another module": (
        {"files": {"acme.py": ""}, "points": {"acme": "acmee"}},
        ("No module named 'acmee'", "entry point names a module that is not installed"),
    ),
    "the entry point names no attribute": (
        {"files": {"acme.py": ""}, "points": {"acme": "acme:plugin"}},
        ("AttributeError", "plugin"),
    ),
    "a hook is misspelled": (
        {"files": {"acme.py": HEAD + "def register_component(register): pass\n"}},
        ("no hook is called 'register_component', as a function in acme is", "; did you mean 'register_components'"),
    ),
    "an argument is misspelled": (
        {"files": {"acme.py": HEAD + "def register_components(registry): pass\n"}},
        ("Argument(s) {'registry'} are declared in the hookimpl",),
    ),
    "a kind is misspelled": (
        {"files": {"acme.py": REGISTER.format("memory_polcy", "acme.x", "acme:X")}},
        ("no kind is called 'memory_polcy'", "did you mean 'memory_policy'"),
    ),
    "a duplicate": (
        {"files": {"acme.py": REGISTER.format("memory_policy", "recent", "acme:X")}},
        (
            "'recent' is offered by sam2core",
            "and by acme 0.3; the first keeps the name; so the second is left out whole: uninstall one, or name in",
        ),
    ),
    "for a newer version": (
        {"files": {"acme.py": ""}, "requires": "sam2core>=99.1"},
        ("it needs sam2core>=99.1, and ", "is installed: pip install 'sam2core>=99.1', or another version of acme"),
    ),
    "for an older version": (
        {"files": {"acme.py": ""}, "requires": "sam2core<0.0.9"},
        ("it needs sam2core<0.0.9",),
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_reason_is_given_wherever_one_looks(installed: Any, program: Any, failure: str) -> None:
    written, words = FAILURES[failure]
    installed("acme", **written)
    code, listed = program("plugins")
    assert code == 0 and "failed" in listed
    record = next(one for one in json.loads(program("plugins", "--json")[1]) if one["name"] == "acme")
    assert record["status"] == "failed" and "Traceback" not in record["error"]
    code, examined = program("doctor")
    assert code == 1
    with pytest.raises(UnknownName) as caught:
        registry.build("test_tiny", weights=False, memory_policy="acme.motion")
    for text in (listed, record["error"], examined, str(caught.value)):
        for word in words:
            assert word in text, f"{word!r} is not in:\n{text}"
    assert "acme 0.3" in str(caught.value) and "acme 0.3" in examined
    registry.build("test_tiny", weights=False)  # and everything else works


@pytest.mark.parametrize(
    "requires",
    ["sam2core", "sam2core>=0.1", "SAM2Core >= 0.0.1", "sam2core>=99; extra == 'new'", "sam2core-compat>=99"],
)
def test_what_fits_is_admitted(installed: Any, requires: str) -> None:
    installed("acme", {"acme.py": REGISTER.format("neck", "acme.x", "acme:X")}, requires=requires)
    assert "acme.x" in registry.components("neck")


@pytest.mark.parametrize("group", ["sam2core.plugins", "sam2core_plugins", "sam2-core", "sam2cor", "Sam2Core"])
def test_a_group_that_nobody_reads_is_told(installed: Any, program: Any, group: str) -> None:
    installed("acme", {"acme.py": HEAD}, group=group)
    for verb in ("plugins", "doctor"):
        text = program(verb)[1]
        assert f"acme 0.3 has entry points in the group {group!r}" in text, text
        assert "[project.entry-points.sam2core]" in text


@pytest.mark.parametrize("group", ["console_scripts", "pytest11", "sam3.plugins"])
def test_groups_of_others_are_their_business(installed: Any, program: Any, group: str) -> None:
    installed("acme", {"acme.py": HEAD}, group=group)
    assert "acme" not in program("plugins")[1]


PARTS = {
    "no such module": ("acme.polcy:Motion", "", ("No module named 'acme.polcy'",)),
    "no such class": (
        "acme.policy:Moton",
        "class Motion: pass\n",
        ("has no attribute 'Moton'", "did you mean 'Motion'"),
    ),
    "does not run": ("acme.policy:Motion", "raise RuntimeError('no licence')\n", ("RuntimeError: no licence",)),
    "no Python": ("acme.policy:Motion", "class Motion(:\n", ("SyntaxError",)),
}


@pytest.mark.parametrize("fault", PARTS)
def test_a_part_that_cannot_be_had_is_told(installed: Any, program: Any, fault: str) -> None:
    target, text, words = PARTS[fault]
    files = {"acme/__init__.py": REGISTER.format("memory_policy", "acme.motion", target), "acme/policy.py": text}
    installed("acme", files)
    assert installed.record("acme").status == "ok"  # names alone are read until it is used
    code, examined = program("doctor")
    with pytest.raises(SpecError) as caught:
        registry.build("test_tiny", weights=False, memory_policy="acme.motion")
    assert code == 1
    for told in (examined, str(caught.value)):
        assert "memory_policy 'acme.motion' of acme 0.3 cannot be had from" in told
        for word in words:
            assert word in told, told


def test_a_name_in_the_environment_that_nobody_offers(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("acme-motion", {"acme.py": HEAD + "def register_components(): pass\n"})
    monkeypatch.setenv("SAM2CORE_PLUGINS", "acme-moton")
    registry.models()
    assert "did you mean 'acme-motion'" in installed.record("acme-moton").error
