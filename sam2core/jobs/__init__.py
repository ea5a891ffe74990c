"""Passes over media: what is done to which files, resumable, on which engine."""
