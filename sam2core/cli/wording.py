"""The library's messages in the words of the command line: what Python passes as a keyword is an option here."""

from __future__ import annotations

import re

SPELLINGS = (
    (
        r"pass the file: registry\.build\('([^']+)', weights=('[^']*'|\"[^\"]*\")\)",
        r"pass the file: --model \1 --weights \2",
    ),
    (r"\bweights=False\b", "--weights none"),
    (r"\bweights='a/file'|\bweights='file'", "--weights FILE"),
    (r"\bweights='([^']*)'", r"--weights \1"),
    (r"\b(with|where with) (annotations|images)=", r"\1 --option \2="),
)
"""What the library says in Python -> what is typed."""


def in_options(message: str) -> str:
    """A message with options in the place of keywords."""
    for python, typed in SPELLINGS:
        message = re.sub(python, typed, message)
    return message
