"""What decoding alone gives: a checkpoint's pass@1 on the built-in questions, greedy and sampled, and greedy
where a response may not begin with the bare box. A gain of training has to stand beside the base's:

    python -m bench.decodings --models data/tiny runs/mine/checkpoints/step-60

The last is by transformers' own generate, as ours has no such switch.
"""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from common import cli
from common.cli import flag
from data import TINY, load
from evaluation.answering import Decoding, evaluate, labelled
from evaluation.metrics import record, report
from mmupt import Config
from model_utils import load_model, load_processor

SAMPLED = {"greedy": (1, 0.0), "T .3": (4, 0.3), "T 1": (8, 1.0)}  # samples, temperature
BATCH = 128


@dataclass
class Decodings:
    models: list[str] = flag([str(TINY)], "checkpoint folders")
    split: str = flag("test", "of the built-in questions")
    limit: int = flag(0, "questions; 0 is all", "0 or more")


@torch.inference_mode()
def forced(folder: str, processor, examples) -> float:
    """pass@1 of greedy responses that don't begin with \\boxed."""
    from transformers import AutoModelForImageTextToText

    model, right = AutoModelForImageTextToText.from_pretrained(folder).eval(), 0
    box = processor.tokenizer("\\boxed{")["input_ids"][0]
    for start in tqdm(range(0, len(examples), BATCH), desc="steps forced", leave=False, disable=None):
        part = list(examples[start : start + BATCH])
        asked = [processor.encode(example) for example in part]
        width = max(len(q.ids) for q in asked)
        pad = processor.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(q.ids)) + q.ids for q in asked])
        mask = torch.tensor([[0] * (width - len(q.ids)) + [1] * len(q.ids) for q in asked])
        types = (ids == model.config.image_token_id).int()
        pictures = processor.image_processor([e.images[0] for e in part], return_tensors="pt")
        said = model.generate(
            input_ids=ids, attention_mask=mask, mm_token_type_ids=types, **pictures, do_sample=False,
            max_new_tokens=Config().max_new_tokens, begin_suppress_tokens=[box],
        )  # fmt: skip
        for example, row in zip(part, said[:, width:].tolist(), strict=True):
            right += record(example, [processor.tokenizer.decode(row, skip_special_tokens=True)])["correct"]
    return right / len(examples)


def main(argv: list[str]) -> int:
    settings, config = cli.parse(Decodings, argv), Config()
    print(f"{'':40} {' '.join(f'{n:>8}' for n in (*SAMPLED, 'maj@8'))} steps forced")
    for folder in settings.models:
        processor, model = load_processor(folder), load_model(folder)
        source = load("tiny", settings.split, labels=True)
        examples, _ = labelled(source, processor, config.max_prompt_tokens, limit=settings.limit)
        found = {}
        for name, (samples, temperature) in SAMPLED.items():
            decoding = Decoding(samples, config.max_new_tokens, temperature)
            result = report(evaluate(model, processor, examples, decoding), samples)
            found[name] = result["pass@1"]
        found["maj@8"] = result["maj@8"]
        figures = " ".join(f"{value:8.3f}" for value in found.values())
        print(f"{folder[-40:]:40} {figures} {forced(folder, processor, examples):12.3f}", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
