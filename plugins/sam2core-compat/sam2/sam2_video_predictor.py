"""``SAM2VideoPredictor``: an inference state, prompts on its frames, and masks along the video."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F

from sam2.modeling.recall import FrameOutput, RememberedOutputs, maps_of
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from sam2.untouched import METHODS, methods_written, written
from sam2.utils.misc import concat_points, fill_holes_in_mask_scores, load_video_frames
from sam2core.ops import masks as mask_ops
from sam2core.predictors.tracks import ObjectTrack
from sam2core.predictors.video import VideoPredictor
from sam2core.types import MASK_INPUT_LIMIT, MaskPrediction

_GROUPS = ("cond_frame_outputs", "non_cond_frame_outputs")


class SAM2VideoPredictor(SAM2Base):
    """Meta's interactive predictor. The state is a plain dictionary with Meta's keys, and holds everything.

    Objects are tracked together where their memories allow it. A correction of a tracked frame is forgotten when
    tracking goes on, as Meta's default is, unless `add_all_frames_to_correct_as_cond`.
    """

    def __init__(
        self,
        fill_hole_area=0,
        non_overlap_masks=False,
        clear_non_cond_mem_around_input=False,
        add_all_frames_to_correct_as_cond=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.fill_hole_area = fill_hole_area
        self.non_overlap_masks = non_overlap_masks
        self.clear_non_cond_mem_around_input = clear_non_cond_mem_around_input
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs) -> SAM2VideoPredictor:
        """A predictor over a model of the hub; the arguments are those of `build_sam2_video_predictor`."""
        from sam2.build_sam import build_sam2_video_predictor_hf

        return build_sam2_video_predictor_hf(model_id, **kwargs)

    # state

    @torch.inference_mode()
    def init_state(
        self, video_path, offload_video_to_cpu=False, offload_state_to_cpu=False, async_loading_frames=False
    ):
        """The state of a new session over a video: what `load_video_frames` takes. The first frame is encoded."""
        images, height, width = load_video_frames(
            video_path=video_path,
            image_size=self.image_size,
            offload_video_to_cpu=offload_video_to_cpu,
            async_loading_frames=async_loading_frames,
            compute_device=self.device,
        )
        state = {
            "images": images,
            "num_frames": len(images),
            "offload_video_to_cpu": offload_video_to_cpu,
            "offload_state_to_cpu": offload_state_to_cpu,
            "video_height": height,
            "video_width": width,
            "device": self.device,
            "storage_device": torch.device("cpu") if offload_state_to_cpu else self.device,
            "point_inputs_per_obj": {},
            "mask_inputs_per_obj": {},
            "cached_features": {},
            "constants": {},
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
            "output_dict_per_obj": {},
            "temp_output_dict_per_obj": {},
            "frames_tracked_per_obj": {},
        }
        self._get_image_feature(state, frame_idx=0, batch_size=1)
        return state

    def _obj_id_to_idx(self, inference_state, obj_id):
        """The index of an object; a new one is added."""
        known = inference_state["obj_id_to_idx"]
        if obj_id not in known:
            index = known[obj_id] = len(known)
            inference_state["obj_idx_to_id"][index] = obj_id
            inference_state["obj_ids"] = list(known)
            inference_state["point_inputs_per_obj"][index] = {}
            inference_state["mask_inputs_per_obj"][index] = {}
            inference_state["output_dict_per_obj"][index] = {group: {} for group in _GROUPS}
            inference_state["temp_output_dict_per_obj"][index] = {group: {} for group in _GROUPS}
            inference_state["frames_tracked_per_obj"][index] = {}
        return known[obj_id]

    def _obj_idx_to_id(self, inference_state, obj_idx):
        return inference_state["obj_idx_to_id"][obj_idx]

    def _get_obj_num(self, inference_state):
        return len(inference_state["obj_idx_to_id"])

    def _get_image_feature(self, inference_state, frame_idx, batch_size):
        """A frame's image (B, 3, S, S) and what `_prepare_backbone_features` makes of it, for so many objects."""
        image, backbone_out = inference_state["cached_features"].get(frame_idx, (None, None))
        if backbone_out is None:
            image = inference_state["images"][frame_idx].to(inference_state["device"]).float().unsqueeze(0)
            backbone_out = self.forward_image(image)
            inference_state["cached_features"] = {frame_idx: (image, backbone_out)}
        expanded = {
            key: [one.expand(batch_size, -1, -1, -1) for one in backbone_out[key]]
            for key in ("backbone_fpn", "vision_pos_enc")
        }
        return image.expand(batch_size, -1, -1, -1), *self._prepare_backbone_features(expanded)

    def _frame_features(self, core, inference_state, frame_idx):
        """A frame's features as sam2core has them."""
        with self._untouched.holding(core):
            _, _, feats, positions, sizes = self._get_image_feature(inference_state, frame_idx, 1)
        return self._features(feats, positions, sizes)

    def _engine(self, core) -> VideoPredictor:
        """What tracks and memorizes: sam2core's predictor, with this one's options as they are now."""
        return VideoPredictor(
            core,
            cleaning={"fill_holes": int(self.fill_hole_area)},
            hard_prompt_masks=bool(self.binarize_mask_from_pts_for_mem_enc),
        )

    # prompts

    @torch.inference_mode()
    def add_new_points_or_box(
        self,
        inference_state,
        frame_idx,
        obj_id,
        points=None,
        labels=None,
        clear_old_points=True,
        normalize_coords=True,
        box=None,
    ):
        """Say what an object is on a frame by points, a box or both; the frame, all objects' ids and their logits.

        Logits are (N, 1, H, W) at the video's size. ValueError for points without labels, for neither points nor box,
        and for a box that would follow earlier points.
        """
        obj_idx = self._obj_id_to_idx(inference_state, obj_id)
        points_by_frame = inference_state["point_inputs_per_obj"][obj_idx]
        if (points is not None) != (labels is not None):
            raise ValueError("points and labels must be provided together")
        if points is None and box is None:
            raise ValueError("at least one of points or box must be provided as input")
        if box is not None and not clear_old_points:
            raise ValueError("a box comes before all points: it needs clear_old_points=True")
        points = torch.zeros(0, 2) if points is None else torch.as_tensor(points, dtype=torch.float32)
        labels = torch.zeros(0, dtype=torch.int32) if labels is None else torch.as_tensor(labels, dtype=torch.int32)
        points = points.unsqueeze(0) if points.dim() == 2 else points
        labels = labels.unsqueeze(0) if labels.dim() == 1 else labels
        if box is not None:
            corners = torch.as_tensor(box, dtype=torch.float32, device=points.device).reshape(1, 2, 2)
            points = torch.cat([corners, points], dim=1)
            labels = torch.cat([labels.new_tensor([[2, 3]]), labels], dim=1)
        if normalize_coords:
            points = points / points.new_tensor([inference_state["video_width"], inference_state["video_height"]])
        device = inference_state["device"]
        points_by_frame[frame_idx] = concat_points(
            None if clear_old_points else points_by_frame.get(frame_idx),
            (points * self.image_size).to(device),
            labels.to(device),
        )
        inference_state["mask_inputs_per_obj"][obj_idx].pop(frame_idx, None)
        return self._answer(inference_state, obj_idx, frame_idx, points=points_by_frame[frame_idx])

    def add_new_points(self, *args, **kwargs):
        """The older name of `add_new_points_or_box`."""
        return self.add_new_points_or_box(*args, **kwargs)

    @torch.inference_mode()
    def add_new_mask(self, inference_state, frame_idx, obj_id, mask):
        """Say what an object is on a frame by a mask (H, W) of any size; returns what `add_new_points_or_box` does."""
        obj_idx = self._obj_id_to_idx(inference_state, obj_id)
        mask = mask if isinstance(mask, torch.Tensor) else torch.tensor(mask, dtype=torch.bool)
        assert mask.dim() == 2, f"a mask is (H, W), not {tuple(mask.shape)}"
        drawn = self._drawn(mask.to(inference_state["device"]))
        inference_state["mask_inputs_per_obj"][obj_idx][frame_idx] = drawn
        inference_state["point_inputs_per_obj"][obj_idx].pop(frame_idx, None)
        return self._answer(inference_state, obj_idx, frame_idx, mask=drawn)

    def _drawn(self, mask):
        """A mask at model size, (1, 1, S, S): resized with antialiasing and cut at one half, or taken as it is."""
        values = mask[None, None].float()
        size = (self.image_size, self.image_size)
        if values.shape[-2:] == size:
            return values
        values = F.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)
        return (values >= 0.5).float()

    def _answer(self, state, obj_idx, frame_idx, points=None, mask=None):
        """Answer a prompt, leave the answer for the next propagation, and show all objects on the frame."""
        tracked = state["frames_tracked_per_obj"][obj_idx].get(frame_idx)
        known = state["output_dict_per_obj"][obj_idx]
        waiting = state["temp_output_dict_per_obj"][obj_idx]
        is_cond = tracked is None or self.add_all_frames_to_correct_as_cond
        group = _GROUPS[0] if is_cond else _GROUPS[1]
        mask_input = None
        if points is not None:
            before = _first(frame_idx, waiting[group], *(known[group] for group in _GROUPS))
            if before is not None and before["pred_masks"] is not None:
                mask_input = (
                    before["pred_masks"]
                    .to(state["device"], non_blocking=True)
                    .clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
                )
        out, _ = self._run_single_frame_inference(
            inference_state=state,
            output_dict=known,
            frame_idx=frame_idx,
            batch_size=1,
            is_init_cond_frame=tracked is None,
            point_inputs=points,
            mask_inputs=mask,
            reverse=tracked is not None and tracked["reverse"],
            run_mem_encoder=False,
            prev_sam_mask_logits=mask_input,
        )
        waiting[group][frame_idx] = out
        return frame_idx, state["obj_ids"], self._shown(state, frame_idx, is_cond)

    def _run_single_frame_inference(
        self,
        inference_state,
        output_dict,
        frame_idx,
        batch_size,
        is_init_cond_frame,
        point_inputs,
        mask_inputs,
        reverse,
        run_mem_encoder,
        prev_sam_mask_logits=None,
    ):
        """`track_step` on a frame: the output as it is stored, and its logits on the device, holes filled."""
        assert point_inputs is None or mask_inputs is None, "points and a mask cannot be said of one frame at once"
        _, _, feats, positions, sizes = self._get_image_feature(inference_state, frame_idx, batch_size)
        current = self.track_step(
            frame_idx=frame_idx,
            is_init_cond_frame=is_init_cond_frame,
            current_vision_feats=feats,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            point_inputs=point_inputs,
            mask_inputs=mask_inputs,
            output_dict=output_dict,
            num_frames=inference_state["num_frames"],
            track_in_reverse=reverse,
            run_mem_encoder=run_mem_encoder,
            prev_sam_mask_logits=prev_sam_mask_logits,
        )
        storage = inference_state["storage_device"]
        features, masks = current["maskmem_features"], current["pred_masks"]
        if self.fill_hole_area > 0:
            masks = fill_holes_in_mask_scores(masks, self.fill_hole_area)
        out = FrameOutput(
            maskmem_features=None if features is None else features.to(storage, torch.bfloat16, non_blocking=True),
            maskmem_pos_enc=self._get_maskmem_pos_enc(inference_state, current),
            pred_masks=masks.to(storage, non_blocking=True),
            obj_ptr=current["obj_ptr"],
            object_score_logits=current["object_score_logits"],
        )
        out.iou = getattr(current, "iou", None)
        return out, masks

    def _run_memory_encoder(
        self, inference_state, frame_idx, batch_size, high_res_masks, object_score_logits, is_mask_from_pts
    ):
        """The memory of masks at model size on a frame: its map as it is stored, and its positions."""
        _, _, feats, _, sizes = self._get_image_feature(inference_state, frame_idx, batch_size)
        features, positions = self._encode_new_memory(
            current_vision_feats=feats,
            feat_sizes=sizes,
            pred_masks_high_res=high_res_masks,
            object_score_logits=object_score_logits,
            is_mask_from_pts=is_mask_from_pts,
        )
        stored = features.to(inference_state["storage_device"], torch.bfloat16, non_blocking=True)
        return stored, self._get_maskmem_pos_enc(inference_state, {"maskmem_pos_enc": positions})

    def _get_maskmem_pos_enc(self, inference_state, current_out):
        """The positions of an output's memory, which all frames and objects share: kept once in the state."""
        given = current_out["maskmem_pos_enc"]
        if given is None:
            return None
        constants = inference_state["constants"]
        if "maskmem_pos_enc" not in constants:
            constants["maskmem_pos_enc"] = [one[:1].clone() for one in given]
        return [one.expand(given[0].shape[0], -1, -1, -1) for one in constants["maskmem_pos_enc"]]

    # what is shown

    def _shown(self, state, frame_idx, is_cond):
        """All objects' logits (N, 1, H, W) on a frame at the video's size; NO_OBJ_SCORE where nothing is known."""
        out = self._consolidate_temp_output_across_obj(state, frame_idx, is_cond, consolidate_at_video_res=True)
        return self._get_orig_video_res_output(state, out["pred_masks_video_res"])[1]

    def _consolidate_temp_output_across_obj(self, inference_state, frame_idx, is_cond, consolidate_at_video_res=False):
        """All objects' newest logits on a frame, in one tensor."""
        side = self.image_size // 4
        size, key = (side, side), "pred_masks"
        if consolidate_at_video_res:
            size = (inference_state["video_height"], inference_state["video_width"])
            key = "pred_masks_video_res"
        count = self._get_obj_num(inference_state)
        masks = torch.full((count, 1, *size), NO_OBJ_SCORE, device=inference_state["storage_device"])
        group = _GROUPS[0] if is_cond else _GROUPS[1]
        for index in range(count):
            known = inference_state["output_dict_per_obj"][index]
            waiting = inference_state["temp_output_dict_per_obj"][index]
            out = _first(frame_idx, waiting[group], *(known[group] for group in _GROUPS))
            if out is not None:
                masks[index : index + 1] = mask_ops.resize(out["pred_masks"], size)
        return {key: masks}

    def _get_orig_video_res_output(self, inference_state, any_res_masks):
        """Logits on the device, and at the video's size; with `non_overlap_masks` each pixel has one object."""
        any_res_masks = any_res_masks.to(inference_state["device"], non_blocking=True)
        size = (inference_state["video_height"], inference_state["video_width"])
        masks = mask_ops.resize(any_res_masks, size)
        return any_res_masks, self._apply_non_overlapping_constraints(masks) if self.non_overlap_masks else masks

    # tracking

    @torch.inference_mode()
    def propagate_in_video_preflight(self, inference_state):
        """Memorize the answers that wait. RuntimeError when an object has no prompt."""
        count = self._get_obj_num(inference_state)
        if count == 0:
            raise RuntimeError("No input points or masks are provided for any object; please add inputs first.")
        self._memorize_waiting(inference_state)
        for index in range(count):
            known = inference_state["output_dict_per_obj"][index]
            waiting = inference_state["temp_output_dict_per_obj"][index]
            for group in reversed(_GROUPS):
                for frame_idx, out in waiting[group].items():
                    known[group][frame_idx] = out
                    if self.clear_non_cond_mem_around_input:
                        self._clear_obj_non_cond_mem_around_input(inference_state, frame_idx, index)
                waiting[group].clear()
            if not known["cond_frame_outputs"]:
                name = self._obj_idx_to_id(inference_state, index)
                raise RuntimeError(
                    f"No input points or masks are provided for object id {name}; please add inputs first."
                )
            for frame_idx in known["cond_frame_outputs"]:
                known["non_cond_frame_outputs"].pop(frame_idx, None)

    def _memorize_waiting(self, state):
        """Encode the memories of all answers that wait: frame by frame and all objects of a frame together, or, where
        this predictor is touched, one by one."""
        waiting = {}
        for outputs in state["temp_output_dict_per_obj"].values():
            for group in reversed(_GROUPS):
                for frame_idx, out in outputs[group].items():
                    if out["maskmem_features"] is None:
                        waiting.setdefault(frame_idx, []).append(out)
        core = self._untouched.core()
        for frame_idx in sorted(waiting) if core is not None else waiting:
            if core is None:
                for out in waiting[frame_idx]:
                    self._memorize_alone(state, frame_idx, out)
            else:
                self._memorize_together(core, state, frame_idx, waiting[frame_idx])

    def _memorize_alone(self, state, frame_idx, out):
        size = (self.image_size, self.image_size)
        masks = out["pred_masks"].to(state["device"])
        out["maskmem_features"], out["maskmem_pos_enc"] = self._run_memory_encoder(
            inference_state=state,
            frame_idx=frame_idx,
            batch_size=1,
            high_res_masks=F.interpolate(masks, size=size, mode="bilinear", align_corners=False),
            object_score_logits=out["object_score_logits"],
            is_mask_from_pts=True,
        )

    def _memorize_together(self, core, state, frame_idx, outs):
        features = self._frame_features(core, state, frame_idx)
        answers = [_prediction(out, state["device"]) for out in outs]
        for out, memory in zip(outs, self._engine(core).memorize(features, answers, frame=frame_idx), strict=True):
            maps, position = maps_of(memory)
            out["maskmem_features"] = maps.to(state["storage_device"], non_blocking=True)
            out["maskmem_pos_enc"] = state["constants"].setdefault("maskmem_pos_enc", position)
            if isinstance(out, FrameOutput) and memory.blocks is not None and len(memory.blocks) > 1:
                out.blocks = memory.blocks

    @torch.inference_mode()
    def propagate_in_video(self, inference_state, start_frame_idx=None, max_frame_num_to_track=None, reverse=False):
        """Track all objects, yielding each frame, the objects' ids and their logits (N, 1, H, W).

        From `start_frame_idx`, by default the earliest prompted frame, over `max_frame_num_to_track` further frames or
        to the end; backwards with `reverse`, which from frame 0 yields nothing.
        """
        self.propagate_in_video_preflight(inference_state)
        obj_ids = inference_state["obj_ids"]
        count = self._get_obj_num(inference_state)
        for frame_idx in self._order(inference_state, start_frame_idx, max_frame_num_to_track, reverse):
            masks = self._track(inference_state, frame_idx, count, reverse)
            yield frame_idx, obj_ids, self._get_orig_video_res_output(inference_state, masks)[1]

    def _order(self, state, start, limit, reverse):
        """The frames to visit, both ends included."""
        length = state["num_frames"]
        if start is None:
            start = min(frame for known in state["output_dict_per_obj"].values() for frame in known[_GROUPS[0]])
        limit = length if limit is None else limit
        if reverse:
            return range(start, max(start - limit, 0) - 1, -1) if start > 0 else range(0)
        return range(start, min(start + limit, length - 1) + 1)

    def _track(self, state, frame_idx, count, reverse):
        """All objects' logits (N, 1, h, w) on a frame: as prompted, or from memory."""
        core, device = self._untouched.core(), state["device"]
        masks, followed = {}, {}
        for index in range(count):
            known = state["output_dict_per_obj"][index]
            if frame_idx in known[_GROUPS[0]]:
                masks[index] = known[_GROUPS[0]][frame_idx]["pred_masks"].to(device, non_blocking=True)
                if self.clear_non_cond_mem_around_input:
                    self._clear_obj_non_cond_mem_around_input(state, frame_idx, index)
            elif core is None:
                masks[index] = self._follow_alone(state, known, frame_idx, reverse)
            else:
                followed[index] = known
            state["frames_tracked_per_obj"][index][frame_idx] = {"reverse": reverse}
        if followed:
            masks |= self._follow_together(core, state, followed, frame_idx, reverse)
        return torch.cat([masks[index] for index in range(count)])

    def _follow_alone(self, state, known, frame_idx, reverse):
        """An object's logits on a frame, Meta's way."""
        out, masks = self._run_single_frame_inference(
            inference_state=state,
            output_dict=known,
            frame_idx=frame_idx,
            batch_size=1,
            is_init_cond_frame=False,
            point_inputs=None,
            mask_inputs=None,
            reverse=reverse,
            run_mem_encoder=True,
        )
        known[_GROUPS[1]][frame_idx] = out
        return masks

    def _follow_together(self, core, state, followed, frame_idx, reverse):
        """Objects' logits on a frame, in as few calls as their memories allow."""
        engine, device = self._engine(core), state["device"]
        tracks = {}
        for index, known in followed.items():
            bank = RememberedOutputs(known, device, state["storage_device"])
            tracks[index] = ObjectTrack(index, bank=bank, policy_state=bank.state(engine.policy))
        features = self._frame_features(core, state, frame_idx)
        engine.follow(features, list(tracks.values()), frame_idx, backwards=reverse, length=state["num_frames"])
        return {index: track.shown.logits.float() for index, track in tracks.items()}

    def _clear_non_cond_mem_around_input(self, inference_state, frame_idx):
        """Forget what all objects left behind near a frame, where they are not prompted."""
        for index in range(self._get_obj_num(inference_state)):
            self._clear_obj_non_cond_mem_around_input(inference_state, frame_idx, index)

    def _clear_obj_non_cond_mem_around_input(self, inference_state, frame_idx, obj_idx):
        """Forget what an object left behind near a frame, where it is not prompted."""
        reach = self.memory_temporal_stride_for_eval * self.num_maskmem
        outputs = inference_state["output_dict_per_obj"][obj_idx]["non_cond_frame_outputs"]
        for at in [at for at in outputs if abs(at - frame_idx) <= reach]:
            del outputs[at]

    # taking back

    @torch.inference_mode()
    def clear_all_prompts_in_frame(self, inference_state, frame_idx, obj_id, need_output=True):
        """Take back what was said of an object on a frame; its output there is no longer a prompted one."""
        index = self._obj_id_to_idx(inference_state, obj_id)
        inference_state["point_inputs_per_obj"][index].pop(frame_idx, None)
        inference_state["mask_inputs_per_obj"][index].pop(frame_idx, None)
        known = inference_state["output_dict_per_obj"][index]
        for group in _GROUPS:
            inference_state["temp_output_dict_per_obj"][index][group].pop(frame_idx, None)
        out = known["cond_frame_outputs"].pop(frame_idx, None)
        if out is not None:
            known["non_cond_frame_outputs"][frame_idx] = out
            inference_state["frames_tracked_per_obj"][index].pop(frame_idx, None)
        if need_output:
            return frame_idx, inference_state["obj_ids"], self._after_removal(inference_state, frame_idx)
        return None

    def _after_removal(self, state, frame_idx):
        waiting = state["temp_output_dict_per_obj"].values()
        return self._shown(state, frame_idx, any(frame_idx in outputs["cond_frame_outputs"] for outputs in waiting))

    @torch.inference_mode()
    def remove_object(self, inference_state, obj_id, strict=False, need_output=True):
        """Forget an object: the ids that stay, and the masks of the frames it was prompted on, which may change.

        RuntimeError for an unknown object when `strict`.
        """
        gone = inference_state["obj_id_to_idx"].get(obj_id)
        if gone is None:
            if strict:
                raise RuntimeError(
                    f"Cannot remove object id {obj_id} as it doesn't exist. "
                    f"All existing object ids: {inference_state['obj_ids']}."
                )
            return inference_state["obj_ids"], []
        if len(inference_state["obj_id_to_idx"]) == 1:
            self.reset_state(inference_state)
            return inference_state["obj_ids"], []
        prompted = {*inference_state["point_inputs_per_obj"][gone], *inference_state["mask_inputs_per_obj"][gone]}
        for frame_idx in prompted:
            self.clear_all_prompts_in_frame(inference_state, frame_idx, obj_id, need_output=False)
        ids = [known for index, known in enumerate(inference_state["obj_ids"]) if index != gone]
        inference_state["obj_ids"] = ids
        inference_state["obj_id_to_idx"] = {known: index for index, known in enumerate(ids)}
        inference_state["obj_idx_to_id"] = dict(enumerate(ids))
        for key in (key for key in inference_state if key.endswith("_per_obj")):
            per_object = inference_state[key]
            rows = [per_object[index] for index in range(len(ids) + 1) if index != gone]
            per_object.clear()
            per_object.update(enumerate(rows))
        shown = [(frame_idx, self._after_removal(inference_state, frame_idx)) for frame_idx in prompted if need_output]
        return ids, shown

    @torch.inference_mode()
    def reset_state(self, inference_state):
        """Forget all objects; the frames stay."""
        self._reset_tracking_results(inference_state)
        for key in ("obj_id_to_idx", "obj_idx_to_id", "obj_ids"):
            inference_state[key].clear()
        for key in (key for key in inference_state if key.endswith("_per_obj")):
            inference_state[key].clear()

    def _reset_tracking_results(self, inference_state):
        """Forget prompts and outputs of all objects, which stay."""
        for key in ("point_inputs_per_obj", "mask_inputs_per_obj", "frames_tracked_per_obj"):
            for by_frame in inference_state[key].values():
                by_frame.clear()
        for key in ("output_dict_per_obj", "temp_output_dict_per_obj"):
            for outputs in inference_state[key].values():
                for group in _GROUPS:
                    outputs[group].clear()
                outputs.pop("policy_state", None)


class SAM2VideoPredictorVOS(SAM2VideoPredictor):
    """A predictor whose parts are compiled: the first frames take long, the rest are faster."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._compile_all_components()

    def _compile_all_components(self):
        self.compile_parts("memory_encoder", "memory_attention", "mask_decoder")


def _first(frame_idx, *outputs):
    """The output of a frame in the first dictionary that has one."""
    return next((by_frame[frame_idx] for by_frame in outputs if frame_idx in by_frame), None)


def _prediction(out, device):
    """A stored output as sam2core's answer."""
    logits = out["pred_masks"].to(device)
    object_pointer, object_score = out["obj_ptr"], out["object_score_logits"]
    iou = getattr(out, "iou", None)
    iou = logits.new_zeros(logits.shape[0]) if iou is None else iou
    return MaskPrediction.only(logits, iou, object_pointer, object_score)


written(globals(), ("fill_holes_in_mask_scores", *METHODS))
methods_written(SAM2VideoPredictor)
