"""Pictures as bytes against transformers' own image processor, PyTorch's resizing and Pillow's."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Qwen2VLImageProcessorPil
from transformers.image_utils import SizeDict

from data import Example
from model import processor as processing
from model.families import image_inputs
from model.pixels import memory_of, resize, resized, supports, to_patches, with_frames
from model_utils import load_model, load_processor

SIZE = {"shortest_edge": 28 * 28, "longest_edge": 224 * 224}


def grain(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    ).convert(mode)


def ours(image_processor, images) -> torch.Tensor:
    made = resize(image_processor, images)
    assert made["pixels"].dtype == torch.uint8
    return with_frames(to_patches(image_processor, made)["pixel_values"], image_processor.temporal_patch_size)


@pytest.mark.parametrize(
    "settings",
    [{}, {"patch_size": 16}, {"merge_size": 1}, {"temporal_patch_size": 3}, {"image_mean": [0.1, 0.5, 0.9]}],
)
def test_numbers_are_transformers_to_the_bit_where_nothing_is_resized(settings):
    image_processor = Qwen2VLImageProcessorPil(**{"size": SIZE, **settings})
    side = image_processor.patch_size * image_processor.merge_size
    images = [grain(side * 3, side * 5), grain(side * 4, side * 4, "L"), grain(side * 7, side * 4)]
    assert supports(image_processor)
    theirs = image_processor(images, return_tensors="pt")
    assert torch.equal(ours(image_processor, images), theirs["pixel_values"])
    assert torch.equal(resize(image_processor, images)["image_grid_thw"], theirs["image_grid_thw"])


def test_patches_stand_in_the_order_in_which_they_are_merged():
    # every pixel holds the number of its patch in reading order: 4 rows of 4
    rows, columns = np.indices((56, 56)) // 14
    image = Image.fromarray(np.repeat((4 * rows + columns)[..., None], 3, -1).astype(np.uint8))
    image_processor = Qwen2VLImageProcessorPil(
        size=SIZE, rescale_factor=1, image_mean=[0] * 3, image_std=[1] * 3
    )
    made = to_patches(image_processor, resize(image_processor, [image]))
    assert made["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert made["pixel_values"].shape == (16, 3 * 14 * 14)
    assert made["pixel_values"][:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert bool((made["pixel_values"] == made["pixel_values"][:, :1]).all())


@pytest.mark.parametrize("to", [(56, 84), (112, 308), (252, 140), (100, 61)])
def test_resizing_is_pytorchs_and_within_two_levels_of_pillows(to):
    image = grain(120, 90)
    found = resized(image, *to)[..., :3].astype(int)
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    torchs = F.interpolate(whole, to, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    pillows = np.asarray(image.resize(to[::-1], Image.Resampling.BICUBIC)).astype(int)
    assert np.array_equal(found, torchs)
    assert abs(found - pillows).max() <= 2
    assert (found != pillows).mean() < 0.05


def test_a_resized_picture_has_the_grid_of_transformers_and_nearly_its_numbers():
    image_processor = Qwen2VLImageProcessorPil(size=SIZE)
    images = [grain(61, 35), grain(500, 301)]
    theirs = image_processor(images, return_tensors="pt")
    assert torch.equal(resize(image_processor, images)["image_grid_thw"], theirs["image_grid_thw"])
    difference = (ours(image_processor, images) - theirs["pixel_values"]).abs()
    step = 1 / 255 / min(image_processor.image_std)
    assert difference.max() <= 2.01 * step
    assert difference.mean() < 0.05 * step


@pytest.mark.parametrize("size", [(56, 56), (100, 61)])
def test_pillows_own_memory_gives_the_same_numbers_as_a_copy(size, monkeypatch):
    pytest.importorskip("pyarrow")
    image_processor, image = Qwen2VLImageProcessorPil(size=SIZE), grain(*size)
    shared = memory_of(image)
    by_sharing = ours(image_processor, [image])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    copied = memory_of(image)
    assert not np.shares_memory(shared, copied) and np.array_equal(shared[..., :3], copied[..., :3])
    assert np.array_equal(copied[..., :3], np.asarray(image))
    assert torch.equal(by_sharing, ours(image_processor, [image]))
    del image  # the view keeps the picture's memory
    assert np.array_equal(shared[..., :3], copied[..., :3])


def test_a_picture_in_several_pieces_of_memory_is_copied():
    pytest.importorskip("pyarrow")
    large = Image.new("RGB", (3000, 2000), (1, 2, 3))  # 24 MB: Pillow's blocks hold 16
    assert memory_of(large).shape == (2000, 3000, 4) and memory_of(large)[-1, -1, :3].tolist() == [1, 2, 3]


def test_other_kinds_of_settings_are_not_for_fit():
    image_processor = Qwen2VLImageProcessorPil(size=SIZE)
    image_processor.image_mean = 0.5
    assert not supports(image_processor)
    image_processor = Qwen2VLImageProcessorPil(size=SIZE)
    image_processor.size = SizeDict(height=56, width=56)
    assert not supports(image_processor)


@pytest.mark.parametrize(
    "settings", [{"do_resize": False}, {"do_normalize": False}, {"do_rescale": False}, {"resample": 2}]
)
def test_other_settings_are_left_to_transformers(random_folder, settings, monkeypatch):
    processor = load_processor(str(random_folder))
    for name, value in settings.items():
        setattr(processor.image_processor, name, value)
    assert not supports(processor.image_processor)
    example = Example("a", (grain(56, 84),), "?")
    theirs = processor.image_processor(list(example.images), return_tensors="pt")
    assert torch.equal(processor.encode(example).vision["pixel_values"], theirs["pixel_values"])


def test_ids_and_inputs_are_those_of_transformers_processor(random_folder, monkeypatch):
    model, processor = load_model(str(random_folder)), load_processor(str(random_folder))
    example = Example("a", (grain(56, 84), grain(112, 56)), "<image>And<image>?")
    by_bytes = processor.encode(example)
    found = image_inputs(model, processor.collate([by_bytes]), lean=False)
    monkeypatch.setattr(processing, "supports", lambda _: False)
    by_transformers = processor.encode(example)
    wanted = image_inputs(model, processor.collate([by_transformers]))
    assert by_bytes.ids == by_transformers.ids
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert by_bytes.bytes() < by_transformers.bytes() / 5
