"""What a table of names is: ordered two-way rules between the keys of a foreign file and ours.

A rule is data. Its two sides are written in one small language, so the inverse is derived and never written down:

    {n}        a number                          {p}       `weight` or `bias`
    {rest}     anything that is left             {m:a|b}   one of the words listed (on either side)

A table must be a bijection on the keys it is given: every key has a rule, no two keys meet, and every new name leads
back to the old one. Anything else is a `LayoutError`. The first rule that fits a key wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NATIVE", "Copy", "Layout", "LayoutError", "Rename", "Rule", "Split", "Unused", "recognise"]

_FIELD = re.compile(r"\{(\w+)(?::([^}]*))?\}")
_CLASSES = {"n": r"\d+", "p": "weight|bias", "rest": ".+"}


class LayoutError(ValueError):
    """Keys do not fit the table they were held against.

    names       the keys in question (empty when the trouble is not about single keys)
    layout      name of the table
    """

    def __init__(self, message: str, *, layout: str = "", names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.layout = layout
        self.names = tuple(names)


class _Side:
    """One side of a rule: a regular expression to read names and a template to write them."""

    def __init__(self, text: str, words: Mapping[str, Iterable[str]]) -> None:
        self.text = text
        pattern, end, seen = "", 0, set()
        for found in _FIELD.finditer(text):
            name = found.group(1)
            if name in words:
                body = "|".join(re.escape(word) for word in sorted(words[name], key=len, reverse=True))
            elif name in _CLASSES:
                body = _CLASSES[name]
            else:
                raise AssertionError(f"rule {text!r}: field {name!r} has neither a class nor words")
            assert name not in seen, f"rule {text!r} names {name!r} twice"
            seen.add(name)
            pattern += re.escape(text[end : found.start()]) + f"(?P<{name}>{body})"
            end = found.end()
        self.fields = frozenset(seen)
        self.pattern = re.compile(pattern + re.escape(text[end:]))
        self.template = _FIELD.sub(lambda found: "{" + found.group(1) + "}", text)

    def read(self, name: str) -> dict[str, str] | None:
        found = self.pattern.fullmatch(name)
        return None if found is None else found.groupdict()

    def write(self, fields: Mapping[str, str]) -> str:
        return self.template.format_map(fields)


@dataclass(frozen=True)
class Rename:
    """One tensor, two names.

    values      fields whose word differs between the sides, theirs to ours, such as
                ``{"m": {"proj_in": "0", "proj_out": "1"}}``; a permutation of levels is the same thing with numbers
    """

    theirs: str
    ours: str
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def sides(self) -> tuple[_Side, _Side]:
        words = {name: body.split("|") for name, body in _FIELD.findall(self.theirs + self.ours) if body}
        for name, pairs in self.values.items():
            assert len(set(pairs.values())) == len(pairs), f"rule {self.theirs!r}: values of {name!r} are no bijection"
        left = _Side(self.theirs, words | {name: list(pairs) for name, pairs in self.values.items()})
        right = _Side(self.ours, words | {name: list(pairs.values()) for name, pairs in self.values.items()})
        assert left.fields == right.fields, f"rule {self.theirs!r} -> {self.ours!r}: the sides name different fields"
        return left, right

    def to_ours(self, name: str) -> str | None:
        left, right = self.sides
        fields = left.read(name)
        if fields is None:
            return None
        return right.write({k: self.values[k][w] if k in self.values else w for k, w in fields.items()})

    def to_theirs(self, name: str) -> str | None:
        left, right = self.sides
        fields = right.read(name)
        if fields is None:
            return None
        back = {key: {ours: theirs for theirs, ours in pairs.items()} for key, pairs in self.values.items()}
        return left.write({key: back[key][word] if key in back else word for key, word in fields.items()})


@dataclass(frozen=True)
class Split:
    """One tensor of theirs holds several of ours, one behind the other along its first dimension, in equal parts."""

    theirs: str
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """Theirs holds a tensor twice. Reading checks that both are equal and takes one; writing writes both."""

    theirs: str
    of: str


@dataclass(frozen=True)
class Unused:
    """Theirs holds a tensor that ours never reads. Reading drops it; writing writes zeros, shaped as our `like`."""

    theirs: str
    like: str


Rule = Rename | Split | Copy | Unused


@dataclass(frozen=True)
class Layout:
    """A way of naming the tensors of a model, with the way to our names and back.

    name        what specs and the command line call it
    probe       keys that, all present, tell this layout from the others
    tables      rules, applied one table after the other when reading and in the opposite order when writing
    without     prefixes of keys (theirs) that this layout leaves out when writing: a file for part of a model
    """

    name: str
    probe: tuple[str, ...]
    tables: tuple[tuple[Rule, ...], ...] = ()
    without: tuple[str, ...] = ()

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a file with these keys is of this layout, as far as its probe tells."""
        return set(self.probe) <= set(names)

    def rename(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their names to ours. Tensors are shared, not copied, but for the parts of a `Split`.

        Raises
            LayoutError: a key without a rule, two keys with one new name, a name that does not lead back, copies
                that differ.
        """
        state = dict(state)
        for table in self.tables:
            state = _read(state, table, self.name)
        return state

    def inverse(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names to theirs, with what they hold beside ours written again. Tensors are shared where one stays one.

        Raises
            LayoutError: as `rename`.
        """
        state = dict(state)
        for table in reversed(self.tables):
            state = _write(state, table, self.name)
        return {name: tensor for name, tensor in state.items() if not name.startswith(self.without)}


NATIVE = Layout(name="native", probe=("object_pointer.absent",))  # a part of the model itself: no stranger replaces it


def recognise(names: Iterable[str], layouts: Iterable[Layout]) -> Layout:
    """The layout whose probe is found among `names`; where several fit, the one with the longest probe.

    Raises
        LayoutError: none fits. The message lists the layouts and the first keys.
    """
    names = set(names)
    known = list(layouts)
    fitting = [layout for layout in known if layout.fits(names)]
    if not fitting:
        shown = ", ".join(sorted(names)[:3]) or "no keys at all"
        raise LayoutError(
            f"the keys are of no known layout: they start with {shown} ({len(names)} in all).\n"
            f"  known: {', '.join(layout.name for layout in known)}"
        )
    return max(fitting, key=lambda layout: len(layout.probe))


def _forward(name: str, table: tuple[Rule, ...]) -> str | None:
    for rule in table:
        if isinstance(rule, Rename) and (new := rule.to_ours(name)) is not None:
            return new
    return None


def _backward(name: str, table: tuple[Rule, ...]) -> str | None:
    for rule in table:
        if isinstance(rule, Rename) and (new := rule.to_theirs(name)) is not None:
            return new
    return None


def _read(state: dict[str, Tensor], table: tuple[Rule, ...], layout: str) -> dict[str, Tensor]:
    import torch

    out: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    unmatched: list[str] = []
    splits = {rule.theirs: rule for rule in table if isinstance(rule, Split)}
    copies = {rule.theirs: rule for rule in table if isinstance(rule, Copy)}
    unused = {rule.theirs for rule in table if isinstance(rule, Unused)}
    for name, tensor in state.items():
        if name in unused:
            continue
        if name in copies:
            other = state.get(copies[name].of)
            if other is None:
                raise LayoutError(
                    f"{layout}: {name} is there, but not {copies[name].of}, of which it is a copy",
                    layout=layout,
                    names=[name],
                )
            if not tensor.is_meta and not torch.equal(tensor, other):
                raise LayoutError(
                    f"{layout}: {name} and {copies[name].of} must be equal, and are not", layout=layout, names=[name]
                )
            continue
        if name in splits:
            rule = splits[name]
            if tensor.ndim == 0 or tensor.shape[0] == 0 or tensor.shape[0] % len(rule.ours):
                raise LayoutError(
                    f"{layout}: {name} is {tuple(tensor.shape)}, which cannot be cut into {len(rule.ours)} equal parts",
                    layout=layout,
                    names=[name],
                )
            pieces = [(member, part.clone()) for member, part in zip(rule.ours, tensor.chunk(len(rule.ours)))]
        else:
            new = _forward(name, table)
            if new is None:
                unmatched.append(name)
                continue
            if (back := _backward(new, table)) != name:
                raise LayoutError(
                    f"{layout}: {name} would become {new}, which leads back to {back}: the table is ambiguous here",
                    layout=layout,
                    names=[name],
                )
            pieces = [(new, tensor)]
        for new, piece in pieces:
            _put(out, origin, new, piece, name, layout)
    if unmatched:
        raise _no_rule(layout, unmatched)
    return out


def _write(state: dict[str, Tensor], table: tuple[Rule, ...], layout: str) -> dict[str, Tensor]:
    import torch

    out: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    unmatched: list[str] = []
    member_of = {member: rule for rule in table if isinstance(rule, Split) for member in rule.ours}
    for name, tensor in state.items():
        if name in member_of:
            rule = member_of[name]
            missing = [member for member in rule.ours if member not in state]
            if missing:
                raise LayoutError(f"{layout}: {rule.theirs} needs {', '.join(missing)}", layout=layout, names=missing)
            if name == rule.ours[0]:
                _put(out, origin, rule.theirs, torch.cat([state[member] for member in rule.ours]), name, layout)
            continue
        new = _backward(name, table)
        if new is None:
            unmatched.append(name)
            continue
        if (back := _forward(new, table)) != name:
            raise LayoutError(
                f"{layout}: {name} would become {new}, which leads back to {back}: the table is ambiguous here",
                layout=layout,
                names=[name],
            )
        _put(out, origin, new, tensor, name, layout)
    if unmatched:
        raise _no_rule(layout, unmatched)
    for entry in table:
        if isinstance(entry, Copy) and entry.of in out:
            _put(out, origin, entry.theirs, out[entry.of].clone(), entry.of, layout)
        elif isinstance(entry, Unused) and entry.like in state:
            _put(out, origin, entry.theirs, torch.zeros_like(state[entry.like]), entry.like, layout)
    return out


def _put(out: dict[str, Tensor], origin: dict[str, str], new: str, tensor: Tensor, name: str, layout: str) -> None:
    if new in out:
        raise LayoutError(
            f"{layout}: {origin[new]} and {name} would both become {new}", layout=layout, names=[origin[new], name]
        )
    out[new] = tensor
    origin[new] = name


def _no_rule(layout: str, names: list[str]) -> LayoutError:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(".")[0], []).append(name)
    lines = [f"{layout}: no rule names {len(names)} of the tensors:"]
    width = max(map(len, groups))
    lines += [f"  {part:<{width}}  {len(keys)} (first: {keys[0]})" for part, keys in groups.items()]
    return LayoutError("\n".join(lines), layout=layout, names=names)
