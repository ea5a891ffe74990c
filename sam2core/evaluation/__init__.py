"""Saying how good the masks are: simulated clicks, overlap, and simple baselines on the same clicks."""
