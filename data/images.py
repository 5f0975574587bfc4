"""Opening images that nobody vouches for: bounded, whole, upright, RGB."""

import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

MAX_PIXELS = 50_000_000  # a larger picture is refused before it is decoded: 150 MB as RGB
MAX_ASPECT = 200  # Qwen's own resize refuses thinner pictures


class BadImage(ValueError):
    """An image that can't be used; the message says why."""


# our own bound is lower. Set once: warnings.catch_warnings would not be safe in threads
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(file) -> Image.Image:
    """A path, binary file or Pillow image -> a fully decoded RGB image, turned as its camera says.
    Transparency is laid over white. Raises BadImage."""
    name = Path(file).name if isinstance(file, (str, Path)) else "image"
    try:
        image = file if isinstance(file, Image.Image) else Image.open(file)  # reads the header only
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImage(f"{name}: {width} x {height} pixels, more than {MAX_PIXELS:,}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise BadImage(f"{name}: {width} x {height} is thinner than 1:{MAX_ASPECT}")
        image.load()
        return to_rgb(upright(image))
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(f"{name}: no such image file") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers raise many kinds for a damaged file
        raise BadImage(f"{name}: not a whole image ({error})") from None


def upright(image: Image.Image) -> Image.Image:
    """A camera that is held on its side notes it, and leaves the turning to the viewer."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # noqa: BLE001  a damaged note says nothing
        return image
    return ImageOps.exif_transpose(image) if turned else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB. A plain convert() would show the colour under transparent pixels."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would cut off all above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(f"its pixels are of mode {image.mode}, which says nothing of how bright they are")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")
