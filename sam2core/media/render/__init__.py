"""Images for people and masks for programs: overlays, mp4, mask PNGs, COCO RLE, cut-outs. Needs no model.

`overlay` draws. The writers take one frame after the other, in any order but `VideoWriter`, and keep none of them, so
their memory does not depend on the video's length. All are context managers. A file is written under another name and
renamed when it is whole; what spans all frames (mp4, JSON) is made whole however the block is left, by an error or an
interruption too.
"""

from sam2core.media.palettes import PALETTES, davis, palette
from sam2core.media.render.documents import FORMAT, RleFrames, RleWriter
from sam2core.media.render.films import FileWriter, VideoWriter
from sam2core.media.render.overlays import overlay
from sam2core.media.render.pngs import CutoutWriter, MaskWriter, PaletteWriter, write_png
from sam2core.media.render.writer import Writer, folder_name

__all__ = [
    "FORMAT",
    "PALETTES",
    "CutoutWriter",
    "FileWriter",
    "MaskWriter",
    "PaletteWriter",
    "RleFrames",
    "RleWriter",
    "VideoWriter",
    "Writer",
    "davis",
    "folder_name",
    "overlay",
    "palette",
    "write_png",
]
