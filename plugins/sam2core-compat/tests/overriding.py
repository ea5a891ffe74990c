"""Overrides everything of a `sam2` package, one thing after another, and saves the masks that come of it.

    python overriding.py list FOLDER OUT.npz NAMES
    python overriding.py "as listed" FOLDER OUT.npz NAMES

Everything is: each method of the four public classes, in a subclass and on an instance; each of their attributes; a
forward hook on each submodule; each function that a module has, and each method of the parts' classes, replaced there.
The first way writes the names of all that the package has, the second reads them.
FOLDER holds `tiny.yaml` and the folder `frames`. The program knows nothing of who provides the package.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sam2.utils.misc
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_image_predictor import SAM2ImagePredictor
from scipy import ndimage
from torch import Tensor, nn

KINDS = ("video", "image", "automatic")
USES = {
    "sam2.automatic_mask_generator": "automatic",
    "sam2.utils.amg": "automatic",
    "sam2.utils.transforms": "image",
    "sam2.modeling.sam.mask_decoder": "image",
    "sam2.modeling.sam.prompt_encoder": "image",
}
"""Which of these uses a module, where it is not the first."""
CALLS: list[str] = []
"""The overridden methods that were called, one after another."""
SKIPPED = ("forward", "from_pretrained", "device")


def changed(value: Any) -> Any:
    """A value with its numbers changed, whatever holds them."""
    if isinstance(value, Tensor):
        return value * 1.1 + 0.02 if value.is_floating_point() else ~value if value.dtype == torch.bool else value
    if isinstance(value, np.ndarray):
        return value * 1.1 if value.dtype.kind == "f" else value
    if isinstance(value, bool):
        return not value
    if isinstance(value, dict):
        return type(value)({key: changed(one) for key, one in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(changed(one) for one in value)
    if hasattr(value, "_stats"):  # MaskData
        for key, one in list(value.items()):
            if isinstance(one, Tensor):
                value[key] = changed(one)
        return value
    return (changed(one) for one in value) if inspect.isgenerator(value) else value


def overriding(method: Any) -> Any:
    """A method that does what another does, and changes what comes of it."""

    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        CALLS.append(method.__name__)
        answer = method(self, *args, **kwargs)
        if answer is None:  # it wrote into what it was given
            for given in (*args, *kwargs.values()):
                if isinstance(given, dict):
                    given.update({key: changed(one) for key, one in given.items() if isinstance(one, Tensor)})
        return changed(answer)

    return override


def other(value: Any) -> Any:
    """Another value of an attribute; None where there is none that makes sense."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value > 1 else value + 5
    if isinstance(value, float):
        return value * 0.75 + 0.05
    if isinstance(value, nn.Parameter):
        return nn.Parameter(changed(value.detach()))
    return None


def weights(model: nn.Module) -> None:
    """The same random weights under every package, with objects that are there."""
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            seed = sum(place * ord(letter) for place, letter in enumerate(name, start=1))
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
            tensor.copy_(noise * (0.5 if tensor.ndim < 2 else (1.5 / tensor[0].numel()) ** 0.5))
            if "norm" in name and name.endswith("weight"):
                tensor.add_(1.0)
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)


def regions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and areas of the 8-connected regions of masks (N, 1, H, W)."""
    labels, areas = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    for row, one in enumerate(mask[:, 0].numpy()):
        labels[row, 0], _ = ndimage.label(one, structure=np.ones((3, 3)))
        counts = np.bincount(labels[row, 0].ravel())
        areas[row, 0] = np.where(one, counts[labels[row, 0]], 0)
    return torch.from_numpy(labels), torch.from_numpy(areas)


class Program:
    """A video, an image and an automatic run over one model."""

    def __init__(self, folder: Path) -> None:
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir=str(folder), version_base="1.2"):
            extra = ["++model.non_overlap_masks=true", "++model.image_size=64"]
            self.model = build_sam2_video_predictor("tiny.yaml", device="cpu", hydra_overrides_extra=extra)
        weights(self.model)
        self.model.fill_hole_area = 0
        sam2.utils.misc.get_connected_components = regions  # Meta's needs its CUDA extension
        self.frames = str(folder / "frames")
        self.picture = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
        sizes = [(self.model.image_size // stride,) * 2 for stride in (4, 8, 16)]
        self.predictor = SAM2ImagePredictor(self.model)
        self.generator = SAM2AutomaticMaskGenerator(
            self.model,
            points_per_side=2,
            points_per_batch=2,
            crop_n_points_downscale_factor=2,
            pred_iou_thresh=0.1,
            stability_score_thresh=0.1,
            crop_n_layers=1,
            use_m2m=True,
            box_nms_thresh=0.9,
        )
        self.predictor._bb_feat_sizes, self.generator.predictor._bb_feat_sizes = list(sizes), list(sizes)

    def things(self) -> dict[str, Any]:
        return dict(zip(KINDS, (self.model, self.predictor, self.generator), strict=True))

    def video(self) -> np.ndarray:
        """Two objects, a click and a drawn mask, tracked, corrected and tracked again."""
        state = self.model.init_state(self.frames)
        shown = [self.model.add_new_points_or_box(state, 0, 1, points=[[20, 30]], labels=[1])[2]]
        mask = np.zeros((48, 64), bool)
        mask[10:30, 30:55] = True
        shown.append(self.model.add_new_mask(state, 0, 2, mask)[2])
        shown += [masks for _, _, masks in self.model.propagate_in_video(state)]
        shown.append(self.model.add_new_points_or_box(state, 1, 1, points=[[50, 8]], labels=[0])[2])
        return torch.cat([one.flatten().float() for one in shown]).numpy()

    def image(self) -> np.ndarray:
        self.predictor.set_image(self.picture)
        masks, scores, low = self.predictor.predict([[30, 40]], [1], return_logits=True)
        again = self.predictor.predict(box=[5, 5, 60, 70], mask_input=low[:1], multimask_output=False)
        return np.concatenate([np.ravel(one) for one in (masks, scores, *again)])

    def automatic(self) -> np.ndarray:
        found = sorted(self.generator.generate(self.picture), key=lambda one: (one["bbox"], one["predicted_iou"]))
        rows = [[*one["bbox"], one["area"], one["predicted_iou"], one["stability_score"]] for one in found]
        return np.array(rows or [[0.0]]).ravel()

    def names(self) -> list[str]:
        """Everything that can be overridden: "kind what name"."""
        found, inside = [], vars(nn.Module())
        for kind, thing in self.things().items():
            bases = [base for base in type(thing).__mro__ if base.__module__.startswith("sam2.")]
            for name in sorted({name for base in bases for name in vars(base)}):
                method = inspect.isfunction(inspect.getattr_static(thing, name))
                if method and not name.startswith("__") and name not in SKIPPED:
                    found += [f"{kind} subclass {name}", f"{kind} instance {name}"]
            own = [name for name in (*vars(thing), *vars(thing).get("_parameters", ())) if name not in inside]
            found += [f"{kind} attribute {name}" for name in own if other(getattr(thing, name)) is not None]
        seen = ("image_encoder", "sam_prompt_encoder", "sam_mask_decoder")  # an image uses these, too, and takes less
        for name, _ in self.model.named_modules():
            if name:
                found.append(f"{'image' if name.startswith(seen) else 'video'} hook {name}")
        return found + [f"{USES.get(module, 'video')} replaced {module}:{name}" for module, name in self.replaceable()]

    def replaceable(self) -> Iterator[tuple[str, str]]:
        """Functions by module and name, those of torch that a module has imported, too, and methods of parts."""
        for module in sorted(name for name in sys.modules if name.startswith(("sam2.modeling", "sam2.auto", "sam2.u"))):
            for name, thing in sorted(vars(sys.modules[module]).items()):
                source = str(getattr(thing, "__module__", ""))
                if inspect.isfunction(thing) and source.startswith(("sam2.", "torchvision.")):
                    yield module, name
                elif inspect.isclass(thing) and source == module and issubclass(thing, nn.Module):
                    methods = [key for key, one in vars(thing).items() if inspect.isfunction(one)]
                    if thing.__name__ != "SAM2Base":  # those are overridden in subclasses
                        yield from ((module, f"{name}.{key}") for key in sorted(methods) if not key.startswith("__"))

    def run(self, case: str) -> np.ndarray:
        """What comes of one override; what was there before is put back."""
        kind, what, name = case.split(" ")
        if what == "replaced":
            return self.replacing(kind, *name.split(":"))
        thing, kept = self.things()[kind], None
        with torch.inference_mode():
            if what == "hook":
                part = self.model.get_submodule(name)
                handle = part.register_forward_hook(lambda _, __, answer: changed(answer))
                try:
                    return getattr(self, kind)()
                finally:
                    handle.remove()
        before = dict(vars(thing)), type(thing), getattr(thing, name, None)
        try:
            if what == "subclass":
                thing.__class__ = type("Mine", (type(thing),), {name: overriding(getattr(type(thing), name))})
            elif what == "instance":
                setattr(thing, name, types.MethodType(overriding(getattr(type(thing), name)), thing))
            else:
                kept = getattr(thing, name)
                setattr(thing, name, other(kept))
            with torch.inference_mode():
                return getattr(self, kind)()
        finally:
            thing.__class__ = before[1]
            if what == "instance":
                vars(thing).pop(name, None)
            elif what == "attribute":
                setattr(thing, name, kept)

    def replacing(self, kind: str, module: str, name: str) -> np.ndarray:
        """What comes of another function in a module, or of another method in one of its classes."""
        owner: Any = importlib.import_module(module)
        if "." in name:
            kind_of_part, name = name.split(".")
            owner = getattr(owner, kind_of_part)
        before, inherited = getattr(owner, name), name not in vars(owner)
        setattr(owner, name, functools.wraps(before)(lambda *args, **kwargs: changed(before(*args, **kwargs))))
        try:
            with torch.inference_mode():
                return getattr(self, kind)()
        finally:
            delattr(owner, name) if inherited else setattr(owner, name, before)


def main(how: str, folder: str, out: str, listed: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    program = Program(Path(folder))
    if how == "list":
        Path(f"{listed}.part").write_text("\n".join(program.names()))
        Path(f"{listed}.part").rename(listed)
    cases = Path(listed).read_text().splitlines()
    saved = {f"plain {kind}": getattr(program, kind)() for kind in KINDS}
    for case in cases:
        CALLS.clear()
        try:
            saved[case] = program.run(case)
            if " subclass " in case:
                saved[f"calls {case}"] = np.array(len(CALLS))
        except Exception as error:  # noqa: BLE001  # a package may refuse in any way
            saved[case] = np.array(f"{type(error).__name__}: {error}"[:300])
    saved |= {f"plain again {kind}": getattr(program, kind)() for kind in KINDS}
    np.savez(out, **saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
