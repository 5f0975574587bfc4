"""The same work done by TRL: full GRPO steps of its GRPOTrainer, timed, to compare with.

    peer = TrlPeer("data/tiny", questions, num_generations=8, max_new_tokens=64)
    peer.step()                 # seconds of one optimiser step; peer.stages, peer.lengths say more
    python -m bench.trl_peer    # 8 questions x 8 generations x 64 tokens of the built-in base

Needs `pip install "trl>=1.16"`. A step is what `trainer.train()` does for it: fetch P questions,
generate G completions of each with plain transformers, reward, reference log-probs where beta is
above 0, one update. TRL is at its best of what it offers for this: scaled dot-product attention, no
gradient checkpointing, no log-probs of the old policy (it skips them where one rollout has one
update), fused AdamW, nothing logged or saved, images kept in memory and not decoded from PNG each
time.

Image prompts go through TRL: transformers' Qwen2_5_VLProcessor wants a video processor and so
torchvision, and `ImageTextProcessor` is that processor without one. Its ids and pixels are those of
mmupt's own processor.

What remains different, and a comparison should say:
- TRL repeats a question G times: its images are processed G times (twice a step: to generate, and
  again to score), encoded by the vision tower G times, and its prompt is prefilled and scored G
  times.
- Without Triton (so on a CPU) TRL's fused head scores the prompt positions too. It always computes
  the entropy and a dozen means for its metrics; no setting turns them off.
- TRL bans the image token alone from being sampled, mmupt all special tokens but the eos.
- TRL's default weighs the KL by the importance ratio, which is off here, so that the objective is
  mmupt's.

Left out: vLLM and continuous batching (TRL refuses the latter for image models), several processes,
LoRA.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from transformers import PrinterCallback, ProcessorMixin, Qwen2_5_VLProcessor, TrainerCallback

from bench.machine import describe_machine
from common import cli
from common.cli import flag
from data import Example, load
from data.prompts import INSTRUCTION, with_choices
from mmupt import Config
from model_utils import load_processor

STAGES = ("prompts", "generate", "score", "reward", "update", "other")


class Clock:
    """Seconds by stage. A stage within a stage interrupts it, so the stages add up to the whole."""

    def __init__(self, device: str):
        self.wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
        self.start()

    def start(self):
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.open = ["other"]
        self.wait()
        self.last = time.perf_counter()

    def lap(self) -> dict[str, float]:
        self.wait()  # what a stage launched on the GPU is that stage's
        now = time.perf_counter()
        self.seconds[self.open[-1]] += now - self.last
        self.last = now
        return self.seconds

    @contextmanager
    def stage(self, name: str):
        self.lap()
        self.open.append(name)
        try:
            yield
        finally:
            self.lap()
            self.open.pop()

    def rest_is(self, name: str):
        self.lap()
        self.open[0] = name


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """Qwen2_5_VLProcessor for images alone: transformers reads its parts from these parameters."""

    clock: Clock

    def __init__(self, image_processor, tokenizer, chat_template=None):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
            [self.image_token, self.video_token]
        )
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, *args, **kwargs):
        with self.clock.stage("prompts"):
            return super().__call__(*args, **kwargs)

    def apply_chat_template(self, *args, **kwargs):
        with self.clock.stage("prompts"):
            return super().apply_chat_template(*args, **kwargs)


@dataclass(frozen=True)
class Step:
    seconds: float
    stages: dict[str, float]
    lengths: list[int]  # of the completions, question by question


class PerStep(TrainerCallback):
    """What train() spends on a step, from the end of the one before to its own."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.steps: list[Step] = []
        self.lengths: list[int] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.clock.start()

    def on_step_end(self, args, state, control, **kwargs):
        stages = self.clock.lap()
        self.steps.append(Step(sum(stages.values()), stages, self.lengths))
        self.clock.start()


def even_sum(completion_ids: list[list[int]], **_) -> list[float]:
    """1 for about half of any model's completions, so that hardly a group has zero advantages."""
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


class TrlPeer:
    """A GRPOTrainer over the same `questions` at every step; model and optimiser persist.

    `micro_batch` is in sequences, 0 is all P*G; generation is one batch either way. On "cuda" the
    weights are float32 under bfloat16 autocast, as TRL has it by default and mmupt too; dtype
    "bfloat16" makes the weights bfloat16. Building one seeds the global random states (TRL does).
    """

    def __init__(
        self,
        model_folder: str,
        questions: Sequence[Example],
        *,
        num_generations: int,
        max_new_tokens: int,
        beta: float = 0.01,
        lr: float = 1e-4,
        seed: int = 0,
        device: str = "cpu",
        force_length: bool = False,
        micro_batch: int = 0,
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
        reward: Callable[..., list[float]] = even_sum,
    ):
        try:
            from trl import GRPOConfig
        except ImportError:
            raise cli.UsageError('TRL is not installed: pip install "trl>=1.16"') from None
        if len({bool(q.images) for q in questions}) != 1:
            raise cli.UsageError("TRL takes questions that all have images, or questions that all have none")
        sequences = len(questions) * num_generations
        micro_batch = micro_batch or sequences
        if sequences % micro_batch:
            raise cli.UsageError(
                f"--micro_batch must be 0 or a divisor of {sequences} sequences (got {micro_batch})"
            )

        ours = load_processor(model_folder)
        # TRL pads prompts on the left, and takes the token types from here
        ours.tokenizer.padding_side = "left"
        self.clock = Clock(device)
        self.processor = ImageTextProcessor(
            ours.image_processor, ours.tokenizer, ours.tokenizer.chat_template
        )
        self.processor.clock = self.clock
        self.callback = PerStep(self.clock)
        # TRL makes its output folder, and leaves it empty
        self.folder = tempfile.TemporaryDirectory(prefix="trl-peer-")

        # TRL's own ban is overwritten by ours, so the image token is in both
        ban_eos = {"suppress_tokens": [ours.image_token_id, *ours.eos_ids]} if force_length else None
        args = GRPOConfig(
            output_dir=self.folder.name,
            # one rollout, one update
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=sequences // micro_batch,
            steps_per_generation=sequences // micro_batch,
            num_iterations=1,
            num_generations=num_generations,
            shuffle_dataset=False,
            # the objective and the optimiser of mmupt's defaults
            loss_type="grpo", scale_rewards="group", beta=beta, use_bias_correction_kl=False,
            disable_dropout=True, learning_rate=lr, lr_scheduler_type="constant", warmup_steps=0,
            weight_decay=0.01, max_grad_norm=1.0,
            # sampling
            max_completion_length=max_new_tokens, temperature=1.0, top_p=1.0, top_k=0,
            generation_kwargs=ban_eos, use_vllm=False,
            # speed and precision
            model_init_kwargs={"attn_implementation": "sdpa", "dtype": dtype, "device_map": None},
            gradient_checkpointing=gradient_checkpointing, use_cpu=device == "cpu", bf16=device != "cpu",
            dataloader_num_workers=0, dataloader_pin_memory=False,
            # nothing beside the training
            report_to="none", logging_strategy="no", logging_nan_inf_filter=False, log_completions=False,
            log_multimodal=False, save_strategy="no", eval_strategy="no", disable_tqdm=True, seed=seed,
        )  # fmt: skip
        self.trainer = timed_trainer(self.clock, self.callback)(
            model=model_folder,
            args=args,
            reward_funcs=reward,
            train_dataset=as_dataset(questions),
            processing_class=self.processor,
            callbacks=[self.callback],
        )
        self.trainer.remove_callback(PrinterCallback)
        # every train() begins by emptying the CUDA cache; a real run calls it once, and pays that
        # once
        self.trainer.accelerator.free_memory = lambda *objects: objects

    @property
    def model(self):
        return self.trainer.model

    def run(self, steps: int = 1) -> list[Step]:
        """So many full steps of trainer.train(), without what it does before the first."""
        self.callback.steps = []
        self.trainer.args.max_steps = steps
        self.trainer.train()
        return self.callback.steps

    def step(self) -> float:
        """One full step -> its seconds; also sets `stages` (seconds) and `lengths` (of completions)."""
        (self.last,) = self.run(1)
        return self.last.seconds

    @property
    def stages(self) -> dict[str, float]:
        return self.last.stages

    @property
    def lengths(self) -> list[int]:
        return self.last.lengths


def as_dataset(questions: Sequence[Example]):
    """P rows, made when fetched: images in a stored column would be decoded at every step."""
    from datasets import Dataset

    def rows(batch):
        chosen = [questions[i] for i in batch["row"]]
        texts = [with_choices(q.question, q.choices) + INSTRUCTION for q in chosen]
        return {
            "prompt": [[{"role": "user", "content": text}] for text in texts],
            "images": [list(q.images) for q in chosen],
        }

    return Dataset.from_dict({"row": list(range(len(questions)))}).with_transform(rows)


def timed_trainer(clock: Clock, record: PerStep):
    """GRPOTrainer whose methods tell the clock which stage they are, and nothing else new."""
    from trl import GRPOTrainer

    class Timed(GRPOTrainer):
        def _send_telemetry(self):
            pass  # a benchmark reports nothing

        def training_step(self, *args, **kwargs):
            with clock.stage("update"):
                loss = super().training_step(*args, **kwargs)
            clock.rest_is("update")  # clipping and the optimiser follow, in Trainer's loop
            return loss

        def _prepare_inputs(self, *args, **kwargs):  # called by training_step: the whole rollout
            with clock.stage("other"):
                return super()._prepare_inputs(*args, **kwargs)

        def _generate_single_turn(self, *args, **kwargs):
            with clock.stage("generate"):
                completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
            record.lengths = [len(ids) for ids in completion_ids]
            return completion_ids, logprobs

        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            with clock.stage("update" if torch.is_grad_enabled() else "score"):
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)

        def _calculate_rewards(self, *args, **kwargs):
            with clock.stage("reward"):
                return super()._calculate_rewards(*args, **kwargs)

    Timed.__name__ = "GRPOTrainer"  # it is one
    return Timed


@dataclass
class Measure:
    model: str = flag(Config.model, "checkpoint folder")
    questions: int = flag(8, "built-in questions per step (P)")
    group_size: int = flag(8, "generations per question (G)")
    max_new_tokens: int = flag(64, "tokens of every completion")
    beta: float = flag(0.01, "weight of the KL term; at 0 there is no reference")
    micro_batch: int = flag(0, "sequences per forward of the update; 0 is all")
    gradient_checkpointing: bool = flag(False, "TRL's own default is True")
    device: str = flag("cpu", "cpu or cuda")
    warmup: int = flag(2, "steps that are not counted")
    steps: int = flag(5, "steps that are")


def main(argv: list[str]) -> int:
    s = cli.parse(Measure, argv)
    examples = load("tiny", "test")
    peer = TrlPeer(
        s.model,
        [examples[i] for i in range(s.questions)],
        num_generations=s.group_size,
        force_length=True,
        max_new_tokens=s.max_new_tokens,
        beta=s.beta,
        device=s.device,
        micro_batch=s.micro_batch,
        gradient_checkpointing=s.gradient_checkpointing,
    )
    for _ in range(s.warmup):
        peer.step()
    steps = [step for _ in range(s.steps) for step in peer.run(1)]
    tokens = sum(steps[-1].lengths)
    seconds = median(step.seconds for step in steps)
    print(f"{seconds:.3f} s a step (median of {s.steps}), {tokens} tokens, {tokens / seconds:.0f} tokens/s")
    print("  ".join(f"{name} {median(step.stages[name] for step in steps):.3f}" for name in STAGES))
    print(f"{describe_machine()}; {torch.get_num_threads()} threads")
    return 0


if __name__ == "__main__":
    cli.run(main)
