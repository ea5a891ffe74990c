"""``SAM2Base``: sam2core's model under upstream's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from sam2.modeling.assembly import assemble, multimask, policy
from sam2.modeling.backbones.image_encoder import BuiltImageEncoder
from sam2.modeling.recall import FrameOutput, RememberedOutputs, maps_of
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.layout import LayoutError
from sam2core.memory.policy import RecentFrames
from sam2core.model import Sam2, finer_features
from sam2core.ops import masks as mask_ops
from sam2core.types import NO_OBJECT, ImageFeatures, MaskCandidates, MaskPrediction, Prompt

NO_OBJ_SCORE = NO_OBJECT

_TENSORS = {
    "maskmem_tpos_enc": ("memory_readout", "slot_embed"),
    "no_mem_embed": ("memory_readout", "no_memory"),
    "no_obj_ptr": ("object_pointer", "absent"),
    "no_obj_embed_spatial": ("memory_encoder", "occlusion_embed"),
}
_MODULES = {
    "memory_attention": ("memory_attention",),
    "memory_encoder": ("memory_encoder",),
    "obj_ptr_proj": ("object_pointer", "proj"),
    "mask_downsample": ("object_pointer", "mask_stem"),
    "obj_ptr_tpos_proj": ("memory_readout", "pointer_time"),
}
_OURS = ("core.", "backbone.", "neck.", "prompt_encoder.", "mask_decoder.", "memory_readout.", "object_pointer.")
"""How names begin that are sam2core's and not upstream's."""
_POLICY = (
    "num_maskmem",
    "memory_temporal_stride_for_eval",
    "max_obj_ptrs_in_encoder",
    "max_cond_frames_in_attn",
    "only_obj_ptrs_in_the_past_for_eval",
)
_MULTIMASK = (
    "multimask_output_in_sam",
    "multimask_min_pt_num",
    "multimask_max_pt_num",
    "multimask_output_for_tracking",
)


class SAM2Base(nn.Module):
    """sam2core's model, `core`, with upstream's constructor, attributes, parameter names and half-public methods.

    `image_encoder`, `memory_attention` and `memory_encoder` are descriptions (``sam2.modeling.*``) or configuration
    mappings with ``_target_``; or `image_encoder` is a `sam2core.Sam2` and the other two are None. Options that all
    released models share have no other value here: ValueError says which.
    """

    def __init__(
        self,
        image_encoder,
        memory_attention,
        memory_encoder,
        num_maskmem=7,
        image_size=512,
        backbone_stride=16,
        sigmoid_scale_for_mem_enc=1.0,
        sigmoid_bias_for_mem_enc=0.0,
        binarize_mask_from_pts_for_mem_enc=False,
        use_mask_input_as_output_without_sam=False,
        max_cond_frames_in_attn=-1,
        directly_add_no_mem_embed=False,
        use_high_res_features_in_sam=False,
        multimask_output_in_sam=False,
        multimask_min_pt_num=1,
        multimask_max_pt_num=1,
        multimask_output_for_tracking=False,
        use_multimask_token_for_obj_ptr: bool = False,
        iou_prediction_use_sigmoid=False,
        memory_temporal_stride_for_eval=1,
        non_overlap_masks_for_mem_enc=False,
        use_obj_ptrs_in_encoder=False,
        max_obj_ptrs_in_encoder=16,
        add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=False,
        use_signed_tpos_enc_to_obj_ptrs=False,
        only_obj_ptrs_in_the_past_for_eval=False,
        pred_obj_scores: bool = False,
        pred_obj_scores_mlp: bool = False,
        fixed_no_obj_ptr: bool = False,
        soft_no_obj_ptr: bool = False,
        use_mlp_for_obj_ptr_proj: bool = False,
        no_obj_embed_spatial: bool = False,
        sam_mask_decoder_extra_args=None,
        compile_image_encoder: bool = False,
    ):
        options = dict(locals())
        for name in ("self", "image_encoder", "memory_attention", "memory_encoder", "__class__"):
            options.pop(name)
        super().__init__()
        if isinstance(image_encoder, Sam2):
            self.core = image_encoder
            options |= _options_of(image_encoder)
        else:
            self.core = assemble(image_encoder, memory_attention, memory_encoder, options)
        for name, value in options.items():
            if name not in _TENSORS:
                self.__dict__[name] = value
        height, width = self.core.image_size
        if height != width:
            raise ValueError(f"upstream's programs expect a square model; this one sees {width}x{height} pixels")
        self.image_size = height
        self.num_feature_levels = 3 if self.use_high_res_features_in_sam else 1
        self.hidden_dim = self.core.memory_readout.dim
        self.mem_dim = self.core.memory_readout.memory_dim
        self.sam_prompt_embed_dim = self.hidden_dim
        self.sam_image_embedding_size = self.image_size // backbone_stride
        # Not registered: the tensors belong to `core`, and are counted once.
        self.__dict__["image_encoder"] = BuiltImageEncoder(self.core)
        self.__dict__["sam_prompt_encoder"] = PromptEncoder(self.core.prompt_encoder)
        self.__dict__["sam_mask_decoder"] = MaskDecoder(self.core.mask_decoder)
        if compile_image_encoder:
            encoder = self.__dict__["image_encoder"]
            encoder.forward = torch.compile(encoder.forward, mode="max-autotune", fullgraph=True, dynamic=False)

    # names

    def __getattr__(self, name: str) -> Any:
        if name in _TENSORS:
            part, attribute = _TENSORS[name]
            return getattr(getattr(self.core, part), attribute, None)
        if name in _MODULES:
            found: Any = self.core
            for step in _MODULES[name]:
                found = getattr(found, step)
            return found if found is not None else nn.Identity()
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _TENSORS:
            part, attribute = _TENSORS[name]
            setattr(getattr(self.core, part), attribute, value)
            return
        if name in _MODULES and isinstance(value, nn.Module):
            *path, attribute = _MODULES[name]
            setattr(self.core.get_submodule(".".join(path)), attribute, value)
            return
        super().__setattr__(name, value)
        if name in _POLICY and type(self.core.memory_policy) is RecentFrames:
            self.core.memory_policy = policy(self.__dict__)
        elif name in _MULTIMASK:
            self.core.multimask = multimask(self.__dict__)

    @property
    def device(self) -> torch.device:
        return self.core.device

    def forward(self, *args, **kwargs):
        raise NotImplementedError(
            "call a predictor: sam2.sam2_image_predictor.SAM2ImagePredictor, sam2.sam2_video_predictor; "
            "models are trained with `sam2core train`"
        )

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Upstream's names, wherever the layout of its files has one for a parameter."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            own = name.removeprefix(f"{prefix}." if prefix else "")
            yield (f"{prefix}." if prefix else "") + _their_name(own), parameter

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The tensors under upstream's names, as its ``.pt`` files hold them."""
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        if prefix:  # part of another module, which has its own idea of names
            return super().state_dict(*args, **kwargs)
        state = super().state_dict(*args, **kwargs)
        core = {name.removeprefix("core."): tensor for name, tensor in state.items() if name.startswith("core.")}
        rest = {name: tensor for name, tensor in state.items() if not name.startswith("core.")}
        try:
            return FACEBOOK.inverse(core) | rest
        except LayoutError:  # a part that upstream does not have: its names stay
            return core | rest

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors under upstream's names, or sam2core's. Raises RuntimeError when `strict` and they do not fit."""
        known = super().state_dict()
        given = dict(state_dict)
        extra: list[str] = []
        if not any(name.startswith(_OURS) for name in given):
            given, extra = _renamed(given)
        found = super().load_state_dict(
            {name if name in known else f"core.{name}": tensor for name, tensor in given.items()},
            strict=False,
            assign=assign,
        )
        missing = [_their_name(name) for name in found.missing_keys]
        unexpected = [name.removeprefix("core.") for name in found.unexpected_keys] + extra
        if strict and (missing or unexpected):
            raise RuntimeError(
                f"the weights do not fit {type(self).__name__}: "
                f"missing {', '.join(missing) or 'nothing'}; unexpected {', '.join(unexpected) or 'nothing'}"
            )
        return _IncompatibleKeys(missing, unexpected)

    # half-public methods

    def forward_image(self, img_batch: Tensor) -> dict[str, Any]:
        """Normalised pixels (B, 3, H, W) to maps; the finer two are projected for the mask decoder."""
        out = self.image_encoder(img_batch)
        if self.use_high_res_features_in_sam:
            maps = out["backbone_fpn"]
            maps[:2] = finer_features(self.core.mask_decoder, maps, img_batch)
        return out

    def _prepare_backbone_features(self, backbone_out: dict[str, Any]):
        """The maps and their positions as (H * W, B, C), with the maps' sizes."""
        levels = self.num_feature_levels
        maps, positions = backbone_out["backbone_fpn"][-levels:], backbone_out["vision_pos_enc"][-levels:]
        sizes = [(position.shape[-2], position.shape[-1]) for position in positions]
        return (
            dict(backbone_out),
            [one.flatten(2).permute(2, 0, 1) for one in maps],
            [one.flatten(2).permute(2, 0, 1) for one in positions],
            sizes,
        )

    def _features(self, feats: Sequence[Tensor], positions: Sequence[Tensor], sizes: Sequence[Any]) -> ImageFeatures:
        """sam2core's features of what `_prepare_backbone_features` gives."""

        def unflatten(one: Tensor, size: tuple[int, int]) -> Tensor:
            return one.permute(1, 2, 0).unflatten(2, tuple(size))

        maps = [unflatten(one, size) for one, size in zip(feats, sizes, strict=True)]
        return ImageFeatures(
            embedding=maps[-1], position=unflatten(positions[-1], sizes[-1])[:1], high_res_features=tuple(maps[:-1])
        )

    def _use_multimask(self, is_init_cond_frame: bool, point_inputs: Mapping[str, Tensor] | None) -> bool:
        count = 0 if point_inputs is None else point_inputs["point_labels"].size(1)
        return self.core.multimask.applies(count, tracking=not is_init_cond_frame)

    def track_step(
        self,
        frame_idx,
        is_init_cond_frame,
        current_vision_feats,
        current_vision_pos_embeds,
        feat_sizes,
        point_inputs,
        mask_inputs,
        output_dict,
        num_frames,
        track_in_reverse=False,
        run_mem_encoder=True,
        prev_sam_mask_logits=None,
    ):
        """One frame of one object, or of several that share their past: upstream's dictionary of outputs."""
        core, memory = self.core, self.core.memory_policy
        features = self._features(current_vision_feats, current_vision_pos_embeds, feat_sizes)
        batch = features.batch
        if mask_inputs is not None:
            candidates = core.mask_as_output(features, mask_inputs)
        else:
            bank = RememberedOutputs(output_dict, self.device)
            recall = None
            if not is_init_cond_frame and len(bank.prompted):
                recall = memory.recall(
                    bank, frame_idx, backwards=track_in_reverse, length=num_frames, state=bank.state(memory)
                )
            candidates = core.segment(
                features,
                core.condition(features, recall),
                _prompt(point_inputs, prev_sam_mask_logits, batch, self.device),
                multimask_output=self._use_multimask(is_init_cond_frame, point_inputs),
            )
        answer = candidates.take(candidates.iou.argmax(dim=1))
        masks = answer.logits.float()
        high = mask_ops.resize(masks, core.image_size)
        out = FrameOutput(
            point_inputs=point_inputs,
            mask_inputs=mask_inputs,
            pred_masks=masks,
            pred_masks_high_res=high,
            obj_ptr=answer.object_pointer,
            object_score_logits=answer.object_score,
            maskmem_features=None,
            maskmem_pos_enc=None,
        )
        out.iou = answer.iou
        if run_mem_encoder and self.num_maskmem > 0:
            encoded = self._encode_new_memory(
                current_vision_feats, feat_sizes, high, answer.object_score, point_inputs is not None
            )
            out["maskmem_features"], out["maskmem_pos_enc"] = encoded
        return out

    def _encode_new_memory(
        self, current_vision_feats, feat_sizes, pred_masks_high_res, object_score_logits, is_mask_from_pts
    ):
        """The memory map (B, Cm, h, w) of an answer given as logits at model size, and the list of its position map."""
        features = self._features(current_vision_feats, current_vision_feats, feat_sizes)
        rows = pred_masks_high_res.shape[0]
        unknown = object_score_logits.new_zeros(rows)
        nothing = object_score_logits.new_zeros(rows, self.hidden_dim)
        candidates = MaskCandidates(pred_masks_high_res, unknown[:, None], nothing[:, None], object_score_logits)
        answer = MaskPrediction(pred_masks_high_res, unknown, nothing, object_score_logits, candidates)
        hard = bool(self.binarize_mask_from_pts_for_mem_enc and is_mask_from_pts and not self.training)
        return maps_of(self.core.memorize(features, answer, frame=0, hard=hard))

    def _apply_non_overlapping_constraints(self, pred_masks: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of N objects, every pixel given to its strongest."""
        return mask_ops.non_overlapping(pred_masks.squeeze(1)).unsqueeze(1)


def _prompt(
    point_inputs: Mapping[str, Tensor] | None, mask_input: Tensor | None, batch: int, device: torch.device
) -> Prompt:
    if point_inputs is None:
        nothing = Prompt.nothing(batch, device)
        return Prompt(nothing.points, nothing.labels, mask_input)
    points, labels = point_inputs["point_coords"], point_inputs["point_labels"].to(torch.int32)
    if points.shape[1] == 0:
        return _prompt(None, mask_input, points.shape[0], device)
    return Prompt(points, labels, mask_input)


def _options_of(core: Sam2) -> dict[str, Any]:
    """A model's values of upstream's options."""
    rule = core.multimask
    recent = core.memory_policy if isinstance(core.memory_policy, RecentFrames) else RecentFrames()
    return {
        "image_size": core.image_size[0],
        "num_maskmem": recent.frames + 1,
        "memory_temporal_stride_for_eval": recent.stride,
        "max_obj_ptrs_in_encoder": recent.object_pointers,
        "max_cond_frames_in_attn": -1 if recent.prompted is None else recent.prompted,
        "only_obj_ptrs_in_the_past_for_eval": not recent.future_object_pointers,
        "multimask_output_in_sam": rule.min_points <= rule.max_points,
        "multimask_min_pt_num": rule.min_points,
        "multimask_max_pt_num": rule.max_points,
        "multimask_output_for_tracking": rule.while_tracking,
        "use_high_res_features_in_sam": getattr(core.mask_decoder, "skip_stride4", None) is not None,
        "directly_add_no_mem_embed": True,
        "use_mask_input_as_output_without_sam": True,
        "use_obj_ptrs_in_encoder": True,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "fixed_no_obj_ptr": True,
        "use_mlp_for_obj_ptr_proj": True,
        "use_multimask_token_for_obj_ptr": True,
        "iou_prediction_use_sigmoid": True,
    }


def _their_name(name: str) -> str:
    """Upstream's name of one of our tensors; the name itself where upstream has none."""
    own = name.removeprefix("core.")
    for table in reversed(FACEBOOK.tables):
        for rule in table:
            found = getattr(rule, "to_theirs", lambda _: None)(own)
            if found is not None:
                return found
    return own


def _renamed(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Upstream's names to ours, and the names that no rule knows."""
    try:
        return FACEBOOK.rename(state), []
    except LayoutError as error:
        unknown = [name for name in error.names if name in state]
        if not unknown:
            raise
        return FACEBOOK.rename({name: tensor for name, tensor in state.items() if name not in unknown}), unknown
