"""Plants faults in a copy of the code, one at a time, and says which test sees each.

    python tests/mutate.py                       all of them, two copies at a time, one thread each
    python tests/mutate.py --only vote           the faults whose name holds this word

A fault is a piece of text that stands once in its file, and what takes its place. For each, test files are
run in turn until a test fails; a fault that none sees survives, and the status is 1 where more than
MAY_SURVIVE do. The table stands in CONTRIBUTING.md. Left out: faults that change no result.
"""

import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from common import cli  # noqa: E402
from common.cli import flag  # noqa: E402

MAY_SURVIVE = 3
SECONDS = 900  # of one test file; a fault may make a run endless


class Fault(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


UPDATE = ("mmupt", "oracle", "run")  # test files, the quickest first
EARN = ("rewards", "oracle")
MODEL = ("sampling", "decode", "model_utils", "oracle")
FAULTS = [
    # --- the loop hands on what was asked for
    Fault("gradients are not clipped", "mmupt.py", ", config.max_grad_norm)", ", 1e9)", UPDATE),
    Fault("no weight decay", "mmupt.py", "1e-8, config.weight_decay", "1e-8, 0.0", UPDATE),
    Fault("beta2 is .95", "mmupt.py", "(0.9, 0.999)", "(0.9, 0.95)", UPDATE),
    Fault("beta1 is .8", "mmupt.py", "(0.9, 0.999)", "(0.8, 0.999)", UPDATE),
    Fault("another learning rate", "mmupt.py", "config.lr * min(", "1e-4 * min(", UPDATE),
    Fault("warm-up off by one", "mmupt.py", "(step + 1) / max(", "(step + 2) / max(", UPDATE),
    Fault("dual_clip not handed on", "mmupt.py", "dual_clip=config.dual_clip or None,", "", UPDATE),
    Fault("kl not handed on", "mmupt.py", "kl=config.kl, ", "", UPDATE),
    Fault("kl_clamp not handed on", "mmupt.py", "kl_clamp=config.kl_clamp or None, ", "", UPDATE),
    Fault("beta not handed on", "mmupt.py", "beta=config.beta, kl", "kl", UPDATE),
    Fault("ratio not handed on", "mmupt.py", ", ratio=config.ratio,", ",", UPDATE),
    Fault("scale not handed on", "mmupt.py", "(rewards, config.scale)", "(rewards)", UPDATE),
    Fault("clip_low not handed on", "mmupt.py", "clip_low=config.clip_low, ", "", UPDATE),
    Fault("clip_high is clip_low", "mmupt.py", "clip_high=config.clip_high", "clip_high=config.clip_low",
          UPDATE),
    Fault("min_share not handed on", "mmupt.py", "(keys, config.min_share, ", "(keys, 0.0, ", UPDATE),
    Fault("the published vote is the sound one", "mmupt.py", 'if config.vote == "sound" else',
          "if True else", UPDATE),
    Fault("aggregate not handed on", "mmupt.py", "(lengths, config.aggregate, ", '(lengths, "grpo", ',
          UPDATE),
    Fault("temperature not handed on", "mmupt.py",
          "config.max_new_tokens, config.temperature, config.top_p",
          "config.max_new_tokens, 1.0, config.top_p", UPDATE),
    Fault("top_p not handed on", "mmupt.py", "config.temperature, config.top_p, config.seed, step",
          "config.temperature, 1.0, config.seed, step", UPDATE),
    Fault("the step is not in the sampler's key", "mmupt.py", "config.seed, step,", "config.seed, 0,",
          UPDATE),
    Fault("one update to a rollout, always", "mmupt.py",
          "(config.minibatch_questions or config.questions) //", "config.questions //", UPDATE),
    Fault("old log-probs are the sampler's, always", "mmupt.py",
          "0 < config.minibatch_questions < config.questions,", "False,", UPDATE),
    Fault("old log-probs are scored, always", "mmupt.py", "if several_updates else rollout.logprobs",
          "if True else rollout.logprobs", UPDATE),
    Fault("equal rewards are skipped though there is a KL term", "mmupt.py",
          "if config.beta or bool(A.any())", "if bool(A.any())", UPDATE),
    Fault("a gradient that is not finite is applied", "mmupt.py", "finite := bool(torch.isfinite(norm))",
          "finite := True", UPDATE),
    Fault("entropy is a mean over forwards", "mmupt.py", "meter.add(n * counts, entropy",
          "meter.add(counts, entropy", UPDATE),
    Fault("the reference is the policy", "model_utils.py",
          "base = load(config.model, dtype=precision) if", "base = policy if", UPDATE),
    Fault("the reference is the checkpoint resumed from", "model_utils.py",
          "base = load(config.model,", "base = load(str(resumed or config.model),",
          ("run", "oracle")),
    Fault("a frozen tower is trained", "model_utils.py", "if config.freeze_vision:", "if False:", UPDATE),
    Fault("activations are not recomputed", "model_utils.py", "if config.gradient_checkpointing:",
          "if False:", UPDATE),
    Fault("the adapter stays on in the reference", "model/lora.py", "layer.enable_adapters(False)",
          "layer.enable_adapters(True)", ("lora", "oracle")),
    Fault("lora_alpha is the rank", "model/lora.py", "SCALE = 2", "SCALE = 1", ("lora", "merge_adapter")),
    # --- loss
    Fault("maximum for minimum", "mmupt.py", "objective = torch.minimum(", "objective = torch.maximum(",
          UPDATE),
    Fault("the bounds of the ratio swapped", "mmupt.py", "rho.clamp(1 - low, 1 + high)",
          "rho.clamp(1 - high, 1 + low)", UPDATE),
    Fault("dual clip where A is above 0", "mmupt.py", "torch.where(A < 0, torch.max",
          "torch.where(A > 0, torch.max", UPDATE),
    Fault("KL in the other direction", "mmupt.py", "torch.expm1(-d.clamp(-20, 20)) + d",
          "torch.expm1(d.clamp(-20, 20)) - d", UPDATE),
    Fault("k2 without its half", "mmupt.py", "d.square() / 2", "d.square()", UPDATE),
    Fault("kl_clamp on one side", "mmupt.py", ".clamp(-bound, bound)", ".clamp(max=bound)", UPDATE),
    Fault("grpo as one mean over tokens", "mmupt.py", "len(lengths) * lengths.clamp(min=1)",
          "lengths.sum()", UPDATE),
    Fault("dr_grpo divides by sequences alone", "mmupt.py", "len(lengths) * most", "len(lengths)", UPDATE),
    Fault("dapo divides by sequences", "mmupt.py", '"dapo": lambda lengths, most, block: lengths.sum()',
          '"dapo": lambda lengths, most, block: torch.full_like(lengths, len(lengths))', UPDATE),
    Fault("bnpo forgets the blocks", "mmupt.py", "tokens[block_of] * blocks", "tokens[block_of]", UPDATE),
    Fault("the ratio of a sequence over its width", "mmupt.py", "/ mask.sum(1).clamp(min=1))",
          "/ mask.shape[1])", UPDATE),
    Fault("what is under the mask counts", "mmupt.py", "losses.where(mask, 0.0).sum(1)", "losses.sum(1)",
          UPDATE),
    Fault("junk under the mask reaches the gradient", "mmupt.py",
          "logprobs.where(mask, 0.0), old_logprobs.where(mask, 0.0)", "logprobs, old_logprobs", UPDATE),
    Fault("clipped_low and clipped_high swapped", "mmupt.py", "clipped_low=low, clipped_high=high",
          "clipped_low=high, clipped_high=low", UPDATE),
    Fault("approx_kl with the other sign", "mmupt.py", "rho - 1 - log_ratio", "1 - rho + log_ratio",
          UPDATE),
    # --- vote, rewards, advantages
    Fault("a tie goes to the first", "mmupt.py", "None if margin <= min_margin or share",
          "None if margin < min_margin or share", UPDATE),
    Fault("the unparsed vote", "mmupt.py", "Counter(a for a in answers if a is not None)",
          "Counter(answers)", UPDATE),
    Fault("the share is of parsed answers", "mmupt.py", "share, margin = most / len(answers)",
          "share, margin = most / counts.total()", UPDATE),
    Fault("a share on the threshold abstains", "mmupt.py", "share < min_share else",
          "share <= min_share else", UPDATE),
    Fault("the unparsed earn where a group abstains", "mmupt.py", "key is not None and key == winner",
          "key == winner", UPDATE),
    Fault("the random reward without its step", "rewards/controls.py", 'f"reward {seed} {step} {',
          'f"reward {seed} {', UPDATE),
    Fault("the spread of a group with ddof 0", "mmupt.py", "rewards.std(1, keepdim=True)",
          "rewards.std(1, keepdim=True, correction=0)", UPDATE),
    Fault("equal rewards have advantages", "mmupt.py",
          "advantages.masked_fill((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0)", "advantages",
          UPDATE),
    # --- beyond the plain majority
    Fault("the margin ignored", "mmupt.py", "config.min_share, config.min_margin)", "config.min_share)",
          EARN),
    Fault("the wrong half labels itself", "rewards/variants.py", "winners[1 - half]", "winners[half]", EARN),
    Fault("halves of one picture", "rewards/variants.py", "if views == 1 else", "if True else", EARN),
    Fault("both views show one picture", "rewards/views.py", "images=tuple(map(self.change, example.images))",
          "images=example.images", EARN),
    Fault("both views draw alike", "rewards/views.py", 'id=f"{example.id}, {self.name}"', "id=example.id",
          EARN),
    Fault("half of a step is trained where there are two views", "mmupt.py",
          "places = config.questions // world.size * config.views", "places = config.questions // world.size",
          EARN),
    Fault("a tie opens the gate", "rewards/variants.py",
          "first.winner is not None and first", "first", EARN),
    Fault("a closed gate pays", "rewards/custom.py", 'if config.gate == "none" or group', "if True or group",
          EARN),
    Fault("the gate not handed on", "mmupt.py", "*halves), config.gate)", '*halves), "none")', EARN),
    Fault("share power not handed on", "mmupt.py", "share_weights(groups, config.share_power)",
          "share_weights(groups, 0.0)", EARN),
    Fault("weights of rewards ignored", "rewards/custom.py", "t + part.weight * r", "t + r", EARN),
    Fault("labels for every reward", "rewards/custom.py", 'if part.name == "gold" else {}', "if True else {}",
          EARN),
    Fault("the unparsed earn by their frequency", "rewards/variants.py", "0.0 if key is None else counts",
          "counts", EARN),
    Fault("a box alone is work", "rewards/controls.py", '_OPENS.sub("", text[:start])', "text[:start]", EARN),
    Fault("the mask begins a token late", "model/answer_tokens.py", "key=touched) - 1", "key=touched)", EARN),
    Fault("the mask ends a token early", "model/answer_tokens.py", "key=completed), len(ids))",
          "key=completed) - 1, len(ids))", EARN),
    Fault("the mask misses a part of a character", "model/answer_tokens.py",
          "completed(n) + decode(ids[:n]).endswith(PARTIAL)", "completed(n)", EARN),
    Fault("the mask not handed on", "mmupt.py", "if micro.trained is not None:", "if False:", EARN),
    Fault("the mask of other rows", "mmupt.py", "x if x is None else x[rows] for x",
          "x if x is None else x[: len(rows)] if x is self.trained else x[rows] for x", EARN),
    Fault("the divisor shrunk by the mask", "mmupt.py", "lengths = world.all_rows(batch.rollout.lengths, G)",
          "lengths = world.all_rows((batch.trained & batch.rollout.mask).sum(1) if batch.trained is not None "
          "else batch.rollout.lengths, G)", EARN),
    Fault("a group with spread gives way", "rewards/refill.py", "if bool((own == own[0]).all())", "if True",
          ("refill",)),
    Fault("a refill without end", "rewards/refill.py", "for _ in range(config.refill)", "for _ in range(99)",
          ("refill",)),
    Fault("a question twice in a step", "data/stream.py", "elif key in known:", "elif False:", ("refill",)),
    Fault("refilled in the order of ranks", "rewards/refill.py", "places = sorted(", "places = list(",
          ("refill",)),
    Fault("refilled rewards at the old texts", "rewards/refill.py",
          "texts = [text for group in groups for text in group.texts]", "pass", ("refill",)),
    # --- reading
    Fault("the answer format not handed to the vote", "mmupt.py",
          "extract_answer(text, config.answer_format)", "extract_answer(text)", ("mmupt", "reading")),
    Fault("the answer format not handed to evaluations", "evaluation/probe.py",
          "answer_format=c.answer_format, ", "", ("probe", "reading")),
    Fault("the answer format lost between evaluation and record", "evaluation/answering.py",
          "answer_format=read_as, compare=compare", "compare=compare", ("answering", "reading")),
    Fault("eval.py forgets its answer format", "eval.py", "partial.answer_format or config.answer_format",
          '"boxed"', ("eval", "reading")),
    Fault("--resume settles the answer format anew", "common/resume.py",
          'setattr(config, name, saved.get(name, "auto"))', "pass", ("reading",)),
    Fault("what auto became is not saved", "evaluation/reading.py",
          '        saved["answer_format"] = config.answer_format\n', "", ("reading",)),
    Fault("auto is settled by each process alone", "evaluation/reading.py",
          "counts = world.gather_json(", "counts = list(", ("reading",)),
    Fault("a look at the first questions uses them up", "evaluation/reading.py",
          "        stream.rewind(before)\n", "", ("reading",)),
    Fault("the system message left out", "model/processor.py", "if system := self.system or (",
          "if system := False and (", ("reading",)),
    Fault("majorities count keys", "evaluation/metrics.py", "if benchmark.key is plain_key else keys",
          "if False else keys", ("metrics", "reading")),
    Fault("no second opinion in the vote", "mmupt.py", "stream.gold, step, compare)", "stream.gold, step)",
          ("reading",)),
    Fault("no second opinion in evaluations", "evaluation/probe.py", " compare=self.compare,", "",
          ("probe", "reading")),
    Fault("a second opinion one way", "answers/opinion.py", "((a, b), (b, a))", "((a, b),)", ("opinion",)),
    Fault("options in a question are not its choices", "data/rows.py", " or listed_choices(chat.question)",
          "", ("prompts",)),
    # --- masks and scoring
    Fault("the mask is a token longer", "model_utils.py", "device=self.lengths.device) < self.lengths",
          "device=self.lengths.device) <= self.lengths", MODEL),
    Fault("predicted by the token after", "model_utils.py", "repeat_interleave(G) - 1",
          "repeat_interleave(G)", MODEL),
    Fault("responses begin a position late", "model/batch.py", ".amax(-1) + 1", ".amax(-1) + 2", MODEL),
    Fault("scored at temperature 1", "model_utils.py", "temperature=rollout.temperature or 1.0",
          "temperature=1.0", MODEL),
    Fault("a forward reads twice its budget", "model_utils.py", "room = tokens", "room = 2 * tokens",
          MODEL),
    # --- sampling
    Fault("samples of a question are alike", "model_utils.py", "{seed} {step} {sample} {key}",
          "{seed} {step} {key}", MODEL),
    Fault("the seed is not in the key", "model_utils.py", 'f"{seed} {step} ', 'f"{step} ', MODEL),
    Fault("the sampler's log-prob is of what is allowed", "model/sampling.py", "tokens, logprobs.gather(",
          "tokens, allowed.log_softmax(-1).gather(", MODEL),
    Fault("what is banned is sampled", "model/sampling.py", "allowed = logprobs + bias",
          "allowed = logprobs", MODEL),
    Fault("a nucleus a token too small", "model/sampling.py", "before >= top_p",
          "ordered.cumsum(-1) >= top_p", MODEL),
    Fault("the eos is not counted", "model/decode.py",
          "self.lengths.add_(self.live)  # before the next line: the eos counts",
          "self.lengths.add_(self.live & (new[:, None] != sampling.eos).all(1))", MODEL),
    Fault("one of several eos does not end", "model/decode.py", "(new[:, None] != sampling.eos).all(1)",
          "(new[:, None] != sampling.eos[:1]).all(1)", (*MODEL, "families")),
    # --- labels, data
    Fault("labels are handed out though nobody asked", "data/__init__.py",
          "answer=drawn.answer if self.labels else None", "answer=drawn.answer", ("data", "figures", "run")),
    Fault("a resumed stream begins anew", "data/stream.py", '"position": self.position', '"position": 0',
          ("stream", "run")),
    Fault("questions longer than the limit are trained on", "data/stream.py",
          "elif tokens > self.max_prompt_tokens:", "elif tokens > 10**9:", ("stream", "run")),
    # --- evaluation
    Fault("pass@k as if drawn with replacement", "evaluation/metrics.py",
          "1.0 - math.comb(n - c, k) / math.comb(n, k)", "1.0 - (1 - c / n) ** k", ("metrics",)),
    Fault("maj@k takes a tie as right", "evaluation/metrics.py",
          "return sum(first) / len(first) if first else 0.0", "return max(first, default=0.0)",
          ("metrics",)),
    Fault("evaluations draw as step 0 does", "evaluation/answering.py", "STEP = -1", "STEP = 0",
          ("answering", "probe", "run")),
    Fault("the end is measured on a part", "evaluation/probe.py", "return step in (0, self.config.steps)",
          "return step == 0", ("probe", "run")),
    Fault("eval_samples not handed on", "evaluation/probe.py", "Decoding(c.eval_samples,", "Decoding(4,",
          ("probe", "run")),
    Fault("every process measures all questions", "evaluation/probe.py", "self.world.my_part(questions)",
          "questions", ("probe", "distributed")),
    # --- resume
    Fault("the policy is not resumed", "model_utils.py", "load(str(resumed or config.model), compute",
          "load(config.model, compute", ("run",)),
    Fault("moments are not resumed", "model/checkpoint.py",
          "optimizer.state[p][key] = share_of(p, file, entry)", "pass", ("checkpoint", "run")),
    Fault("a cut file passes for whole", "model/damage.py", ".stat().st_size != size:",
          ".stat().st_size > size:", ("checkpoint", "run")),
    Fault("rows of a step that is done again stay", "common/run_log.py", '["step"] <= steps',
          '["step"] <= steps + 1', ("run_log", "run")),
    Fault("--resume forgets the run's own settings", "common/resume.py",
          'defaults=saved | {"resume": False}', 'defaults={"resume": False}', ("cli", "run")),
    Fault("--resume without config.json begins anew", "common/resume.py", "if not is_of_run(saved):",
          "if False:", ("resume",)),
    Fault("a run begins in anyone's folder", "common/resume.py", "    if foreign:", "    if False:",
          ("resume",)),
    Fault("another base is the reference", "common/resume.py",
          "if before and digest_of_base(config.model) != before:", "if False:", ("resume",)),
    Fault("questions are known by their length", "data/stream.py", "digest([f], WHOLE)", '""', ("resume",)),
    Fault("what changed is not kept", "common/resume.py", 'row | {"changed": changed}', "row", ("resume",)),
    Fault("a flipped bit is resumed from", "model/checkpoint.py", "damage(folder)):",
          "damage(folder, False)):", ("resume",)),
    Fault("a flipped bit is loaded", "model/loading.py", "if why := damage_of_weights(Path(path)) if first",
          'if why := "" if first', ("resume",)),
    Fault("the checksum is of the last block", "model/tensor_files.py", "zlib.crc32(data, total)",
          "zlib.crc32(data)", ("resume",)),
    Fault("where no checkpoint is whole it begins anew", "model/checkpoint.py", "if broken and not found:",
          "if False:", ("resume",)),
    Fault("eval.py writes over another's result", "eval.py", "    check_result(config)\n", "", ("resume",)),
    # --- what is not finite, and what is rounded
    Fault("NaN in weights is loaded", "model/loading.py",
          "if broken := nonfinite(dict(model.named_parameters()), together=shard):", 'if broken := "":',
          ("finite",)),
    Fault("inf is no NaN", "model/finite.py", "(~torch.stack(bounds).isfinite())",
          "torch.stack(bounds).isnan()", ("finite",)),
    Fault("NaN in another's share is not heard of", "model/finite.py",
          "        if together:", "        if False:", ("finite",)),
    Fault("NaN in an adapter is loaded", "model/lora.py", "if broken := nonfinite(saved):",
          'if broken := "":', ("finite",)),
    Fault("NaN in moments is resumed", "model/checkpoint.py",
          "resumed = trained_by_name(model) | moments_by_name(model, optimizer)",
          "resumed = trained_by_name(model)", ("finite",)),
    Fault("NaN is saved", "model/checkpoint.py",
          "if broken := nonfinite(trained_by_name(model) | moments, together=is_sharded(model)):",
          'if broken := "":', ("finite",)),
    Fault("a run of NaN alone ends well", "common/run_log.py",
          "if self.nonfinite_updates and not self.learned:", "if False:", ("finite",)),
    Fault("NaN in logits is graded", "evaluation/answering.py", "nonfinite.nonzero()[:, 0]",
          "nonfinite.nonzero()[:0, 0]", ("finite",)),
    Fault("bfloat16 is not handed on", "common/run_log.py", "is_main, dtype=dtype)", "is_main)",
          ("save_dtype",)),
    Fault("a run goes on from bfloat16", "model/checkpoint.py",
          "p.data.copy_(share_of(p, file, entry))", "pass", ("save_dtype",)),
    Fault("frozen weights are rounded to bfloat16", "model/checkpoint.py",
          "trained_by_name(model) if is_adapted(model) else dict(model.named_parameters())",
          "trained_by_name(model)", ("save_dtype",)),
    Fault("config.json hides bfloat16", "model/checkpoint.py",
          'say_dtype(partial / "config.json", dtype)', "pass", ("save_dtype",)),
    # --- health
    Fault("sentinels draw anew at each look", "evaluation/sentinels.py", "c.top_p, c.seed, 0",
          "c.top_p, time.time_ns(), 0", ("health",)),
    Fault("the base votes by the policy's draws", "evaluation/sentinels.py", "[place, a[SAMPLES:]]",
          "[place, a[:SAMPLES]]", ("health",)),
    Fault("the base's votes are not saved", "evaluation/sentinels.py", '{"base": self.base}', "{}",
          ("health",)),
    Fault("the base votes anew after a resume", "evaluation/sentinels.py",
          "        stream.hold(count)\n", "        stream.hold(count)\n        self.base = []\n",
          ("health",)),
    Fault("each process sees its own sentinels", "evaluation/sentinels.py",
          "for row in self.world.gather_json(rows)", "for row in rows", ("health",)),
    Fault("sentinels are trained on too", "data/stream.py", "tried = set(self.held)",
          "tried: set[int] = set()", ("health",)),
    Fault("a resumed run trains on its sentinels", "data/stream.py", '(state or {}).get("held", [])', "[]",
          ("health",)),
    Fault("the best is the last", "common/health.py", "(best is None or now > best)", "True", ("health",)),
    Fault("the best may be a collapse", "common/health.py", " and not judge(rows, limits)", "", ("health",)),
    Fault("support is held against the base's", "common/health.py", "values[0], max(values), values[-1]",
          "values[0], values[0], values[-1]", ("health",)),
    Fault("a tied vote of the base has one winner", "common/health.py", "/ len(n) / len(b) for",
          "/ len(n) for", ("health",)),
    Fault("the answer is a token longer", "model/answer_tokens.py", "bisect_left(counts, span[1]",
          "bisect_right(counts, span[1]", EARN),
    Fault("a collapse does not end the run", "mmupt.py", " or run.stops", "", ("health",)),
    Fault("the best takes the place of other checkpoints", "common/run_log.py", '"best", 0, state',
          '"best", self.config["keep"], state', ("health",)),
    # --- several processes
    Fault("gradients are not summed", "mmupt.py", "    world.sum_gradients(policy)\n", "",
          ("distributed", "oracle")),
    Fault("divisors of one rank alone", "mmupt.py",
          "world.my_rows(sequence_divisors(lengths, config.aggregate, config.max_new_tokens), G)",
          "sequence_divisors(batch.rollout.lengths, config.aggregate, config.max_new_tokens)",
          ("oracle", "distributed")),
    Fault("rows of ranks one after the other", "common/distributed.py", ".transpose(0, 1).flatten()",
          ".flatten()", ("distributed", "oracle")),
    Fault("the loss logged is of one rank", "mmupt.py", "loss=total * world.size", "loss=total",
          ("distributed", "oracle")),
    # --- shares
    Fault("gradients of shares are doubled", "model/sharding.py", "set_gradient_divide_factor(1.0)",
          "set_gradient_divide_factor(0.5)", ("sharding",)),
    Fault("a tied head is gathered twice", "model/sharding.py", "        model.tie_weights()  #",
          "        pass  #", ("sharding",)),
    Fault("weights of yesterday stay gathered", "model/sharding.py", "        model.reshard()  # no",
          "        pass  # no", ("sharding",)),
    Fault("forwards for nothing count", "mmupt.py", "(loss * counts).backward()", "loss.backward()",
          ("sharding",)),
    Fault("each process resumes the first share", "model/sharding.py", "tuple(slice(a, a + n) for",
          "tuple(slice(0, n) for", ("sharding",)),
    Fault("the blank picture counts", "model/families.py", "(features, *deep)]).sum() * 0",
          "(features, *deep)]).sum() * 0.01", ("sharding",)),
    # --- a lost or stuck rank
    Fault("a beat is progress", "common/pulse.py",
          "if (new.passed, new.ticks) != (old.passed, old.ticks):", "if new.beat != old.beat:", ("pulse",)),
    Fault("who waits is told apart by ticks", "common/pulse.py", "0 if self.waiting else self.ticks",
          "self.ticks", ("pulse",)),
    Fault("a rank that nobody waits for is stuck", "common/pulse.py",
          "if ahead and max(ahead) > self.timeout and all", "if ahead and all", ("pulse",)),
    Fault("compilation is no excuse", "common/pulse.py",
          "self.timeout if place.steady else PATIENT * self.timeout", "self.timeout", ("pulse",)),
    Fault("a stopped process blames the others", "common/pulse.py", "min(now - self.now, 3 * BEAT)",
          "now - self.now", ("pulse",)),
    Fault("ranks meet the dead of the last start", "common/distributed.py", "if own in names:",
          "if names:", ("pulse",)),
]  # fmt: skip


@dataclass
class Mutate:
    only: str = flag("", "faults whose name holds this")
    workers: int = flag(2, "copies at a time, one thread each", "at least 1")


def copy_of_the_code() -> Path:
    """What git tracks, and what it would."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folder = Path(tempfile.mkdtemp(prefix="mutate"))
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def killed_by(fault: Fault, folder: Path) -> str:
    """The first test that fails with the fault planted in the copy; empty where none does."""
    path = folder / fault.file
    before = path.read_text()
    assert before.count(fault.old) == 1, f"{fault.name}: {fault.old!r} stands {before.count(fault.old)} times"
    path.write_text(before.replace(fault.old, fault.new))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]
    try:
        for name in fault.tests:
            file = f"tests/test_{name}.py"
            if not (folder / file).exists():
                continue
            try:
                done = subprocess.run(
                    [*command, file], cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS
                )
            except subprocess.TimeoutExpired:
                return f"{file}, which does not end"
            if done.returncode:
                failed = re.search(r"^(?:FAILED|ERROR) (\S+?::\w+(?:\[.*?\])?)", done.stdout, re.MULTILINE)
                return failed[1] if failed else file
        return ""
    finally:
        path.write_text(before)


def main(argv: list[str]) -> int:
    settings = cli.parse(Mutate, argv)
    chosen = [fault for fault in FAULTS if settings.only in fault.name]
    copies: queue.Queue[Path] = queue.Queue()
    for _ in range(settings.workers):
        copies.put(copy_of_the_code())

    def run(fault: Fault) -> str:
        folder = copies.get()
        try:
            return killed_by(fault, folder)
        finally:
            copies.put(folder)

    survived = 0
    print("| fault | file | seen by |\n|---|---|---|")
    with ThreadPoolExecutor(settings.workers) as pool:
        for fault, test in zip(chosen, pool.map(run, chosen), strict=True):
            survived += not test
            seen = f"`{test.removeprefix('tests/')}`" if test else "**nothing**"
            print(f"| {fault.name} | `{fault.file}` | {seen} |", flush=True)
    print(f"\n{len(chosen) - survived} of {len(chosen)} faults are seen.")
    while not copies.empty():
        shutil.rmtree(copies.get())
    return int(survived > MAY_SURVIVE)


if __name__ == "__main__":
    cli.run(main)
