"""For plugin authors: `check` a part against its kind's contract, a tiny model to try it in, an isolated registry.

    from sam2core.testing import check

    def test_contract():
        check("memory_policy", MotionPolicy)

Fixtures for pytest are in `sam2core.testing.fixtures`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from registry.components import Components, call
from registry.components import check as check_signature
from registry.errors import UnknownName, hint
from registry.kinds import KINDS
from registry.plugins import current
from sam2core.testing.isolation import isolated, tiny_model
from sam2core.testing.rules import GIVEN, ContractError, Examination, Found, is_target, label_of

__all__ = ["GIVEN", "ContractError", "check", "isolated", "tiny_model"]


def check(
    kind: str,
    part: Any,
    *,
    options: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    image_size: tuple[int, int] = (64, 96),
    use: Callable[[Any], Any] | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Examine a part as its kind's contract (`sam2core.protocols`) wants it; return when it keeps all of it.

    kind         one of `registry.KINDS`
    part         what you register: a class or a function, "package.module:attribute", or the name it is registered
                 under; or a part already made with the widths in ``GIVEN[kind]``. A module that was made on the meta
                 device has its shapes examined and nothing else
    options      options the part is made with (for a target alone; default: its own defaults)
    given        other widths than those of `GIVEN`, such as ``{"dim": 64}``; for a policy, ``{"slots": 9}`` when it is
                 for models whose readout has nine slots instead of SAM 2's seven
    image_size   (H, W) in pixels of the images it is tried on, multiples of 32
    use          for a predictor that has neither `encode` nor `open`: how to use it, ``lambda tool: tool.run(...)``
    state        for a layout: tensors under our names that it must be able to write (default: the tiny model's)

    Raises ContractError, an AssertionError, at the first rule that is broken: it says what the contract wants and what
    was found. Raises UnknownName for a kind or a name that does not exist.
    """
    if kind not in KINDS:
        raise UnknownName(f"no kind is called {kind!r}.\n  known: {', '.join(KINDS)}{hint(str(kind), KINDS)}")
    if image_size[0] % 32 or image_size[1] % 32 or min(image_size) < 32:
        raise ValueError(f"image_size is (H, W), multiples of 32, not {image_size!r}")
    widths = {**GIVEN[kind], **(given or {})}
    if "image_size" in widths:
        widths["image_size"] = image_size
    if isinstance(part, str):
        part = _named(kind, part)
    examination = Examination(kind, label_of(part))
    if KINDS[kind].called and is_target(part):
        target, part = part, _made(examination, kind, part, options or {}, widths)
    else:
        target = None
        if options:
            raise ValueError(f"options are for a target that check makes the part from; {label_of(part)} is made")
    if kind == "layout":
        from sam2core.testing.layouts import examine_layout

        examine_layout(examination, part, state)
    elif kind == "predictor":
        from sam2core.testing.predictors import examine_predictor

        examine_predictor(examination, part, target and _again(target, options or {}), use)
    elif kind == "engine":
        from sam2core.testing.engines import examine_engine

        examine_engine(examination, part)
    elif kind == "detector":
        from sam2core.testing.jobs import examine_detector

        examine_detector(examination, part)
    elif kind == "writer":
        from sam2core.testing.jobs import examine_writer

        examine_writer(examination, part)
    elif kind == "initialisation":
        from sam2core.testing.training import examine_initialisation

        examine_initialisation(examination, part)
    elif kind == "memory_policy":
        from sam2core.testing.policies import SLOTS, examine_policy

        examine_policy(examination, part, widths.get("slots", SLOTS))
    else:
        from sam2core.testing.modules import examine_module

        examine_module(examination, kind, part, widths, image_size)


def _named(kind: str, name: str) -> Any:
    """What a registered name, or "package.module:attribute", stands for."""
    if ":" not in name:
        return current().components.resolve(kind, name)
    offered = Components()
    offered.add(kind, "part", name, "this test")
    return offered.resolve(kind, "part")


def _made(
    examination: Examination, kind: str, target: Any, options: Mapping[str, Any], widths: Mapping[str, Any]
) -> Any:
    """The part as the registry makes it, after its constructor was examined."""
    passes = KINDS[kind].passes
    passed = {name: widths[name] for name in passes if name in widths}
    if kind == "predictor":
        passed["model"] = tiny_model()
    wants = f"a callable that takes {', '.join(passes) or 'nothing'} and its own options as keywords with defaults"
    with examination.rule("constructor", wants):
        check_signature(label_of(target), target, options, passes)
        for name, parameter in inspect.signature(target).parameters.items():
            if name in passes:
                continue
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                raise Found(f"*{name}: options that no message can name; write them out")
            if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
                raise Found(f"the option {name!r} is not keyword-only with a default; write '*, {name}=...'")
        return call(label_of(target), target, options, **passed)


def _again(target: Any, options: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda model: call(label_of(target), target, options, model=model)
