"""A prompt becomes masks."""
