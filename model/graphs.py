"""A step of fixed shapes as a CUDA graph: its kernels are launched as one.

    new_graph = graphs_for(device)  what makes those of one rollout; None where there are none
    graph = new_graph()
    graph.capture(run)              records what run() does to tensors, and does none of it
    graph.replay()                  does it, to the same tensors

A graph holds for the very tensors that it was captured with. Decoding makes new ones whenever rows
leave or join, so it captures anew; the graphs of one rollout take turns in one pool of memory. They
aren't kept for row counts that come again: a graph would want its cache, prompts, tables and copies
of weights at the same addresses and of the same shapes, while every batch has its own longest
prompt and every rollout its own weights, so that next to none would be met a second time.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch


class Graph(Protocol):
    """What a decode step asks of a graph."""

    def capture(self, run: Callable[[], None]) -> None: ...

    def replay(self) -> None: ...


class CudaGraph:
    def __init__(self, pool):
        self.pool, self.graph = pool, torch.cuda.CUDAGraph()

    def capture(self, run: Callable[[], None]) -> None:
        stream = torch.cuda.current_stream()
        try:
            # threads that read pictures or watch over NCCL may go on
            with torch.cuda.graph(self.graph, pool=self.pool, capture_error_mode="thread_local"):
                run()
        except BaseException:
            torch.cuda.set_stream(stream)  # which PyTorch does only where the capture could be ended
            raise

    def replay(self) -> None:
        self.graph.replay()


NewGraph = Callable[[], Graph]


def graphs_for(device: torch.device) -> NewGraph | None:
    """Makes graphs that share one pool of memory, on a GPU. A pool lasts as long as a graph of it:
    keep the last one until the next is captured."""
    return partial(CudaGraph, torch.cuda.graph_pool_handle()) if device.type == "cuda" else None
