"""Record upstream's answers for `tests/test_golden.py`, so that the tests need neither upstream nor Hydra.

    SAM2_BUILD_CUDA=0 pip install --no-build-isolation --no-deps sam2==1.1.0
    python -m tests.golden.record

writes ``mini.safetensors`` beside this file: every tensor of a randomised small model (values exact in float16), the
inputs, and what upstream makes of them at each stage, with the versions that made them in the metadata. Names inside:

    state/<upstream's name>                    the model; `state/` plus the overrides of a variant is that variant
    variant/<variant>/<upstream's name>        tensors that differ in one variant
    input/<name>
    expect/<family>/<stage>/<case>/<tensor>    float32
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.parity import oracle, stages

HERE = Path(__file__).resolve().parent
SEED = 20
SHAPE = oracle.SHAPES["mini"]

VARIANTS: dict[str, Any] = {
    "absent": lambda model: oracle.force_object_score(model, -5.0),
    "best_1": lambda model: oracle.force_best(model, 1),
    "best_2": lambda model: oracle.force_best(model, 2),
    "best_3": lambda model: oracle.force_best(model, 3),
    "stable": lambda model: oracle.force_stability(model, True),
    "unstable": lambda model: oracle.force_stability(model, False),
}


def half(tensor: Tensor) -> Tensor:
    """Rounded to what float16 can hold."""
    return tensor.half().float()


def inputs() -> dict[str, Tensor]:
    """Seeded inputs, exact in float16."""
    generator = torch.Generator().manual_seed(SEED)

    def noise(*size: int) -> Tensor:
        return half(torch.randn(size, generator=generator))

    side, grid, dim, memory_dim = SHAPE.image, SHAPE.image // 16, SHAPE.dim, SHAPE.memory_dim
    blob = torch.zeros(2, 1, side, side)
    blob[0, :, 20:70, 30:100] = 1.0
    blob[0, :, 40:44, 50:54] = 0.0
    return {
        "pixels": noise(1, 3, side, side),
        "wide": noise(1, 3, side // 2, side),
        "hint": half(3.0 * noise(1, 1, side // 4, side // 4)),
        "mask": blob,  # the second one is empty: an absent object
        "full": half(4.0 * noise(2, 1, side, side)),
        "presence": torch.tensor([[3.0], [-3.0]]),
        "memories": noise(stages.FRAMES, 1, grid * grid, memory_dim),
        "pointers": noise(stages.FRAMES, 1, dim),
    }


def photograph() -> np.ndarray:
    """A small deterministic picture that is not square, uint8 (H, W, 3); `tests/test_golden.py` makes the same one."""
    y, x = np.mgrid[0:30, 0:50]
    waves = [128 + 100 * np.sin(x / (5 + 3 * c) + c) * np.cos(y / (9 - 2 * c)) for c in range(3)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


IMAGE_PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"point_coords": [[15, 20]], "point_labels": [1]},
    "points": {"point_coords": [[15, 20], [45, 5], [0, 0], [49, 29]], "point_labels": [1, 0, 1, 0]},
    "box": {"box": [5, 3, 40, 25]},
    "box_and_point": {"box": [5, 3, 40, 25], "point_coords": [[15, 20]], "point_labels": [0]},
    "boxes": {"box": [[5, 3, 40, 25], [1, 1, 20, 15], [25, 10, 49, 29]]},
    "objects": {"point_coords": [[[15, 20]], [[35, 6]]], "point_labels": [[1], [1]]},
}


def image_answers(model: Any) -> dict[str, Tensor]:
    """What upstream's image predictor returns for these prompts, three masks and one, and with an answer as a mask
    input."""
    out: dict[str, Tensor] = {}
    predictor = oracle.upstream_predictor(model)
    predictor.set_image(photograph())
    for name, prompt in IMAGE_PROMPTS.items():
        given = {key: np.array(value) for key, value in prompt.items()}
        for multimask_output in (True, False):
            masks, iou, logits = predictor.predict(**given, multimask_output=multimask_output, return_logits=True)
            case = f"{name}.{'several' if multimask_output else 'single'}"
            out |= {f"{case}/masks": masks, f"{case}/iou": iou, f"{case}/logits": logits}
    mask_input = out["point.several/logits"][:1]
    for name in ("point", "box"):
        given = {key: np.array(value) for key, value in IMAGE_PROMPTS[name].items()}
        masks, iou, logits = predictor.predict(
            **given, mask_input=mask_input, multimask_output=False, return_logits=True
        )
        out |= {f"{name}.hint/masks": masks, f"{name}.hint/iou": iou, f"{name}.hint/logits": logits}
    masks, iou, logits = predictor.predict(mask_input=mask_input, multimask_output=False, return_logits=True)
    out |= {"hint.single/masks": masks, "hint.single/iou": iou, "hint.single/logits": logits}
    return {name: torch.from_numpy(np.asarray(value)).float() for name, value in out.items()}


def answers(model: Any, given: dict[str, Tensor], *, variant: str | None, family: str) -> dict[str, Tensor]:
    """Every stage of one model. A variant only records where it can differ; the 2.0 family only its memory."""
    out: dict[str, Tensor] = {}

    def keep(prefix: str, tensors: dict[str, Tensor]) -> None:
        out.update({f"{prefix}/{name}": tensor for name, tensor in tensors.items()})

    encoded = stages.encode(model, given["pixels"])
    embedding, high_res_features = encoded["conditioned"], [encoded["skip.0"], encoded["skip.1"]]
    if variant is None and family == "2.1":
        keep("encode/square", encoded)
        wide = stages.encode(model, given["wide"])
        keep("encode/wide", {name: wide[name] for name in ("positioned", "trunk.3", "neck.2", "position")})
        for name in stages.PROMPTS:
            points = stages.prompt_tensors(name, SHAPE.image)
            keep(f"prompt/{name}", {"sparse": stages.prompt(model, points, None)["sparse"]} if points else {})
            decoded = stages.decode(model, embedding, high_res_features, *_prompt(model, points, None))
            keep(f"decode/{name}", {tensor: decoded[tensor] for tensor in ("masks", "iou", "tokens", "presence")})
        keep("prompt/hint", {"dense": stages.prompt(model, None, given["hint"])["dense"]})
        grid = stages.prompt(model, None, None)
        keep("prompt/grid", {"grid": grid["grid"]})
        keep("decode/hint", stages.decode(model, embedding, high_res_features, *_prompt(model, None, given["hint"])))
        two = {
            "embedding": encoded["embedding"].repeat(2, 1, 1, 1),
            "skips": [s.repeat(2, 1, 1, 1) for s in high_res_features],
        }
        keep("adopt/mask", stages.mask_as_output(model, two["embedding"], two["skips"], given["mask"]))
        keep("image/photograph", image_answers(model))
    if family == "2.1":
        for name in ("tracking", "one", "two", "box"):
            points = stages.prompt_tensors(name, SHAPE.image)
            keep(f"segment/{name}", stages.segment(model, embedding, high_res_features, points, None))
            out.pop(f"segment/{name}/full")
    if variant is None:
        embeddings = encoded["embedding"].repeat(2, 1, 1, 1)
        for hard in (False, True):
            tokens = stages.memorize(model, embeddings, given["full"], given["presence"], hard)
            keep(f"memorize/{'hard' if hard else 'soft'}", tokens)
        where = tokens["position"][:1]
        for name in stages.PASTS if family == "2.1" else ("steady", "eight_frames", "backwards"):
            found = stages.past(
                model, name, encoded["embedding"], encoded["position"], given["memories"], given["pointers"], where
            )
            keep(f"past/{name}", found)
    return out


def _prompt(model: Any, points: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> tuple[Any, Any]:
    """Tracking's single padding point, spelled out as upstream's video model does."""
    if points is None and mask is None:
        points = (torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int32))
    return points, mask


def main() -> None:
    given, tensors = inputs(), {}
    base = oracle.upstream(SHAPE)
    oracle.randomise(base, SEED, half=True)
    oracle.force_object_score(base, 5.0)
    for tensor in base.state_dict().values():
        tensor.copy_(half(tensor))
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    older = oracle.upstream(SHAPE.at(family="2.0"))
    older.load_state_dict({name: state[name] for name in older.state_dict()})

    tensors |= {f"state/{name}": tensor.half() for name, tensor in state.items()}
    tensors |= {f"input/{name}": tensor.half() for name, tensor in given.items()}
    for family, model in (("2.1", base), ("2.0", older)):
        found = answers(model, given, variant=None, family=family)
        tensors |= {f"expect/{family}/{name}": tensor for name, tensor in found.items()}
    for variant, change in VARIANTS.items():
        base.load_state_dict(state)
        change(base)
        for name, tensor in base.state_dict().items():
            tensor.copy_(half(tensor))
            if not torch.equal(tensor, state[name]):
                tensors[f"variant/{variant}/{name}"] = tensor.half().clone()
        found = answers(base, given, variant=variant, family="2.1")
        tensors |= {f"expect/{variant}/{name}": tensor for name, tensor in found.items()}
    versions = {name: importlib.metadata.version(name) for name in ("sam2", "torch", "torchvision", "numpy")}
    path = HERE / "mini.safetensors"
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, {"seed": str(SEED), **versions}
    )
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {len(tensors)} tensors, {versions}")


if __name__ == "__main__":
    main()
