"""Where weights are, and what a file says of itself: the package, a folder, the caches, the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import WeightsError

if TYPE_CHECKING:
    from registry.spec import ModelSpec
    from sam2core.checkpoints.hub import Progress, Source

__all__ = ["locate", "locate_repository", "read_spec", "source"]

FOLDER = Path(__file__).parent / "weights"


def locate(
    spec: ModelSpec,
    *,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    revision: str | None = None,
    sources: tuple[str, ...] = ("hub", "direct"),
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The path of the weights a spec names, downloaded if need be.

    cache_dir   folder for downloads; None: the Hugging Face cache, and ~/.cache/sam2core/checkpoints (SAM2CORE_CACHE)
    offline     True: nothing is downloaded; None: as HF_HUB_OFFLINE says
    revision    branch, tag or commit of the hub repository instead of the spec's; its content is not checked against
                the spec's size and checksum, and the direct address is not asked
    sources     which of "hub" and "direct" to try, in order
    endpoint    address of the hub; None: as HF_ENDPOINT says
    progress    called with bytes done and bytes in all

    Raises
        WeightsError: the spec names none, or they are nowhere to be had; the message lists every place looked at and
            three ways to get on.
    """
    from sam2core.checkpoints import hub

    weights = spec.weights
    if weights is None:
        raise WeightsError(
            f"{spec.name} names no weights.\n"
            "  pass weights='a/file' to load some, or weights=False for a freshly initialised model"
        )
    if weights.package or (weights.repo is None and weights.url is None):
        path = FOLDER / weights.file if weights.package else Path(weights.file).expanduser()
        if not path.is_file():
            kind = "comes with the package, but is not there: the installation is incomplete" if weights.package else ""
            raise WeightsError(
                f"the weights of {spec.name} are not at {path}{': the file ' + kind if kind else ''}.\n"
                "  pass weights='a/file', or weights=False for a freshly initialised model"
            )
        return path
    place = source(spec, revision=revision)
    try:
        return hub.locate(
            place,
            cache_dir=cache_dir,
            offline=offline,
            sources=sources,
            endpoint=endpoint,
            progress=progress,
            ways=_ways(spec, place),
        )
    except hub.FileError as error:
        raise WeightsError(f"no weights for {spec.name}: {error}") from error


def locate_repository(
    repo: str,
    *,
    file: str = "model.safetensors",
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    revision: str | None = None,
) -> Path:
    """The path of a file of a hub repository that carries its own spec (names such as "hub:org/repo").

    Raises
        WeightsError: it is nowhere to be had.
    """
    from sam2core.checkpoints import hub

    try:
        return hub.locate(
            hub.Source(file=file, repo=repo, revision=revision),
            cache_dir=cache_dir,
            offline=offline,
            ways=(
                f"download {file} of https://huggingface.co/{repo} on another machine and build from its path",
                "with the file in the Hugging Face cache, set HF_HUB_OFFLINE=1",
                "build one of registry.models() instead: 'sam2core_nano' comes with the package",
            ),
        )
    except hub.FileError as error:
        raise WeightsError(f"hub:{repo}: {error}") from error


def source(spec: ModelSpec, *, revision: str | None = None) -> Source:
    """Where the weights of a spec may be downloaded from, and how to tell that they are the right ones."""
    from sam2core.checkpoints.hub import Source

    weights = spec.weights
    assert weights is not None
    if revision is not None and revision != weights.revision:
        return Source(file=weights.file, repo=weights.repo, revision=revision)
    return weights.download()


def read_spec(path: str | Path) -> dict[str, Any]:
    """The resolved spec a native safetensors file carries, as plain values.

    Raises
        WeightsError: no such file, damaged, or it carries none.
    """
    from sam2core.checkpoints import files

    path = Path(path).expanduser()
    try:
        tree = files.embedded_spec(files.read_metadata(path))
    except files.FileError as error:
        raise WeightsError(f"{path.name}: {error}") from error
    if tree is None:
        raise WeightsError(
            f"{path.name} carries no spec, so it does not say which model it is for.\n"
            f"  name the model and pass the file: registry.build('sam2.1_hiera_l', weights={str(path)!r})\n"
            f"  or write a file that carries one: sam2core convert {path.name} new.safetensors --model sam2.1_hiera_l"
        )
    return tree


def _ways(spec: ModelSpec, place: Source) -> tuple[str, ...]:
    where = place.url or f"https://huggingface.co/{place.repo}/resolve/{place.revision or 'main'}/{place.file}"
    return (
        f"on another machine download {where}, copy it here and pass weights='path/to/{place.file}'",
        f"with a network run `sam2core download {spec.name}` once; the cache serves from then on, offline too",
        "pass weights=False for a freshly initialised model, or build 'sam2core_nano', which brings its weights",
    )
