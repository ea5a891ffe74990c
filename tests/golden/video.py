"""Record upstream's sessions for `tests/test_golden_video.py`, so that the test needs neither upstream nor Hydra.

    python -m tests.golden.video

writes ``video.safetensors`` beside this file, for the model that ``mini.safetensors`` holds:

    frames                                  the clip, uint8 (T, H, W, 3)
    state/<upstream's name>                 tensors that differ from ``mini.safetensors``, so that objects come and go
    expect/<case>/<step>.<place>/logits     (N, H, W) float32 at the video's size: what upstream shows
    expect/<case>/<step>.<place>/raw        the same before overlaps are removed, where that is not the same
    expect/<case>/<step>.<place>/certain    (N,) which objects upstream shows up to date

`CASES` are the sessions; frame numbers and object ids of every step are in the file's metadata.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.parity import oracle, scripts
from tests.parity.scripts import Clear, Draw, Prompt, Propagate, Remove, Reset, Settings, Step

HERE = Path(__file__).resolve().parent
MODEL = Settings("2.1", 64, length=8, size=(24, 40))
SHAPE = oracle.SHAPES["mini"].at(image=MODEL.image)
ONLY_NEWER = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")

CLICKS: list[Step] = [
    Prompt(0, "cup", ((10.0, 12.0), (30.0, 5.5)), (1, 0)),
    Prompt(0, "cup", ((14.0, 8.0),), (1,), add=True),
    Propagate(),
    Prompt(4, "cup", ((20.0, 10.0),), (0,)),
    Prompt(0, "cup", ((11.0, 13.0),), (1,)),
    Propagate(3, 4),
    Propagate(6, backwards=True),
]
OBJECTS: list[Step] = [
    Prompt(1, "cup", box=(4.0, 3.0, 22.0, 19.5)),
    Draw(2, 7, (15.0, 6.0, 36.0, 20.0)),
    Prompt(1, ("left", 2), ((6.0, 6.0),), (1,), (2.0, 2.0, 18.0, 20.0)),
    Propagate(frames=4),
    Prompt(6, 7, ((30.0, 12.0),), (1,)),
    Clear(1, ("left", 2)),
    Prompt(1, ("left", 2), ((9.0, 9.0),), (1,)),
    Propagate(5, backwards=True, take=3),
    Remove("cup"),
    Propagate(4, 3),
]
AGAIN: list[Step] = [
    Prompt(5, "cup", ((20.0, 12.0),), (1,)),
    Propagate(5, backwards=True),
    Reset(),
    Draw(3, "cup", (10.0, 4.0, 30.0, 20.0), model_size=True),
    Draw(0, 7, (1.0, 1.0, 5.0, 5.0), empty=True),
    Prompt(7, "cup", ((35.0, 20.0),), (1,)),
    Prompt(5, "cup", ((12.0, 20.0),), (1,)),
    Propagate(0, 5),
]
CASES: dict[str, tuple[Settings, list[Step]]] = {
    "clicks": (MODEL, CLICKS),
    "clicks_kept": (replace(MODEL, keep_corrections=True, fill=8), CLICKS),
    "clicks_2.0": (replace(MODEL, family="2.0"), CLICKS),
    "objects": (MODEL, OBJECTS),
    "objects_exclusive": (replace(MODEL, non_overlapping=True, keep_corrections=True), OBJECTS),
    "again": (replace(MODEL, prompted=2, stride=2), AGAIN),
    "again_2.0": (replace(MODEL, family="2.0", hard=False, stability=False), AGAIN),
}


def base() -> dict[str, Tensor]:
    """The recorded model, in upstream's names."""
    recorded = load_file(HERE / "mini.safetensors")
    return {name.removeprefix("state/"): value.float() for name, value in recorded.items() if name.startswith("state/")}


def upstream(state: dict[str, Tensor], settings: Settings):
    model = oracle.upstream(SHAPE.at(family=settings.family), stability=settings.stability, video=True)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model


def main() -> None:
    state = base()
    model = upstream(state, MODEL)
    scripts.balance(model, MODEL, absent=0.15)
    changed = {name: value.half() for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    state |= {name: value.float() for name, value in changed.items()}
    frames = scripts.clip(MODEL.length, MODEL.size)
    tensors = {f"state/{name}": value for name, value in changed.items()} | {"frames": torch.from_numpy(frames)}
    pixels, order, tally = scripts.pixels(frames, MODEL.image), {}, scripts.Tally()
    for case, (settings, steps) in CASES.items():
        book = scripts.Book(settings)
        assert all(book.legal(step) for step in steps), case
        model = upstream(state, settings)
        with scripts.driven(model):
            theirs = scripts.Theirs(model, pixels, settings)
            order[case] = []
            for number, step in enumerate(steps):
                shown = scripts.show(theirs, step)
                order[case].append([[one.frame, repr(one.objects)] for one in shown])
                for place, one in enumerate(shown):
                    tally.note(0.0, one)
                    name = f"expect/{case}/{number}.{place}"
                    tensors[f"{name}/logits"] = one.shown
                    tensors[f"{name}/certain"] = torch.tensor(one.certain)
                    if settings.non_overlapping:
                        tensors[f"{name}/raw"] = one.logits
    versions = {name: importlib.metadata.version(name) for name in ("sam2", "torch", "numpy")}
    path = HERE / "video.safetensors"
    save_file(
        {name: value.contiguous().clone() for name, value in tensors.items()},
        path,
        {"order": json.dumps(order), **versions},
    )
    told = f"{tally.frames} frames, {tally.absent} of {tally.masks} absent"
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {told}")


if __name__ == "__main__":
    main()
