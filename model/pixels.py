"""Pictures as the Qwen-VL family reads them: resized as bytes by the threads that read questions,
turned into numbers and cut into patches on the model's device.

    resize(image_processor, images)          ->  {"pixels": bytes, "image_grid_thw": ..}
    to_patches(image_processor, resize(..))  ->  {"pixel_values": .., ..}, for the tower of model/vision.py
    with_frames(pixel_values, 2)             ->  as transformers' image processor gives, for its own tower

transformers makes 24 bytes of every pixel: three floats, twice, since to these models a picture is
a video of two equal frames. Here it is 4 until collate makes it 12: less to keep and to copy to a
device, and four times as fast. The resizing is PyTorch's, as in transformers' default image
processor of these models; where a picture already has a size that the model takes, the numbers are
equal to the bit.

Left out: image processors with other settings than resizing bicubically, rescaling and normalising
(`supports` says which).
"""

import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# pixels of a picture are only read
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)


def supports(image_processor) -> bool:
    """Whether `resize` and `to_patches` stand for this image processor."""
    from transformers import Qwen2VLImageProcessorPil

    p = image_processor
    return (
        isinstance(p, Qwen2VLImageProcessorPil)
        and {"shortest_edge", "longest_edge"} <= dict(p.size).keys()
        and all(isinstance(x, (list, tuple)) for x in (p.image_mean, p.image_std))
        and all((p.do_resize, p.do_rescale, p.do_normalize))
        and p.resample == Image.Resampling.BICUBIC
    )


def resize(image_processor, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """Pictures -> [H * W of each, 4] uint8 (the last is blank), image_grid_thw [images, 3].

    Raises ValueError for a picture too thin to resize.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    p, merge = image_processor.patch_size, image_processor.merge_size
    bounds = dict(image_processor.size)
    pixels, grids = [], []
    for image in images:
        H, W = smart_resize(
            image.height, image.width, p * merge, bounds["shortest_edge"], bounds["longest_edge"]
        )
        pixels.append(resized(image, H, W).reshape(H * W, 4))
        grids.append([1, H // p, W // p])
    joined = np.concatenate(pixels) if len(pixels) > 1 else pixels[0]
    return {"pixels": torch.from_numpy(joined), "image_grid_thw": torch.tensor(grids)}


def resized(image: Image.Image, H: int, W: int) -> np.ndarray:
    """-> [H, W, 4] uint8, red, green, blue, blank: bicubic, antialiased where it shrinks."""
    pixels = memory_of(image if image.mode == "RGB" else image.convert("RGB"))
    if pixels.shape[:2] == (H, W):
        return pixels
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    # F.interpolate would put the channels apart again, which takes longer than the resizing
    out = torch.empty(1, 4, H, W, dtype=torch.uint8, memory_format=torch.channels_last)
    torch.ops.aten._upsample_bicubic2d_aa.out(source, (H, W), False, None, None, out=out)
    return out[0].permute(1, 2, 0).numpy()


def memory_of(image: Image.Image) -> np.ndarray:
    """RGB -> [H, W, 4] uint8 as Pillow keeps it. Where pyarrow is loaded, as it is for parquet
    files, and the picture lies in one piece (up to 4 megapixels), this is Pillow's own memory; else
    a copy, during which no other thread can go on."""
    if arrow := sys.modules.get("pyarrow"):
        try:
            return arrow.array(image).flatten().to_numpy().reshape(image.height, image.width, 4)
        except (ValueError, TypeError):
            pass  # a picture in several pieces of memory, or a Pillow that can't share it
    return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(image.height, image.width, 4)


def to_patches(image_processor, vision: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `resize` gave, on any device, its pixels as pixel_values [n, 3 * patch * patch] float32.

    A row for each patch, where patches whose features will be merged stand next to each other.
    """
    pixels, grids = vision["pixels"], vision["image_grid_thw"]
    p, m = image_processor.patch_size, image_processor.merge_size
    rule = image_processor.rescale_factor, tuple(image_processor.image_mean), tuple(image_processor.image_std)
    table = normalisation_table(*rule).to(pixels.device)
    index = pixels[:, :3].int() + torch.arange(3, dtype=torch.int32, device=pixels.device) * 256
    rows, start = [], 0
    for _, h, w in grids.tolist():
        image = index[start : start + h * w * p * p].view(h // m, m, p, w // m, m, p, 3)
        rows.append(image.permute(0, 3, 1, 4, 6, 2, 5).flatten())
        start += h * w * p * p
    values = table.flatten().index_select(0, torch.cat(rows) if len(rows) > 1 else rows[0])
    return {"pixel_values": values.view(-1, 3 * p * p), "image_grid_thw": grids}


def with_frames(pixel_values: Tensor, frames: int) -> Tensor:
    """[n, 3 * patch * patch] -> [n, 3 * frames * patch * patch], every frame the same."""
    return pixel_values.unflatten(1, (3, 1, -1)).expand(-1, -1, frames, -1).flatten(1)


@lru_cache
def normalisation_table(scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """[3, 256] float32, each byte's (byte * scale - mean) / std, rounded as transformers does."""
    rescaled = (np.arange(256) * scale).astype(np.float32)
    shift, spread = (np.array(x, dtype=np.float32)[:, None] for x in (mean, std))
    return torch.from_numpy((rescaled - shift) / spread)
