"""Predictors open videos: what the tests of media make, and what they watch, is theirs too."""

from tests.media.conftest import no_thread_left, video  # noqa: F401
