"""How fast pictures come out of a parquet file, beside the decoder's own limit.

    python -m bench.data_path                       prints a table and writes bench/results/data.md

Two limits, each the libraries alone, from encoded bytes in memory: Pillow's decoding to RGB; and
the same with PyTorch's resizing to the size that the model takes. The reader is data.load: row
groups from a file, pictures decoded with its bounds, examples made. The stream is what training
waits for: data.stream.Questions, whose threads read, decode, resize and tokenise, from its second
step on. All go over the same one-megapixel pictures, in turns; each figure is the median over the
rounds. JPEGs hold a smooth picture with grain, PNGs a drawing of lines and circles.

Left out: JPEG's decoding at a reduced size, which would change the pixels that a model sees.
"""

import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image, ImageDraw
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from bench.machine import describe_machine
from common import cli
from common.cli import flag
from data import TINY, load
from data.stream import THREADS, Questions
from data.tables import need
from model.pixels import resized
from model_utils import keep_freed_memory, load_processor

STEP = 32  # questions of a step
PIXELS = (262144, 1204224)  # bounds of a picture, of the paper's training


@dataclass
class Bench:
    """What is read, and how often."""

    images: int = flag(128, "pictures per round and format; a multiple of 32")
    rounds: int = flag(7, "rounds; the median is shown")
    side: list[int] = flag(
        [1000, 1008], "width and height of a picture; one of 1008 needs no resizing by Qwen2.5-VL's rules"
    )
    out: str = flag(str(Path(__file__).parent / "results" / "data.md"), "Markdown to write")


def drawn(kind: str, side: int, seed: int) -> bytes:
    rng, file = random.Random(seed), io.BytesIO()
    if kind == "JPEG":
        grain = Image.effect_noise((side, side), 12)
        picture = Image.merge(
            "RGB", [Image.blend(Image.radial_gradient("L").resize((side, side)), grain, 0.3)] * 3
        )
        picture.save(file, kind, quality=90)
    else:
        picture = Image.new("RGB", (side, side), "white")
        canvas = ImageDraw.Draw(picture)
        for _ in range(40):
            box = sorted(rng.randrange(side) for _ in range(2)) + sorted(
                rng.randrange(side) for _ in range(2)
            )
            canvas.ellipse((box[0], box[2], box[1], box[3]), outline=(rng.randrange(200), 20, 90), width=3)
            canvas.line([rng.randrange(side) for _ in range(4)], fill="black", width=4)
        picture.save(file, kind)
    return file.getvalue()


def decode(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    image.load()
    return image.convert("RGB") if image.mode != "RGB" else image


def rate(pool: ThreadPoolExecutor, work: Callable, items) -> float:
    items = list(items)
    started = time.perf_counter()
    for _ in pool.map(work, items):
        pass
    return len(items) / (time.perf_counter() - started)


def measure(settings: Bench, kind: str, side: int, folder: Path) -> dict:
    """Pictures a second of the libraries alone, of the reader and of the whole stream."""
    import pyarrow
    import pyarrow.parquet

    encoded = [drawn(kind, side, seed) for seed in range(settings.images)]
    path = folder / f"{kind}-{side}.parquet"
    rows = [
        {"images": [{"bytes": e, "path": None}], "problem": "<image>What?", "answer": "1"} for e in encoded
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)
    processor = load_processor(str(TINY), *PIXELS)
    wanted = smart_resize(side, side, 28, *PIXELS)
    rates = {name: [] for name in ("decode", "resize", "reader", "stream")}
    with ThreadPoolExecutor(THREADS) as pool:
        rate(pool, decode, encoded[:8])
        for _ in range(settings.rounds):
            rates["decode"].append(rate(pool, decode, encoded))
            rates["resize"].append(rate(pool, lambda e: resized(decode(e), *wanted), encoded))
            source = load(str(path))  # opened anew: its row groups are read from the file
            rates["reader"].append(
                rate(pool, lambda i, source=source: source[i].images[0].size, range(len(source)))
            )
            questions, step = Questions(str(path), processor, 0, 4096, ahead=True), min(STEP, settings.images)
            questions.next(step)  # in which the threads start and each copies the tokenizer
            started = time.perf_counter()
            # an epoch, step by step
            taken = sum(len(questions.next(step)) for _ in range(settings.images // step))
            rates["stream"].append(taken / (time.perf_counter() - started))
            questions.close()
    ratio = lambda a, b: median(x / y for x, y in zip(rates[a], rates[b], strict=True))  # noqa: E731
    found = {name: median(each) for name, each in rates.items()}
    found |= {"reader / decode": ratio("reader", "decode"), "stream / resize": ratio("stream", "resize")}
    return found | {"kind": kind, "side": side, "kB": sum(map(len, encoded)) / len(encoded) / 1000}


def table(settings: Bench, results: list[dict]) -> str:
    lines = [
        f"Pictures a second, {THREADS} threads, medians of {settings.rounds} rounds in turns over "
        f"{settings.images} pictures:",
        "",
        "| format | width and height | kB each | decoding alone | reader | reader / decoding "
        "| decoding and resizing alone | stream of questions | stream / both |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r['kind']} | {r['side']} | {r['kB']:.0f} | {r['decode']:.0f} | {r['reader']:.0f} "
            f"| {r['reader / decode']:.2f} "
            f"| {r['resize']:.0f} | {r['stream']:.0f} | {r['stream / resize']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    settings = cli.parse(Bench, argv)
    keep_freed_memory()  # as training does
    need("pyarrow", "bench.data_path")
    with tempfile.TemporaryDirectory() as folder:
        kinds = [(kind, side) for side in settings.side for kind in ("JPEG", "PNG")]
        shown = table(settings, [measure(settings, kind, side, Path(folder)) for kind, side in kinds])
    print(shown)
    if settings.out:
        command = f"python -m bench.data_path {' '.join(argv)}".strip()
        Path(settings.out).write_text(
            f"# Reading pictures\n\n`{command}` on {describe_machine()}\n\n{shown}\n"
        )
        print(f"written to {settings.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
