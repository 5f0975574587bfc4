"""The lean layers of a decoder: used where they compute what its own do, and without copies of
weights."""

import torch

from model import layers
from model_utils import generate, load_model, token_logprobs


def test_a_decoder_of_unknown_parts_gives_the_same_tokens(decodes_alike, model, monkeypatch):
    assert model.standard_decoder
    monkeypatch.setattr(model, "standard_decoder", False)
    decodes_alike()


def test_a_decoder_that_steps_differently_is_found_out(random_folder, processor, mixed_examples, monkeypatch):
    """Its own forward is then what decodes."""
    monkeypatch.setattr(layers, "rms_norm", lambda module: lambda x: 1.1 * module(x))
    model = load_model(str(random_folder))
    assert not model.standard_decoder
    monkeypatch.undo()
    assert load_model(str(random_folder)).standard_decoder
    rollout = generate(model, processor, mixed_examples, 2, 12)
    with torch.no_grad():
        assert (rollout.logprobs - token_logprobs(model, rollout)).abs().max() < 1e-4


def test_weights_that_are_multiplied_together_are_one_matrix_without_a_copy(random_folder):
    model = load_model(str(random_folder))
    for part in model.model.language_model.layers:  # already read to where they are wanted
        for linears in layers.together(part):
            assert layers.view_of([linear.weight for linear in linears]) is not None
            assert len({linear.weight.untyped_storage().nbytes() for linear in linears}) == 1
    layer, part = layers.fused_layers(model)[0], model.model.language_model.layers[0]
    assert layer.qkv[0].data_ptr() == part.self_attn.q_proj.weight.data_ptr()
    with torch.no_grad():
        part.self_attn.v_proj.weight.add_(1)  # training in place trains the view
        part.mlp.up_proj.weight.mul_(2)
    assert torch.equal(layer.qkv[0], torch.cat([getattr(part.self_attn, f"{n}_proj").weight for n in "qkv"]))
    assert torch.equal(layer.gate_up[0], torch.cat([part.mlp.gate_proj.weight, part.mlp.up_proj.weight]))
