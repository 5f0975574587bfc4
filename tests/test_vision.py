"""The lean vision tower against transformers' own."""

import pytest
import torch
from PIL import Image

from data import Example
from model.families import image_inputs
from model.vision import Windows, by_windows, lean_vision
from model_utils import load_model, load_processor


@pytest.fixture(scope="module")
def model(random_folder):
    return load_model(str(random_folder))


def pictures(random_folder, sizes):
    processor = load_processor(str(random_folder))
    processor.image_processor.size = type(processor.image_processor.size)(
        shortest_edge=28 * 28, longest_edge=2**20
    )
    images = [Image.effect_noise(size, 60).convert("RGB") for size in sizes]
    encoded = [processor.encode(Example(str(i), (image,), "?")) for i, image in enumerate(images)]
    return processor.collate(encoded)


@pytest.mark.parametrize("sizes", [[(56, 56)] * 3, [(56, 56), (252, 140), (112, 308)], [(364, 196)]])
def test_features_and_their_gradients_are_those_of_transformers(model, random_folder, sizes):
    prompts = pictures(random_folder, sizes)
    found = []
    for lean in (False, True):
        model.zero_grad()
        if lean:
            with lean_vision(model):
                features = model.get_image_features(**image_inputs(model, prompts)).pooler_output
        else:
            features = model.get_image_features(**image_inputs(model, prompts, lean=False)).pooler_output
        features = torch.cat(tuple(features))
        weight = torch.linspace(-1, 1, features.numel()).view_as(features)
        (features * weight).sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((features.detach(), grads))
    (plain, plain_grads), (lean, lean_grads) = found
    torch.testing.assert_close(lean, plain, rtol=1e-5, atol=1e-5)
    assert plain_grads.keys() == lean_grads.keys() and len(plain_grads) > 20
    for name, grad in plain_grads.items():
        assert (lean_grads[name] - grad).abs().max() <= 5e-5 * grad.abs().max() + 1e-6, name


def test_the_model_is_transformers_own_again_outside(model, random_folder):
    prompts = pictures(random_folder, [(252, 140)])
    before = model.get_image_features(**image_inputs(model, prompts, lean=False)).pooler_output[0]
    with lean_vision(model):
        pass
    after = model.get_image_features(**image_inputs(model, prompts, lean=False)).pooler_output[0]
    assert torch.equal(before, after)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("sizes", [[(56, 56)] * 3, [(56, 56), (252, 140), (112, 308)]])
def test_lengths_of_windows_are_read_once_a_forward_and_not_once_a_layer(
    model, random_folder, sizes, monkeypatch
):
    """Each read waits for the device. Two kinds: whole pictures, and windows of them."""
    asked, reads = [], []
    plain, diff = Windows.lengths, torch.Tensor.diff
    monkeypatch.setattr(Windows, "lengths", lambda self, x: asked.append(x) or plain(self, x))
    monkeypatch.setattr(torch.Tensor, "diff", lambda x: reads.append(x) or diff(x))
    for _ in range(2):
        with lean_vision(model):
            model.get_image_features(**image_inputs(model, pictures(random_folder, sizes)))
    assert len(asked) == 2 * model.config.vision_config.depth and len(reads) <= 4
    assert all(any(x is y for y in reads) for x in asked)


def test_each_window_reads_itself_alone():
    lengths = [3, 5, 3, 2, 5]
    q, k, v = torch.randn(3, sum(lengths), 2, 4, dtype=torch.float64)
    out = by_windows(q, k, v, lengths, 0.5)
    start = 0
    for length in lengths:
        here = slice(start, start + length)
        weights = torch.einsum("qhd,khd->hqk", q[here], k[here]).mul(0.5).softmax(-1)
        torch.testing.assert_close(out[here], torch.einsum("hqk,khd->qhd", weights, v[here]))
        start += length
