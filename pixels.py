"""Pictures as the Qwen-VL family reads them: cut into patches of bytes by the threads that read questions, turned into
numbers on the model's device.

    cut(image_processor, images)  ->  {"patches": bytes, "levels": what a byte stands for, "image_grid_thw": ..}
    pixel_values(cut(..), frames) ->  what transformers' image processor would have given

transformers makes 24 bytes of every byte of a picture: a float, twice, since a picture is a video of two equal frames. So
much less to keep and to copy to a device, and four times as fast. The resizing is PyTorch's, as in transformers' default
image processor of these models; where a picture already has a size that the model takes, the numbers are equal to the bit.

Left out: image processors with other settings than resizing bicubically, rescaling and normalising (`cuts` says which).
"""

import warnings
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

# pixels of a picture are only read
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)


def cuts(image_processor) -> bool:
    """Whether `cut` stands for this image processor."""
    p = image_processor
    return (
        isinstance(p, Qwen2VLImageProcessorPil)
        and p.do_resize and p.do_rescale and p.do_normalize
        and p.resample == Image.Resampling.BICUBIC
    )  # fmt: skip


def cut(image_processor, images: list[Image.Image]) -> dict[str, Tensor]:
    """Pictures -> patches [n, patch * patch, 3] uint8, levels [1, 3, 256] float32, image_grid_thw [images, 3].

    Patches whose features will be merged stand next to each other. Raises ValueError for a picture too thin to resize.
    """
    p, merge = image_processor.patch_size, image_processor.merge_size
    bounds = dict(image_processor.size)
    patches, grids = [], []
    for image in images:
        H, W = smart_resize(image.height, image.width, p * merge, bounds["shortest_edge"], bounds["longest_edge"])
        h, w = H // p, W // p
        # a row of a patch is one item, which makes the copy a matter of few and large pieces
        rows = resized(image, H, W).reshape(H, W * 3).view(f"V{p * 3}")
        rows = rows.reshape(h // merge, merge, p, w // merge, merge).transpose(0, 3, 1, 4, 2)
        patches.append(np.ascontiguousarray(rows).view(np.uint8).reshape(h * w, p * p, 3))
        grids.append([1, h, w])
    table = levels(image_processor.rescale_factor, tuple(image_processor.image_mean), tuple(image_processor.image_std))
    joined = torch.from_numpy(np.concatenate(patches) if len(patches) > 1 else patches[0])
    return {"patches": joined, "levels": table, "image_grid_thw": torch.tensor(grids)}


def resized(image: Image.Image, H: int, W: int) -> np.ndarray:
    """-> [H, W, 3] uint8, by bicubic interpolation, antialiased where it shrinks."""
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if pixels.shape[:2] == (H, W):
        return pixels
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    # F.interpolate would put the channels apart again, which takes longer than the resizing
    out = torch.empty(1, 3, H, W, dtype=torch.uint8, memory_format=torch.channels_last)
    torch.ops.aten._upsample_bicubic2d_aa.out(source, (H, W), False, None, None, out=out)
    return out[0].permute(1, 2, 0).numpy()


@lru_cache
def levels(scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """[1, 3, 256] float32: (byte * scale - mean) / std, rounded where transformers rounds."""
    rescaled = (np.arange(256) * scale).astype(np.float32)
    mean, std = (np.array(x, dtype=np.float32)[:, None] for x in (mean, std))
    return torch.from_numpy((rescaled - mean) / std)[None]


def pixel_values(patches: Tensor, table: Tensor, frames: int) -> Tensor:
    """patches [n, p * p, 3] uint8, table [3, 256] -> [n, 3 * frames * p * p], every frame the same."""
    channel = torch.arange(len(table), dtype=torch.int32, device=table.device) * table.shape[1]
    numbers = table.flatten().index_select(0, (patches.int() + channel).mT.flatten())
    return numbers.view(len(patches), len(table), 1, -1).expand(-1, -1, frames, -1).flatten(1)
