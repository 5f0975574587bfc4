"""Log-probs of chosen tokens: of given logits, or of hidden states and a head.

`logprob.py` holds both functions, their gradients and the plain-torch arithmetic;
`logprob_triton.py` holds the same arithmetic as two Triton kernels, used on CUDA.
`decode_attention.py` is the attention of one decode step on CUDA, with prompts that samples share.
"""

from .logprob import linear_logprobs, selective_log_softmax

__all__ = ["linear_logprobs", "selective_log_softmax"]
