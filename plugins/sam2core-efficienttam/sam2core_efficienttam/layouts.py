"""How EfficientTAM's released files name their tensors."""

from __future__ import annotations

from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.checkpoints.layout import Layout, Rename

_NECK = {"conv_1x1": "lateral", "norm_0": "lateral_norm", "conv_3x3": "smooth", "norm_1": "smooth_norm"}

EFFICIENTTAM = Layout(
    name="efficienttam",
    probe=("image_encoder.trunk.pos_embed", "image_encoder.neck.convs.0.conv_1x1.weight", "maskmem_tpos_enc"),
    tables=((Rename("image_encoder.neck.convs.0.{m}.{p}", "neck.{m}.{p}", {"m": _NECK}), *FACEBOOK.tables[0]),),
)
