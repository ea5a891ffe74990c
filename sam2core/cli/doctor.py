"""`sam2core doctor`: what is installed here, what is broken, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from registry.plugins import PluginRecord

BROKEN = (ImportError, OSError, RuntimeError, AttributeError, NameError)  # importing what does not fit


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON for programs and bug reports.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Examine this installation. Exit code 1 when something is broken.

    Python, torch and torchvision and whether they fit together, devices, optional packages, plugins that
    failed and why, which weights are here, who owns an installed package called `sam2`, the disk, and
    how memory is allocated.
    """
    facts: dict[str, Any] = {}
    problems: list[str] = []
    for examine in (_python, _torch, _torchvision, _extras, _weights, _sam2, _disk):
        examine(facts, problems)
    facts["allocator"] = ctx.meta["sam2core.allocator"]
    ctx.find_root().command.list_commands(ctx)  # type: ignore[attr-defined]  # asks every plugin for its verbs too
    _plugins(facts, problems)
    if as_json:
        click.echo(json.dumps({"ok": not problems, "facts": facts, "problems": problems}, indent=1))
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            lines = value if isinstance(value, list) else [value]
            for number, line in enumerate(lines or ["none"]):
                click.echo(f"{'' if number else name:<{width}}  {line}")
        click.echo("\n" + ("\n".join(f"broken: {problem}" for problem in problems) or "all is well"))
    ctx.exit(1 if problems else 0)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python(facts: dict[str, Any], problems: list[str]) -> None:
    import sam2core

    facts["sam2core"] = f"{sam2core.__version__} in {Path(sam2core.__file__).parent}"
    facts["python"] = f"{platform.python_version()} ({platform.python_implementation()}) in {sys.prefix}"
    facts["platform"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    registry = Path(importlib.import_module("registry").__file__ or "").parent
    facts["registry"] = str(registry)
    if registry.parent != Path(sam2core.__file__).parent.parent:
        problems.append(
            f"`registry` is imported from {registry}, `sam2core` from {Path(sam2core.__file__).parent}: "
            "two installations, or another package of that name, are mixed"
        )


def _torch(facts: dict[str, Any], problems: list[str]) -> None:
    try:
        import torch
    except BROKEN as error:
        facts["torch"] = f"{_version('torch') or 'not installed'}, does not import"
        problems.append(f"torch does not import: {_line(error)}. Install it anew with torchvision")
        return
    facts["torch"] = str(torch.__version__)
    devices = [f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            devices.append(f"cuda:{index}, {torch.cuda.get_device_name(index)}, {_gib(free)} of {_gib(total)} GiB free")
    elif torch.version.cuda or getattr(torch.version, "hip", None):
        devices.append(f"no CUDA device, though torch is built for CUDA {torch.version.cuda}: no GPU or no driver here")
    if torch.backends.mps.is_available():
        devices.append("mps")
    facts["devices"] = devices


def _torchvision(facts: dict[str, Any], problems: list[str]) -> None:
    installed = _version("torchvision")
    if not facts["torch"].endswith("import"):
        try:
            import torch
            from torchvision.ops import nms

            nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        except BROKEN as error:
            facts["torchvision"] = f"{installed or 'not installed'}, does not fit torch {torch.__version__}"
            problems.append(
                f"torchvision {installed} does not work with torch {torch.__version__}: {_line(error)}. "
                "They are built for each other; install both at once: pip install --force-reinstall torch torchvision"
            )
            return
        facts["torchvision"] = f"{installed}, fits torch"
    else:
        facts["torchvision"] = f"{installed or 'not installed'}, not tried"


def _extras(facts: dict[str, Any], problems: list[str]) -> None:
    from sam2core.cli import EXTRAS

    found = []
    owners = importlib.metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        for module in modules:
            if importlib.util.find_spec(module) is None:
                found.append(f"{extra}: {module} is not installed (pip install 'sam2core[{extra}]')")
                continue
            versions = " ".join(str(_version(owner)) for owner in dict.fromkeys(owners.get(module, [module])))
            try:
                importlib.import_module(module)
                found.append(f"{extra}: {module} {versions}")
            except BROKEN as error:
                found.append(f"{extra}: {module} {versions}, does not import")
                problems.append(f"{module} is installed and does not import: {_line(error)}")
    facts["extras"] = found


def _plugins(facts: dict[str, Any], problems: list[str]) -> None:
    from registry.plugins import current, stray

    facts["plugins"] = []
    for record in current().records:
        facts["plugins"].append(f"{record.name} ({record.owner}): {record.status}")
        if record.status == "failed":
            problems.append(f"plugin {record.name} ({record.owner}) failed: {record.error}")
        problems += _parts(record)
    problems += [f"a plugin is not found: {words}" for words in stray()]


def _parts(record: PluginRecord) -> list[str]:
    """The parts that a plugin names and that cannot be imported, one sentence each."""
    from registry.plugins import current
    from sam2core.hooks import PROJECT

    broken = []
    for kind, _, name in (entry.partition(":") for entry in record.provides if record.name != PROJECT):
        if kind != "spec":
            try:
                current().components.resolve(kind, name)
            except ValueError as error:
                broken.append(str(error))
    return broken


def _weights(facts: dict[str, Any], problems: list[str]) -> None:
    from huggingface_hub import constants

    from registry.plugins import current
    from registry.resolve import load
    from sam2core.checkpoints.hub import cache_folder, offline_by_environment
    from sam2core.cli.models import whereabouts

    facts["caches"] = [str(constants.HF_HUB_CACHE), str(cache_folder())]
    if offline_by_environment():
        facts["caches"].append("HF_HUB_OFFLINE is set: nothing is downloaded")
    here, remote = [], []
    for name in current().specs.names():
        try:
            spec = load(name)
        except ValueError as error:
            problems.append(f"spec {name}: {_line(error)}")
            continue
        state, path = whereabouts(spec)
        if state == "missing":
            problems.append(f"the weights of {name} are not where its spec says: {spec.weights and spec.weights.file}")
        elif state == "remote":
            remote.append(name)
        elif path is not None:
            here.append(f"{name}: {state}, {path.stat().st_size / 2**20:.1f} MiB, {path}")
    facts["weights"] = here
    facts["not cached"] = ", ".join(remote) or "none"


def _sam2(facts: dict[str, Any], problems: list[str]) -> None:
    """Several projects install a package called `sam2`: say whose is imported, and when two overwrote each other."""
    found = importlib.util.find_spec("sam2")
    owners = sorted(set(importlib.metadata.packages_distributions().get("sam2", [])))
    if found is None and not owners:
        facts["sam2 package"] = "not installed"
        return
    where = found.origin or next(iter(found.submodule_search_locations or []), "?") if found else "nowhere"
    names = ", ".join(f"{owner} {_version(owner)}" for owner in owners) or "no installed distribution"
    facts["sam2 package"] = f"owned by {names}, imported from {where}"
    ours = "sam2core-compat"
    if len(owners) > 1:
        told = f"{' and '.join(owners)} both install a package `sam2`, one over the other: "
        if ours not in owners:
            told += "uninstall one"
        else:  # a program that requires `sam2` makes pip install Meta's
            told += (
                f"pip uninstall -y {' '.join(owners)}, then pip install {ours}; install a program that requires sam2 "
                "with --no-deps, or the shim of sam2core-compat before it"
            )
        problems.append(told)
    if ours in owners and importlib.util.find_spec("hydra") is None:
        facts["sam2 package"] += "; programs that import hydra need pip install hydra-core"


def _disk(facts: dict[str, Any], problems: list[str]) -> None:
    from sam2core.checkpoints.hub import cache_folder

    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    facts["disk"] = f"{_gib(usage.free)} of {_gib(usage.total)} GiB free at {folder}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
