"""Discovery with hand-written distributions: good, broken, misspelled, duplicate; none takes the others down."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

import registry
from registry.errors import UnknownName

HEAD = "from pathlib import Path\nfrom sam2core import hookimpl\n"


def offering(*names: str, kind: str = "memory_policy") -> str:
    """A plugin module that registers these names."""
    lines = "".join(f"    register({kind!r}, {name!r}, 'somewhere:Thing')\n" for name in names)
    return f"{HEAD}@hookimpl\ndef register_components(register):\n{lines}"


def with_specs(folder: str) -> str:
    return f"{HEAD}@hookimpl\ndef register_specs(register):\n    register(Path(__file__).parent / {folder!r})\n"


def test_a_good_plugin(installed: Any) -> None:
    installed("acme-good", {"acme_good.py": offering("acme.good")})
    assert "acme.good" in registry.components("memory_policy")
    assert installed.record("acme-good").status == "ok"
    assert [record.name for record in registry.plugins()] == ["sam2core", "nano", "acme-good"]


BROKEN = {
    "import": ("import filterpy_that_is_not_there\n", "ModuleNotFoundError: No module named 'filterpy_that"),
    "syntax": ("def f(:\n", "SyntaxError"),
    "exit": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "exit in a hook": (f"{HEAD}@hookimpl\ndef register_components(register):\n    exit()\n", "SystemExit"),
    "misspelled hook": (f"{HEAD}@hookimpl\ndef register_component(register): pass\n", "did you mean 'register_comp"),
    "misspelled argument": (f"{HEAD}@hookimpl\ndef register_components(registry): pass\n", "PluginValidationError"),
    "no hook": (f"{HEAD}def register_components(register): pass\n", "is marked @hookimpl"),
    "unknown kind": (offering("acme.x", kind="memory_polcy"), "did you mean 'memory_policy'"),
    "no such folder": (with_specs("nowhere"), "is no folder"),
    "asks while asked": (f"{HEAD}import registry\nregistry.models()\n", "while it was being discovered"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_leaves_everything_else_working(
    installed: Any, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    text, error = BROKEN[case]
    installed("acme-bad", {"acme_bad.py": text})
    installed("zz-good", {"zz_good.py": offering("zz.good")})
    with caplog.at_level(logging.WARNING):
        assert "zz.good" in registry.components("memory_policy")
    record = installed.record("acme-bad")
    assert record.status == "failed" and error in record.error and "\n" not in record.error
    assert record.provides == ()
    assert [line.message for line in caplog.records] == [f"plugin 'acme-bad' (acme-bad 0.3) failed: {record.error}"]
    assert registry.current().manager.get_plugin("acme-bad") is None
    registry.build("test_tiny", weights=False)
    # and it is named where it may be missed
    for ask in (
        lambda: registry.spec("acme.motion_hiera_l"),
        lambda: registry.build("test_tiny", weights=False, memory_policy="acme.motion"),
        lambda: registry.predictor("test_tiny", "acme.tree"),
    ):
        with pytest.raises(UnknownName) as caught:
            ask()
        assert f"plugin 'acme-bad' (acme-bad 0.3) failed: {record.error}" in str(caught.value)


def test_keyboard_interrupt_is_nobodys_failure(installed: Any) -> None:
    installed("acme-bad", {"acme_bad.py": "raise KeyboardInterrupt\n"})
    with pytest.raises(KeyboardInterrupt):
        registry.models()
    (installed.site / "acme_bad.py").write_text(offering("acme.x") + "# mended\n")
    registry.models()  # discovery starts anew
    assert installed.record("acme-bad").status == "ok"


def test_optional_hooks_of_newer_versions_are_fine(installed: Any) -> None:
    text = f"{HEAD}@hookimpl(optionalhook=True)\ndef register_dreams(dreams): pass\n"
    installed("acme-new", {"acme_new.py": text})
    registry.models()
    assert installed.record("acme-new").status == "ok"


def test_a_distribution_without_metadata_is_one_without_a_name(installed: Any) -> None:
    installed("acme-bare", {"acme_bare.py": offering("acme.bare")})
    installed("acme-good", {"acme_good.py": offering("acme.good")})
    (folder,) = installed.site.glob("acme_bare-*.dist-info")
    (folder / "METADATA").unlink()
    assert {"acme.bare", "acme.good"} <= set(registry.components("memory_policy"))
    assert installed.record("acme-bare").owner == "acme-bare"


def test_hooks_may_take_fewer_arguments(installed: Any) -> None:
    installed("acme-few", {"acme_few.py": f"{HEAD}@hookimpl\ndef register_components(): pass\n"})
    registry.models()
    assert installed.record("acme-few").status == "ok"


def test_a_duplicate_name_is_refused_with_both_owners_and_nothing_of_the_second_stays(installed: Any) -> None:
    installed("acme-one", {"acme_one.py": offering("acme.same")})
    installed("acme-two", {"acme_two.py": offering("acme.other", "acme.same")})
    assert "acme.same" in registry.components("memory_policy")
    assert "acme.other" not in registry.components("memory_policy")
    record = installed.record("acme-two")
    assert record.status == "failed"
    assert "memory_policy 'acme.same' is offered by acme-one 0.3 and by acme-two 0.3" in record.error


def test_the_built_in_names_are_nobody_elses(installed: Any) -> None:
    installed("acme-grab", {"acme_grab.py": offering("recent")})
    registry.models()
    assert "'recent' is offered by sam2core" in installed.record("acme-grab").error
    assert type(registry.build("test_tiny", weights=False).memory_policy).__name__ == "RecentFrames"


@pytest.mark.parametrize(
    "spec",
    [
        ("test_tiny.yaml", "extends: sam2.1\n"),
        ("acme.x.yaml", "extends: test_tiny\naliases: [test_tiny]\n"),
        ("acme.x.yaml", "extends: test_tiny\naliases: [facebook/sam2.1-hiera-large]\n"),
        ("facebook-less.yaml", "aliases: [acme.fine]\n"),
    ],
)
def test_a_spec_name_that_is_taken_is_refused(installed: Any, spec: tuple[str, str]) -> None:
    name, text = spec
    files = {"acme_specs.py": with_specs("folder"), "folder/acme.fine.yaml": "extends: test_tiny\n"}
    installed("acme-specs", {**files, f"folder/{name}": text})
    before = registry.spec("test_tiny")
    assert "acme.fine" not in registry.models()
    record = installed.record("acme-specs")
    assert record.status == "failed" and "is offered by" in record.error and "by acme-specs 0.3" in record.error
    assert registry.spec("test_tiny") == before


def test_a_spec_that_is_no_yaml_fails_its_plugin(installed: Any) -> None:
    installed("acme-specs", {"acme_specs.py": with_specs("folder"), "folder/acme.x.yaml": "dim: [1\n"})
    registry.models()
    assert "acme.x.yaml: not readable as YAML" in installed.record("acme-specs").error


def test_two_plugins_of_one_name(installed: Any) -> None:
    installed("acme-one", {"acme_one.py": offering("acme.one")}, {"motion": "acme_one"})
    installed("acme-two", {"acme_two.py": offering("acme.two")}, {"motion": "acme_two"})
    assert "acme.one" in registry.components("memory_policy")
    assert "acme.two" not in registry.components("memory_policy")
    assert installed.record("motion").distribution == "acme-one"
    failed = installed.record("motion of acme-two 0.3")
    assert failed.error == "ValueError: a plugin called 'motion' is already offered by acme-one 0.3"
    assert registry.current().manager.get_plugin("motion") is not None


@pytest.mark.parametrize(
    ("chosen", "status"),
    [
        (None, {"acme-a": "ok", "acme-b": "ok"}),
        ("", {"acme-a": "off", "acme-b": "off"}),
        ("acme-b", {"acme-a": "off", "acme-b": "ok"}),
        (" acme-b , acme-a,", {"acme-a": "ok", "acme-b": "ok"}),
        ("acme-a,acme-c", {"acme-a": "ok", "acme-b": "off", "acme-c": "failed"}),
    ],
)
def test_the_environment_chooses(
    installed: Any, monkeypatch: pytest.MonkeyPatch, chosen: str | None, status: dict[str, str]
) -> None:
    installed("acme-a", {"acme_a.py": offering("acme.a")})
    installed("acme-b", {"acme_b.py": offering("acme.b")})
    if chosen is not None:
        monkeypatch.setenv("SAM2CORE_PLUGINS", chosen)
    assert {record.name: record.status for record in registry.plugins()} == {"sam2core": "ok", "nano": "ok", **status}
    names = {name for name in registry.components("memory_policy") if name.startswith("acme")}
    assert names == {name.replace("-", ".") for name, state in status.items() if state == "ok"}


def test_a_plugin_that_is_off_is_not_imported(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("acme-bomb", {"acme_bomb.py": "raise SystemExit('boom')\n"})
    monkeypatch.setenv("SAM2CORE_PLUGINS", "")
    registry.models()
    assert installed.record("acme-bomb").error == ""


def test_strict_raises_the_plugins_own_error(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("acme-bad", {"acme_bad.py": "import filterpy_that_is_not_there\n"})
    monkeypatch.setenv("SAM2CORE_STRICT_PLUGINS", "1")
    with pytest.raises(ModuleNotFoundError, match="filterpy_that_is_not_there"):
        registry.models()
    monkeypatch.setenv("SAM2CORE_STRICT_PLUGINS", "0")
    assert registry.models()


def test_many_threads_discover_once(installed: Any) -> None:
    slow = f"import time\n{offering('acme.slow')}time.sleep(0.05)\nimport builtins\nbuiltins.acme_loads += 1\n"
    installed("acme-slow", {"acme_slow.py": slow})
    import builtins

    builtins.acme_loads = 0  # type: ignore[attr-defined]
    seen: list[Any] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        seen.append((registry.current(), tuple(registry.components("memory_policy"))))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert builtins.acme_loads == 1  # type: ignore[attr-defined]
        assert len(set(seen)) == 1 and len(seen) == 8
        assert "acme.slow" in seen[0][1]
    finally:
        del builtins.acme_loads  # type: ignore[attr-defined]
