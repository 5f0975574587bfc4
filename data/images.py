"""Opening images that nobody vouches for: bounded, whole, RGB."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # a larger picture is refused before it is decoded: 150 MB as RGB
MAX_ASPECT = 200  # Qwen's own resize refuses thinner pictures


class BadImage(ValueError):
    """An image that can't be used; the message says why."""


# our own bound is lower. Set once: warnings.catch_warnings would not be safe in threads
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(file) -> Image.Image:
    """A path, binary file or Pillow image -> a fully decoded RGB image. Transparency is laid over white. Raises BadImage."""
    name = Path(file).name if isinstance(file, (str, Path)) else "image"
    try:
        image = file if isinstance(file, Image.Image) else Image.open(file)  # reads the header only
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImage(f"{name}: {width} x {height} pixels, more than {MAX_PIXELS:,}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise BadImage(f"{name}: {width} x {height} is thinner than 1:{MAX_ASPECT}")
        image.load()
        return to_rgb(image)
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(f"{name}: no such image file") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadImage(f"{name}: not a whole image ({error})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB. A plain convert() would turn transparent pixels into whatever colour lies under them."""
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")
