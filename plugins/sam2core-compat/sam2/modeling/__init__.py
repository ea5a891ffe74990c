"""Meta's parts: descriptions to build from, and the assembled model's parts under Meta's names."""
