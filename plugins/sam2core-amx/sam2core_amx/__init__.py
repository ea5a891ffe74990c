"""Kernels for long attention in bfloat16 on Intel's tiles (AMX), attached when a model is first built."""

from __future__ import annotations

import logging

from sam2core import hookimpl

logger = logging.getLogger(__name__)


@hookimpl
def register_kernels() -> None:
    """Attach the kernels to bfloat16 tensors on "cpu", where the processor has tiles; elsewhere say in the log why not.

    Raises ImportError when the library was not compiled on a machine that could use it.
    """
    from sam2core_amx.library import missing

    if reason := missing():
        logger.info("attention stays as it was: %s", reason)
        return
    import torch

    from sam2core.ops.attention import average_tokens
    from sam2core.ops.rope import rotary_pairs
    from sam2core_amx.kernel import averages, turned

    average_tokens.register_kernel("cpu", torch.bfloat16)(averages)
    rotary_pairs.register_kernel("cpu", torch.bfloat16)(turned)
