"""Names and signatures, against a table recorded from Meta's `sam2` 1.1.0 by `record_surface.py`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from pathlib import Path

import pytest
from record_surface import signature

TABLE = json.loads((Path(__file__).parent / "surface.json").read_text())

# Upstream's inner modules are descriptions here, and its helpers within modules are not called from outside.
ABSENT = (
    "sam2.modeling.backbones.hieradet.MultiScaleAttention",
    "sam2.modeling.backbones.hieradet.MultiScaleBlock",
    "sam2.modeling.backbones.hieradet.do_pool",
    "sam2.modeling.position_encoding.PositionEmbeddingRandom",
    "sam2.modeling.sam.transformer.Attention",
    "sam2.modeling.sam.transformer.TwoWay",
    "sam2.modeling.sam2_base.SAM2Base._build_sam_heads",
    "sam2.modeling.sam2_base.SAM2Base._encode_memory_in_output",
    "sam2.modeling.sam2_base.SAM2Base._forward_sam_heads",
    "sam2.modeling.sam2_base.SAM2Base._prepare_memory_conditioned_features",
    "sam2.modeling.sam2_base.SAM2Base._track_step",
    "sam2.modeling.sam2_base.SAM2Base._use_mask_as_output",
    "sam2.modeling.sam.mask_decoder.MaskDecoder._get_stability_scores",
    "sam2.modeling.sam.prompt_encoder.PromptEncoder._",
    "sam2.sam2_video_predictor.SAM2VideoPredictor._clear_non_cond_mem_around_input",
    "sam2.sam2_video_predictor.SAM2VideoPredictor._get_maskmem_pos_enc",
    "sam2.sam2_video_predictor.SAM2VideoPredictor._run_memory_encoder",
    "sam2.sam2_video_predictor.SAM2VideoPredictorVOS.",
    "sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator._",
    "sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator.refine_with_m2m",
)
DESCRIPTIONS = (
    "sam2.modeling.backbones.",
    "sam2.modeling.memory_",
    "sam2.modeling.position_encoding.",
    "sam2.modeling.sam.",
)


def found(name: str):
    """A function, a class or a method by its dotted name."""
    module, *path = name.rsplit(".", 2) if name.split(".")[-2][0].isupper() else name.rsplit(".", 1)
    thing = importlib.import_module(module)
    for step in path:
        thing = inspect.getattr_static(thing, step) if inspect.isclass(thing) else getattr(thing, step)
    return getattr(thing, "__func__", thing)


def test_the_table_is_of_some_size():
    assert len(TABLE) > 120 and "sam2.build_sam.build_sam2" in TABLE


@pytest.mark.parametrize("name", [name for name in TABLE if not name.startswith(ABSENT)])
def test_a_name_is_here_and_takes_the_same(name):
    if name.startswith(DESCRIPTIONS):
        last = name.rsplit(".", 1)[1]
        if not last[0].isupper():
            return  # what a description's module would do
        thing = found(name)
        if dataclasses.is_dataclass(thing):
            wanted = {parameter: default for parameter, _, default in TABLE[name] if parameter != "self"}
            fields = {field.name: field for field in dataclasses.fields(thing)}
            open_ended = {"args", "kwargs"} & set(wanted)
            assert set(fields) == set(wanted) or (open_ended and set(fields) > set(wanted) - open_ended)
            for parameter, default in ((name, wanted[name]) for name in wanted if name in fields):
                assert (default is None) == (fields[parameter].default is dataclasses.MISSING), parameter
        return
    thing = found(name)
    if inspect.isclass(thing):
        thing = thing.__init__
    assert signature(thing) == TABLE[name]
