"""A past becomes context."""
