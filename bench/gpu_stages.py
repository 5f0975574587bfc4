"""The stages of bench/gpu.py, each a function; one process runs one of them.

    python -m bench.gpu_stages --stage rows --out DIR [--rehearse]

A stage writes each figure as soon as it has it, what can be wrong before what can only be slow, and
the likeliest to run out of memory or time last. Kernels are compiled outside what is timed.

Letters: P questions, G samples each, B = P*G rows, L prompt tokens, T response tokens, V vocabulary,
D width, H key/value heads, R query heads for each of them, d width of a head.
"""

import faulthandler
import os
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from bench import gpu_kit
from bench.gpu import ROOT, STAGES
from bench.gpu_kit import Bench, check, end, largest_error, on_gpu, peak_bytes, seconds
from common import cli
from common.cli import flag

QUESTIONS, SAMPLES = 10, 8
IMAGE_SIDE = 448  # 256 image tokens
# of the tests beside tests/test_gpu.py that run on a GPU, and their names
KERNEL_FILES = ("test_logprob", "test_decode_attention", "test_decode_pointwise", "test_packed_attention")
KERNEL_TESTS = "cuda or real_blocks or captured or 32_bits or grid_axis or budget or on_a_gpu"
REHEARSED = "greedy_tokens_in_float32 or fused_step or updates_gradients"  # a few of tests/test_gpu.py


@dataclass
class Settings:
    stage: str = flag("", "the stage to run", choices=STAGES)
    out: str = flag("", "folder of the figures", "given")
    rehearse: bool = flag(False, "small sizes, on a CPU where there is no GPU")


def main(argv: list[str]) -> int:
    s = cli.parse(Settings, argv)
    cli.check(s)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not on_gpu(device) and not s.rehearse:
        raise cli.UsageError(
            "this machine has no GPU that torch can use: --rehearse runs small sizes on a CPU"
        )
    if limit := float(os.environ.get("STAGE_LIMIT", 0)):  # what hangs says where, before it is ended
        faulthandler.dump_traceback_later(max(limit - 2, 0.8 * limit), exit=False)
    torch.manual_seed(0)
    globals()[f"stage_{s.stage}"](Bench(s.stage, Path(s.out), device, s.rehearse))
    faulthandler.cancel_dump_traceback_later()
    return 0


# --- the machine, and what is right -----------------------------------------------------------------


def stage_rates(bench: Bench) -> None:
    """What the card can do: the ceilings of all that follows."""
    bench.figure("free memory", gpu_kit.free_bytes(bench.device) / 1e9, "GB")
    bench.figure("copy, read and written", gpu_kit.copy_rate(bench) / 1e9, "GB/s")
    bench.figure("sum, read only", gpu_kit.read_rate(bench) / 1e9, "GB/s")
    bench.figure("bf16 product", gpu_kit.product_rate(bench) / 1e12, "TFLOP/s")
    # what a decode step mostly is: a few rows times a matrix far larger than the caches
    rows, inner, outer = bench.pick((80, 4096, 65536), (8, 64, 512))
    x, w = (torch.randn(n, inner, device=bench.device, dtype=torch.bfloat16) for n in (rows, outer))
    rate = w.nbytes / seconds(lambda: x @ w.t(), bench.device, 20, 3)
    bench.figure(f"bf16 product of {rows} rows, weights read", rate / 1e9, "GB/s")


def stage_kernels(bench: Bench) -> None:
    files = [ROOT / "tests" / f"{name}.py" for name in KERNEL_FILES]
    run_tests(bench, [str(f) for f in files if f.exists()] + ["-k", KERNEL_TESTS])


def stage_tests(bench: Bench) -> None:
    if bench.rehearse and not on_gpu(bench.device):
        os.environ["MMUPT_GPU_TESTS_ON"] = "cpu"
    run_tests(bench, [str(ROOT / "tests" / "test_gpu.py")] + bench.pick([], ["-k", REHEARSED]))


def run_tests(bench: Bench, arguments: list[str]) -> None:
    """pytest in this process: the outcome of each test is a line as soon as it is known."""
    import pytest

    counts: dict[str, int] = {}

    class Outcomes:
        def pytest_runtest_logreport(self, report):
            if report.when != "call" and report.outcome == "passed":
                return
            counts[report.outcome] = counts.get(report.outcome, 0) + 1
            bench.figure(report.nodeid.split("::", 1)[1], report.outcome, "", seconds=report.duration)

    junit = f"--junitxml={bench.out / bench.stage}.xml"
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", junit]
    if on_gpu(bench.device) and (os.cpu_count() or 1) >= 8 and find_spec("xdist"):
        options += ["-n", "4"]  # most of their time is a CPU's: compiling kernels, and what is compared with
    status = int(pytest.main([*options, *arguments], plugins=[Outcomes()]))
    for outcome in ("passed", "failed", "skipped"):
        bench.figure(outcome, counts.get(outcome, 0), "tests")
    end([] if status == 0 else [f"pytest ended with status {status}"])


# --- kernels alone --------------------------------------------------------------------------------


def stage_rows(bench: Bench) -> None:
    """Log-probs of rows: read once forward; read and written once backward, in place."""
    from kernels import logprob, selective_log_softmax

    N, V = bench.pick((16384, 152064), (512, 2048))
    logits = torch.empty(N, V, device=bench.device, dtype=torch.bfloat16).normal_(std=2)
    targets = torch.randint(V, (N,), device=bench.device)
    problems: list[str] = []

    some = torch.randint(N, (64,), device=bench.device)
    leaf = logits[some].requires_grad_()
    logprobs, entropy = selective_log_softmax(leaf, targets[some], 0.7, return_entropy=True)
    grad = torch.rand_like(logprobs)
    logprobs.backward(grad)
    exact = leaf.detach().double().requires_grad_()
    distribution = torch.distributions.Categorical(logits=exact / 0.7)
    distribution.log_prob(targets[some]).backward(grad.double())
    errors = {
        "log-prob, error": largest_error(logprobs, distribution.log_prob(targets[some])),
        "entropy, error": largest_error(entropy, distribution.entropy()),
        "gradient, relative error": float((leaf.grad.double() - exact.grad).norm() / exact.grad.norm()),
    }
    for (name, error), bound in zip(errors.items(), (2e-5, 2e-5, 2**-8), strict=True):
        bench.figure(f"{name}, 64 rows in float64", error, "", bound=bound)
        check(problems, error <= bound, f"{name} {error:.1e}, allowed {bound:.1e}")

    copy = gpu_kit.copy_rate(bench)
    bench.figure("copy", copy / 1e9, "GB/s")
    stats = logprob.RowStats.empty(N, logits.dtype, logits.device, True)
    plain, ones = stats._replace(entropies=None), torch.ones(N, device=bench.device)
    rows = logits[None]
    ways = {
        "forward": (1, lambda: logprob.row_forward(rows, targets, 1.0, plain)),
        "forward with entropy": (1, lambda: logprob.row_forward(rows, targets, 1.0, stats)),
        # of numbers that are no logits any more from the second time on, and as many of them
        "backward in place": (2, lambda: logprob.row_backward(rows, targets, 1.0, plain, ones, logits)),
    }
    for name, (passes, work) in ways.items():
        took = seconds(work, bench.device, bench.pick(10, 2))
        rate = passes * logits.nbytes / took
        bench.figure(name, 1e3 * took, "ms")
        bench.figure(f"{name}, rate", rate / 1e9, "GB/s", share=rate / copy)
    end(problems)


def stage_head(bench: Bench) -> None:
    """Forward and backward of the head as a 7B update has it: float32 weight, bf16 products."""
    from kernels import linear_logprobs

    N, D, V = bench.pick((16384, 3584, 152064), (512, 64, 2048))
    hidden = torch.randn(N, D, device=bench.device).requires_grad_()
    weight = (0.02 * torch.randn(V, D, device=bench.device)).requires_grad_()
    targets = torch.randint(V, (N,), device=bench.device)
    problems: list[str] = []
    autocast = torch.autocast(bench.device.type, torch.bfloat16)

    def both_ways(chunk: int | None) -> Tensor:
        hidden.grad = weight.grad = None
        with autocast:
            logprobs = linear_logprobs(hidden, weight, targets, chunk=chunk)
        logprobs.sum().backward()
        return logprobs.detach()

    found = both_ways(None)[:64]
    with torch.no_grad():
        exact = (
            (hidden[:64].double() @ weight.double().t()).log_softmax(-1).gather(1, targets[:64, None])[:, 0]
        )
    error = largest_error(found, exact)
    # bf16 rounds a logit of about 1 by 0.004, and the products' factors too
    bench.figure("log-prob, error, 64 rows in float64", error, "", bound=0.05)
    check(problems, error <= 0.05, f"log-prob {error:.1e}, allowed 0.05")
    rate = gpu_kit.product_rate(bench)
    flops = 8 * N * D * V  # the product, the same again backward, and two for the gradients
    for size in bench.pick((256, 1024), (1, 2)):
        chunk = max(64, (size * 2**20 // (2 * V)) // 128 * 128)
        held = gpu_kit.held_bytes(bench.device)
        peak = peak_bytes(bench.device, lambda c=chunk: both_ways(c))
        took = seconds(lambda c=chunk: both_ways(c), bench.device, bench.pick(5, 2))
        bench.figure(f"chunks of {size} MB ({chunk} rows)", 1e3 * took, "ms")
        bench.figure(f"chunks of {size} MB, rate", flops / took / 1e12, "TFLOP/s", share=flops / took / rate)
        bench.figure(f"chunks of {size} MB, peak above what stands", (peak - held) / 1e9, "GB")
    end(problems)


def stage_attention(bench: Bench) -> None:
    """Attention of a decode step, all layers in turn, so that no cache of the card holds their keys."""
    problems: list[str] = []
    rate = gpu_kit.read_rate(bench)
    bench.figure("sum, read only", rate / 1e9, "GB/s")
    attention_of(bench, "7B", (4, 7, 128), rate, problems)
    attention_of(bench, "3B", (2, 8, 128), rate, problems)
    end(problems)


def attention_of(bench: Bench, name: str, heads: tuple[int, int, int], rate: float, problems) -> None:
    from kernels.decode_attention import decode_attention, decode_attention_torch

    (H, R, d), device = heads, bench.device
    P, G, L, most, layers = bench.pick((QUESTIONS, SAMPLES, 317, 512, 28), (2, 2, 33, 40, 2))

    def new(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    caches = [
        [new(P, H, L, d), new(P, H, L, d), new(P, H, G, most, d), new(P, H, G, most, d)]
        for _ in range(layers)
    ]
    query, lengths = new(P * G, H * R, d), torch.full((P,), L, device=device)
    length = torch.tensor([most // 2], device=device)  # a graph that was captured reads it anew

    def one(i: int) -> Tensor:
        return decode_attention(query, *caches[i], lengths, length, d**-0.5)

    wide = [x.float() for x in (query, *caches[0])]
    error = largest_error(one(0), decode_attention_torch(*wide, lengths, length, d**-0.5))
    bench.figure(f"{name}, error against float32", error, "", bound=0.01)
    check(problems, error <= 0.01, f"{name}: error {error:.1e}")
    work = gpu_kit.captured(lambda: [one(i) for i in range(layers)], device)
    for T in bench.pick((64, 256, 512), (8, 40)):
        length.fill_(T)
        took = seconds(work, device, bench.pick(20, 2)) / layers
        read = 4 * H * d * (P * L + P * G * T)  # keys and values, two bytes each
        bench.figure(f"{name}, {P * G} rows, T {T}, a layer", 1e6 * took, "us")
        bench.figure(f"{name}, T {T}, rate", read / took / 1e9, "GB/s", share=read / took / rate)


# --- rollouts -------------------------------------------------------------------------------------


class Bed:
    """A model of a shape, and questions with a picture each that nobody's tokens end.

    All of the vocabulary is sampled from but the image token: with all but the base's 500 tokens
    banned, top-p would have next to nothing to look for.
    """

    def __init__(self, bench: Bench, shape: str, dtype: torch.dtype, compute: torch.dtype):
        from bench.shapes import make_model

        self.bench, self.shape = bench, shape
        self.model, self.accepted = make_model(shape, dtype, compute, bench.device)
        self.prepare()

    def prepare(self) -> None:
        from data import TINY, load
        from model.processor import Processor
        from model_utils import load_processor

        class OpenVocabulary(Processor):
            def banned(self) -> Tensor:
                return torch.arange(self.vocabulary) == self.image_token_id

        bench = self.bench
        side = bench.pick(IMAGE_SIDE, 56) ** 2
        built_in = load_processor(str(TINY), side, side)
        settings = {name: getattr(built_in, name) for name in built_in.__dataclass_fields__}
        vocabulary = self.model.config.get_text_config().vocab_size
        self.processor = OpenVocabulary(**settings | dict(eos_ids=(), vocabulary=vocabulary))
        drawn = load("tiny", "test")
        self.P, self.G = bench.pick((QUESTIONS, SAMPLES), (2, 2))
        self.examples = [drawn[i] for i in range(self.P)]

    @cached_property
    def prompts(self):
        encoded = [self.processor.encode(e) for e in self.examples]
        return self.processor.collate(encoded, self.bench.device)

    def generate(self, T: int, processor=None, **options):
        from model_utils import generate

        return generate(self.model, processor or self.processor, self.prompts, self.G, T, **options)

    def ending(self, mean: int):
        """The processor, with so many ends that responses are about `mean` tokens long: weights are
        random, so all tokens are about equally likely."""
        return replace(self.processor, eos_ids=tuple(range(1, self.processor.vocabulary, mean)))

    def floor_bytes(self, T: int) -> tuple[int, int]:
        """(weights, keys and values) that a step reads, the latter in the mean over T steps."""
        from model.families import text_model

        text = self.model.config.get_text_config()
        item = self.model.compute_dtype.itemsize
        layers = sum(p.numel() for p in text_model(self.model).layers.parameters())
        weights = item * (layers + self.model.get_output_embeddings().weight.numel())
        d = text.hidden_size // text.num_attention_heads
        token = 2 * item * text.num_hidden_layers * text.num_key_value_heads * d
        L = int(self.prompts.lengths.sum())
        return weights, token * (L + self.P * self.G * T // 2)


def stage_rollout_3b(bench: Bench) -> None:
    """As training samples: float32 weights, bf16 products."""
    bed = Bed(bench, bench.pick("3b", "speck"), torch.float32, torch.bfloat16)
    end(measure_rollout(bed, bench.pick((128, 512), (8, 20))))


def stage_rollout_7b(bench: Bench) -> None:
    """As evaluation samples: bf16 weights."""
    bed = Bed(bench, bench.pick("7b", "speck-untied"), torch.bfloat16, torch.bfloat16)
    end(measure_rollout(bed, bench.pick((256,), (12,))))


def measure_rollout(bed: Bed, lengths: tuple[int, ...]) -> list[str]:
    """ms a step by length, with graph and without, against the bytes a step must read; then what
    ends early, top-p, and the kernels of a step -> what is wrong."""
    bench, device, problems = bed.bench, bed.bench.device, []
    describe(bed, problems)
    rate = max(gpu_kit.read_rate(bench), gpu_kit.copy_rate(bench))
    bench.figure("rate of the byte floor", rate / 1e9, "GB/s")
    bed.generate(bench.pick(40, 6))  # kernels are compiled, a graph has been captured
    prefill = seconds(lambda: bed.generate(1), device, bench.pick(3, 1))
    bench.figure(f"prefill, {int(bed.prompts.lengths.sum())} tokens", 1e3 * prefill, "ms")
    for T in lengths:
        with gpu_kit.graph_replays() as replays:
            measure_steps(bed, f"T {T}", T, prefill, rate)
        if on_gpu(device):
            bench.figure(f"T {T}, replays", len(replays), "of 2 rollouts")
            check(problems, len(replays) > T, f"T {T}: the decode step was not replayed from a graph")
        bench.figure(f"T {T}, peak memory", peak_bytes(device, lambda n=T: bed.generate(n)) / 1e9, "GB")
        if T == lengths[0]:
            with gpu_kit.graph_off():
                measure_steps(bed, f"T {T} without graph", T, prefill, rate, repeats=1)
                plain = bed.generate(T, seed=1)
            alike = torch.equal(plain.tokens, bed.generate(T, seed=1).tokens)
            bench.figure(f"T {T}, tokens with graph equal those without", int(alike), "")
            check(problems, alike, f"T {T}: the graph changes tokens")
    T = lengths[0]
    measure_steps(bed, f"T {T}, top_p 0.99", T, prefill, rate, repeats=1, top_p=0.99)
    ragged(bed, lengths[-1])
    launches(bed)
    return problems


def describe(bed: Bed, problems: list[str]) -> None:
    model, bench = bed.model, bed.bench
    bench.figure("parameters", sum(p.numel() for p in model.parameters()) / 1e9, "billion")
    bench.figure("held after making the model", gpu_kit.held_bytes(bench.device) / 1e9, "GB")
    bench.figure("the fused step passes the check at loading", int(bed.accepted), "")
    check(problems, bed.accepted, "the check at loading refuses the fused step of a model it is right for")


def measure_steps(
    bed: Bed, name: str, T: int, prefill: float, rate: float, repeats: int = 2, **options
) -> float:
    """ms a step: all of a rollout but the prefill, over T - 1 steps."""
    took = seconds(lambda: bed.generate(T, **options), bed.bench.device, repeats, warm=0)
    step = (took - prefill) / (T - 1)
    floor = sum(bed.floor_bytes(T)) / rate
    bed.bench.figure(f"{name}, a step", 1e3 * step, "ms", floor_ms=1e3 * floor, share=floor / step)
    bed.bench.figure(f"{name}, rollout", took, "s")
    return step


def ragged(bed: Bed, T: int) -> None:
    """Lengths of about T / 4: rows leave, graphs are captured anew."""
    ending, lengths = bed.ending(max(2, T // 4)), []
    took = seconds(lambda: lengths.append(bed.generate(T, ending).lengths), bed.bench.device, 1)
    tokens = int(lengths[-1].sum())
    bed.bench.figure(f"ragged, at most {T}, mean {tokens / len(lengths[-1]):.0f}", took, "s")
    bed.bench.figure("ragged, rate", tokens / took, "tokens/s")


def launches(bed: Bed) -> None:
    """Kernels of a step: what 32 steps more launch, over 32."""
    few, more = bed.bench.pick((4, 36), (3, 5))
    short, long = (gpu_kit.kernels_of(lambda n=n: bed.generate(n), bed.bench.device) for n in (few, more))
    totals = [sum(count for count, _ in found.values()) for found in (short, long)]
    bed.bench.figure("kernels a step", (totals[1] - totals[0]) / (more - few), "")
    layers = bed.model.config.get_text_config().num_hidden_layers
    bed.bench.figure("kernels a step and layer", (totals[1] - totals[0]) / (more - few) / layers, "")
    steps = more - few
    by_time = {name: us - short.get(name, (0, 0.0))[1] for name, (_, us) in long.items()}
    for name in sorted(by_time, key=lambda n: -by_time[n])[:10]:
        count = (long[name][0] - short.get(name, (0, 0.0))[0]) / steps
        bed.bench.figure(f"kernel {name[:60]}", by_time[name] / steps, "us a step", launches=count)


# --- updates --------------------------------------------------------------------------------------


def planned_peak(bed: Bed, config) -> float | None:
    """Bytes that `--plan` predicts for this update on one process; None where there is no such module."""
    try:
        from model import plan, shape
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        bed.model.config.save_pretrained(folder)
        of_model = shape.read_shape(folder, weights=False)
    choices = config.gradient_checkpointing, config.tokens_per_forward
    planned = plan.Plan(of_model, config, 1, False, on_gpu(bed.bench.device), float("inf"), *choices)
    return planned.peaks["update"]


def random_rollout(bed: Bed, T: int):
    """Responses of T random tokens, as sampled from the policy: an update needs no more."""
    from model.families import with_positions
    from model_utils import Rollout

    device, B = bed.bench.device, bed.P * bed.G
    tokens = torch.randint(100, 400, (B, T), device=device)  # of these none stands for an image
    prompts = with_positions(bed.model, bed.prompts)
    lengths = torch.full((B,), T, device=device)
    ended = torch.zeros(B, dtype=torch.bool, device=device)
    return Rollout(prompts, bed.G, tokens, lengths, torch.zeros(B, T, device=device), ended, 1.0)


def stage_update_3b(bench: Bench) -> None:
    """The update of a whole 3B policy, without reference first: the largest that one card may hold."""
    bed = Bed(bench, bench.pick("3b", "speck"), torch.float32, torch.bfloat16)
    describe(bed, problems := [])
    rollout = random_rollout(bed, bench.pick(512, 12))
    from model_utils import recompute_activations

    recompute_activations(bed.model)
    bed.model.train()
    shared_against_unshared(bed, rollout.select([0]), problems)
    measure_update(bed, rollout, beta=0.0)
    try:
        measure_update(bed, rollout, beta=0.01)
    except torch.cuda.OutOfMemoryError as error:  # allowed: the plan says so or not
        bench.figure("beta 0.01", "out of memory", "", said=str(error).splitlines()[0][:200])
    end(problems)


def shared_against_unshared(bed: Bed, rollout, problems: list[str]) -> None:
    """One question: its G responses on one prompt, or each with a prompt of its own. Same gradients."""
    from bench.speed import unshared, update

    bench, gradients = bed.bench, []
    for name, one in (("shared", rollout), ("unshared", unshared(rollout))):
        took = seconds(lambda r=one: update(bed.model, r), bench.device, 1)
        bench.figure(f"1 question, {name}, forward and backward", took, "s")
        gradients.append({n: p.grad.clone() for n, p in bed.model.named_parameters() if p.grad is not None})
    norm = lambda tensors: float(sum(x.double().square().sum() for x in tensors)) ** 0.5  # noqa: E731
    both = zip(*(g.values() for g in gradients), strict=True)
    difference = norm(a - b for a, b in both) / norm(gradients[1].values())
    bench.figure("1 question, relative difference of gradients", difference, "", bound=0.02)
    check(problems, difference <= 0.02, f"shared and unshared gradients differ by {difference:.3f}")
    bed.model.zero_grad()
    gradients.clear()
    gpu_kit.give_back(bench.device)


def measure_update(bed: Bed, rollout, beta: float, name: str = "") -> None:
    """Scoring, then a whole update: gradients of all questions, clipping, AdamW."""
    import mmupt
    from common.distributed import World
    from common.run_log import Meter
    from model_utils import rollout_logprobs

    bench, device, policy = bed.bench, bed.bench.device, bed.model
    name = name or f"beta {beta}"
    config = mmupt.Config(
        questions=bed.P, group_size=bed.G, max_new_tokens=rollout.tokens.shape[1], beta=beta,
        max_prompt_tokens=int(rollout.prompts.lengths.max()), max_pixels=bench.pick(IMAGE_SIDE, 56) ** 2,
        tokens_per_forward=bench.pick(4096, 128), gradient_checkpointing=True, dtype="bfloat16",
        lora_rank=16 if name == "LoRA" else 0,
    )  # fmt: skip
    if not hasattr(bed, "optimizer"):
        trained = [p for p in policy.parameters() if p.requires_grad]
        bed.optimizer = torch.optim.AdamW(trained, 1e-6, weight_decay=0.01, fused=True)
    policy.eval()
    tokens = config.tokens_per_forward
    took = seconds(lambda: rollout_logprobs(policy, rollout, tokens), device, 1)
    bench.figure(f"{name}, scoring", took, "s")
    old = rollout_logprobs(policy, rollout, tokens)
    reference = reference_beside(bed) if beta else None
    ref = None if reference is None else rollout_logprobs(reference, rollout, tokens)
    advantages = mmupt.group_advantages(torch.rand(bed.P, bed.G, device=device)).flatten()
    inputs = mmupt.LossInputs(replace(rollout, logprobs=old), old, ref, advantages)
    world, meter = World(0, 1, device), Meter()

    def update() -> None:
        mmupt.accumulate_gradients(config, world, policy, inputs, meter)
        mmupt.apply_gradients(config, world, policy, bed.optimizer, meter)

    bench.figure(f"{name}, first update, peak memory", peak_bytes(device, update) / 1e9, "GB")
    times: list[float] = []  # of a later one, beside which the optimiser's moments stand
    peak = peak_bytes(device, lambda: times.append(seconds(update, device, 1, warm=0)))
    bench.figure(f"{name}, update, peak memory", peak / 1e9, "GB")
    bench.figure(f"{name}, held between updates", gpu_kit.held_bytes(device) / 1e9, "GB")
    if planned := planned_peak(bed, config):
        bench.figure(f"{name}, update, planned peak", planned / 1e9, "GB", share=peak / planned)
    took = times[0]
    places = int((rollout.lengths - 1).sum() + rollout.prompts.lengths.sum())
    bench.figure(f"{name}, update", took, "s")
    bench.figure(f"{name}, update, rate", places / took, "tokens/s")


def reference_beside(bed: Bed):
    """The base beside the policy, in the dtype of products."""
    from bench.shapes import make_model

    return make_model(bed.shape, torch.bfloat16, torch.bfloat16, bed.bench.device)[0]


def stage_lora_3b(bench: Bench) -> None:
    """The way that fits one card: bf16 base, float32 adapter."""
    from data import TINY
    from model import lora

    bed = Bed(bench, bench.pick("3b", "speck"), torch.bfloat16, torch.bfloat16)
    describe(bed, problems := [])
    lora.add_adapter(bed.model, str(TINY), 16, 0)
    T = bench.pick(128, 8)
    bed.generate(bench.pick(40, 6))
    prefill = seconds(lambda: bed.generate(1), bench.device, bench.pick(3, 1))
    rate = max(gpu_kit.read_rate(bench), gpu_kit.copy_rate(bench))
    measure_steps(bed, f"T {T}", T, prefill, rate, repeats=1)
    rollout = random_rollout(bed, bench.pick(512, 12))
    from model_utils import recompute_activations

    recompute_activations(bed.model)
    measure_update(bed, rollout, beta=0.0, name="LoRA")
    end(problems)


# --- peers ----------------------------------------------------------------------------------------


def stage_generate(bench: Bench) -> None:
    against_generate(bench, "dynamic")


def stage_static(bench: Bench) -> None:
    against_generate(bench, "static")


def against_generate(bench: Bench, cache: str) -> None:
    """Hugging Face's generate on the same weights, prompts and lengths; ours first."""
    from bench.shapes import make_model
    from bench.speed import Generate

    bed, T = Bed(bench, bench.pick("3b", "speck"), torch.bfloat16, torch.bfloat16), bench.pick(128, 8)
    bed.generate(bench.pick(40, 6))
    ours = seconds(lambda: bed.generate(T), bench.device, 3)
    bench.figure(f"ours, T {T}", ours, "s")
    model, _ = make_model(bed.shape, torch.bfloat16, device=bench.device, attention="sdpa")
    peer = Generate(model, bed.processor.pad, cache)
    work = lambda: peer(bed.prompts, bed.G, T)  # noqa: E731
    first = seconds(work, bench.device, 1, warm=0)
    bench.figure(f"generate, {cache} cache, T {T}, the first time", first, "s")
    theirs = seconds(work, bench.device, 1, warm=0)
    bench.figure(f"generate, {cache} cache, T {T}", theirs, "s")
    bench.figure(f"generate, {cache} cache, over ours", theirs / ours, "times")


if __name__ == "__main__":
    cli.run(main)
