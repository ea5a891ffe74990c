"""The test kit itself: right parts pass, and each kind of wrong part is caught by the rule it breaks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import registry
from registry.errors import UnknownName
from sam2core import Keep, RecentFrames, TokenBlock
from sam2core.backbones.fpn import Fpn
from sam2core.backbones.hiera import hiera_micro
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.layout import NATIVE, Layout, Rename
from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.memory.attention import RopeMemoryAttention
from sam2core.memory.encoder import ConvMemoryEncoder
from sam2core.predictors.image import ImagePredictor
from sam2core.testing import GIVEN, ContractError, check, isolated, tiny_model

# ------------------------------------------------------------------------------------------------- modules, by faults


def wrong(kind: str, made: nn.Module, **methods: Any) -> nn.Module:
    """The part, with other methods."""
    made.__class__ = type(f"Wrong{type(made).__name__}", (type(made),), methods)
    return made


def after(change: Any) -> Any:
    """A forward whose output is changed by `change(self, output, *inputs)`."""

    def forward(self: Any, *inputs: Any) -> Any:
        return change(self, super(type(self), self).forward(*inputs), *inputs)

    return forward


def made(kind: str) -> nn.Module:
    parts = {
        "backbone": hiera_micro,
        "neck": Fpn,
        "mask_decoder": SamMaskDecoder,
        "memory_encoder": ConvMemoryEncoder,
        "memory_attention": RopeMemoryAttention,
    }
    return parts[kind](**GIVEN[kind])


def with_attribute(kind: str, name: str, value: Any) -> nn.Module:
    part = made(kind)
    setattr(part, name, value)
    return part


def with_buffer(kind: str) -> nn.Module:
    part = made(kind)
    part.register_buffer("table", torch.ones(3), persistent=False)
    return part


def unused(kind: str) -> nn.Module:
    part = made(kind)
    part.extra = nn.Linear(2, 2)
    return part


def mixed(self: Any, out: Any, *inputs: Any) -> Any:
    return [x + 0.1 * x.mean(dim=0, keepdim=True) for x in out]


def noisy(self: Any, out: Any, *inputs: Any) -> Any:
    return [x + torch.randn_like(x) for x in out]


def in_place(self: Any, out: Any, *inputs: Any) -> Any:
    inputs[0].mul_(1.0 if inputs[0].is_meta or inputs[0].requires_grad else 0.5)
    return out


def counting(self: Any, out: Any, *inputs: Any) -> Any:
    self.__dict__["seen"] = self.__dict__.get("seen", 0) + 1
    return [x * self.seen for x in out]


def cpu_table(self: Any, out: Any, *inputs: Any) -> Any:
    return [x * torch.linspace(1, 2, x.shape[-1]).to(x.dtype) for x in out]


def decoder(**changes: Any) -> nn.Module:
    return wrong(
        "mask_decoder", made("mask_decoder"), forward=after(lambda _, out, *__: replace(out, **_of(out, changes)))
    )


def _of(out: Any, changes: dict[str, Any]) -> dict[str, Any]:
    return {name: change(getattr(out, name)) for name, change in changes.items()}


def encoder(change: Any) -> nn.Module:
    return wrong("memory_encoder", made("memory_encoder"), forward=after(lambda _, out, *given: change(out, *given)))


def attention(change: Any) -> nn.Module:
    class Wrong(RopeMemoryAttention):
        def forward(self, features: Any, position: Any, blocks: Any, memory_mask: Any = None) -> Tensor:
            return change(super().forward, features, position, blocks, memory_mask)

    return Wrong(**GIVEN["memory_attention"])


WRONG_MODULES: dict[str, tuple[str, Any, str, str]] = {
    "no module": ("backbone", lambda: object(), "protocol", "no torch.nn.Module"),
    "no strides": ("backbone", lambda: nn.Conv2d(3, 8, 4, 4), "protocol", "it lacks channels, strides"),
    "too few maps": (
        "backbone",
        lambda: wrong("", made("backbone"), forward=after(lambda s, m, *_: m[:3])),
        "shapes",
        "3 maps for 4 strides",
    ),
    "wrong channels": (
        "backbone",
        lambda: with_attribute("backbone", "channels", (8, 16, 32, 63)),
        "shapes",
        "the map at stride 32 is",
    ),
    "noise": ("backbone", lambda: wrong("", made("backbone"), forward=after(noisy)), "determinism", "two equal calls"),
    "writes its input": (
        "backbone",
        lambda: wrong("", made("backbone"), forward=after(in_place)),
        "determinism",
        "differs",
    ),
    "mixes a batch": (
        "backbone",
        lambda: wrong("", made("backbone"), forward=after(mixed)),
        "batch independence",
        "row 0 changes when row 1",
    ),
    "cut off": (
        "backbone",
        lambda: wrong("", made("backbone"), forward=after(lambda s, m, *_: [x.detach() for x in m])),
        "gradients",
        "cut off",
    ),
    "no part in it": ("backbone", lambda: unused("backbone"), "gradients", "extra.weight, extra.bias"),
    "plain tensor": (
        "backbone",
        lambda: with_attribute("backbone", "mean", torch.zeros(3)),
        "state dict",
        "'mean' is a plain tensor",
    ),
    "hidden modules": (
        "backbone",
        lambda: with_attribute("backbone", "more", [nn.Linear(2, 2)]),
        "state dict",
        "plain list",
    ),
    "hidden buffer": ("backbone", lambda: with_buffer("backbone"), "state dict", "'table' is not in the state dict"),
    "fp32 inside": (
        "backbone",
        lambda: wrong("", made("backbone"), forward=after(lambda s, m, *_: [x.float() for x in m])),
        "dtypes",
        "is float32",
    ),
    "on the CPU": ("backbone", lambda: wrong("", made("backbone"), forward=after(cpu_table)), "devices", "device"),
    "remembers": (
        "neck",
        lambda: wrong("", made("neck"), forward=after(counting)),
        "determinism",
        "kept between calls",
    ),
    "coarsest first": (
        "neck",
        lambda: wrong("", made("neck"), forward=after(lambda s, m, *_: m[::-1])),
        "shapes",
        "the map at stride 4 is",
    ),
    "one map": ("neck", lambda: wrong("", made("neck"), forward=after(lambda s, m, *_: m[-1])), "shapes", "a Tensor"),
    "three masks": (
        "mask_decoder",
        lambda: decoder(masks=lambda x: x[:, :3]),
        "shapes",
        "masks is (2, 3, 16, 24), not (2, 4, 16, 24)",
    ),
    "iou is a logit": ("mask_decoder", lambda: decoder(iou=lambda x: 9 * (x - 0.5)), "shapes", "it is in [0, 1]"),
    "a tuple": (
        "mask_decoder",
        lambda: wrong("", made("mask_decoder"), forward=after(lambda s, o, *_: (o.masks, o.iou))),
        "shapes",
        "a tuple, not a DecoderOutput",
    ),
    "ranks a batch": (
        "mask_decoder",
        lambda: decoder(object_score=lambda x: x - x.mean(0)),
        "batch independence",
        "object_score of row 0",
    ),
    "reads what is not meant": (
        "mask_decoder",
        lambda: wrong("", made("mask_decoder"), forward=lambda s, *a: super(type(s), s).forward(*a[:5])),
        "token_mask",
        "tokens that are not counted",
    ),
    "stability a dict": (
        "mask_decoder",
        lambda: with_attribute("mask_decoder", "stability", {"delta": 0.05}),
        "stability",
        "a dict",
    ),
    "a list": ("memory_encoder", lambda: encoder(lambda out, *_: list(out)), "shapes", "a list, not a tuple"),
    "wrong grid": (
        "memory_encoder",
        lambda: encoder(lambda out, *_: (replace(out[0], grid=(4, 7)),)),
        "shapes",
        "24 tokens on a grid of (4, 7)",
    ),
    "blind to the mask": (
        "memory_encoder",
        lambda: wrong("", made("memory_encoder"), forward=lambda s, f, m, p: super(type(s), s).forward(f, m * 0, p)),
        "what is remembered",
        "another mask",
    ),
    "mixes objects": (
        "memory_encoder",
        lambda: encoder(
            lambda out, *_: (replace(out[0], tokens=out[0].tokens.mean(0, True).expand_as(out[0].tokens)),)
        ),
        "batch independence",
        "row 0",
    ),
    "ignores object pointers": (
        "memory_attention",
        lambda: attention(lambda f, x, p, b, r: f(x, p, b[:3] if len(b) == 4 else b, r)),
        "memories",
        "block 3 of 4",
    ),
    "ignores readable": (
        "memory_attention",
        lambda: attention(lambda f, x, p, b, r: f(x, p, b)),
        "memory_mask",
        "not readable",
    ),
    "one row alone": (
        "memory_attention",
        lambda: attention(lambda f, x, p, b, r: f(x, p, b, r)[: x.shape[0]]),
        "a shared image",
        "(1, 32, 4, 6), not (2, 32, 4, 6)",
    ),
    "needs a grid": (
        "memory_attention",
        lambda: attention(lambda f, x, p, b, r: f(x, p, [replace(o, grid=(o.grid[0], o.grid[1])) for o in b], r)),
        "shapes",
        "TypeError",
    ),
}


@pytest.mark.parametrize("fault", WRONG_MODULES)
def test_a_wrong_module_is_caught(fault: str) -> None:
    kind, make, rule, found = WRONG_MODULES[fault]
    with pytest.raises(ContractError) as caught:
        check(kind, make())
    head, wanted, *rest = str(caught.value).splitlines()
    assert head.startswith(f"{kind} ") and head.endswith(f"breaks its contract: {rule}"), head
    assert wanted.startswith("  wanted: ") and found in "\n".join(rest), caught.value
    assert rest[-1].startswith("  see:    sam2core.protocols.")


@pytest.mark.parametrize("kind", ["backbone", "neck", "mask_decoder", "memory_encoder", "memory_attention"])
def test_a_right_module_passes_and_stays_as_it_is(kind: str) -> None:
    part = made(kind).train()
    before = copy.deepcopy(part.state_dict())
    state = torch.random.get_rng_state()
    check(kind, part)
    assert part.training and torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(x, part.state_dict()[name]) for name, x in before.items())
    assert all(p.grad is None for p in part.parameters())


# ----------------------------------------------------------------------------------------------------------- policies


class Nothing(RecentFrames):
    def recall(self, bank: Any, frame: int, **more: Any) -> Any:
        return replace(super().recall(bank, frame, **more), slots=(), object_pointers=())


class FarSighted(RecentFrames):
    def __init__(self) -> None:
        super().__init__()
        self.horizon = 3


class Floating(RecentFrames):
    def choose(self, candidates: Any, state: Any) -> Tensor:
        return candidates.iou.amax(dim=1)


class OneForAll(RecentFrames):
    def choose(self, candidates: Any, state: Any) -> Tensor:
        return candidates.iou.argmax(dim=1)[:1]


class Word(RecentFrames):
    def keep(self, *given: Any) -> Any:
        return "recent"


class Global(RecentFrames):
    """Counts frames of all objects together."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def keep(self, *given: Any) -> Keep | None:
        self.count += 1
        return Keep.RECENT if self.count % 3 else None


class SharedState(RecentFrames):
    shared: list[int] = []

    def start(self) -> Any:
        return self.shared


class Stateful(RecentFrames):
    def start(self) -> Any:
        return {"seen": []}

    def keep(self, answer: Any, memory: Any, bank: Any, state: Any) -> Keep | None:
        state["seen"].append(float(answer.iou.mean()))
        return Keep.RECENT if sum(state["seen"][-4:]) > 2 else None


class Bounded(Stateful):
    """Right: the last four scores."""

    def keep(self, answer: Any, memory: Any, bank: Any, state: Any) -> Keep | None:
        keep = super().keep(answer, memory, bank, state)
        del state["seen"][:-4]
        return keep


class SharedByForks(RecentFrames):
    def start(self) -> Any:
        return {"count": [0]}

    def copy(self, state: Any) -> Any:
        return dict(state)

    def keep(self, answer: Any, memory: Any, bank: Any, state: Any) -> Keep | None:
        state["count"][0] = (state["count"][0] + 1) % 5
        return Keep.RECENT if state["count"][0] else None


class Hoarding(Bounded):
    def keep(self, answer: Any, memory: Any, bank: Any, state: Any) -> Keep | None:
        state["features"] = torch.zeros(600_000)
        return super().keep(answer, memory, bank, state)


class Unsavable(RecentFrames):
    def start(self) -> Any:
        return {"area": (1, 2)}


class Meddling(RecentFrames):
    def recall(self, bank: Any, frame: int, **more: Any) -> Any:
        bank.recent.pop(frame - 2, None)
        return super().recall(bank, frame, **more)


class Random(RecentFrames):
    def keep(self, *given: Any) -> Keep | None:
        return Keep.RECENT if torch.rand(()) > 0.5 else None


class Weighted(nn.Linear):
    horizon = clearing = 3
    start = copy = choose = keep = recall = lambda *given: None


class ManySlots(RecentFrames):
    def __init__(self, *, frames: int = 9) -> None:
        super().__init__(frames=frames)


WRONG_POLICIES: dict[str, tuple[Any, str, str]] = {
    "no methods": (object, "protocol", "no method start, copy"),
    "weights": (lambda: Weighted(2, 2), "protocol", "parameters or buffers"),
    "shared state": (SharedState, "start", "one list that all objects share"),
    "no index": (Floating, "choose", "no tensor of integers"),
    "one row for all": (OneForAll, "batches", "(1,) for two rows"),
    "a word for where to keep": (Word, "tracking", "keep gives 'recent'"),
    "recalls nothing": (Nothing, "tracking", "nothing is recalled"),
    "changes the bank": (Meddling, "tracking", "recall changed the bank"),
    "too many slots": (ManySlots, "tracking", "the readout has slots 0 to 6"),
    "beyond the horizon": (FarSighted, "horizon", "trimmed to the horizon"),
    "random": (Random, "determinism", "on frame"),
    "global state": (Global, "determinism", "when tracked once more"),
    "grows": (Stateful, "state size", "values after"),
    "hoards": (Hoarding, "state size", "MiB of tensors"),
    "forks share": (SharedByForks, "forks", "after a fork of it went another way"),
    "cannot be saved": (Unsavable, "saving", "tuple"),
}


@pytest.mark.parametrize("fault", WRONG_POLICIES)
def test_a_wrong_policy_is_caught(fault: str) -> None:
    make, rule, found = WRONG_POLICIES[fault]
    with pytest.raises(ContractError) as caught:
        check("memory_policy", make())
    assert f"breaks its contract: {rule}\n" in str(caught.value) and found in str(caught.value), caught.value


def test_a_right_policy_with_state_passes() -> None:
    check("memory_policy", Bounded())
    check("memory_policy", ManySlots, given={"slots": 10})


class Crosstalk(RecentFrames):
    """Two objects that are tracked in turn see each other; one alone repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None

    def choose(self, candidates: Any, state: Any) -> Tensor:
        mine = candidates.logits[:, 0].float().mean(dim=(1, 2))
        seen, self.last = self.last, mine
        odd = seen is not None and len(seen) == len(mine) and bool((seen - mine).abs().max() < 0.05)
        return candidates.iou.argmin(dim=1) if odd else candidates.iou.argmax(dim=1)


def test_objects_that_see_each_other_are_caught() -> None:
    with pytest.raises(ContractError, match="state isolation|determinism"):
        check("memory_policy", Crosstalk())


# ------------------------------------------------------------------------------------------- predictors, layouts


class Remembering:
    def __init__(self, model: Any, *, step: float = 1.0) -> None:
        self.model, self.step, self.count = model, step, 0

    def encode(self, picture: Any) -> Any:
        self.count += 1
        return self

    def predict(self, points: Any) -> Any:
        self.logits = torch.ones(2) * self.count * self.step
        return self


class Editing(ImagePredictor):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        with torch.no_grad():
            model.memory_readout.no_memory.add_(1)


class Replacing(ImagePredictor):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.memory_policy = RecentFrames(frames=1)


class Modelless:
    def __init__(self, model: Any) -> None:
        pass


def renaming(*rules: Rename, probe: str = "x.prompt_encoder.frequencies") -> Layout:
    return Layout("wrong", (probe,), (rules,))


WRONG_TOOLS: dict[str, tuple[str, Any, str, str]] = {
    "no model": ("predictor", Modelless, "model", "model is None"),
    "remembers": ("predictor", Remembering, "no state", "another the second time"),
    "edits weights": ("predictor", Editing, "model", "memory_readout.no_memory"),
    "replaces the policy": ("predictor", Replacing, "model", "memory policy was replaced"),
    "a class": ("layout", Layout, "protocol", "which is a class"),
    "no rule for most": ("layout", renaming(Rename("x.{rest}", "neck.{rest}")), "writing", "LayoutError"),
    "a probe of nobody": ("layout", renaming(Rename("x.{rest}", "{rest}"), probe="y"), "probe", "lacks y"),
    "two names meet": (
        "layout",
        renaming(Rename("x.{rest}", "neck.{rest}"), Rename("x.{rest}", "{rest}")),
        "",
        "x.",
    ),
}


@pytest.mark.parametrize("fault", WRONG_TOOLS)
def test_a_wrong_tool_or_layout_is_caught(fault: str) -> None:
    kind, part, rule, found = WRONG_TOOLS[fault]
    with pytest.raises(ContractError) as caught:
        check(kind, part)
    assert f"breaks its contract: {rule}" in str(caught.value) and found in str(caught.value), caught.value


# ------------------------------------------------------------------------------------------------------ check itself


def positional(dim: int, layers: int = 4) -> nn.Module:
    return nn.Identity()


def anything(dim: int, **options: Any) -> nn.Module:
    return nn.Identity()


def without_dim(*, layers: int = 4) -> nn.Module:
    return nn.Identity()


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (positional, "'layers' is not keyword-only with a default"),
        (anything, "*options"),
        (without_dim, "takes no 'dim'"),
    ],
)
def test_constructors_are_examined(target: Any, found: str) -> None:
    with pytest.raises(ContractError, match="constructor") as caught:
        check("mask_decoder", target)
    assert found in str(caught.value)


def test_a_target_a_name_and_an_address_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (Fpn, "fpn", "sam2core.backbones.fpn:Fpn"):
        check("neck", part, options={"top_down": [16, 8]}, given={"dim": 64})
    check("layout", NATIVE)
    check("layout", FACEBOOK, state=tiny_model(dim=16).state_dict())


class Finer(nn.Module):
    """A neck that makes maps at strides 8 and 16 of one at 16."""

    made_strides = (8, 16)

    def __init__(self, channels: Any, strides: Any, dim: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(channels[-1], dim, kernel_size=1)

    def forward(self, maps: Any) -> Any:
        x = self.lateral(maps[-1])
        return [x.repeat_interleave(2, 2).repeat_interleave(2, 3), x]


def test_a_neck_is_held_to_the_strides_that_it_says_it_makes() -> None:
    check("neck", Finer, given={"channels": (24,), "strides": (16,)})

    class Boasting(Finer):
        made_strides = (4, 8, 16)

    with pytest.raises(ContractError, match=r"2 maps for strides \[4, 8, 16\]"):
        check("neck", Boasting, given={"channels": (24,), "strides": (16,)})


def test_wrong_calls_are_answered() -> None:
    with pytest.raises(UnknownName, match="did you mean 'memory_policy'"):
        check("memory_polcy", RecentFrames)
    with pytest.raises(UnknownName, match="no neck is called 'pfn'"):
        check("neck", "pfn")
    with pytest.raises(ValueError, match="multiples of 32"):
        check("neck", Fpn, image_size=(60, 64))
    with pytest.raises(ValueError, match="is made"):
        check("neck", made("neck"), options={"top_down": []})
    with pytest.raises(ContractError, match="has no option 'top'"):
        check("neck", Fpn, options={"top": []})


def test_the_tiny_model_is_always_the_same() -> None:
    state = torch.random.get_rng_state()
    one, other = tiny_model(), tiny_model("memory_policy.frames=1")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert other.memory_policy.frames == 1


PLUGIN = "from sam2core import hookimpl\n@hookimpl\ndef register_components(register):\n    {}\n"


@pytest.fixture
def modules(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "acme_tried.py").write_text(PLUGIN.format("register('neck', 'acme.neck', 'nowhere:Neck')"))
    (tmp_path / "acme_torn.py").write_text(PLUGIN.format("raise OSError('torn')"))
    monkeypatch.syspath_prepend(tmp_path)
    yield


def test_the_isolated_registry_knows_what_it_is_given(modules: None) -> None:
    before = registry.current()
    with isolated("acme_tried"):
        assert "acme.neck" in registry.components("neck")
        with isolated():
            assert "acme.neck" not in registry.components("neck")
    assert registry.current() is before
    with pytest.raises(OSError, match="torn"), isolated("acme_torn"):
        pass
    with isolated("acme_torn", strict=False):
        assert registry.plugins()[-1].status == "failed"
    assert registry.current() is before


def test_token_blocks_keep_their_type() -> None:
    from sam2core.testing.values import cast, tensors

    block = cast(TokenBlock(torch.ones(1, 2, 3), torch.ones(1, 2, 3), (1, 2)), torch.bfloat16)
    assert isinstance(block, TokenBlock) and {x.dtype for _, x in tensors(block)} == {torch.bfloat16}
