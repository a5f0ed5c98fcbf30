"""The yardsticks: this machine's sgemm speed, and a model's bare matrix products.

No peer: nothing stands between the products (no softmax, no LayerNorm, no bias), every buffer is
ready, and each shape is multiplied in whichever of three ways was fastest when it was first met.
All three share PyTorch's threads: those of another library would spin in their way.
"""

import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.workers.protocol import Channel, peak_memory_mib, serve, time_calls, versions

SQUARES = ((2048, 2048, 2048), (4096, 768, 3072))
TRIES = 3

Call = Callable[[], Any]


class Weight(NamedTuple):
    """A weight (N, K), the same (K, N) in memory, and oneDNN's own layout of it."""

    plain: torch.Tensor
    turned: torch.Tensor
    packed: torch.Tensor


def make_weight(k: int, n: int) -> Weight:
    """Draws a weight."""
    plain = torch.randn(n, k)
    return Weight(plain, plain.t().contiguous(), torch.ops.mkldnn._reorder_linear_weight(plain))


def ways(x: torch.Tensor, weight: Weight, out: torch.Tensor) -> list[Call]:
    """Lists ways to multiply x (M, K) by a weight: MKL twice, oneDNN."""
    return [
        lambda: torch.mm(x, weight.plain.t(), out=out),
        lambda: torch.mm(x, weight.turned, out=out),
        lambda: torch.ops.mkldnn._linear_pointwise(x, weight.packed, None, "none", [], ""),
    ]


def best_times_s(calls: list[Call]) -> list[float]:
    """Returns the shortest of a few tries of each call, in seconds; the tries take turns."""
    best = [float("inf")] * len(calls)
    for _ in range(TRIES):
        for i, call in enumerate(calls):
            start_s = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start_s)
    return best


class Matmul:
    """Serves `time` for the case `sgemm`, and for the products of any other case."""

    def __init__(self) -> None:
        self._calls: dict[str, list[Call]] = {}
        self._chosen: dict[tuple[int, int, int], int] = {}
        self._weights: dict[tuple[int, int, int], Weight] = {}
        self._buffers: dict[tuple[int, ...], torch.Tensor] = {}
        self._flops = 0

    def load(
        self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]
    ) -> dict[str, str]:
        """Reads the model's sizes.

        Args:
            checkpoint: Directory with config.json.
            artefacts: Unused.
            threads: Threads to compute with.
            options: `cls_only`: whether the last layer's products are those that a classifier
                needs, keys and values for all tokens and the rest for [CLS] alone.

        Returns:
            Packages and their versions.
        """
        torch.set_num_threads(threads)
        with open(os.path.join(checkpoint, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self._layers, self._heads = config["n_layers"], config["n_heads"]
        self._dim, self._hidden_dim = config["dim"], config["hidden_dim"]
        self._cls_only = bool(options.get("cls_only"))
        return versions()

    def case(self, name: str, path: str) -> list[Any]:
        """Makes the products of a case's true tokens; a list of their flops is the reply."""
        with open(path, encoding="utf-8") as file:
            batches = json.load(file)["batches"]
        self._flops = 0
        self._calls[name] = []
        for batch in batches:
            self._calls[name] += self._products([sum(row) for row in batch["mask"]])
        return [self._flops]

    def time(self, name: str, min_time_s: float) -> list[float]:
        """Times a case, in seconds a call; `sgemm` gives GFLOP/s of the best square instead."""
        if name == "sgemm":
            return self._sgemm()
        calls = self._calls[name]

        def run() -> None:
            for call in calls:
                call()

        run()
        return time_calls(run, min_time_s)

    def _sgemm(self) -> list[float]:
        rates = []
        for m, k, n in SQUARES:
            calls = ways(torch.randn(m, k), make_weight(k, n), torch.empty(m, n))
            rates.append(2e-9 * m * k * n / min(best_times_s(calls)))
        return [max(rates)]

    def _products(self, lengths: list[int]) -> list[Call]:
        calls: list[Call] = []
        tokens, rows, dim = sum(lengths), len(lengths), self._dim
        for layer in range(self._layers):
            short = self._cls_only and layer == self._layers - 1
            queries = rows if short else tokens
            if short:
                calls.append(self._linear(layer, tokens, dim, 2 * dim))
                calls.append(self._linear(layer, rows, dim, dim))
            else:
                calls.append(self._linear(layer, tokens, dim, 3 * dim))
            for length, group in itertools.groupby(sorted(lengths)):
                calls += self._attention(len(list(group)), 1 if short else length, length)
            calls.append(self._linear(layer, queries, dim, dim))
            calls.append(self._linear(layer, queries, dim, self._hidden_dim))
            calls.append(self._linear(layer, queries, self._hidden_dim, dim))
        return calls

    def _buffer(self, *shape: int) -> torch.Tensor:
        """Returns one tensor a shape: an allocator would give out the same memory over and over."""
        if shape not in self._buffers:
            self._buffers[shape] = torch.randn(shape)
        return self._buffers[shape]

    def _linear(self, layer: int, m: int, k: int, n: int) -> Call:
        self._flops += 2 * m * k * n
        # Every layer has weights of its own, as caches will notice.
        if (layer, k, n) not in self._weights:
            self._weights[layer, k, n] = make_weight(k, n)
        calls = ways(self._buffer(m, k), self._weights[layer, k, n], self._buffer(m, n))
        if (m, k, n) not in self._chosen:
            self._chosen[m, k, n] = int(np.argmin(best_times_s(calls)))
        return calls[self._chosen[m, k, n]]

    def _attention(self, rows: int, queries: int, keys: int) -> list[Call]:
        heads, size = rows * self._heads, self._dim // self._heads
        self._flops += 4 * heads * queries * keys * size
        query, key = self._buffer(heads, queries, size), self._buffer(heads, keys, size)
        scores, context = self._buffer(heads, queries, keys), torch.empty(heads, queries, size)
        return [
            lambda: torch.bmm(query, key.transpose(1, 2), out=scores),
            lambda: torch.bmm(scores, key, out=context),
        ]


if __name__ == "__main__":
    channel = Channel()
    yardstick = Matmul()
    with torch.inference_mode():
        serve(
            {
                "load": yardstick.load,
                "case": yardstick.case,
                "time": yardstick.time,
                "memory": peak_memory_mib,
            },
            channel,
        )
