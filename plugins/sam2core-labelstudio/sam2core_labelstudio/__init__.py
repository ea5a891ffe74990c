"""sam2core in Label Studio, and a client of its HTTP API for any other annotation tool."""

from __future__ import annotations

from sam2core_labelstudio.client import ApiError, Client, Frame, Mask, Session

__all__ = ["ApiError", "Client", "Frame", "Mask", "Session"]
