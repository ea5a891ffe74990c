"""What one server gives to its callers, at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what callers may ask for; what lies beyond is refused with a 4xx, before it costs anything."""

    upload_bytes: int = 512 * 2**20
    body_bytes: int = 32 * 2**20
    """Of all other calls, and of messages to a WebSocket: enough for a mask of 20 M characters."""
    picture_pixels: int = 40_000_000
    """Of a picture; looked up in its header, before it is decoded."""
    frame_pixels: int = 3840 * 2160
    """Of a clip's frame."""
    frames: int = 1500
    objects: int = 64
    sessions: int = 64
    sessions_per_client: int = 8
    """A client is an address; behind a proxy, all callers are one."""
    idle_seconds: float = 1800.0
    """Of a session, and of a body that is under way."""
    listed: int = 500
    """Files of the media folder."""
