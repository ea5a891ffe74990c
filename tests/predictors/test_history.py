"""The history of a dict against copies of the whole dict, which are what it must bring back."""

from __future__ import annotations

import random

from sam2core.predictors.history import UNDO_STEPS, History


def test_undo_and_redo_go_through_whole_copies() -> None:
    random.seed(0)
    for _ in range(200):
        history: History[str, int] = History()
        entries: dict[str, int] = {}
        past, future = [], []
        for step in range(random.randrange(1, UNDO_STEPS)):
            now = list(entries.items())
            what = random.choice(["put", "put", "remove", "undo", "redo"])
            key = random.choice("abcd")
            if what == "put":
                history.remember(entries, key)
                entries[key] = step
                past, future = [*past, (key, now)], []
            elif what == "remove" and key in entries:
                history.remember(entries, key)
                del entries[key]
                past, future = [*past, (key, now)], []
            elif what == "undo":
                wanted, before = past.pop() if past else (None, now)
                assert history.undo(entries) == wanted and list(entries.items()) == before
                future += [(wanted, now)] if wanted else []
            elif what == "redo":
                wanted, after = future.pop() if future else (None, now)
                assert history.redo(entries) == wanted and list(entries.items()) == after
                past += [(wanted, now)] if wanted else []
            assert (history.undoable, history.redoable) == (len(past), len(future))


def test_only_the_latest_steps_are_kept() -> None:
    history: History[str, int] = History()
    entries: dict[str, int] = {}
    for step in range(UNDO_STEPS + 3):
        history.remember(entries, "a")
        entries["a"] = step
    while history.undo(entries):
        pass
    assert entries == {"a": 2} and sorted(history.values()) == list(range(3, UNDO_STEPS + 3))
    history.clear()
    assert history.redo(entries) is None
