"""Pictures of every kind become RGB, or are refused."""

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


@pytest.mark.parametrize("mode", ["palette", "rgba", "la"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    if mode == "palette":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([255, 0, 0, 0, 0, 0])
        path = saved(tmp_path, image, transparency=1)
    else:
        path = saved(tmp_path, Image.new(mode.upper(), (4, 4), 0))
    assert open_image(path).getpixel((2, 2)) == (255, 255, 255)


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
    expected = {"huge": "10000 x 10000 pixels", "thin": "thinner", "missing": "no such image"}
    with pytest.raises(BadImage, match=expected.get(kind, "not a whole image")):
        open_image(path)
