"""Whether a model is as it was built, so that sam2core may compute what its parts and methods would.

A program may override a method, patch an instance, a class or a function, replace a part, hook it, or set an option.
`Untouched.core` looks for all of that before every frame; what it finds is never passed over: a model that sam2core can
still express is made anew from the options as they are, any other goes Meta's way.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

METHODS = (
    "_run_single_frame_inference",
    "_run_memory_encoder",
    "_get_maskmem_pos_enc",
    "track_step",
    "_track_step",
    "_prepare_memory_conditioned_features",
    "_forward_sam_heads",
    "_use_mask_as_output",
    "_use_multimask",
    "_encode_memory_in_output",
    "_encode_new_memory",
    "_apply_non_overlapping_constraints",
    "_past_tokens",
    "_pointer_tokens",
    "_gated",
    "_build_sam_heads",
)
"""The methods that sam2core stands in for. Others are called whichever way a model goes."""
OPTIONS = (
    "num_maskmem",
    "image_size",
    "backbone_stride",
    "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc",
    "use_mask_input_as_output_without_sam",
    "max_cond_frames_in_attn",
    "directly_add_no_mem_embed",
    "use_high_res_features_in_sam",
    "multimask_output_in_sam",
    "multimask_min_pt_num",
    "multimask_max_pt_num",
    "multimask_output_for_tracking",
    "use_multimask_token_for_obj_ptr",
    "iou_prediction_use_sigmoid",
    "memory_temporal_stride_for_eval",
    "non_overlap_masks_for_mem_enc",
    "use_obj_ptrs_in_encoder",
    "max_obj_ptrs_in_encoder",
    "add_tpos_enc_to_obj_ptrs",
    "proj_tpos_enc_in_obj_ptrs",
    "use_signed_tpos_enc_to_obj_ptrs",
    "only_obj_ptrs_in_the_past_for_eval",
    "pred_obj_scores",
    "pred_obj_scores_mlp",
    "fixed_no_obj_ptr",
    "soft_no_obj_ptr",
    "use_mlp_for_obj_ptr_proj",
    "num_feature_levels",
    "hidden_dim",
    "mem_dim",
    "sam_prompt_embed_dim",
    "sam_image_embedding_size",
)
"""What a model says of itself; the core is made anew when one of these is set."""
STABILITY = (
    "dynamic_multimask_via_stability",
    "dynamic_multimask_stability_delta",
    "dynamic_multimask_stability_thresh",
)
"""What a mask decoder says of its single mask; the same holds for these."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_EVERYWHERE = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
_REGISTRY_PARTS = ("image_encoder", "memory_attention", "memory_encoder", "sam_prompt_encoder", "sam_mask_decoder")
_NOTHING = object()

_WRITTEN: list[tuple[Mapping[str, Any], dict[str, Any], str]] = []


def written(namespace: dict[str, Any], names: tuple[str, ...] | None = None) -> None:
    """Remember a module's functions and its classes' methods as they are written: those named, or all of them.

    Called at the end of each module that sam2core stands in for, with its ``globals()``.
    """
    own = {key: value for key, value in namespace.items() if callable(value) and not key.startswith("__")}
    _WRITTEN.append((namespace, {key: value for key, value in own.items() if names is None or key in names}, ""))
    for kind in own.values():
        if inspect.isclass(kind) and kind.__module__ == namespace["__name__"]:
            methods: dict[str, Any] = {
                key: value
                for key, value in vars(kind).items()
                if inspect.isroutine(value) and (names is None or key in names)
            }
            if names is None and issubclass(kind, nn.Module):  # one that is inherited may be replaced here, too
                methods.setdefault("forward", None)
            _WRITTEN.append((vars(kind), methods, f"{kind.__name__}."))


def _written_in_torch() -> None:
    """Remember what the parts call of torch's: programs replace it, to see attention maps or to count."""
    written(vars(F), ("scaled_dot_product_attention", "interpolate", "pad", "gelu", "glu", "relu"))
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Embedding, nn.GELU, nn.LayerNorm, nn.Linear, nn.MaxPool2d, nn.ReLU)
    for kind in kinds:
        _WRITTEN.append((vars(kind), {"forward": kind.forward}, f"{kind.__name__}."))
    _WRITTEN.append((vars(nn.Module), {"__call__": nn.Module.__call__}, "Module."))


def overridden(thing: Any, kind: type, names: tuple[str, ...]) -> str | None:
    """The first of `names` that is not the method that `kind` has, in an object's class or in the object itself."""
    for name in names:
        if name in vars(thing) or getattr(type(thing), name, None) is not getattr(kind, name):
            return f"{type(thing).__name__}.{name} is overridden"
    return _patched()


def _patched() -> str | None:
    """The name of a function or method that is no longer the one that was written."""
    for namespace, functions, where in _WRITTEN:
        for name, function in functions.items():
            if namespace.get(name) is not function:
                return f"{where}{name} is replaced"
    for name in _EVERYWHERE:
        if getattr(torch.nn.modules.module, name):
            return "every module is hooked"
    return None


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, bool | int | float | str | tuple | list) and type(a) is type(b) and a == b)


def _alike(children: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return len(children) == len(before) and all(children.get(key) is part for key, part in before.items())


_INSIDE = frozenset(nn.Module().__dict__) - {"_modules"}
"""What every module keeps of itself, beside its weights, parts and hooks."""


class _Part:
    """A part of a model as it was built."""

    def __init__(self, name: str, part: nn.Module) -> None:
        self.name = name
        self.part = part
        self.kind = type(part)
        self.count = len(part.__dict__)
        self.children = tuple(part._modules.items())
        passed = (*_INSIDE, "_modules", *STABILITY)
        self.facts = tuple((key, value) for key, value in part.__dict__.items() if key not in passed)

    def changed(self, training: bool) -> bool:
        """Whether anything is not as it was built; asked of every part before every frame."""
        own = self.part.__dict__
        children = own["_modules"]
        if (
            len(own) != self.count
            or type(self.part) is not self.kind
            or own["training"] is not training
            or len(children) != len(self.children)
            or own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own["_backward_hooks"]
            or own["_backward_pre_hooks"]
        ):
            return True
        for key, part in self.children:
            if children.get(key) is not part:
                return True
        for key, value in self.facts:
            if own.get(key, _NOTHING) is not value and not _same(own.get(key, _NOTHING), value):
                return True
        return False

    def difference(self) -> str:
        """What is not as it was built, in words."""
        own = self.part.__dict__
        if type(self.part) is not self.kind:
            return f"{self.name} is a {type(self.part).__name__}"
        for key, value in self.facts:
            if not _same(own.get(key, _NOTHING), value):
                return f"{self.name}.{key} is set"
        if not _alike(own["_modules"], dict(self.children)):
            return f"a part of {self.name} is replaced"
        if any(own[hooks] for hooks in _HOOKS):
            return f"{self.name} is hooked"
        if len(own) != self.count:
            known = {*_INSIDE, "_modules", *STABILITY, *dict(self.facts)}
            return f"{self.name}.{next((key for key in own if key not in known), 'something')} is set"
        return f"{self.name} is in {'training' if own['training'] else 'evaluation'} mode alone"


class Untouched:
    """What is known of a model since it was built, and sam2core's model of it while nothing else is known."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.registered = model._modules.get("core")
        self.parts = [_Part(name, part) for name, part in self._named_parts()]
        self.children = dict(model._modules)
        self.shared: list[tuple[dict[str, Any], str, dict[str, Any], str]] = []
        self.made: Any = None
        self.made_of: tuple[Any, ...] = ()
        self.why = ""
        self.device: torch.device | None = None
        self.told = False
        self.held: Any = None
        if self.registered is not None:
            self.made_of = self._options()
            if (method := self._overridden()) is not None:
                raise ValueError(self._refusal(method))

    def core(self) -> Any:
        """sam2core's model, with the weights as they are now; None when this model goes Meta's way.

        Raises ValueError for a model of the registry that is touched: it has no other way to go.
        """
        if self.held is not None:
            return self.held
        if self.registered is not None:
            if found := self._touched():
                raise ValueError(self._refusal(found))
            self._settle(self.registered)
            return self.registered
        if self.model.training:
            return None
        found = self._touched()
        if found is None:
            options = self._options()
            if options != self.made_of:
                self._make(options)
            found = self.why or None
        if found is not None:
            self._tell(found)
            return None
        for ours, key, theirs, their_key in self.shared:
            ours[key] = theirs[their_key]
        self._settle(self.made)
        return self.made

    @contextmanager
    def holding(self, core: Any) -> Iterator[None]:
        """Within it, `core` is what was found: one look does for a frame."""
        self.held = core
        try:
            yield
        finally:
            self.held = None

    def needs_parts(self) -> None:
        """Raise ValueError for a model of the registry, whose parts are not Meta's."""
        if self.registered is not None:
            raise ValueError(self._refusal("a step of its inside is called"))

    def refuse(self, name: str, value: Any) -> None:
        """Raise ValueError where an option or a method of a registry's model is set, which would change nothing."""
        known = getattr(self.model, name, _NOTHING)
        if name in METHODS or (name in OPTIONS and not _same(known, value)) or name in _REGISTRY_PARTS:
            raise ValueError(self._refusal(f"{name} is set"))

    # what is looked for

    def _named_parts(self) -> Iterator[tuple[str, nn.Module]]:
        for name, part in self.model.named_modules():
            if part is not self.model:
                yield name, part
        if self.registered is not None:
            for name in ("image_encoder", "sam_prompt_encoder", "sam_mask_decoder"):
                yield name, self.model.__dict__[name]

    def _overridden(self) -> str | None:
        """A method of the model's class, or of the model itself, that is not the one that was written."""
        own, kind = self.model.__dict__, type(self.model)
        for name in METHODS:
            if name in own or (hasattr(kind, name) and getattr(kind, name) is not _METHODS_WRITTEN.get(name)):
                return f"{kind.__name__}.{name} is overridden"
        return None

    def _touched(self) -> str | None:
        found = _patched() or self._overridden()
        if found is not None:
            return found
        if not _alike(self.model._modules, self.children):
            return "a part is replaced"
        training = self.model.training
        for part in self.parts:
            if part.changed(training if self.registered is None else part.part.training):
                return part.difference()
        return None

    def _options(self) -> tuple[Any, ...]:
        decoder = self.model.sam_mask_decoder
        said = [getattr(self.model, name) for name in OPTIONS]
        return *said, *(getattr(decoder, name, None) for name in STABILITY)

    # what is done then

    def _make(self, options: tuple[Any, ...]) -> None:
        """sam2core's model for these options, without weights of its own, or why there is none."""
        from sam2.modeling.assembly import Unsupported, assemble, shared

        self.made_of, self.why, self.device = options, "", None
        try:
            self.made = assemble(self.model)
            self.shared = shared(self.model, self.made)
        except Unsupported as error:
            self.made, self.why = None, str(error)

    def _settle(self, core: Any) -> None:
        """Arrange the core for the device that the weights are on."""
        from sam2core.compile import compile_model
        from sam2core.prepare import prepare

        device = self.model.device
        if device == self.device:
            return
        self.device = device
        prepare(core, device)
        parts = self.model.__dict__.get("_compiled", ())
        if parts and device.type != "cpu":
            names = {"image_encoder": ("backbone", "neck")}
            compile_model(core, [name for part in parts for name in names.get(part, (part,))])

    def _tell(self, found: str) -> None:
        if not self.told:
            self.told = True
            warnings.warn(
                f"{found}: this {type(self.model).__name__} is computed as Meta's is, method by method and object by "
                "object, which takes longer than sam2core's own way",
                stacklevel=4,
            )

    def _refusal(self, found: str) -> str:
        return (
            f"{found}, but a model of sam2core's registry is computed by sam2core alone, so that it would change "
            "nothing; build one of Meta's configurations, such as configs/sam2.1/sam2.1_hiera_t.yaml, or write a plugin"
        )


_METHODS_WRITTEN: dict[str, Any] = {}


def methods_written(kind: type) -> None:
    """Remember the methods of a class that sam2core stands in for."""
    _METHODS_WRITTEN.update({name: vars(kind)[name] for name in METHODS if name in vars(kind)})


_written_in_torch()
