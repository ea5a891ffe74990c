"""Every hook: asked of a plugin at its time, with exactly the arguments it is documented to have."""

from __future__ import annotations

import inspect
from typing import Any

import click
import pytest

import registry
from sam2core import hooks

DOCUMENTED = {
    "register_components": ["register"],
    "register_specs": ["register"],
    "register_recipes": ["register"],
    "register_kernels": [],
    "register_commands": ["commands"],
}

PLUGIN = {
    "acme_all.py": """
from pathlib import Path
from sam2core import hookimpl

asked = []

def policy(*, patience: int = 3):
    return patience

@hookimpl
def register_components(register):
    asked.append("components")
    register("memory_policy", "acme.patient", policy)
    register("memory_policy", "acme.lazy", "acme_all:policy")

@hookimpl
def register_specs(register):
    asked.append("specs")
    register(Path(__file__).parent / "acme_specs")

@hookimpl
def register_kernels():
    asked.append("kernels")

@hookimpl
def register_commands(commands):
    import click
    asked.append("commands")
    commands.add_command(click.Command("acme"))
""",
    "acme_specs/acme.tiny.yaml": "extends: test_tiny\naliases: [acme/tiny]\nmemory_policy: {frames: 1}\n",
}


def test_the_hooks_are_these() -> None:
    found = {
        name: list(inspect.signature(value).parameters)
        for name, value in vars(hooks).items()
        if inspect.isfunction(value) and name.startswith("register_")
    }
    assert found == DOCUMENTED
    for name in found:
        assert (getattr(hooks, name).__doc__ or "").strip(), name


@pytest.fixture
def asked(installed: Any) -> list[str]:
    installed("acme-all", PLUGIN)
    registry.models()
    import acme_all  # type: ignore[import-not-found]

    return acme_all.asked


def test_components_and_specs_are_asked_at_discovery(asked: list[str]) -> None:
    assert asked == ["components", "specs"]
    assert {"acme.patient", "acme.lazy"} <= set(registry.components("memory_policy"))
    assert registry.spec("acme.tiny").memory_policy == {**registry.spec("test_tiny").memory_policy, "frames": 1}
    assert registry.spec("acme/tiny").name == "acme.tiny"
    registry.models()
    assert asked == ["components", "specs"]


def test_registered_parts_are_made_from_callables_and_from_names(asked: list[str]) -> None:
    offered = registry.current().components
    assert offered.make("memory_policy", {"type": "acme.patient"}) == 3
    assert offered.make("memory_policy", {"type": "acme.lazy", "patience": 5}) == 5


def test_kernels_are_asked_once_at_the_first_build(asked: list[str]) -> None:
    registry.build("acme.tiny", weights=False)
    registry.build("test_tiny", weights=False)
    assert asked == ["components", "specs", "kernels"]


def test_commands_are_asked_when_a_program_asks(asked: list[str]) -> None:
    group = click.Group("sam2core")
    registry.current().ask("register_commands", commands=group)
    assert "acme" in group.commands
    assert asked == ["components", "specs", "commands"]


def test_what_a_plugin_provides_is_recorded(installed: Any, asked: list[str]) -> None:
    record = installed.record("acme-all")
    assert (record.distribution, record.version, record.status, record.error) == ("acme-all", "0.3", "ok", "")
    assert record.provides == ("memory_policy:acme.patient", "memory_policy:acme.lazy", "spec:acme.tiny")


@pytest.mark.parametrize(("hook", "arguments"), [("register_kernels", {}), ("register_commands", {"commands": None})])
def test_a_hook_that_fails_later_is_recorded_and_the_others_go_on(
    installed: Any, hook: str, arguments: dict[str, Any]
) -> None:
    argument = ", ".join(arguments)
    bad = f"from sam2core import hookimpl\n@hookimpl\ndef {hook}({argument}):\n    raise OSError('no compiler')\n"
    good = f"from sam2core import hookimpl\ndone = []\n@hookimpl\ndef {hook}({argument}):\n    done.append(1)\n"
    installed("acme-a", {"acme_a.py": bad})
    installed("acme-b", {"acme_b.py": good})
    registry.current().ask(hook, **arguments)
    import acme_b  # type: ignore[import-not-found]

    assert acme_b.done == [1]
    assert installed.record("acme-a").status == "failed"
    file = installed.site / "acme_a.py"
    assert installed.record("acme-a").error == f"OSError: no compiler ({file}, line 4)"
    assert installed.record("acme-b").status == "ok"
    registry.build("test_tiny", weights=False)
