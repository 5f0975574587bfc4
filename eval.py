"""How often a checkpoint is right: pass@1, maj@k and pass@k on any labelled data.

    python eval.py --model data/tiny --data tiny --split test --out base.json
    python eval.py --compare base.json trained.json

With n samples a question, c of them right:
    pass@k = 1 - C(n-c, k) / C(n, k)       unbiased (Chen et al. 2021, arXiv 2107.03374); pass@1 = c/n
    maj@n  = 1 if the commonest parsed answer is right; a tie for first counts the right one's share of it

Left out: graders other than the canonical form of data/answers.py.
"""

import json
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import cli
from data import BadRow, Example, load
from data.answers import canonical, extract_answer, option_key
from data.prompts import INSTRUCTION
from model_utils import Processor, compute_dtype, generate, load_model, load_processor


@dataclass
class EvalConfig:
    model: str = field(
        default=str(Path(__file__).parent / "data" / "tiny"), metadata={"help": "checkpoint folder or hub id"}
    )
    data: str = field(default="tiny", metadata={"help": "tiny, or a .jsonl file with answers"})
    split: str = field(default="test", metadata={"help": "split of the data, where it has several"})
    num_samples: int = field(default=8, metadata={"help": "samples per question: the k of maj@k and pass@k"})
    temperature: float = field(default=1.0, metadata={"help": "0 is greedy"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus sampling; 1 is off"})
    max_new_tokens: int = field(default=64, metadata={"help": "longest response"})
    max_prompt_tokens: int = field(default=2048, metadata={"help": "longer questions are skipped and counted"})
    seed: int = field(default=0, metadata={"help": "seed of the sampling"})
    limit: int = field(default=0, metadata={"help": "only the first so many questions; 0 is all"})
    out: str = field(default="", metadata={"help": "JSON file to write"})
    compare: list[str] = field(default_factory=list, metadata={"help": "two JSON files: the paired difference B - A"})

    def __post_init__(self):
        for name, low in (("num_samples", 1), ("max_new_tokens", 1), ("max_prompt_tokens", 1), ("limit", 0)):
            if getattr(self, name) < low:
                raise cli.UsageError(f"--{name} must be at least {low} (got {getattr(self, name)})")
        if self.temperature < 0:
            raise cli.UsageError(f"--temperature must not be negative (got {self.temperature})")
        if not 0 < self.top_p <= 1:
            raise cli.UsageError(f"--top_p must be above 0 and at most 1 (got {self.top_p})")
        if self.compare and len(self.compare) != 2:
            raise cli.UsageError(f"--compare takes two files (got {len(self.compare)})")


# --- Scores ------------------------------------------------------------------------------------------------------


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of the n samples, drawn without replacement, hold at least one of the c right ones."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority_at_n(keys: Sequence[str | None], gold: str) -> float:
    """1 where the commonest answer is the gold one, its share of a tie for first, else 0. None never votes."""
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    return 1.0 / sum(n == most for n in counts.values()) if counts[gold] == most else 0.0


def record(example: Example, texts: Sequence[str]) -> dict:
    """One question's row of the JSON."""
    keys = [option_key(extract_answer(text), example.choices) for text in texts]
    gold = option_key(example.answer, example.choices)
    return {
        "id": example.id,
        "category": example.meta.get("category", ""),
        "gold": gold,
        "answers": keys,
        "correct": sum(key == gold for key in keys),
        "parsed": sum(key is not None for key in keys),
        "majority": majority_at_n(keys, gold),
    }


def summary(records: Sequence[dict], k: int) -> dict:
    """Means over questions."""
    n = len(records)
    powers = sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})
    out = {f"pass@{j}": sum(pass_at_k(k, r["correct"], j) for r in records) / n for j in powers}
    out[f"maj@{k}"] = sum(r["majority"] for r in records) / n
    out["parsed"] = sum(r["parsed"] for r in records) / (n * k)
    out["questions"] = n
    return out


def report(records: Sequence[dict], k: int) -> dict:
    by_category = defaultdict(list)
    for r in records:
        by_category[r["category"]].append(r)
    return summary(records, k) | {"by_category": {c: summary(rs, k) for c, rs in sorted(by_category.items())}}


def compare(a: dict, b: dict, resamples: int = 10_000) -> dict:
    """Paired difference b - a over the questions that both hold, with bootstrap 95 % intervals over questions."""
    left, right = ({r["id"]: r for r in x["records"]} for x in (a, b))
    ids = sorted(left.keys() & right.keys())
    if not ids:
        raise cli.UsageError("--compare: the two files share no question")
    rng = np.random.default_rng(0)
    out = {"questions": len(ids)}
    for name, value in (("pass@1", lambda r: r["correct"] / len(r["answers"])), ("maj", lambda r: r["majority"])):
        difference = np.array([value(right[i]) - value(left[i]) for i in ids])
        means = np.array([difference[rng.integers(0, len(ids), len(ids))].mean() for _ in range(resamples)])
        low, high = np.quantile(means, (0.025, 0.975))
        out[name] = {"difference": float(difference.mean()), "low": float(low), "high": float(high)}
    return out


# --- Running -----------------------------------------------------------------------------------------------------


def labelled(
    examples, processor: Processor, max_prompt_tokens: int, instruction: str = INSTRUCTION, limit: int = 0
) -> tuple[list[Example], list[str]]:
    """The usable labelled questions and what was wrong with the others."""
    good, skipped = [], []
    for i in range(len(examples)):
        if limit and len(good) == limit:
            break
        try:
            example = examples[i]
            tokens = len(processor.keep(example, instruction).ids)
        except BadRow as error:
            skipped.append(str(error))
        except ValueError as error:  # the processor refuses the text or an image
            skipped.append(f"row {i}: {error}")
        else:
            if canonical(example.answer) is None:
                skipped.append(f"{example.id}: no answer")
            elif tokens > max_prompt_tokens:
                skipped.append(
                    f"{example.id}: {tokens} prompt tokens, more than --max_prompt_tokens {max_prompt_tokens}"
                )
            else:
                good.append(example)
    return good, skipped


def evaluate(
    model,
    processor: Processor,
    examples: Sequence[Example],
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    instruction: str = INSTRUCTION,
    batch: int = 128,
    texts: list | None = None,
) -> list[dict]:
    """Samples answers to labelled questions and grades them: one record per question.

    `texts`, where given, collects the responses, num_samples per question.
    """
    device = next(model.parameters()).device
    records = []
    bar = tqdm(total=len(examples), desc="evaluation", unit="q", leave=False, disable=None)
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        prompts = processor.collate([processor.encode(e, instruction) for e in part], device)
        rollout = generate(model, processor, prompts, num_samples, max_new_tokens, temperature, top_p, seed, step=-1)
        written = rollout.texts(processor)
        for i, example in enumerate(part):
            records.append(record(example, written[i * num_samples : (i + 1) * num_samples]))
        if texts is not None:
            texts.extend(written)
        bar.update(len(part))
        bar.set_postfix({"pass@1": f"{sum(r['correct'] for r in records) / (len(records) * num_samples):.3f}"})
    bar.close()
    return records


def table(columns: dict[str, dict], k: int) -> str:
    """Reports side by side, by category: pass@1, maj@k, pass@k."""
    measures = list(dict.fromkeys(("pass@1", f"maj@{k}", f"pass@{k}")))
    categories = list(next(iter(columns.values()))["by_category"])
    head = f"{'':12}" + "".join(f"{name:>{9 * len(measures)}}" for name in columns)
    lines = [head, f"{'category':12}" + "".join(f"{m:>9}" for _ in columns for m in measures) + "  questions"]
    for category in [*categories, None]:
        parts = [c if category is None else c["by_category"].get(category, {}) for c in columns.values()]
        cells = "".join(f"{p.get(m, math.nan):>9.3f}" for p in parts for m in measures)
        lines.append(f"{'all' if category is None else category or '-':12}{cells}{parts[0].get('questions', 0):>11}")
    return "\n".join(lines)


def write_json(path: str, value: dict) -> None:
    """Whole or not at all."""
    partial = f"{path}.partial"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(partial).write_text(json.dumps(value, indent=1))
        os.replace(partial, path)
    except OSError as error:
        raise cli.UsageError(f"--out {path}: {error.strerror}") from None


def read_json(path: str) -> dict:
    try:
        value = json.loads(Path(path).read_text())
        return value | {"records": value["records"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise cli.UsageError(f"--compare {path}: not a result of eval.py --out") from None


def main(argv: list[str]) -> int:
    config = cli.parse(EvalConfig, argv)
    if config.compare:
        result = compare(*(read_json(path) for path in config.compare))
        for name in ("pass@1", "maj"):
            d = result[name]
            print(
                f"{name:7} {d['difference']:+.4f}  [{d['low']:+.4f}, {d['high']:+.4f}]  over {result['questions']} questions"
            )
        if config.out:
            write_json(config.out, result)
        return 0
    source = load(config.data, config.split, labels=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = load_processor(config.model)
    dtype = compute_dtype("auto", device)
    model = load_model(config.model, dtype, dtype, device)
    examples, skipped = labelled(source, processor, config.max_prompt_tokens, limit=config.limit)
    if skipped:
        print(f"skipped {len(skipped)} rows, the first: {skipped[0]}", file=sys.stderr)
    if not examples:
        raise cli.UsageError(f"--data {config.data}: no usable labelled question")
    records = evaluate(
        model,
        processor,
        examples,
        config.num_samples,
        config.max_new_tokens,
        config.temperature,
        config.top_p,
        config.seed,
    )
    result = report(records, config.num_samples)
    print(table({Path(config.model).name: result}, config.num_samples))
    if config.out:
        write_json(config.out, result | {"skipped": skipped, "config": vars(config), "records": records})
    return 0


if __name__ == "__main__":
    cli.run(main)
