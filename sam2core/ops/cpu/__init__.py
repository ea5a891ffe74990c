"""What a CPU wants otherwise: kernels for the operators of `sam2core.ops`, and blocks that replace plain ones.

Importing this package attaches the kernels. The blocks are put in place by `sam2core.prepare`. All of it computes what
the plain code does, up to rounding, in prediction alone; training and traces go through the plain code.
"""

from __future__ import annotations

from sam2core.ops.cpu import attention, products, rope

__all__ = ["attention", "products", "rope"]
