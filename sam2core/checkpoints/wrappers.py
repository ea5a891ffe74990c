"""What trainers wrap a state dict in: the key it is kept under, and words put before every name.

Both are taken off, and told: a file that fits afterwards is the one that was meant.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sam2core.storage import FileError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["is_wrapped", "state_of", "without_prefixes"]

logger = logging.getLogger(__name__)

KEYS = ("model", "state_dict", "model_state_dict", "model_state", "module")  # the first that is there is meant
PREFIXES = ("module.", "_orig_mod.", "model.", "_forward_module.")  # DDP, torch.compile, Lightning, DeepSpeed
INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # put before parts of a model, too
_DEPTH = 4


def state_of(content: Any, file: str) -> dict[str, Tensor]:
    """The state dict in what a file holds: at the top, or under one of the keys that trainers use, nested or not.

    Raises
        FileError: there is none.
    """
    import torch

    taken: list[str] = []
    while isinstance(content, Mapping) and len(taken) < _DEPTH:
        key = next((key for key in KEYS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        content = content[key]
        taken.append(key)
    if not isinstance(content, Mapping):
        raise FileError(f"{file} holds a {type(content).__name__}, wanted a mapping of names to tensors")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strangers or not content:
        where = f"under {'.'.join(taken)!r}" if taken else f"at the top or under {', '.join(map(repr, KEYS))}"
        raise FileError(
            f"{file} holds no state dict, {where}: "
            f"{', '.join(strangers[:5]) or 'it is empty'} {'is no tensor' if len(strangers) == 1 else 'are no tensors'}"
        )
    if taken and taken != ["model"]:  # as Meta's files are
        logger.warning("%s: took the state dict under %r", file, ".".join(taken))
    return {str(name): tensor for name, tensor in content.items()}


def is_wrapped(names: Iterable[str]) -> bool:
    """Whether parts of a model were wrapped, which a layout's probe may overlook."""
    return any(word in name for name in names for word in INNER)


def without_prefixes(state: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """The same tensors without the words that wrappers put before their names, if any.

    Raises
        FileError: two names would become one.
    """
    names = {name: name for name in state}
    off: list[str] = []
    for word in INNER:
        if any(word in name for name in names.values()):
            names = {name: short.replace(word, "") for name, short in names.items()}
            off.append(word)
    while prefix := next((word for word in PREFIXES if all(s.startswith(word) for s in names.values())), None):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
        off.append(prefix)
        if not all(names.values()):
            break
    if len(set(names.values())) < len(names):
        raise FileError(f"{file}: without {', '.join(map(repr, off))} two tensors would have one name")
    if off:
        logger.warning("%s: took %s off the names of its tensors", file, " and ".join(map(repr, off)))
    return {short: state[name] for name, short in names.items()}
