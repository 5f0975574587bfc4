"""Written questions: that kills change nothing and that no answer gets through."""

import json
from pathlib import Path

import pytest
from conftest import held_elsewhere, run_program, write_rows

import mmupt
from common import cli
from data import DataError, load, prompts
from programs import synthesize
from programs.filters import FILTERS

DIRECT = ["--mode", "direct", "--limit", "40", "--batch", "8", "--max_new_tokens", "32"]


def write(out: Path, *argv) -> int:
    return synthesize.main(["--out", str(out), *map(str, argv)])


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def everything(out: Path) -> dict[str, bytes]:
    """All that a run leaves behind, but the report, which names its own --out."""
    files = [out, out.with_suffix(".log.jsonl"), *out.with_suffix(".images").iterdir()]
    return {f.name: f.read_bytes() for f in files}


# --- whole runs


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "new.jsonl"
    assert write(out, *DIRECT) == 0
    return out


def test_rows_are_read_as_any_source_and_hold_no_answer(written):
    found, source = rows(written), load(str(written), labels=True)
    assert len(found) == len(source) > 10
    assert len({row["id"] for row in found}) == len(found)
    for i, row in enumerate(found):
        assert set(row) <= {"id", "question", "images", "choices", "mode", "source", "source_id", "seed"}
        assert (row["mode"], row["source"], row["seed"]) == ("direct", "tiny", 0)
        example = source[i]
        assert (
            example.answer is None and example.question == row["question"] and "boxed" not in row["question"]
        )
        original = load("tiny")[int(row["source_id"].rsplit("-", 1)[1])]
        assert example.images[0].tobytes() == original.images[0].tobytes()
        assert example.question != original.question


def test_counts_add_up_and_stand_in_the_report(written):
    counts = json.loads(written.with_suffix(".report.json").read_text())["counts"]
    assert counts["written"] == counts["source rows"] == 40
    assert counts["written"] == counts["kept"] + sum(counts[f"dropped: {name}"] for name in FILTERS)
    assert counts["kept"] == len(rows(written))


def test_most_written_questions_are_of_the_picture(written):
    from bench.synthetic import fits

    assert sum(map(fits, rows(written))) > 0.8 * len(rows(written))


def test_the_bench_leaves_out_what_is_held_out(written, tmp_path, monkeypatch):
    from bench import synthetic

    settings = synthetic.Synthetic(work=str(tmp_path), scale=0.01)
    monkeypatch.setattr(synthetic, "python", lambda *argv, log: synthesize.main([str(a) for a in argv[2:]]))
    all_kept = rows(synthetic.write_questions(settings, "direct", 0, set()))
    held_out = {(synthetic.picture(row).image().tobytes(), row["question"]) for row in all_kept[:3]}
    (tmp_path / "direct-0-clean.jsonl").unlink()
    assert rows(synthetic.write_questions(settings, "direct", 0, held_out)) == all_kept[3:]
    drawn = load("tiny", "test")[7]
    assert (drawn.images[0].tobytes(), drawn.question) in synthetic.held_out_pairs()


def test_what_is_written_trains(written, tmp_path):
    flags = [
        "--steps",
        "1",
        "--questions",
        "4",
        "--group_size",
        "2",
        "--eval_data",
        "",
        "--max_new_tokens",
        "8",
    ]
    assert mmupt.main([*flags, "--train_data", str(written), "--out", str(tmp_path / "run")]) == 0
    assert rows(tmp_path / "run" / "metrics.jsonl")[-1]["bad_rows"] == 0


def test_the_seed_decides_and_the_batch_size_does_not(written, tmp_path):
    again, batches, other = (tmp_path / f"{n}" / "new.jsonl" for n in range(3))
    assert (
        write(again, *DIRECT)
        == write(batches, *DIRECT, "--batch", 13)
        == write(other, *DIRECT, "--seed", 1)
        == 0
    )
    assert everything(again) == everything(written)
    assert batches.read_bytes() == written.read_bytes() != other.read_bytes()


def test_the_seed_keys_the_sampling_of_the_same_images(tmp_path, questions_file):
    texts = {}
    for seed in (0, 1):
        out = tmp_path / f"{seed}.jsonl"
        flags = ["--data", questions_file[0], "--mode", "direct", "--seed", seed, "--max_new_tokens", 32]
        assert write(out, *flags, "--filters", "none") == 0
        texts[seed] = [(row["source_id"], row["question"]) for row in rows(out)]
    assert texts[0] != texts[1] and [i for i, _ in texts[0]] == [i for i, _ in texts[1]]


def test_where_nothing_is_left_it_says_so(tmp_path, random_folder, capsys):
    out = tmp_path / "new.jsonl"
    flags = [
        "--model",
        random_folder,
        "--limit",
        4,
        "--prompt",
        "full",
        "--max_new_tokens",
        4,
        "--filters",
        "truncated",
    ]
    assert write(out, *flags, "--max_prompt_tokens", 50) == 1
    assert capsys.readouterr().err.count("more than --max_prompt_tokens 50") == 4
    assert write(tmp_path / "other.jsonl", *flags) in (0, 1)
    log = rows(tmp_path / "other.log.jsonl")
    assert len(log[1]["rows"]) == 4 and not all(all(row["finished"]) for row in log[1]["rows"])
    assert out.read_text() == ""


def test_in_context_sees_the_question_and_its_answer_only_when_told(tmp_path, questions_file, monkeypatch):
    path, labelled = questions_file
    asked = []
    monkeypatch.setattr(
        synthesize,
        "write_question",
        lambda *a, ask=prompts.write_question: asked.append(ask(*a)) or asked[-1],
    )
    flags = [
        "--data",
        path,
        "--mode",
        "in-context",
        "--batch",
        24,
        "--limit",
        3,
        "--max_new_tokens",
        8,
        "--filters",
        "empty",
    ]
    assert write(tmp_path / "a.jsonl", *flags) == write(tmp_path / "b.jsonl", *flags, "--show_answer") == 0
    for row, without, shown in zip(labelled, asked[:3], asked[3:], strict=False):
        assert row["question"] in without and "Its answer" not in without
        assert f"{row['question']}\nIts answer: {row['answer']}\n" in shown
    assert all("answer" not in row for name in "ab" for row in rows(tmp_path / f"{name}.jsonl"))


def test_direct_needs_no_question_and_in_context_does(tmp_path, questions_file):
    path, given = questions_file
    source = write_rows(
        path.with_name("photos.jsonl"), [{"id": r["id"], "images": r["images"]} for r in given]
    )
    assert write(tmp_path / "new.jsonl", "--data", source, "--mode", "direct", "--max_new_tokens", 32) == 0
    found = rows(tmp_path / "new.jsonl")
    assert len(found) > 12 and all(r["question"] for r in found)
    # the same questions as where the source has some, which direct does not show
    assert write(tmp_path / "other.jsonl", "--data", path, "--mode", "direct", "--max_new_tokens", 32) == 0
    known = {r["id"]: r["question"] for r in rows(tmp_path / "other.jsonl")}
    assert known and all(r["question"] == known[r["id"]] for r in found if r["id"] in known)
    with pytest.raises(DataError, match="no question among the columns id, images"):
        write(tmp_path / "c.jsonl", "--data", source, "--mode", "in-context")


def test_several_questions_per_image_differ_and_share_it(tmp_path):
    out = tmp_path / "new.jsonl"
    assert (
        write(
            out,
            "--mode",
            "direct",
            "--limit",
            6,
            "--per_image",
            4,
            "--max_new_tokens",
            32,
            "--filters",
            "none",
        )
        == 0
    )
    found = rows(out)
    assert (
        len(found) == 24 and len({r["id"] for r in found}) == 24 and len({r["images"][0] for r in found}) == 6
    )
    assert len(list((tmp_path / "new.images").iterdir())) == 6
    assert len({(r["images"][0], r["question"]) for r in found}) > 6


def test_bad_rows_are_skipped_counted_and_named_once(tmp_path, questions_file, capsys):
    path, good = questions_file
    (path.parent / "cut.png").write_bytes((path.parent / "0.png").read_bytes()[:60])
    bad = [good[0] | {"id": "cut", "images": ["cut.png"]}, {"id": "text", "question": "1 + 1?"}, good[3]]
    source = write_rows(path.with_name("mixed.jsonl"), [*good[:4], *bad, *good[4:8]])
    with open(source, "a") as file:
        file.write("{torn\n")
    out = tmp_path / "new.jsonl"
    flags = ["--data", source, "--batch", 3, "--max_new_tokens", 16, "--filters", "none", "--per_image", 1]
    assert write(out, *flags, "--filters", "empty") == 0
    err = capsys.readouterr().err
    for problem in (
        "cut.png: not a whole image",
        "text: no image",
        "q3 is already taken",
        "mixed.jsonl:12: not JSON",
    ):
        assert err.count(problem) == 1
    report = json.loads(out.with_suffix(".report.json").read_text())
    assert (report["counts"]["source rows"], report["counts"]["unusable rows"], len(report["skipped"])) == (
        8,
        4,
        4,
    )


# --- kills, changed flags, full disks


KILLER = """
import os, random, signal, sys, time
import torch
from programs import synthesize
rng, argv = random.Random(0), sys.argv[2:]
for kill in [*range(int(sys.argv[1])), None]:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            status = synthesize.main(argv)
        finally:
            os._exit(status)
    if kill is not None:
        time.sleep(rng.uniform(0.05, 0.6))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte(tmp_path):
    flags = ["--mode", "direct", "--limit", "320", "--batch", "4", "--max_new_tokens", "32"]
    assert write(tmp_path / "whole" / "new.jsonl", *flags) == 0
    out = tmp_path / "killed" / "new.jsonl"
    done = run_program("-c", KILLER, 12, "--out", out, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed") >= 6
    assert everything(out) == everything(tmp_path / "whole" / "new.jsonl")


@pytest.mark.parametrize("where", ["header", "line", "newline", "image", "unfinished image", "nothing"])
def test_torn_ends_and_lost_images_are_done_again(written, tmp_path, where):
    out = tmp_path / "new.jsonl"
    assert write(out, *DIRECT) == 0
    log, whole = out.with_suffix(".log.jsonl"), out.with_suffix(".log.jsonl").read_bytes()
    size = {"header": 20, "line": len(whole) - 500, "newline": len(whole) - 1}.get(where, len(whole))
    log.write_bytes(whole[:size])
    out.unlink()
    images = sorted(out.with_suffix(".images").iterdir())
    if where == "image":
        images[3].unlink()
    if where == "unfinished image":
        images[3].rename(images[3].with_name(images[3].name + ".partial"))
    assert write(out, *DIRECT) == 0
    assert everything(out) == everything(written)


def test_a_second_process_and_a_changed_flag_are_refused(tmp_path, program):
    out = tmp_path / "new.jsonl"
    assert write(out, *DIRECT) == 0
    before = everything(out)
    with held_elsewhere(out.with_suffix(".images")):
        done = program(synthesize.main, "--out", out, *DIRECT)
    assert done.returncode == 2 and "another process is writing" in done.stderr
    for flag, value in (
        ("seed", 1),
        ("limit", 41),
        ("batch", 9),
        ("temperature", 0.5),
        ("mode", "in-context"),
    ):
        with pytest.raises(cli.UsageError, match=f"--{flag} was .* keep it, name another"):
            write(out, *DIRECT, f"--{flag}", value)
    with pytest.raises(cli.UsageError, match="--near was 0.8 .* or add --refilter"):
        write(out, *DIRECT, "--near", 0.7)
    assert everything(out) == before


def test_refilter_filters_anew_and_writes_nothing_new(tmp_path, monkeypatch):
    out = tmp_path / "new.jsonl"
    assert write(out, *DIRECT) == 0
    log = out.with_suffix(".log.jsonl").read_bytes()
    monkeypatch.setattr(synthesize, "Writer", None)
    assert write(out, *DIRECT, "--refilter", "--filters", "none") == 0
    assert len(rows(out)) == 40 and out.with_suffix(".log.jsonl").read_bytes() == log


FULL_DISK = """
import resource, sys
from programs import synthesize
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # every file ends there, as on a full disk
sys.exit(synthesize.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_continues_once_there_is_room(written, tmp_path):
    out = tmp_path / "new.jsonl"
    done = run_program("-c", FULL_DISK, "--out", out, *DIRECT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: --out {out}: [Errno 27] File too large; the same command continues" in done.stderr
    assert write(out, *DIRECT) == 0
    assert everything(out) == everything(written)


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path, questions_file):
    path, _ = questions_file
    with pytest.raises(cli.UsageError, match="is there already"):
        write(path, "--data", path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--limit", "0"], "--limit must be above 0"),
        (["--mode", "direct", "--show_answer"], "--show_answer must be left out with --mode direct"),
        (["--filters", "empty", "nera"], "--filters: there is .*got nera"),
        (["--per_image", "2", "--temperature", "0"], "--per_image must be 1 at --temperature 0"),
        (["--near", "0"], "--near must be above 0"),
        (["--out", "new.json"], "--out must be the name of a .jsonl file"),
        (["--out", f"{__file__}/new.jsonl"], "is a file"),
    ],
)
def test_mistakes_name_the_flag(tmp_path, flags, message):
    with pytest.raises(cli.UsageError, match=message):
        write(tmp_path / "new.jsonl", *flags)
    assert not list(tmp_path.iterdir())


def test_the_program_names_what_it_can_not_write(tmp_path, program):
    done = program(synthesize.main, "--out", tmp_path / "new.txt")
    assert done.returncode == 2 and done.stderr == (
        f"error: --out must be the name of a .jsonl file (got {tmp_path / 'new.txt'})\n"
    )


def test_a_copy_of_a_question_with_a_picture_in_it_is_a_copy():
    row = {
        "id": "a",
        "images": ["x.png"],
        "question": "<image>Find x in the triangle ABC with AB = 5.",
        "choices": [],
    }
    row |= {
        "texts": ["Find x in the triangle ABC with AB = 5.", "What is the area of ABC?"],
        "finished": [True, True],
    }
    config = synthesize.Synthesis(out="new.jsonl", per_image=2)
    kept, counts = synthesize.questions_of(config, [{"rows": [row], "skipped": []}])
    assert [k["question"] for k in kept] == ["What is the area of ABC?"] and counts["dropped: copy"] == 1
