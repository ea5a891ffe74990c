"""Using a model to get masks."""
