"""What plain transformers makes of one prompt at a time: unpacked, uncached, nothing of ours around
it."""

import torch

from model.families import image_inputs


def plain_inputs(model, processor, encoded, response=None):
    """What transformers itself wants for one prompt, with a response appended."""
    ids = torch.tensor([encoded.ids + ([] if response is None else response)])
    if not encoded.vision:
        return {"input_ids": ids}
    vision = image_inputs(model, processor.collate([encoded]), lean=False)
    return {"input_ids": ids, "mm_token_type_ids": (ids == model.config.image_token_id).int(), **vision}


def plain_logprobs(model, processor, rollout, examples):
    """[B, T]: every [prompt | response] through the model on its own, unpacked and uncached."""
    rows = []
    for b, (row, n) in enumerate(zip(rollout.tokens, rollout.lengths.tolist(), strict=True)):
        encoded = processor.encode(examples[b // rollout.num_samples])
        response = row[:n].tolist()
        logits = model(**plain_inputs(model, processor, encoded, response), use_cache=False).logits[
            0, len(encoded.ids) - 1 : -1
        ]
        logprobs = (logits.double() / (rollout.temperature or 1.0)).log_softmax(-1)
        picked = logprobs.gather(-1, row[:n, None])[:, 0]
        rows.append(torch.cat([picked, picked.new_zeros(len(row) - n)]))
    return torch.stack(rows)
