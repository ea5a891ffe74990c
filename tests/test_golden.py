"""Our model against tensors recorded from Meta's sam2, stage by stage: no reference implementation needs to be
installed.

`tests/golden/record.py` says what is in the recording and makes it anew. Every stage is fed Meta's own inputs to
that stage, so a failure names the part at fault.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sam2core.ops import attention, cpu
from tests.golden.record import VARIANTS
from tests.parity import answers, oracle
from tests.parity.stages import PASTS, PROMPTS, prompt_tensors

RECORDING = Path(__file__).parent / "golden" / "mini.safetensors"
SHAPE = oracle.SHAPES["mini"]
GRID = (SHAPE.image // 16, SHAPE.image // 16)


@cache
def recording() -> dict[str, torch.Tensor]:
    return load_file(RECORDING)


def section(prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below `prefix/`, by what follows it."""
    return {
        name[len(prefix) + 1 :]: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in recording().items()
        if name.startswith(prefix + "/")
    }


@cache
def model(variant: str = "2.1"):
    """The recorded model: a family, or 2.1 with a variant's changes."""
    state = section("state") | section(f"variant/{variant}")
    shape = SHAPE
    if variant == "2.0":
        shape = SHAPE.at(family="2.0")
        only_newer = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")
        state = {name: tensor for name, tensor in state.items() if name not in only_newer}
    return oracle.ours(shape, oracle.to_ours(state))


def compare(found: dict[str, torch.Tensor], family: str, case: str) -> None:
    """Every recorded tensor of a case, with the worst one named when any differs."""
    expected = section(f"expect/{family}/{case}")
    assert expected, f"nothing recorded as {family}/{case}"
    errors = {name: oracle.error(found[name], tensor) for name, tensor in expected.items()}
    wrong = {name: f"{error:.1e}" for name, error in errors.items() if not error <= 1e-4}
    assert not wrong, f"{family}/{case}: relative errors {wrong}"


def inputs() -> dict[str, torch.Tensor]:
    return section("input")


def encoded() -> tuple[torch.Tensor, list[torch.Tensor]]:
    stage = section("expect/2.1/encode/square")
    return stage["conditioned"], [stage["skip.0"], stage["skip.1"]]


def test_the_recording_is_small_and_complete():
    assert RECORDING.stat().st_size < 3_000_000
    counted = defaultdict(int)
    for name in recording():
        counted[name.split("/")[0]] += 1
    assert set(counted) == {"state", "variant", "input", "expect"}


@pytest.mark.parametrize("case", ["square", "wide"])
def test_image_encoder(case):
    pixels = inputs()["pixels" if case == "square" else "wide"]
    compare(answers.encode(model(), pixels), "2.1", f"encode/{case}")


@pytest.mark.parametrize("case", [name for name in PROMPTS if PROMPTS[name]] + ["hint", "grid"])
def test_prompt_encoder(case):
    points = prompt_tensors(case, SHAPE.image) if case in PROMPTS else None
    mask = inputs()["hint"] if case == "hint" else None
    compare(answers.prompt(model(), points, mask, GRID), "2.1", f"prompt/{case}")


@pytest.mark.parametrize("case", [*PROMPTS, "hint"])
def test_mask_decoder(case):
    points = prompt_tensors(case, SHAPE.image) if case in PROMPTS else None
    mask = inputs()["hint"] if case == "hint" else None
    compare(answers.decode(model(), *encoded(), points, mask), "2.1", f"decode/{case}")


@pytest.mark.parametrize("variant", ["2.1", *VARIANTS])
@pytest.mark.parametrize("case", ["tracking", "one", "two", "box"])
def test_selection_and_gating(variant, case):
    points = prompt_tensors(case, SHAPE.image)
    compare(answers.segment(model(variant), *encoded(), points, None), variant, f"segment/{case}")


def test_the_variants_cover_every_branch():
    def recorded(variant: str, case: str, tensor: str) -> torch.Tensor:
        return section(f"expect/{variant}/segment/{case}")[tensor]

    for index in (1, 2, 3):
        assert recorded(f"best_{index}", "one", "iou").argmax().item() == index - 1
    assert (recorded("absent", "one", "candidates") == -1024).all() and (
        recorded("absent", "one", "presence") < 0
    ).all()
    every = {
        name: answers.decode(model(name), *encoded(), prompt_tensors("box", SHAPE.image), None) for name in VARIANTS
    }
    stable, unstable = every["stable"], every["unstable"]
    assert torch.equal(stable["single.masks"][:, 0], stable["masks"][:, 0])
    best = unstable["iou"][0, 1:].argmax() + 1
    assert torch.equal(unstable["single.masks"][:, 0], unstable["masks"][:, best])
    assert torch.equal(unstable["single.tokens"], unstable["tokens"][:, :1])
    stages = {name: recorded(name, "box", "best") for name in ("stable", "unstable")}
    assert oracle.error(stages["stable"], stable["masks"][:, :1]) < 1e-4
    assert oracle.error(stages["unstable"], unstable["masks"][:, best : best + 1]) < 1e-4


def test_mask_prompt():
    stage = section("expect/2.1/encode/square")
    embedding = stage["embedding"].repeat(2, 1, 1, 1)
    high_res_features = [stage[name].repeat(2, 1, 1, 1) for name in ("skip.0", "skip.1")]
    compare(answers.mask_as_output(model(), embedding, high_res_features, inputs()["mask"]), "2.1", "adopt/mask")


@pytest.mark.parametrize("family", ["2.1", "2.0"])
@pytest.mark.parametrize("case", ["soft", "hard"])
def test_memory_encoder(family, case):
    given, embedding = inputs(), section("expect/2.1/encode/square")["embedding"].repeat(2, 1, 1, 1)
    found = answers.memory_encoder(model(family), embedding, given["full"], given["presence"], case == "hard")
    compare(found, family, f"memorize/{case}")


@pytest.mark.parametrize("short", [True, False], ids=["as one call", "in blocks"])
@pytest.mark.parametrize(
    ("family", "case"),
    [("2.1", name) for name in PASTS] + [("2.0", name) for name in ("steady", "eight_frames", "backwards")],
)
def test_recall_readout_and_memory_attention(monkeypatch, family, case, short):
    if not short:  # the way long pasts take on a CPU
        monkeypatch.setattr(attention, "LONG", 0)
        monkeypatch.setattr(cpu.attention, "BLOCK_BYTES", 2**14)
    given, stage = inputs(), section("expect/2.1/encode/square")
    where = section("expect/2.1/memorize/soft")["position"][:1]
    found = answers.past(
        model(family), case, stage["embedding"], stage["position"], given["memories"], given["pointers"], where
    )
    compare(found, family, f"past/{case}")
