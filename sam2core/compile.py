"""Which parts torch.compile wraps; shapes stay the same because the model fills up its inputs then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sam2core.ops.shapes import FixedShapes

if TYPE_CHECKING:
    from sam2core.model import Sam2

PARTS = ("backbone", "neck", "mask_decoder", "memory_attention", "memory_encoder")


def compile_model(model: Sam2, parts: bool | Sequence[str] = True, **options: Any) -> Sam2:
    """Compile a model's parts in place, and let it fill up their inputs to fixed shapes; the same model.

    `parts` are names out of PARTS (True: all). Each part compiles at its first call, once for one object and once for
    any other number; after that neither the number of points, of objects nor of memories compiles anything. `options`
    go to ``torch.compile``. Raises ValueError for an unknown part.
    """
    names = PARTS if parts is True else tuple(parts or ())
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"there is no part {unknown[0]!r} to compile; the parts are {', '.join(PARTS)}")
    for name in names:
        getattr(model, name).compile(**options)
    model.fixed = FixedShapes(slots=model.memory_readout.slots)
    return model
