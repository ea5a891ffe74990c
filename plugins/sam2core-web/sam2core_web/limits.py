"""What one server gives to its callers, at most."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Limits:
    """Bounds on what callers may ask for; what lies beyond is refused with a 4xx, before it costs anything."""

    upload_bytes: int = 512 * 2**20
    body_bytes: int = 32 * 2**20
    """Of all other calls, and of messages to a WebSocket: enough for a mask of 20 M characters."""
    picture_pixels: int = 40_000_000
    """Of an image; looked up in its header, before it is decoded."""
    frame_pixels: int = 3840 * 2160
    """Of a video's frame."""
    frames: int = 1500
    objects: int = 64
    sessions: int = 64
    sessions_per_client: int = 8
    """A client is an address; behind a proxy, all callers are one."""
    exports: int = 2
    """That are being written at once; a session has one at a time."""
    threads: int = 4
    """That decode and encode images and write exports, beside the model's."""
    connections: int = 512
    connections_per_client: int = 128
    header_seconds: float = 10.0
    """Until a connection has sent a whole request header."""
    body_seconds: float = 60.0
    """That nothing may come of a body that is under way."""
    answer_seconds: float = 60.0
    """That a caller may take nothing of its answer."""
    idle_seconds: float = 1800.0
    """Of a session."""
    shutdown_seconds: int = 10
    """For what is under way when the server is asked to stop."""
    listed: int = 500
    """Files of the media folder, and sessions."""

    def within(self, descriptors: int) -> Limits:
        """The same for a process that may open so many files at once, of which connections get a quarter."""
        connections = max(8, min(self.connections, descriptors // 4))
        most = max(4, min(self.connections_per_client, connections // 2))
        return replace(self, connections=connections, connections_per_client=most)
