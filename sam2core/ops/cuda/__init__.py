"""What a GPU wants otherwise: kernels for the operators of `sam2core.ops`, and blocks that replace plain ones.

Importing this package attaches the kernels. The blocks are put in place by `sam2core.prepare`. Everything is written
with torch's own operators, so that it is tested where no GPU is; kernels in Triton are the plugin sam2core-cuda's.
"""

from __future__ import annotations

from sam2core.ops.cuda import regions

__all__ = ["regions"]
