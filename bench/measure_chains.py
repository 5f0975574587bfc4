"""A checkpoint's test figures, the share of responses with steps, and how often those are right."""

from dataclasses import dataclass

from common import cli
from common.cli import flag
from data import load
from eval import write_json
from evaluation.answering import Decoding, evaluate, labelled
from evaluation.metrics import report
from mmupt import Config
from model_utils import load_model, load_processor


@dataclass
class Measure:
    model: str = flag("", "checkpoint folder")
    out: str = flag("", "JSON file to write")
    split: str = flag("test", "split of the built-in questions")


def main(argv: list[str]) -> int:
    settings, config, texts = cli.parse(Measure, argv), Config(), []
    processor, model = load_processor(settings.model), load_model(settings.model)
    examples, _ = labelled(load("tiny", settings.split, labels=True), processor, config.max_prompt_tokens)
    G = config.eval_samples
    records = evaluate(
        model, processor, examples, Decoding(G, config.max_new_tokens, config.temperature), texts=texts
    )
    right = [verdict for r in records for verdict in r["right"]]
    chain = [not text.lstrip().startswith("\\boxed") for text in texts]
    n = sum(chain)
    result = report(records, G) | {
        "chain_share": n / len(chain),
        "chain_accuracy": sum(r for r, c in zip(right, chain, strict=True) if c) / max(n, 1),
        "bare_accuracy": sum(r for r, c in zip(right, chain, strict=True) if not c) / max(len(chain) - n, 1),
        "records": records,
    }
    write_json(settings.out, result)
    return 0


if __name__ == "__main__":
    cli.run(main)
