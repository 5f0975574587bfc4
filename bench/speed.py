"""How fast, against whom, and how far from what the machine can do.

    make bench
    python -m bench.speed --parts rollout

Peers: Hugging Face `generate` (the best of its cache modes) and TRL's GRPOTrainer
(bench/trl_peer.py), in one process with ours, taking turns: A, B, A, B. Times are medians, with the
fastest and the slowest beside them. Greedy tokens (on a CPU), the number of tokens, and the
gradients of shared and unshared updates are compared before they are timed. Writes
bench/results/speed.{json,md}; `--device cuda` writes speed-gpu.{json,md}.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from bench.gpu_kit import kernels_of
from bench.machine import describe_machine
from bench.shapes import build_shape
from common import cli
from common.cli import flag
from common.distributed import World
from common.run_log import Meter
from data import Example, load
from mmupt import Config, LossInputs, accumulate_gradients, apply_gradients, group_advantages, logprobs_before
from model.decode import DecodeBatch, MemoryEstimate
from model.families import image_inputs, text_model
from model.loading import autocast
from model.packed_attention import Layout, Sequences
from model.sampling import Sampling, bias_against
from model_utils import Rollout, generate, load_model, load_processor, rollout_logprobs, token_logprobs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
# the one that needs TRL comes last: where that is missing, the others have run
PARTS = ("rollout", "shared", "constant", "growth", "profile", "step")
SAMPLED = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}  # as mmupt samples, in transformers' settings


@dataclass
class Speed:
    parts: str = flag(",".join(PARTS), "comma-separated parts to run")
    device: str = flag("cpu", "cpu or cuda")
    shape: str = flag("tiny", "tiny, or a Qwen2.5-VL shape with random weights: toy, 3b, 7b")
    questions: int = flag(8, "P")
    group_size: int = flag(8, "G")
    max_new_tokens: int = flag(64, "tokens of a response")
    image_side: int = flag(448, "pixels; 448 is 256 image tokens")
    repeats: int = flag(7, "timed rounds; the median counts")
    vocabulary: int = flag(32768, "of the wider model whose rollout is measured too; 0: none")
    step_vocabulary: int = flag(0, "the same for the step; TRL's takes gigabytes")
    out: str = flag("", "where results go, without suffix; empty: bench/results/speed")
    peak: str = flag("", "inner use: print the peak memory of one side, ours or trl")
    folder: str = flag("", "inner use: the model of --peak")
    micro_batch: int = flag(0, "inner use: TRL's, for --peak")


# --- Measuring ------------------------------------------------------------------------------------


def clock(work: Callable[[], object], device: str) -> float:
    """Seconds; work that returns a float has measured itself."""
    wait(device)
    start = time.perf_counter()
    own = work()
    wait(device)
    return own if isinstance(own, float) else time.perf_counter() - start


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def in_turns(sides: dict[str, Callable], repeats: int, device: str, what: str) -> dict[str, list[float]]:
    """Each side once to warm up, then all in turns."""
    for work in sides.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(repeats), desc=what, disable=None, leave=False):
        for name, work in sides.items():
            seconds[name].append(clock(work, device))
    return seconds


def spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})"


def ratio_of(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return median(theirs) / median(ours)


def table(head: Sequence[str], rows: Sequence[Sequence]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)] + [""]


# --- What is measured -----------------------------------------------------------------------------


class Bed:
    """A model folder, its processor with images of a fixed size, and questions."""

    def __init__(self, s: Speed, folder: str | Path):
        self.s, self.folder, self.device = s, str(folder), s.device
        side = s.image_side**2
        self.processor = load_processor(self.folder, side, side)
        self.processor.save(self.folder)  # TRL reads the sizes from the folder
        drawn = load("tiny", "test")
        self.with_images = [drawn[i] for i in range(s.questions)]
        self.short = [Example(e.id, (), e.question.split(".")[-1]) for e in self.with_images]
        # all responses are max_new_tokens long
        self.never_ends = replace(self.processor, eos_ids=())
        self.compute = torch.bfloat16 if s.device.startswith("cuda") else torch.float32

    def model(self):
        return load_model(self.folder, compute=self.compute, device=self.device)

    def prompts(self, examples: Sequence[Example], processor=None):
        processor = processor or self.processor
        return processor.collate([processor.encode(e) for e in examples], self.device)


def endless(processor, device: str) -> Sampling:
    """At temperature 1, with no token that ends a response."""
    bias = bias_against(processor.banned().to(device))
    return Sampling(1.0, 1.0, bias, torch.tensor([], dtype=torch.long, device=device))


class EndAt(StoppingCriteria):
    """Ends row b of Hugging Face's batch after lengths[b] tokens."""

    def __init__(self, prompt: int, lengths: torch.Tensor):
        self.prompt, self.lengths = prompt, lengths

    def __call__(self, input_ids, scores, **_):
        return input_ids.shape[1] - self.prompt >= self.lengths


class ended_at:
    """Ends row b of ours after lengths[b] tokens."""

    def __init__(self, lengths: torch.Tensor | None):
        self.lengths, self.accept = lengths, DecodeBatch.sample_next

    def __enter__(self):
        accept, lengths = self.accept, self.lengths

        def accept_and_end(batch, logits):
            accept(batch, logits)
            batch.live.logical_and_(batch.lengths < lengths[batch.rows])

        if lengths is not None:
            DecodeBatch.sample_next = accept_and_end

    def __exit__(self, *_):
        DecodeBatch.sample_next = self.accept


class Generate:
    """Hugging Face's generate, for P questions x G samples, in its usual left-padded batch."""

    def __init__(self, model, pad: int, cache: str):
        """`model`: transformers' own, its attention "sdpa"."""
        self.model, self.pad, self.cache = model, pad, cache
        self.images: dict[int, tuple] = {}
        # generate() would fill it in, and end rows by it
        self.model.generation_config.eos_token_id = None

    def __call__(self, prompts, G: int, T: int, lengths=None, greedy=False, suppress=None):
        pad = self.pad
        width, device = prompts.ids.shape[1], prompts.ids.device
        shift = width - prompts.lengths
        place = torch.arange(width, device=device) - shift[:, None]
        ids = torch.where(place < 0, pad, prompts.ids.gather(1, place.clamp(min=0)))
        inputs = dict(input_ids=ids, attention_mask=(place >= 0).long())
        if id(prompts) not in self.images:  # not a part of what is timed
            self.images[id(prompts)] = image_inputs(self.model, prompts, lean=False), prompts
        if images := self.images[id(prompts)][0]:
            inputs |= dict(**images, mm_token_type_ids=(ids == self.model.config.image_token_id).int())
        settings = GenerationConfig(
            max_new_tokens=T,
            num_return_sequences=G,
            pad_token_id=pad,
            cache_implementation=self.cache,
            suppress_tokens=suppress,
            do_sample=not greedy,
            **dict.fromkeys(("temperature", "top_p", "top_k")) if greedy else SAMPLED,
        )
        ends = None if lengths is None else StoppingCriteriaList([EndAt(width, lengths)])
        with torch.no_grad():
            out = self.model.generate(**inputs, generation_config=settings, stopping_criteria=ends)
        assert out.shape[1] - width == (T if lengths is None else int(lengths.max())), (
            "generate() ended early"
        )
        return out[:, width:]


def peer_of(bed: Bed, cache: str) -> Generate:
    dtype = torch.bfloat16 if bed.device.startswith("cuda") else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(bed.folder, dtype=dtype, attn_implementation="sdpa")
    return Generate(model.to(bed.device).eval(), bed.processor.tokenizer.pad_token_id, cache)


def geometric(rows: int, most: int, device: str) -> torch.Tensor:
    """Lengths of mean about most / 4, at most `most`."""
    return torch.from_numpy(np.random.default_rng(0).geometric(4 / most, rows).clip(max=most)).to(device)


# --- The parts ------------------------------------------------------------------------------------


def widened(s: Speed, bed: Bed, vocabulary: int) -> dict[str, Bed]:
    """The bed, and the model with a wider vocabulary: real ones have 30,000 to 260,000 entries."""
    beds = {f"vocabulary {bed.processor.vocabulary}": bed}
    if vocabulary and s.shape == "tiny":
        folder = Path(bed.folder).with_name(f"vocabulary-{vocabulary}")
        model = AutoModelForImageTextToText.from_pretrained(
            shutil.copytree(bed.folder, folder, dirs_exist_ok=True)
        )
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
        model.save_pretrained(folder)
        beds[f"vocabulary {vocabulary}"] = Bed(s, folder)
    return beds


def rollout_part(s: Speed, bed: Bed) -> tuple[dict, list[str]]:
    return for_each(widened(s, bed, s.vocabulary), rollout_against_generate)


def for_each(beds: dict[str, Bed], measure: Callable) -> tuple[dict, list[str]]:
    found, text = {}, []
    for name, bed in beds.items():
        found[name], lines = measure(bed.s, bed, name)
        text += lines
    return found, text


def rollout_against_generate(s: Speed, bed: Bed, title: str) -> tuple[dict, list[str]]:
    model, peers = bed.model(), {mode: peer_of(bed, mode) for mode in ("dynamic", "static")}
    G, T = s.group_size, s.max_new_tokens
    banned = bed.never_ends.banned().nonzero()[:, 0].tolist()
    found, rows = {}, []
    for name, examples in (("image prompt", bed.with_images), ("short text prompt", bed.short)):
        prompts = bed.prompts(examples)
        if bed.device == "cpu":  # in bfloat16 two right ways of one sum part at the first near tie
            ours = generate(model, bed.never_ends, prompts, 1, 16, temperature=0).tokens
            theirs = peers["dynamic"](prompts, 1, 16, greedy=True, suppress=banned)
            assert torch.equal(ours, theirs), f"{name}: greedy tokens differ"
        for shape, lengths in (("all as long", None), ("ragged", geometric(len(prompts) * G, T, bed.device))):

            def ours(prompts=prompts, lengths=lengths):
                with ended_at(lengths):
                    return generate(model, bed.never_ends, prompts, G, T).lengths

            sides = {"ours": ours}
            for mode, peer in peers.items():
                sides[f"generate, {mode} cache"] = lambda p=prompts, n=lengths, peer=peer: peer(p, G, T, n)
            tokens = int(ours().sum())
            assert tokens == (len(prompts) * G * T if lengths is None else int(lengths.sum()))
            seconds = in_turns(sides, s.repeats, bed.device, f"{name}, {shape}")
            best = min((k for k in seconds if k != "ours"), key=lambda k: median(seconds[k]))
            times = ratio_of(seconds[best], seconds["ours"])
            label = f"{name} ({int(prompts.lengths.max())} tokens), {shape}"
            found[label] = {"seconds": seconds, "tokens": tokens, "best_peer": best, "ratio": times}
            cells = [spread(seconds[k]) for k in sides]
            rows.append(
                [label, tokens, *cells, f"{tokens / median(seconds['ours']):.0f}", f"**{times:.2f}**"]
            )
    text = [f"### Rollout: {s.questions} questions x {G} samples, up to {T} tokens, sampled, {title}", ""]
    head = ["", "tokens", *(f"{k}, s" for k in sides), "ours, tokens/s", "best of theirs / ours"]
    return found, text + table(head, rows)


class OurStep:
    """One full GRPO step as mmupt's loop takes it, on the same questions each time."""

    def __init__(self, bed: Bed, examples: Sequence[Example], beta: float = 0.01):
        s = bed.s
        self.config = Config(
            model=bed.folder,
            questions=s.questions,
            group_size=s.group_size,
            max_new_tokens=s.max_new_tokens,
            beta=beta,
            eval_data="",
        )
        self.bed, self.examples = bed, examples
        self.world = World(0, 1, torch.device(bed.device))
        self.policy = bed.model()
        base = load_model(bed.folder, dtype=bed.compute, device=bed.device) if beta else None
        self.reference = partial(nullcontext, base) if beta else None
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), 1e-4, weight_decay=0.01, fused=True)
        self.steps = 0
        self.stages: dict[str, float] = {}

    def __call__(self) -> None:
        bed, config, marks = self.bed, self.config, []

        def mark(name):
            wait(bed.device)
            marks.append((name, time.perf_counter()))

        mark("start")
        prompts = bed.prompts(self.examples)
        mark("prompts")
        G, T = config.group_size, config.max_new_tokens
        rollout = generate(self.policy, bed.never_ends, prompts, G, T, step=self.steps)
        mark("generate")
        rewards = (rollout.tokens.sum(1) % 2 == 0).float().view(-1, G)
        inputs = LossInputs(
            rollout,
            *logprobs_before(config, self.policy, self.reference, rollout),
            group_advantages(rewards).flatten(),
        )
        mark("score")
        meter = Meter()
        accumulate_gradients(config, self.world, self.policy, inputs, meter)
        apply_gradients(config, self.world, self.policy, self.optimizer, meter)
        mark("update")
        self.steps += 1
        self.stages = {name: now - before for (_, before), (name, now) in zip(marks, marks[1:], strict=False)}


def step_part(s: Speed, bed: Bed) -> tuple[dict, list[str]]:
    return for_each(widened(s, bed, s.step_vocabulary), step_against_trl)


def step_against_trl(s: Speed, bed: Bed, name: str) -> tuple[dict, list[str]]:
    from bench.trl_peer import TrlPeer

    ours = OurStep(bed, bed.with_images)
    options = dict(
        num_generations=s.group_size, max_new_tokens=s.max_new_tokens, force_length=True, device=bed.device
    )
    sequences = s.questions * s.group_size
    sizes = {
        f"TRL, {n} sequences a forward": n for n in sorted({sequences, max(1, sequences // 4)}, reverse=True)
    }
    peers = {k: TrlPeer(bed.folder, bed.with_images, micro_batch=n, **options) for k, n in sizes.items()}
    stages: dict[str, list[dict]] = {k: [] for k in ("ours", *peers)}

    def ours_step():
        ours()
        stages["ours"].append(ours.stages)

    def their_step(k):
        seconds = peers[k].step()
        assert set(peers[k].lengths) == {s.max_new_tokens}
        stages[k].append(peers[k].stages)
        return seconds

    sides = {"ours": ours_step} | {k: (lambda k=k: their_step(k)) for k in peers}
    seconds = in_turns(sides, s.repeats, bed.device, f"step, {name}")
    best = min(peers, key=lambda k: median(seconds[k]))
    times = ratio_of(seconds[best], seconds["ours"])
    memory = {"ours": peak_of(s, bed, "ours"), "trl": peak_of(s, bed, "trl", sizes[best])}
    found = {"seconds": seconds, "best_peer": best, "ratio": times, "memory_mb": memory, "stages": {}}
    rows = []
    for k in ("ours", best):
        by_stage = {
            n: median(x.get(n, 0.0) for x in stages[k][1:])
            for n in ("prompts", "generate", "score", "update")
        }
        found["stages"][k] = by_stage
        tokens = sequences * s.max_new_tokens / median(seconds[k])
        side = memory["ours" if k == "ours" else "trl"]
        rows.append(
            [k, spread(seconds[k]), *(f"{v:.3f}" for v in by_stage.values()), f"{tokens:.0f}", *side.values()]
        )
    rows.append(["ratio", f"**{times:.2f}**", "", "", "", "", ""])
    rows[-1] += [f"**{memory['ours'][k] / max(memory['trl'][k], 1):.2f}**" for k in memory["ours"]]
    head = [
        "",
        "step, s",
        "prompts",
        "generate",
        "score",
        "update",
        "tokens/s",
        "peak, MB",
        "of it above the loaded model",
    ]
    size = f"{s.questions} x {s.group_size} x {s.max_new_tokens} tokens"
    title = f"### Full step, beta > 0, {size}, image prompts, {name}"
    return found, [title, "", *table(head, rows)]


def peak_of(s: Speed, bed: Bed, side: str, micro_batch: int = 0) -> dict[str, int]:
    """Peak memory of three steps in a process of its own, MB: in all, and above what stands once
    the models are loaded."""
    flags = ["--peak", side, "--folder", bed.folder, "--device", s.device, "--micro_batch", str(micro_batch)]
    for name in ("questions", "group_size", "max_new_tokens", "image_side"):
        flags += [f"--{name}", str(getattr(s, name))]
    done = subprocess.run(
        [sys.executable, "-m", "bench.speed", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def print_peak(s: Speed) -> int:
    bed = Bed(s, s.folder)
    if s.peak == "ours":
        step = OurStep(bed, bed.with_images)
    else:
        from bench.trl_peer import TrlPeer

        peer = TrlPeer(
            bed.folder,
            bed.with_images,
            num_generations=s.group_size,
            max_new_tokens=s.max_new_tokens,
            force_length=True,
            device=s.device,
            micro_batch=s.micro_batch,
        )
        step = peer.step
    on_gpu = s.device.startswith("cuda")
    loaded = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")
    print(json.dumps({"peak": round(peak / 2**20), "above": round((peak - loaded) / 2**20)}))
    return 0


def resident(which: str) -> int:
    """Bytes: VmRSS now, VmHWM at the peak. Not getrusage's: its peak is inherited from the process
    that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) * 1024


def unshared(rollout: Rollout) -> Rollout:
    """The same responses, each as a question of its own: prompt and images are read G times."""
    G = rollout.num_samples
    return replace(
        rollout,
        prompts=rollout.prompts.select([p for p in range(len(rollout.prompts)) for _ in range(G)]),
        num_samples=1,
    )


def update(model, rollout: Rollout) -> None:
    """Forward and backward of one micro-batch."""
    model.zero_grad()
    token_logprobs(model, rollout).sum().backward()


def shared_part(s: Speed, bed: Bed) -> tuple[dict, list[str]]:
    model, T = bed.model(), s.max_new_tokens
    side = s.image_side * 7 // 8  # with 448: 196 image tokens and 61 of text
    prompts = bed.prompts(bed.with_images, load_processor(bed.folder, side**2, side**2))
    found, rows = {}, []
    for G in (1, 2, 4, 8, 16):
        rollout = generate(model, bed.never_ends, prompts, G, T)
        apart = unshared(rollout)
        both = []
        for r in (rollout, apart):
            update(model, r)
            both.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        difference = float((both[0] - both[1]).norm() / both[1].norm())
        assert difference < (1e-5 if bed.device == "cpu" else 2e-2), difference
        sides = {"shared": lambda r=rollout: update(model, r), "unshared": lambda r=apart: update(model, r)}
        seconds = in_turns(sides, s.repeats, bed.device, f"update, G {G}")
        L = int(prompts.lengths.max())
        times = ratio_of(seconds["unshared"], seconds["shared"])
        found[f"G {G}"] = {"seconds": seconds, "ratio": times, "gradient_difference": difference}
        tokens = [s.questions * (L + G * T), s.questions * G * (L + T)]
        rows.append(
            [G, *tokens, *(spread(x) for x in seconds.values()), f"**{times:.2f}**", f"{difference:.1e}"]
        )
    draw_curve(
        found, Path(f"{out_of(s)}-shared.png"), f"prompt {L}, responses of {T}, {s.questions} questions"
    )
    head = [
        "G",
        "P (L + G T)",
        "P G (L + T)",
        "shared, s",
        "unshared, s",
        "ratio",
        "relative difference of gradients",
    ]
    return found, [f"### Update: prompt {L}, responses of {T}", "", *table(head, rows)]


def draw_curve(found: dict, path: Path, title: str) -> None:
    """Seconds of an update as the group grows: seconds follow P (L + G T) where the prompt is
    shared, else P G (L + T)."""
    try:
        import matplotlib
    except ImportError:
        print("no curve: pip install matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    sizes = [int(name.split()[1]) for name in found]
    for side, colour in (("unshared", "tab:gray"), ("shared", "tab:blue")):
        runs = [one["seconds"][side] for one in found.values()]
        axes.plot(sizes, [median(x) for x in runs], "o-", color=colour, label=side)
        axes.fill_between(
            sizes, [min(x) for x in runs], [max(x) for x in runs], color=colour, alpha=0.2, linewidth=0
        )
    axes.set(xlabel="samples a question, G", ylabel="seconds of an update", title=title, xticks=sizes, ylim=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def growth_part(s: Speed, bed: Bed) -> tuple[dict, list[str]]:
    """Seconds by stage as one size grows."""
    model, found, text = bed.model(), {}, []

    def stages_of(model, never_ends, prompts, G: int, T: int) -> dict[str, float]:
        rollout = generate(model, never_ends, prompts, G, T)
        sampling = endless(never_ends, bed.device)
        with_positions = rollout.prompts

        def prefill():
            with torch.inference_mode(), autocast(model):
                DecodeBatch(model, with_positions, G, T, sampling)

        sides = {
            "prefill": prefill,
            "rollout": lambda: generate(model, never_ends, with_positions, G, T),
            "score": lambda: rollout_logprobs(model, rollout, 16384),
            "update": lambda: update(model, rollout),
        }
        return {k: median(v) for k, v in in_turns(sides, s.repeats, bed.device, "growth").items()}

    def grow(title: str, cases: dict, measure: Callable) -> None:
        rows = []
        for value, case in cases.items():
            stages = measure(case)
            found[f"{title} {value}"] = stages
            rows.append([value, *(f"{x:.3f}" for x in stages.values())])
        text.extend([f"### Seconds by stage: {title}", "", *table([title, *stages], rows)])

    G, T, image = s.group_size, s.max_new_tokens, bed.prompts(bed.with_images)
    grow(
        "samples G", {g: g for g in (1, 2, 4, 8, 16)}, lambda g: stages_of(model, bed.never_ends, image, g, T)
    )
    grow(
        "response tokens",
        {t: t for t in (16, 32, 64, 128)},
        lambda t: stages_of(model, bed.never_ends, image, G, t),
    )

    def with_side(side: int):
        processor = load_processor(bed.folder, side**2, side**2)
        return stages_of(model, bed.never_ends, bed.prompts(bed.with_images, processor), G, T)

    sides = {side: (side // 28) ** 2 for side in (112, 224, 448, 672)}
    grow("image tokens", {tokens: side for side, tokens in sides.items()}, with_side)
    if s.shape == "tiny":

        def with_vocabulary(V: int):
            with tempfile.TemporaryDirectory() as folder:
                wide = AutoModelForImageTextToText.from_pretrained(bed.folder)
                wide.resize_token_embeddings(V, mean_resizing=False)
                wide.save_pretrained(folder)
                processor = replace(bed.never_ends, vocabulary=V)
                return stages_of(
                    load_model(folder, compute=bed.compute, device=bed.device), processor, image, G, T
                )

        grow("vocabulary", {v: v for v in (512, 8192, 32768, 151936)}, with_vocabulary)
    return found, text


def constant_part(s: Speed, bed: Bed) -> tuple[dict, list[str]]:
    """What must not grow: the prefill with G, and the rollout with rows that have ended."""
    model, prompts, T, found = bed.model(), bed.prompts(bed.with_images), s.max_new_tokens, {}
    prompts = generate(model, bed.never_ends, prompts, 1, 1).prompts  # with their positions
    sampling = endless(bed.never_ends, bed.device)

    def prefill(G: int):
        with torch.inference_mode(), autocast(model):
            DecodeBatch(model, prompts, G, T, sampling)

    seconds = in_turns(
        {f"prefill, {g} samples": lambda g=g: prefill(g) for g in (1, 2, 4, 8, 16)},
        2 * s.repeats,
        bed.device,
        "prefill",
    )
    found["prefill"] = seconds
    rows = [[k, spread(v)] for k, v in seconds.items()]

    G = s.group_size
    lengths = torch.full((len(prompts) * G,), T, device=bed.device)
    lengths.view(-1, G)[:, G // 2 :] = 1

    def half_end():
        with ended_at(lengths):
            generate(model, bed.never_ends, prompts, G, T)

    # rows that ended should cost nothing: the same as if they had never been there
    sides = {
        f"rollout, {G} samples, half end at once": half_end,
        f"rollout, {G // 2} samples": lambda: generate(model, bed.never_ends, prompts, G // 2, T),
        f"rollout, {G} samples": lambda: generate(model, bed.never_ends, prompts, G, T),
    }
    seconds = in_turns(sides, 2 * s.repeats, bed.device, "finished rows")
    found["finished rows"] = seconds
    rows += [[k, spread(v)] for k, v in seconds.items()]
    return found, ["### What must not grow", "", *table(["", "s"], rows)]


def machine_rates(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """(bytes/s of a copy, read and write; FLOP/s of a matrix product), the best of several."""
    big = torch.zeros(2**28 if device.startswith("cuda") else 2**26, dtype=torch.uint8, device=device)
    other = torch.empty_like(big)
    copy = min(clock(lambda: (other.copy_(big), None)[1], device) for _ in range(10))
    n = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(n, n, dtype=dtype, device=device)
    product = min(clock(lambda: torch.mm(a, a), device) for _ in range(10))
    return 2 * big.numel() / copy, 2 * n**3 / product


def profile_part(s: Speed, bed: Bed) -> tuple[dict, list[str]]:
    from torch.utils.flop_counter import FlopCounterMode

    step = OurStep(bed, bed.with_images)
    step()
    seconds = [clock(step, bed.device) for _ in range(s.repeats)]
    stages = dict(step.stages)
    copy_rate, flop_rate = machine_rates(bed.device, bed.compute)
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops() + (0 if bed.device.startswith("cuda") else packed_flops(step))
    decoder = text_model(step.policy)
    weights = sum(p.numel() for p in decoder.parameters()) * bed.compute.itemsize
    events = list(kernels_of(step, torch.device(bed.device)).items())
    whole = sum(time for _, (_, time) in events)
    rows = [[name, count, f"{time / 1e3:.1f}", f"{time / whole:.1%}"] for name, (count, time) in events[:16]]
    rest = sum(time for _, (_, time) in events[16:])
    calls = sum(count for _, (count, _) in events[16:])
    rows.append(["everything else", calls, f"{rest / 1e3:.1f}", f"{rest / whole:.1%}"])
    # each step of decoding reads the weights and every key and value that counts
    costs = MemoryEstimate(step.policy, s.group_size, s.max_new_tokens)
    L, T, B = int(bed.prompts(bed.with_images).lengths.max()), s.max_new_tokens, s.questions * s.group_size
    kv = costs.token * sum(s.questions * L + B * t for t in range(1, T))
    moved = (T - 1) * weights + kv
    floor = flops / flop_rate
    text = ["### Where the time goes", "", *table(["operation", "calls", "self, ms", "share"], rows)]
    lines = [
        ["step, s", spread(seconds)],
        ["by stage, s", ", ".join(f"{k} {v:.3f}" for k, v in stages.items())],
        ["matrix products and attention, GFLOP", f"{flops / 1e9:.1f}"],
        ["measured product rate, GFLOP/s", f"{flop_rate / 1e9:.0f}"],
        ["floor by FLOPs, s", f"{floor:.3f} ({floor / median(seconds):.0%} of the step)"],
        ["weights and keys that decoding reads, MB", f"{moved / 2**20:.0f}"],
        ["measured copy rate, GB/s", f"{copy_rate / 1e9:.1f}"],
        [
            "floor of the rollout by bytes, s",
            f"{moved / copy_rate:.3f} ({moved / copy_rate / stages['generate']:.0%} of it)",
        ],
    ]
    numbers = {
        "seconds": seconds,
        "stages": stages,
        "flops": flops,
        "flop_rate": flop_rate,
        "bytes": moved,
        "copy_rate": copy_rate,
    }
    return numbers, [*text, "### Against the floor", "", *table(["", ""], lines)]


def packed_flops(step: OurStep) -> float:
    """FLOPs of the decoder's packed attention on a CPU, which the counter can't see.

    2 products of d for each score, and 5 backward. Attention in vision tower and decoding is not counted.
    """
    text = step.policy.config.get_text_config()
    heads, d = (
        text.num_attention_heads,
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    )
    lengths = step.bed.prompts(step.examples).lengths
    G, T = step.config.group_size, step.config.max_new_tokens
    layout = Layout(Sequences(lengths))
    scores = float(sum(n * n / 2 + G * T * (n + T / 2) for n in layout.prompts.lengths.tolist()))
    forwards = 2 if step.reference is not None else 1
    prefill = float(sum(n * n / 2 for n in lengths.tolist()))
    return 2 * d * heads * text.num_hidden_layers * (2 * (scores * forwards + prefill) + 5 * scores)


def main(argv: list[str]) -> int:
    s = cli.parse(Speed, argv)
    unknown = set(s.parts.split(",")) - set(PARTS)
    if unknown:
        raise cli.UsageError(f"--parts {','.join(sorted(unknown))}: there is {', '.join(PARTS)}")
    if s.device.startswith("cuda") and not torch.cuda.is_available():
        raise cli.UsageError("--device cuda: this machine has no GPU that torch can use")
    if s.peak:
        return print_peak(s)
    results, page = (Path(f"{out_of(s)}.{suffix}") for suffix in ("json", "md"))
    results.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(results.read_text()) if results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        bed = Bed(s, build_shape(s.shape, Path(work) / "model"))
        for part in s.parts.split(","):
            numbers, lines = globals()[f"{part}_part"](s, bed)
            machine = (
                f"{describe_machine()}; {torch.get_num_threads()} threads; {s.shape}; median of {s.repeats}"
            )
            found[part] = {"machine": machine, "numbers": numbers, "text": lines}
            print("\n".join(lines))
            results.write_text(json.dumps(found, indent=1) + "\n")
            write_markdown(page, found)
    return 0


def out_of(s: Speed) -> str:
    return s.out or str(RESULTS / ("speed-gpu" if s.device.startswith("cuda") else "speed"))


def write_markdown(path: Path, found: dict) -> None:
    lines = ["# Speed", ""]
    for part in PARTS:
        if part in found:
            lines += [*found[part]["text"], f"{found[part]['machine']}.", ""]
    path.write_text("\n".join(lines))


if __name__ == "__main__":
    cli.run(main)
