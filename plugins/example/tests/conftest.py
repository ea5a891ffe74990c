"""Fixtures of sam2core's test kit."""

from sam2core.testing.fixtures import isolated_registry  # noqa: F401
