"""GPU kernels for the operators in `sam2core.ops`, attached when a model is first built. Imports no torch."""

from __future__ import annotations

from sam2core import hookimpl


@hookimpl
def register_kernels() -> None:
    """Attach the kernels to tensors on "cuda" (NVIDIA, and AMD under ROCm), where torch has such a device.

    Raises ImportError when there is one and triton is missing; the portable kernels then serve, on the CPU.
    """
    import torch

    if not torch.cuda.is_available():
        return
    from sam2core.ops.attention import average_tokens
    from sam2core.ops.distance import distance_transform
    from sam2core.ops.regions import connected_components
    from sam2core_cuda.average import averages
    from sam2core_cuda.components import label_regions
    from sam2core_cuda.distance import distances

    connected_components.register_kernel("cuda")(label_regions)
    distance_transform.register_kernel("cuda")(distances)
    for dtype in (torch.bfloat16, torch.float16):
        average_tokens.register_kernel("cuda", dtype)(averages)
