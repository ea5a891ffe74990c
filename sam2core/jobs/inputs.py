"""Which files a run is pointed at: files, folders, patterns and lists; and the name of the results of each."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sam2core.jobs.folder import AUTOMASK, DOCUMENT, DRAWN, EARLIER, began_as, check_local
from sam2core.media import listing
from sam2core.media.listing import natural

RASTERS = (".btf", ".npy")
"""What can be looked at in tiles beside what every verb takes for an image."""
PICTURES = (*listing.SUFFIXES, *RASTERS)
CLIPS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")
LISTS = (".csv", ".jsonl")
"""Files that name others; they may say what is prompted there, too: see `prompt_files`."""


def is_pattern(word: str) -> bool:
    """Whether a word names files by * ? [ and is not the name of one itself."""
    return glob.has_magic(word) and not Path(word).exists()


def pictures(words: Sequence[str]) -> list[Path]:
    """The images that words name: files, the images of folders, what patterns match; each once, in order.

    What an earlier run drew is left out of folders. Raises ValueError for a folder or a pattern without one, and
    OSError for what is not there.
    """
    found: list[Path] = []
    for word in words:
        place = Path(word)
        if place.is_dir():
            inside = [file for file in listing.listed(place, PICTURES) if not _is_drawn(file)]
            if not inside:
                raise ValueError(f"{place} holds no image ({', '.join(PICTURES)})")
            found += inside
        elif is_pattern(word):
            found += [file for file in _matches(word) if file.is_file() and not _is_drawn(file)]
        else:
            found.append(_there(place))
    return list({file.absolute(): file for file in found}.values())


def clips(words: Sequence[str]) -> list[str]:
    """The videos that words name, each once: files, folders of frames, addresses, what patterns match.

    A pattern that matches images is one video. Raises ValueError for one image among several words: its frames were
    meant to be one video.
    """
    found: list[str] = []
    for word in words:
        matched = _matches(word) if is_pattern(word) and "://" not in word else []
        if matched and not all(path.suffix.lower() in listing.SUFFIXES for path in matched):
            found += [str(path) for path in matched]
        else:
            found.append(word)
    if len(found) > 1 and (lone := [each for each in found if listing.is_picture(Path(each))]):
        raise ValueError(f"{lone[0]} is an image, no video: the frames of one are a folder, or a pattern in quotes")
    return list(dict.fromkeys(found))


def _there(place: Path) -> Path:
    check_local(place)
    if not place.exists():
        raise OSError(f"{place}: no such file or folder")
    return place


def _matches(pattern: str) -> list[Path]:
    found = sorted((Path(name) for name in glob.glob(pattern, recursive=True)), key=natural)
    found = [path for path in found if not listing.hidden(path)]
    if not found:
        raise ValueError(f"nothing matches {pattern}")
    return found


def _is_drawn(file: Path) -> bool:
    """Whether an image is an overlay or an id map of an earlier run, which may have been stopped."""
    for ends, document in ((DRAWN, DOCUMENT), (EARLIER, ".json")):
        names = [file.name.removesuffix(end) for end in ends if file.name.endswith(end)]
        if any(began_as(file.with_name(name + document + part), AUTOMASK) for name in names for part in ("", ".part")):
            return True
    return False


def named(files: Iterable[Path]) -> list[tuple[Path, str]]:
    """Each file with the name of its results; no two have the same, on file systems that do not tell a from A either.

    That is its stem; where another has it, the file's name; where another has that, the names of its folders too.
    """
    files = list(files)
    whole = {file.name.casefold() for file in files}
    stems = Counter(file.stem.casefold() for file in files)
    names = Counter(file.name.casefold() for file in files)
    found = []
    for file in files:
        stem = file.stem.casefold()
        if stems[stem] == 1 and stem not in whole:
            found.append((file, file.stem))
        elif names[file.name.casefold()] == 1:
            found.append((file, file.name))
        else:
            found.append((file, "_".join((*_folders(file, files), file.name))))
    if repeated := [name for name, count in Counter(name.casefold() for _, name in found).items() if count > 1]:
        raise ValueError(f"the results of two of these files would be called {repeated[0]}: give them in two runs")
    return found


def _folders(file: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """The folders that tell a file from those of the same name."""
    same = [other.absolute().parent.parts for other in files if other.name.casefold() == file.name.casefold()]
    own = file.absolute().parent.parts
    shared = 0
    while len({parts[shared : shared + 1] for parts in same}) == 1 and shared < len(own):
        shared += 1
    return own[shared:]
