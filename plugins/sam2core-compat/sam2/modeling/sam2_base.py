"""``SAM2Base``: Meta's model, part by part and method by method, computed by sam2core where nobody touched it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from sam2.modeling import past
from sam2.modeling.recall import FrameOutput, RememberedOutputs, maps_of
from sam2.modeling.registry_model import (
    REGISTRY_NAMES,
    RegistryImageEncoder,
    RegistryMaskDecoder,
    RegistryPromptEncoder,
    options_of,
)
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_utils import MLP, get_1d_sine_pe, select_closest_cond_frames
from sam2.untouched import Untouched, methods_written, written
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.model import Sam2
from sam2core.ops import masks as mask_ops
from sam2core.ops.position import sine_grid
from sam2core.types import NO_OBJECT, ImageFeatures, MaskPrediction, Prompt

NO_OBJ_SCORE = NO_OBJECT

_OURS = ("backbone.", "neck.", "prompt_encoder.", "mask_decoder.", "memory_readout.", "object_pointer.")
"""How names begin that are sam2core's and not Meta's."""
_MASK_SCALE, _MASK_BIAS = 20.0, -10.0
"""A mask prompt of zeros and ones as logits."""


class SAM2Base(nn.Module):
    """Meta's model: its parts, options, names and methods.

    As long as nothing of it is overridden, patched, set or hooked, sam2core computes what it computes, from the same
    weights (`sam2.untouched`); a model that is touched goes Meta's way, method by method. `image_encoder` may be a
    `sam2core.Sam2` instead, with None for the other two: a model of the registry, whose parts cannot be overridden.
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
        super().__init__()
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        parts = [options.pop(name) for name in ("image_encoder", "memory_attention", "memory_encoder")]
        extra, compiled = options.pop("sam_mask_decoder_extra_args"), options.pop("compile_image_encoder")
        embed_absent = options.pop("no_obj_embed_spatial")
        registered = isinstance(image_encoder, Sam2)
        if registered:
            options |= options_of(image_encoder)
        for name, value in options.items():
            setattr(self, name, value)
        self.sam_mask_decoder_extra_args = extra
        self.num_feature_levels = 3 if self.use_high_res_features_in_sam else 1
        if registered:
            self._adopt(image_encoder)
        else:
            self._build(*parts, embed_absent)
        self.sam_prompt_embed_dim = self.hidden_dim
        self.sam_image_embedding_size = self.image_size // self.backbone_stride
        if not registered:
            self._build_sam_heads()
        if compiled:
            self.compile_parts("image_encoder")
        self.__dict__["_untouched"] = Untouched(self)

    def _build(self, image_encoder, memory_attention, memory_encoder, embed_absent) -> None:
        """Take the parts, and make the codes that stand beside them."""
        self.image_encoder = image_encoder
        self.hidden_dim = image_encoder.neck.d_model
        if self.use_obj_ptrs_in_encoder:
            self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        if self.proj_tpos_enc_in_obj_ptrs and not self.add_tpos_enc_to_obj_ptrs:
            raise ValueError("proj_tpos_enc_in_obj_ptrs needs add_tpos_enc_to_obj_ptrs")
        self.memory_attention = memory_attention
        self.memory_encoder = memory_encoder
        weight = getattr(getattr(memory_encoder, "out_proj", None), "weight", None)
        self.mem_dim = self.hidden_dim if weight is None else weight.shape[0]
        self.maskmem_tpos_enc = _code(self.num_maskmem, 1, 1, self.mem_dim)
        self.no_mem_embed = _code(1, 1, self.hidden_dim)
        self.no_mem_pos_enc = _code(1, 1, self.hidden_dim)
        if self.fixed_no_obj_ptr and not (self.pred_obj_scores and self.use_obj_ptrs_in_encoder):
            raise ValueError("fixed_no_obj_ptr needs pred_obj_scores and use_obj_ptrs_in_encoder")
        if self.pred_obj_scores and self.use_obj_ptrs_in_encoder:
            self.no_obj_ptr = _code(1, self.hidden_dim)
        self.no_obj_embed_spatial = _code(1, self.mem_dim) if embed_absent else None

    def _adopt(self, core: Sam2) -> None:
        """Take a model of the registry for what Meta's parts do."""
        height, width = core.image_size
        if height != width:
            raise ValueError(f"Meta's programs expect a square model; this one sees {width}x{height} pixels")
        self.core = core
        self.hidden_dim = core.memory_readout.dim
        self.mem_dim = core.memory_readout.memory_dim
        # Not registered: the weights belong to `core`, and are counted once.
        self.__dict__["image_encoder"] = RegistryImageEncoder(core)
        self.__dict__["sam_prompt_encoder"] = RegistryPromptEncoder(core.prompt_encoder)
        self.__dict__["sam_mask_decoder"] = RegistryMaskDecoder(core.mask_decoder)

    def _build_sam_heads(self) -> None:
        """Make the prompt encoder, the mask decoder and what turns its tokens into object pointers."""
        dim, side = self.hidden_dim, self.sam_image_embedding_size
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(side, side),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16,
        )
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=2048, num_heads=8),
            transformer_dim=dim,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
            use_high_res_features=self.use_high_res_features_in_sam,
            iou_prediction_use_sigmoid=self.iou_prediction_use_sigmoid,
            pred_obj_scores=self.pred_obj_scores,
            pred_obj_scores_mlp=self.pred_obj_scores_mlp,
            use_multimask_token_for_obj_ptr=self.use_multimask_token_for_obj_ptr,
            **(self.sam_mask_decoder_extra_args or {}),
        )
        if not self.use_obj_ptrs_in_encoder:
            self.obj_ptr_proj = nn.Identity()
        elif self.use_mlp_for_obj_ptr_proj:
            self.obj_ptr_proj = MLP(dim, dim, dim, 3)
        else:
            self.obj_ptr_proj = nn.Linear(dim, dim)
        self.obj_ptr_tpos_proj = nn.Linear(dim, self.mem_dim) if self.proj_tpos_enc_in_obj_ptrs else nn.Identity()

    def compile_parts(self, *names: str) -> None:
        """Compile parts at their first use on a GPU; on a CPU that takes longer than it saves, and is left."""
        before = self.__dict__.get("_compiled", ())
        self.__dict__["_compiled"] = (*before, *names)
        if not before:
            warnings.warn(
                "parts are compiled at their first use on a GPU, so that the first frames take long (minutes, once); "
                "on a CPU nothing is compiled",
                stacklevel=3,
            )

    @property
    def core(self) -> Sam2 | None:
        """sam2core's model where it computes this one; None where this one goes Meta's way."""
        return self._untouched.core()

    def __getattr__(self, name: str) -> Any:
        core = self.__dict__.get("_modules", {}).get("core")
        if core is not None and name in REGISTRY_NAMES:
            found = core
            for step in REGISTRY_NAMES[name]:
                found = getattr(found, step)
            return found
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_untouched" in self.__dict__ and "core" in self._modules:
            self._untouched.refuse(name, value)
        super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, *args, **kwargs):
        raise NotImplementedError(
            "call a predictor: sam2.sam2_image_predictor.SAM2ImagePredictor, sam2.sam2_video_predictor; "
            "models are trained by a subclass that has a forward, or with `sam2core train`"
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors under Meta's names, or sam2core's, as a model of the registry saves them here or alone.

        Raises RuntimeError when `strict` and they do not fit.
        """
        given = {name.removeprefix("core."): tensor for name, tensor in state_dict.items()}
        if "core" in self._modules:
            given = {f"core.{name}": tensor for name, tensor in given.items()}
        elif any(name.startswith(_OURS) for name in given):
            # the one weight that sam2core has no use for stays as it is
            given = FACEBOOK.inverse(given) | {"no_mem_pos_enc": self.no_mem_pos_enc.detach()}
        found = super().load_state_dict(given, strict=False, assign=assign)
        missing, unexpected = found
        if strict and (missing or unexpected):
            raise RuntimeError(
                f"the weights do not fit {type(self).__name__}: "
                f"missing {', '.join(missing) or 'nothing'}; unexpected {', '.join(unexpected) or 'nothing'}"
            )
        return found

    # an image

    def forward_image(self, img_batch: Tensor) -> dict[str, Any]:
        """Normalised pixels (B, 3, H, W) to maps; the finer two are projected for the mask decoder."""
        core = self._untouched.core()
        if core is not None:
            return _maps_of(core.encode(img_batch))
        out = self.image_encoder(img_batch)
        if self.use_high_res_features_in_sam:
            maps = out["backbone_fpn"]
            maps[0] = self.sam_mask_decoder.conv_s0(maps[0])
            maps[1] = self.sam_mask_decoder.conv_s1(maps[1])
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
        maps = [_unflatten(one, size) for one, size in zip(feats, sizes, strict=True)]
        return ImageFeatures(
            embedding=maps[-1], position=_unflatten(positions[-1], sizes[-1])[:1], high_res_features=tuple(maps[:-1])
        )

    # heads

    def _forward_sam_heads(
        self,
        backbone_features,
        point_inputs=None,
        mask_inputs=None,
        high_res_features=None,
        multimask_output=False,
    ):
        """What a prompt gives on a conditioned image (B, C, h, w): seven values.

        The masks on offer (B, M, 4h, 4w), the same at model size, their IoU (B, M); the best mask in both sizes,
        (B, 1, ...); the object pointer (B, C) and the object score (B, 1). Masks of absent objects are NO_OBJ_SCORE.
        """
        batch, device = backbone_features.shape[0], backbone_features.device
        side = self.sam_image_embedding_size
        assert backbone_features.shape[1:] == (self.sam_prompt_embed_dim, side, side), "features do not fit the model"
        if point_inputs is None:
            points = torch.zeros(batch, 1, 2, device=device)
            labels = -torch.ones(batch, 1, dtype=torch.int32, device=device)
        else:
            points, labels = point_inputs["point_coords"], point_inputs["point_labels"]
            assert points.shape[0] == labels.shape[0] == batch, "each image has its own points"
        if mask_inputs is not None:
            assert mask_inputs.ndim == 4 and mask_inputs.shape[:2] == (batch, 1), "mask inputs are (B, 1, H, W)"
            size = tuple(self.sam_prompt_encoder.mask_input_size)
            if mask_inputs.shape[-2:] != size:
                mask_inputs = F.interpolate(
                    mask_inputs.float(), size=size, mode="bilinear", align_corners=False, antialias=True
                )
        sparse, dense = self.sam_prompt_encoder(points=(points, labels), boxes=None, masks=mask_inputs)
        low, iou, tokens, object_score = self.sam_mask_decoder(
            image_embeddings=backbone_features,
            image_pe=self.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
            repeat_image=False,
            high_res_features=high_res_features,
        )
        if self.pred_obj_scores:
            low = torch.where((object_score > 0)[:, None, None], low, NO_OBJ_SCORE)
        low = low.float()
        high = F.interpolate(low, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        best_low, best_high, token = low, high, tokens[:, 0]
        if multimask_output:
            row, best = torch.arange(batch, device=device), iou.argmax(dim=-1)
            best_low, best_high = low[row, best].unsqueeze(1), high[row, best].unsqueeze(1)
            if tokens.shape[1] > 1:
                token = tokens[row, best]
        pointer = self.obj_ptr_proj(token)
        if self.pred_obj_scores:
            there = object_score.sigmoid() if self.soft_no_obj_ptr else (object_score > 0).float()
            pointer = self._gated(pointer, there)
        return low, high, iou, best_low, best_high, pointer, object_score

    def _gated(self, pointer: Tensor, there: Tensor) -> Tensor:
        """Object pointers (B, C) with what stands for an absent object mixed in, by how much it is there (B, 1)."""
        if self.fixed_no_obj_ptr:
            pointer = there * pointer
        return pointer + (1 - there) * self.no_obj_ptr

    def _use_mask_as_output(self, backbone_features, high_res_features, mask_inputs):
        """A mask prompt (B, 1, H, W) of zeros and ones as its own answer; seven values as of `_forward_sam_heads`."""
        mask = mask_inputs.float()
        high = mask * _MASK_SCALE + _MASK_BIAS
        quarter = (high.shape[-2] // 4, high.shape[-1] // 4)
        low = F.interpolate(high, size=quarter, mode="bilinear", align_corners=False, antialias=True)
        iou = mask.new_ones(mask.shape[0], 1)
        there = (mask > 0).flatten(1).any(dim=1, keepdim=True).float()
        if self.use_obj_ptrs_in_encoder:
            heads = self._forward_sam_heads(
                backbone_features=backbone_features,
                mask_inputs=self.mask_downsample(mask),
                high_res_features=high_res_features,
            )
            pointer = heads[5]
        else:
            pointer = torch.zeros(mask.shape[0], self.hidden_dim, device=mask.device)
        if self.pred_obj_scores:
            pointer = self._gated(pointer, there)
        return low, high, iou, low, high, pointer, there * _MASK_SCALE + _MASK_BIAS

    def _use_multimask(self, is_init_cond_frame, point_inputs):
        """Whether a prompt is answered with three masks."""
        count = 0 if point_inputs is None else point_inputs["point_labels"].size(1)
        return (
            self.multimask_output_in_sam
            and (is_init_cond_frame or self.multimask_output_for_tracking)
            and self.multimask_min_pt_num <= count <= self.multimask_max_pt_num
        )

    # memory

    def _prepare_memory_conditioned_features(
        self,
        frame_idx,
        is_init_cond_frame,
        current_vision_feats,
        current_vision_pos_embeds,
        feat_sizes,
        output_dict,
        num_frames,
        track_in_reverse=False,
    ):
        """The image (B, C, h, w) as seen with the past of `output_dict`, or with none on a first prompted frame."""
        self._untouched.needs_parts()
        image, size = current_vision_feats[-1], feat_sizes[-1]
        if self.num_maskmem == 0:
            return _unflatten(image, size)
        pointer_tokens = 0
        if not is_init_cond_frame:
            assert output_dict["cond_frame_outputs"], "no frame is prompted"
            memory, positions, pointer_tokens = self._past_tokens(
                frame_idx, output_dict, num_frames, track_in_reverse, image
            )
        elif self.directly_add_no_mem_embed:
            return _unflatten(image + self.no_mem_embed, size)
        else:
            batch = image.shape[1]
            memory = self.no_mem_embed.expand(1, batch, self.mem_dim)
            positions = self.no_mem_pos_enc.expand(1, batch, self.mem_dim)
        seen = self.memory_attention(
            curr=current_vision_feats,
            curr_pos=current_vision_pos_embeds,
            memory=memory,
            memory_pos=positions,
            num_obj_ptr_tokens=pointer_tokens,
        )
        return _unflatten(seen, size)

    def _past_tokens(self, frame_idx, output_dict, num_frames, backwards, image):
        """Memories (N, B, Cm), their positions, and how many of them, at the end, are of object pointers."""
        selected, unselected = select_closest_cond_frames(
            frame_idx, output_dict["cond_frame_outputs"], self.max_cond_frames_in_attn
        )
        others = {**unselected, **output_dict["non_cond_frame_outputs"]}
        stride = 1 if self.training else self.memory_temporal_stride_for_eval
        recent = past.recent_frames(frame_idx, self.num_maskmem - 1, stride, backwards=backwards)
        memory, positions = [], []
        for place, out in past.slots(selected, others, recent):
            memory.append(past.tokens_of(out["maskmem_features"], image.device).to(image.dtype))
            where = past.tokens_of(out["maskmem_pos_enc"][-1], image.device)
            positions.append(where + self.maskmem_tpos_enc[self.num_maskmem - place - 1])
        if self.use_obj_ptrs_in_encoder:
            tokens, ages = self._pointer_tokens(frame_idx, selected, others, num_frames, backwards, image)
            if tokens is not None:
                memory.append(tokens)
                positions.append(ages)
                return torch.cat(memory), torch.cat(positions), tokens.shape[0]
        return torch.cat(memory), torch.cat(positions), 0

    def _pointer_tokens(self, frame_idx, selected, others, num_frames, backwards, image):
        """Object pointers as tokens (N, B, Cm) and the codes of their ages, or None and None."""
        limit = self.max_obj_ptrs_in_encoder if num_frames is None else min(num_frames, self.max_obj_ptrs_in_encoder)
        if self.only_obj_ptrs_in_the_past_for_eval and not self.training:
            sign = -1 if backwards else 1
            selected = {at: out for at, out in selected.items() if (frame_idx - at) * sign >= 0}
        found = past.pointers(
            selected,
            others,
            frame_idx,
            limit,
            num_frames,
            backwards=backwards,
            signed=self.use_signed_tpos_enc_to_obj_ptrs,
        )
        if not found:
            return None, None
        dim, batch = self.hidden_dim, image.shape[1]
        pieces = dim // self.mem_dim
        tokens = torch.stack([pointer for _, pointer in found])
        tokens = tokens.unflatten(2, (pieces, self.mem_dim)).transpose(1, 2).flatten(0, 1)
        if self.add_tpos_enc_to_obj_ptrs:
            age = torch.tensor([age for age, _ in found], device=image.device) / max(limit - 1, 1)
            width = dim if self.proj_tpos_enc_in_obj_ptrs else self.mem_dim
            code = self.obj_ptr_tpos_proj(get_1d_sine_pe(age, dim=width))
            ages = code.unsqueeze(1).expand(-1, batch, -1)
        else:
            ages = tokens.new_zeros(len(found), batch, self.mem_dim)
        return tokens, ages.repeat_interleave(pieces, dim=0)

    def _encode_new_memory(
        self, current_vision_feats, feat_sizes, pred_masks_high_res, object_score_logits, is_mask_from_pts
    ):
        """The memory map (B, Cm, h, w) of an answer given as logits at model size, and the list of its position map."""
        core = self._untouched.core()
        if core is not None:
            return self._memorized(
                core, current_vision_feats, feat_sizes, pred_masks_high_res, object_score_logits, is_mask_from_pts
            )
        image = _unflatten(current_vision_feats[-1], feat_sizes[-1])
        if self.non_overlap_masks_for_mem_enc and not self.training:
            pred_masks_high_res = self._apply_non_overlapping_constraints(pred_masks_high_res)
        hard = self.binarize_mask_from_pts_for_mem_enc and is_mask_from_pts and not self.training
        mask = (pred_masks_high_res > 0).float() if hard else pred_masks_high_res.sigmoid()
        mask = mask * self.sigmoid_scale_for_mem_enc + self.sigmoid_bias_for_mem_enc
        out = self.memory_encoder(image, mask, skip_mask_sigmoid=True)
        features = out["vision_features"]
        if self.no_obj_embed_spatial is not None:
            absent = (object_score_logits <= 0).float()
            features = features + absent[..., None, None] * self.no_obj_embed_spatial[..., None, None]
        return features, out["vision_pos_enc"]

    def _memorized(self, core, feats, feat_sizes, masks, object_score, is_mask_from_pts):
        """`_encode_new_memory` as sam2core computes it."""
        rows = masks.shape[0]
        unknown = object_score.new_zeros(rows)
        nothing = object_score.new_zeros(rows, self.hidden_dim)
        answer = MaskPrediction.only(masks, unknown, nothing, object_score)
        hard = bool(self.binarize_mask_from_pts_for_mem_enc and is_mask_from_pts)
        return maps_of(core.memorize(self._features(feats, feats, feat_sizes), answer, frame=0, hard=hard))

    def _encode_memory_in_output(
        self,
        current_vision_feats,
        feat_sizes,
        point_inputs,
        run_mem_encoder,
        high_res_masks,
        object_score_logits,
        current_out,
    ):
        """Put a frame's memory into its output, or None where none is wanted."""
        features = positions = None
        if run_mem_encoder and self.num_maskmem > 0:
            features, positions = self._encode_new_memory(
                current_vision_feats=current_vision_feats,
                feat_sizes=feat_sizes,
                pred_masks_high_res=high_res_masks,
                object_score_logits=object_score_logits,
                is_mask_from_pts=point_inputs is not None,
            )
        current_out["maskmem_features"], current_out["maskmem_pos_enc"] = features, positions

    # a frame

    def _track_step(
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
        track_in_reverse,
        prev_sam_mask_logits,
    ):
        """The beginning of a frame's output, what the heads say, the finer maps and the conditioned image."""
        current_out = {"point_inputs": point_inputs, "mask_inputs": mask_inputs}
        finer = None
        if len(current_vision_feats) > 1:
            finer = [_unflatten(one, size) for one, size in zip(current_vision_feats[:-1], feat_sizes, strict=False)]
        if mask_inputs is not None and self.use_mask_input_as_output_without_sam:
            image = _unflatten(current_vision_feats[-1], feat_sizes[-1])
            return current_out, self._use_mask_as_output(image, finer, mask_inputs), finer, image
        image = self._prepare_memory_conditioned_features(
            frame_idx=frame_idx,
            is_init_cond_frame=is_init_cond_frame,
            current_vision_feats=current_vision_feats[-1:],
            current_vision_pos_embeds=current_vision_pos_embeds[-1:],
            feat_sizes=feat_sizes[-1:],
            output_dict=output_dict,
            num_frames=num_frames,
            track_in_reverse=track_in_reverse,
        )
        if prev_sam_mask_logits is not None:
            assert point_inputs is not None and mask_inputs is None, "earlier logits go with points"
            mask_inputs = prev_sam_mask_logits
        heads = self._forward_sam_heads(
            backbone_features=image,
            point_inputs=point_inputs,
            mask_inputs=mask_inputs,
            high_res_features=finer,
            multimask_output=self._use_multimask(is_init_cond_frame, point_inputs),
        )
        return current_out, heads, finer, image

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
        """One frame of one object, or of several that share their past: Meta's dictionary of outputs."""
        core = self._untouched.core()
        if core is not None:
            features = self._features(current_vision_feats, current_vision_pos_embeds, feat_sizes)
            out, high = self._answered(
                core,
                features,
                RememberedOutputs(output_dict, self.device) if not is_init_cond_frame else None,
                (frame_idx, num_frames, track_in_reverse),
                point_inputs,
                mask_inputs,
                prev_sam_mask_logits,
            )
        else:
            out, heads, _, _ = self._track_step(
                frame_idx,
                is_init_cond_frame,
                current_vision_feats,
                current_vision_pos_embeds,
                feat_sizes,
                point_inputs,
                mask_inputs,
                output_dict,
                num_frames,
                track_in_reverse,
                prev_sam_mask_logits,
            )
            out["pred_masks"], out["pred_masks_high_res"], out["obj_ptr"] = heads[3:6]
            high = heads[4]
            if not self.training:
                out["object_score_logits"] = heads[6]
        self._encode_memory_in_output(
            current_vision_feats,
            feat_sizes,
            point_inputs,
            run_mem_encoder,
            high,
            out["object_score_logits"] if core is not None else heads[6],
            out,
        )
        return out

    def _answered(self, core, features, bank, when, point_inputs, mask_inputs, prev_sam_mask_logits):
        """A frame's output without its memory, and its mask at model size, as sam2core computes them.

        `bank` is the past, None on a first prompted frame; `when` the frame, the video's length, and whether it is
        tracked backwards.
        """
        memory = core.memory_policy
        if mask_inputs is not None:
            candidates = core.mask_as_output(features, mask_inputs)
        else:
            recall = None
            if bank is not None and len(bank.prompted):
                frame, length, backwards = when
                recall = memory.recall(bank, frame, backwards=backwards, length=length, state=bank.state(memory))
            count = 0 if point_inputs is None else point_inputs["point_labels"].size(1)
            candidates = core.segment(
                features,
                core.condition(features, recall),
                _prompt(point_inputs, prev_sam_mask_logits, features.batch, self.device),
                multimask_output=core.multimask.applies(count, tracking=bank is not None),
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
        return out, high

    def _apply_non_overlapping_constraints(self, pred_masks: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of N objects, every pixel given to its strongest."""
        return mask_ops.non_overlapping(pred_masks.squeeze(1)).unsqueeze(1)


def _code(*shape: int) -> nn.Parameter:
    return nn.Parameter(trunc_normal_(torch.zeros(shape), std=0.02))


def _unflatten(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (h * w, B, C) as a map (B, C, h, w)."""
    return tokens.permute(1, 2, 0).unflatten(2, tuple(size))


def _maps_of(features: ImageFeatures) -> dict[str, Any]:
    """sam2core's features under Meta's keys."""
    maps = [*features.high_res_features, features.embedding]
    dim = features.embedding.shape[1]
    positions = [
        sine_grid((one.shape[-2], one.shape[-1]), dim, one.device).to(one.dtype).expand(one.shape[0], -1, -1, -1)
        for one in maps
    ]
    return {"vision_features": maps[-1], "vision_pos_enc": positions, "backbone_fpn": maps}


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


written(globals())
methods_written(SAM2Base)
