"""Upstream's parts: descriptions to build from, and the assembled model's parts under upstream's names."""
