"""Log-probs of chosen tokens, of given logits or of hidden states and a head; and a decode step's parts.

`logprob.py` holds both functions, their gradients and the plain-torch arithmetic;
`logprob_triton.py` holds the same arithmetic as two Triton kernels, used on CUDA.
`decode_attention.py` is the attention of one decode step on CUDA, with prompts that samples share.
`decode_pointwise.py` is what stands between its products: norms, rotation, silu.
"""

from .logprob import linear_logprobs, selective_log_softmax

__all__ = ["linear_logprobs", "selective_log_softmax"]
