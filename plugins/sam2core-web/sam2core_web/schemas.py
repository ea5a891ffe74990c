"""What travels: the bodies of requests and answers. Pixels are x, y from the upper left corner."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


def _row(count: int, item: dict[str, Any]) -> WithJsonSchema:
    """How a tuple of like numbers is described: as an array, which all makers of clients understand."""
    return WithJsonSchema({"type": "array", "items": item, "minItems": count, "maxItems": count})


def _number(value: Any) -> Any:
    """Numbers only: neither true nor "12" is one, although Python and pydantic would take them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("this is no number")
    return value


Number = BeforeValidator(_number)
FAR = 1e6
COORDINATE = {"type": "number", "minimum": -FAR, "maximum": FAR}
Coordinate = Annotated[float, Number, Field(ge=-FAR, le=FAR, allow_inf_nan=False)]
Point = Annotated[tuple[Coordinate, Coordinate], _row(2, COORDINATE)]
Box = Annotated[tuple[Coordinate, Coordinate, Coordinate, Coordinate], _row(4, COORDINATE)]
Size = Annotated[tuple[int, int], _row(2, {"type": "integer"})]
FrameNumber = Annotated[int, Number, Field(ge=0, le=2**31)]
ObjectNumber = Annotated[int, Number, Field(ge=1, le=100_000)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Name = Annotated[str, Field(min_length=1, max_length=60)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rle(BaseModel):
    """A mask as COCO's run lengths, as `pycocotools` reads it."""

    size: Size = Field(description="height, width")
    counts: Annotated[str, Field(max_length=20_000_000)]


class Open(Body):
    """One of `sample` (a name of /api/samples) and `media` (a name of /api/media)."""

    sample: Annotated[str, Field(max_length=200)] | None = None
    media: Annotated[str, Field(max_length=2000)] | None = None


class PromptIn(Body):
    """All that is said of one object on one frame; it replaces what was said of it there before."""

    object: ObjectNumber
    frame: FrameNumber = 0
    points: list[Point] | None = Field(None, max_length=500)
    labels: list[Annotated[Literal[0, 1], Number]] | None = Field(
        None, max_length=500, description="1 on the object, 0 beside it"
    )
    box: Box | None = Field(None, description="x0, y0, x1, y1")
    mask: Rle | None = None
    name: Name | None = None
    color: Color | None = None


class PreviewIn(Body):
    frame: FrameNumber = 0
    point: Point


class ObjectIn(Body):
    name: Name | None = None
    color: Color | None = None


class EverythingIn(Body):
    frame: FrameNumber = 0
    points_per_side: Annotated[int, Number, Field(ge=2, le=32)] | None = Field(
        None, description="clicks along each side of the grid; by default the model's own"
    )


class PropagateIn(Body):
    direction: Literal["forward", "backward", "both"] = "forward"
    start: FrameNumber | None = Field(None, description="the first frame; by default the earliest prompted one")
    stop: FrameNumber | None = Field(None, description="where to end, exclusive; not with `both`")
    resume: bool = Field(False, strict=True, description="resume the last run; the other fields are then ignored")


class Mask(BaseModel):
    segmentation: Rle
    area: int
    iou: float = Field(description="the model's own estimate")
    object_score: float | None = Field(None, description="a logit; above 0 the object is in the image. Videos only")


class ObjectOut(BaseModel):
    id: int
    name: str
    color: str


class FrameOut(BaseModel):
    frame: int
    masks: dict[int, Mask] = Field(description="object -> mask; only objects that have an answer on this frame")


class Said(BaseModel):
    object: int
    frame: int
    points: list[Point]
    labels: list[int]
    box: Box | None
    mask: bool


class State(BaseModel):
    """A session as it is now."""

    id: str
    kind: Literal["image", "clip"]
    name: str
    width: int
    height: int
    frames: int
    fps: float | None
    objects: list[ObjectOut]
    prompts: list[Said]
    visible: dict[int, dict[int, bool]] = Field(description="object -> frame -> whether it is seen there")
    tracking: bool
    resumable: bool
    undoable: int
    redoable: int
    saved: bool = Field(description="whether all of it is on disk, and outlives the server")


class Kept(BaseModel):
    """A session in the list of those that can be gone on with."""

    id: str
    name: str
    kind: Literal["image", "clip"]
    model: str
    frames: int
    objects: int
    used: float = Field(description="when it was used last, in seconds since 1970")


class Found(BaseModel):
    segmentation: Rle
    area: int
    iou: float
    box: Annotated[tuple[int, int, int, int], _row(4, {"type": "integer"})] = Field(
        description="x0, y0, x1, y1; the last corner inclusive"
    )


class Everything(BaseModel):
    masks: list[Found]


class Item(BaseModel):
    name: str
    kind: Literal["image", "clip"]


class About(BaseModel):
    version: str
    model: str
    device: str
    image_size: Size
    upload_bytes: int
    frames: int
    objects: int
    media: bool
    keeps: bool = Field(description="whether sessions outlive the server")


class Problem(BaseModel):
    detail: str
