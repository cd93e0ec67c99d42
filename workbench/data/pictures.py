"""One picture file as it looks on a white page, whatever way it is stored, in 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Told by content, not by suffix. Left out: what would start another program (EPS), and what
# is told by its suffix alone (TGA). HEIF is there once pillow-heif has registered its opener.
FORMATS = ["PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM"]
FORMATS += ["ICO", "HEIF"]
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib"}
SUFFIXES |= {".tif", ".tiff", ".webp", ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"}
SUFFIXES |= {".pfm", ".ico"}
ORIENTATION = 0x0112  # EXIF's and TIFF's tags
BITS, INK, PLANES = 258, 262, 284
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
TURNS |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}


def read(file: Path | BinaryIO, mode: str) -> tuple[Image.Image, bool]:
    """A picture, upright and in 8 bits; and whether it is transparent somewhere.

    What is transparent is laid on white. Of several frames the first is read; colour profiles
    are not followed. mode: "L" for grey, "RGB" for colour.

    Raises:
        PIL.UnidentifiedImageError: not a picture of a known format.
        Exception: Pillow's own, a dozen types, for a damaged file.
        ValueError: numbers of which nobody knows which one is white.
    """
    from PIL import Image

    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # Pillow may be built without some
    with Image.open(file, formats=formats) as opened:
        tile = getattr(opened, "tile", None)
        stored = str(tile[0][3]) if tile else ""  # the raw mode, which is lost in loading
        opened.load()
        tags = getattr(opened, "tag_v2", {})
        if tags.get(PLANES) == 2 and max(tags.get(BITS, (8,))) > 8:  # which Pillow mixes up
            raise ValueError("more than 8 bits in a plane for each colour: save it in 8 bits")
        turn = TURNS.get(_orientation(opened))
        shown, transparent = _on_white(opened, stored)
    shown = shown.convert(mode)
    return shown.transpose(Image.Transpose[turn]) if turn else shown, transparent


def _orientation(picture: Image.Image) -> Any:
    """How the camera was held; None where the EXIF data is damaged, as viewers have it."""
    try:
        return picture.getexif().get(ORIENTATION)
    except Exception:  # struct.error, SyntaxError, KeyError ... by where it is damaged
        return None


def _on_white(picture: Image.Image, stored: str) -> tuple[Image.Image, bool]:
    from PIL import Image

    opaque = _opaque(picture, stored)
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    if picture.mode == "LAB":  # which converts to nothing else
        picture = picture.convert("RGB")
    if opaque is not None:
        picture.info.pop("transparency", None)
        picture = picture.convert("RGB")
        picture.putalpha(Image.fromarray(opaque * np.uint8(255)))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
    if picture.mode != "RGBA" or picture.getchannel("A").getextrema()[0] == 255:
        return picture, False
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture), True


def _opaque(picture: Image.Image, stored: str) -> np.ndarray | None:
    """Where a grey or RGB picture does not have the one colour that is transparent in it.

    Pillow keeps that colour as the file has it, but scales the pixels to 8 bits.
    """
    colour = picture.info.get("transparency")
    if colour is None or picture.mode not in ("1", "L", "RGB", "I", "I;16", "I;16B"):
        return None
    colour = np.asarray(colour) * {"L;2": 85, "L;4": 17}.get(stored, 1)
    if stored == "RGB;16B":
        colour = colour >> 8
    differs = np.asarray(picture.convert("L") if picture.mode == "1" else picture) != colour
    return differs.any(axis=2) if differs.ndim == 3 else differs


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of more than 8 bits, scaled."""
    from PIL import Image

    pixels, tags = np.asarray(picture).astype(np.float64), getattr(picture, "tag_v2", {})
    if picture.mode == "F":
        low, high = pixels.min(), pixels.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"floats in [{low:.3g}, {high:.3g}], not in [0, 1]: scale them")
    elif picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        pixels = pixels / (2 ** tags.get(BITS, (16,))[0] - 1)
        if tags.get(INK) == 0:  # 0 is white, which Pillow minds in 8 bits alone
            pixels = 1 - pixels
    else:
        raise ValueError("32-bit whole numbers, of which none is white: save it in 8 or 16 bits")
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
