"""Pictures of every kind become RGB, or are refused."""

import colorsys
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.images import BadImage, open_image


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_cmyk_image_becomes_rgb(tmp_path):
    image = open_image(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.jpg"))
    assert image.mode == "RGB" and image.getpixel((4, 4))[0] > 200 and max(image.getpixel((4, 4))[1:]) < 60


def png(colour_type: int, depth: int, line: bytes, width: int, clear: bytes = b"", palette=()) -> io.BytesIO:
    """A picture of one line, written by hand: Pillow can't write all kinds."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0))]
    chunks += [(b"PLTE", bytes(palette))] * bool(palette) + [(b"tRNS", clear)] * bool(clear)
    chunks += [(b"IDAT", zlib.compress(b"\0" + line)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def made(mode: str, *pixels, palette=(), **info) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    if palette:
        image.putpalette(palette)
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    image.info |= info
    return image


def over_white(opacity: int, *colour: int) -> list[float]:
    """By the definition: c a + (1 - a), each of 0 to 1."""
    a = opacity / 255
    return [255 * (c / 255 * a + 1 - a) for c in colour]


def of_lab(light: float, a: float, b: float) -> list[float]:
    """CIE 1976 of the white D50 -> sRGB (Bradford's matrix, IEC 61966-2-1)."""
    y = (light + 16) / 116
    xyz = [w * (t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29))
           for w, t in zip((0.9642, 1, 0.8249), (y + a / 500, y, y - b / 200), strict=True)]  # fmt: skip
    matrix = np.array([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]])
    linear = np.clip(matrix @ xyz, 0, 1)
    return list(255 * np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


WHITE, RED = [255] * 3, [255, 0, 0]
KINDS = {  # a picture of one line, and the colours that it shows
    "1": (made("1", 0, 255), [[0] * 3, WHITE]),
    "L": (made("L", 7, 200), [[7] * 3, [200] * 3]),
    "LA": (made("LA", (60, 128), (60, 0), (60, 255)), [over_white(a, *[60] * 3) for a in (128, 0, 255)]),
    "La": (
        made("La", (30, 128), (0, 0), (60, 255)),
        [over_white(128, *[30 * 255 / 128] * 3), WHITE, [60] * 3],
    ),
    "P": (made("P", 0, 1, palette=[255, 0, 0, 0, 9, 200]), [RED, [0, 9, 200]]),
    "P, one index": (made("P", 0, 1, palette=[255, 0, 0, 0, 9, 200], transparency=1), [RED, WHITE]),
    "P, opacities": (
        made("P", 0, 1, palette=[255, 0, 0, 0, 9, 200], transparency=bytes([128, 40])),
        [over_white(128, *RED), over_white(40, 0, 9, 200)],
    ),
    "PA": (made("PA", (0, 128), palette=[255, 0, 0]), [over_white(128, *RED)]),
    "RGB": (made("RGB", (255, 0, 0), (1, 2, 3)), [RED, [1, 2, 3]]),
    "RGB, a colour": (made("RGB", (255, 0, 0), (254, 0, 0), transparency=(255, 0, 0)), [WHITE, [254, 0, 0]]),
    "RGBA": (
        made("RGBA", (200, 10, 0, 128), (200, 10, 0, 0), (200, 10, 0, 255)),
        [over_white(a, 200, 10, 0) for a in (128, 0, 255)],
    ),
    "RGBa": (
        made("RGBa", (100, 5, 0, 128), (0, 0, 0, 0), (200, 10, 0, 255)),
        [over_white(128, 100 * 255 / 128, 5 * 255 / 128, 0), WHITE, [200, 10, 0]],
    ),
    "CMYK": (made("CMYK", (0, 255, 255, 0), (51, 0, 0, 102)), [RED, [204 * 0.6, 153, 153]]),
    "YCbCr": (
        made("YCbCr", (76, 85, 255), (100, 128, 178)),
        [[254, 0, 0], [100 + 1.402 * 50, 100 - 0.714 * 50, 100]],
    ),
    "HSV": (
        made("HSV", (0, 255, 255), (85, 128, 200)),
        [RED, [200 * c for c in colorsys.hsv_to_rgb(1 / 3, 128 / 255, 1)]],
    ),
    "LAB": (
        made("LAB", (128, 128, 128), (136, 208, 195)),
        [of_lab(128 / 2.55, 0, 0), of_lab(136 / 2.55, 80, 67)],
    ),
    "I;16": (made("I;16", 0, 4660, 65535), [[0] * 3, [0x12] * 3, WHITE]),
    "png of 1 bit, a grey": (png(0, 1, b"\x40", 2, words(0)), [WHITE, WHITE]),
    "png of 1 bit, the other": (png(0, 1, b"\x40", 2, words(1)), [[0] * 3, WHITE]),
    "png of 2 bits, a grey": (png(0, 2, b"\x1b", 4, words(1)), [[0] * 3, WHITE, [170] * 3, WHITE]),
    "png of 4 bits, a grey": (png(0, 4, b"\x12", 2, words(1)), [WHITE, [34] * 3]),
    "png of 8 bits, a grey": (png(0, 8, b"\x01\x02", 2, words(1)), [WHITE, [2] * 3]),
    "png of 16 bits, a grey": (png(0, 16, words(0x1234, 0x1235), 2, words(0x1234)), [WHITE, [0x12] * 3]),
    "png of 8 bits, a colour": (
        png(2, 8, bytes([255, 0, 0, 0, 0, 255]), 2, words(255, 0, 0)),
        [WHITE, [0, 0, 255]],
    ),
    "png of 16 bits, a colour": (
        png(2, 16, words(0x1234, 0, 99, 0x1334, 0, 99), 2, words(0x1234, 0, 99)),
        [WHITE, [0x13, 0, 0]],
    ),
    "png of 16 bits, a dark colour": (
        png(2, 16, words(5, 0, 0, 0x500, 0, 0), 2, words(5, 0, 0)),
        [WHITE, [5, 0, 0]],
    ),
    "png of 16 bits, grey and alpha": (png(4, 16, words(0x4000, 0x8000), 1), [over_white(128, *[64] * 3)]),
    "png of 16 bits, colour and alpha": (
        png(6, 16, words(0xC800, 0, 0, 0x8000), 1),
        [over_white(128, 200, 0, 0)],
    ),
    "png with a palette": (
        png(3, 8, b"\0\1", 2, b"\x80", [255, 0, 0, 0, 9, 200]),
        [over_white(128, *RED), [0, 9, 200]],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_shows_its_colours_and_white_under_what_is_transparent(kind):
    image, colours = KINDS[kind]
    found = open_image(image)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found, float)[0] - colours).max() <= (4 if kind == "LAB" else 1)


def test_a_transparent_colour_leaves_the_picture_of_its_owner_as_it_is():
    image = made("RGB", (255, 0, 0), transparency=(255, 0, 0))
    assert [open_image(image).getpixel((0, 0)) for _ in range(2)] == [(255, 255, 255)] * 2
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_turned_as_its_camera_says(tmp_path, kind):
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[274] = 6  # the camera stood on its side: to be turned clockwise
    found = open_image(saved(tmp_path, image, f"x.{kind.lower()}", exif=exif))
    assert found.size == (20, 40) and found.mode == "RGB"
    assert found.getpixel((10, 5))[0] > 200 and found.getpixel((10, 35))[0] < 50


def test_sixteen_bits_of_grey_are_brought_to_eight(tmp_path):
    grey = Image.fromarray(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16))
    found = open_image(saved(tmp_path, grey))
    assert [found.getpixel((x, 0)) for x in (0, 1, 15)] == [(0,) * 3, (1,) * 3, (15,) * 3]
    assert found.getpixel((15, 15)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_brightness_are_refused(tmp_path, mode):
    with pytest.raises(BadImage, match=f"its pixels are of mode {mode}"):
        open_image(saved(tmp_path, Image.new(mode, (8, 8), 1), "x.tiff"))


def test_whatever_a_reader_of_pillow_raises_costs_one_row(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (8, 8)))
    for error in (RuntimeError("AVIF"), NotImplementedError("DDS"), KeyError("x")):
        monkeypatch.setattr(Image.Image, "load", lambda self, error=error: (_ for _ in ()).throw(error))
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Image.Image.load)
        with pytest.raises(BadImage, match="not a whole image"):
            open_image(path)


def test_a_one_pixel_image_is_an_image(tmp_path, processor):
    from data import Example

    image = open_image(saved(tmp_path, Image.new("RGB", (1, 1), (9, 8, 7))))
    encoded = processor.encode(Example("dot", (image,), "What?"))
    assert encoded.vision["image_grid_thw"].tolist() == [[1, 4, 4]]


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "huge", "thin", "missing", "folder"])
def test_what_is_no_usable_image_says_so(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "truncated":
        noise = Image.effect_noise((100, 100), 50)
        path.write_bytes(saved(tmp_path, noise, "whole.png").read_bytes()[:-2000])
    elif kind == "huge":  # 100 megapixels that compress to little: refused by its header, before any decoding
        saved(tmp_path, Image.new("1", (10_000, 10_000)))
    elif kind == "thin":
        saved(tmp_path, Image.new("RGB", (300, 1)))
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "not an image")
    expected = {
        "huge": "10000 x 10000 pixels",
        "thin": "thinner",
        "missing": "no such image",
        "folder": "not a file",
    }
    with pytest.raises(BadImage, match=expected.get(kind, "not a whole image")):
        open_image(path)
