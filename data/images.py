"""Opening images that nobody vouches for: bounded, whole, upright, RGB."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps

MAX_PIXELS = 50_000_000  # a larger picture is refused before it is decoded: 150 MB as RGB
MAX_ASPECT = 200  # Qwen's own resize refuses thinner pictures
PATH = "path"  # in a picture's `info`: the file it was read from, if any
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


class BadImage(ValueError):
    """An image that can't be used; the message says why."""


# our own bound is lower. Set once: warnings.catch_warnings would not be safe in threads
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(file) -> Image.Image:
    """A path, binary file or Pillow image -> a fully decoded RGB image, turned as its camera says.
    Transparency is laid over white. Raises BadImage."""
    name = Path(file).name if isinstance(file, (str, Path)) else "image"
    try:
        if isinstance(file, (str, Path)) and os.path.exists(file) and not os.path.isfile(file):
            raise BadImage(f"{name}: not a file")  # a pipe would be waited for
        image = file if isinstance(file, Image.Image) else Image.open(file)  # reads the header only
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImage(f"{name}: {width} x {height} pixels, more than {MAX_PIXELS:,}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise BadImage(f"{name}: {width} x {height} is thinner than 1:{MAX_ASPECT}")
        key = transparent_colour(image)
        image.load()
        rgb = to_rgb(upright(image), key)
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(f"{name}: no such image file") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers raise many kinds for a damaged file
        raise BadImage(f"{name}: not a whole image ({error})") from None
    rgb.info.pop(PATH, None)  # a picture's own notes are in `info` as well
    if isinstance(file, (str, Path)):
        rgb.info[PATH] = os.path.abspath(file)
    return rgb


def upright(image: Image.Image) -> Image.Image:
    """A camera that is held on its side notes it, and leaves the turning to the viewer."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # noqa: BLE001  a damaged note says nothing
        return image
    return ImageOps.exif_transpose(image) if turned else image


def transparent_colour(image: Image.Image) -> int | tuple | None:
    """The colour that a picture without alpha says is transparent, as its pixels will have it.

    Pillow gives a PNG's as it is written, but spreads pixels of 2 and 4 bits over 8 and keeps the high
    byte of three times 16. So to be called before the pixels are loaded.
    """
    key, depth = image.info.get("transparency"), ""
    if image.format == "PNG" and getattr(image, "tile", None):
        depth = str(image.tile[0][3])  # type: ignore[attr-defined]
    if isinstance(key, int):
        return key * {"L;2": 0x55, "L;4": 0x11}.get(depth, 1)
    if isinstance(key, tuple):
        return tuple(v >> 8 for v in key) if depth == "RGB;16B" or max(key) > 255 else key
    return None


def to_rgb(image: Image.Image, key: int | tuple | None = None) -> Image.Image:
    """Any mode -> RGB, what is transparent over white; `key` is the transparent colour. A plain
    convert() would show the colour under transparent pixels.

    Over white a colour c of opacity a is c a + (1 - a); of the modes `RGBa` and `La`, which hold c a,
    the sum alone.
    """
    if image.mode == "RGB" and key is None:
        return image
    if image.mode in ("RGBa", "La"):
        *colours, alpha = image.split()
        clear = ImageChops.invert(alpha)
        shown = [ImageChops.add(colour, clear) for colour in colours]
        return Image.merge("RGB", shown if len(shown) == 3 else shown * 3)
    if image.mode in ("RGBA", "LA", "PA") or image.mode == "P" and "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage(f"its pixels are of mode {image.mode}, which says nothing of how bright they are")
    if image.mode == "1":
        image = image.convert("L")
    rgb = opaque(image)
    if key is not None and image.mode in ("L", "RGB", *SIXTEEN_BITS):
        is_key = np.asarray(image) == key
        rgb.paste("white", mask=Image.fromarray(is_key.all(-1) if is_key.ndim == 3 else is_key))
    return rgb


def opaque(image: Image.Image) -> Image.Image:
    """A mode without alpha -> RGB of its own."""
    if image.mode in SIXTEEN_BITS:  # Pillow would cut off all above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
