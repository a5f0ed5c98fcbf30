"""This package, as it is served: exports, written in one process and loaded in another."""

import os
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import tensorflow as tf
from distilbert_serving import signatures

from benchmarks.workers.protocol import InferenceWorker


class Endpoint:
    """The logits of a signature.

    Args:
        session: Holds the export.
        signature: The SignatureDef.
        names: Its inputs, in the order of the arguments.
    """

    def __init__(self, session: Any, signature: Any, names: Sequence[str]) -> None:
        self.session = session
        self.output = signature.outputs[signatures.LOGITS].name
        self.inputs = [signature.inputs[name].name for name in names]
        self._call = session.make_callable(self.output, self.inputs)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Runs it."""
        logits: np.ndarray = self._call(*arrays)
        return logits


class Ours(InferenceWorker):
    """Two exports, of texts and of pairs; ids go to the signature of the first that takes them."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Writes the exports."""
        from distilbert_serving.saved_model.exporter import export_saved_model

        from distilbert_tf import DistilBertTokenizer, TFDistilBertForSequenceClassification

        model = TFDistilBertForSequenceClassification.from_pretrained(checkpoint)
        tokenizer = DistilBertTokenizer.from_pretrained(checkpoint)
        for is_pair in (False, True):
            base = os.path.join(artefacts, "pair" if is_pair else "text")
            export_saved_model(
                model, tokenizer, base, pair=is_pair, compute=options.get("compute"), verify=False
            )

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the export of texts; that of pairs follows when a case needs it."""
        self._config = tf.compat.v1.ConfigProto()
        if options.get("set_threads", True):
            self._config.intra_op_parallelism_threads = threads
        self._artefacts = artefacts
        session, meta_graph = self._open("text")
        by_name = meta_graph.signature_def
        self._ids = Endpoint(
            session,
            by_name[signatures.FROM_IDS],
            [signatures.INPUT_IDS, signatures.NUM_TOKENS],
        )
        self._text = Endpoint(session, by_name[signatures.SERVING_DEFAULT], [signatures.TEXT])
        self._pair: Endpoint | None = None

    def _open(self, kind: str) -> tuple[Any, Any]:
        """Loads an export into a session, as TF Serving does."""
        session = tf.compat.v1.Session(graph=tf.Graph(), config=self._config)
        with session.graph.as_default():
            path = os.path.join(self._artefacts, kind, "1")
            return session, tf.compat.v1.saved_model.load(session, ["serve"], path)

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Keeps the ids, and counts the tokens of each row; padding must be on the right."""
        return ids, mask.sum(axis=1, dtype=np.int32)

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Calls the endpoint."""
        return self._ids(*inputs)

    def text_inputs(self, texts: list[Any]) -> Any:
        """Chooses the endpoint; the strings stay Python's, so that their way in is timed."""
        if not isinstance(texts[0], list):
            return self._text, [texts]
        if self._pair is None:
            session, meta_graph = self._open("pair")
            signature = meta_graph.signature_def[signatures.SERVING_DEFAULT]
            self._pair = Endpoint(session, signature, [signatures.TEXT, signatures.TEXT_PAIR])
        return self._pair, list(zip(*texts, strict=True))

    def run_texts(self, texts: Any) -> np.ndarray:
        """Calls the endpoint with strings."""
        endpoint, columns = texts
        logits: np.ndarray = endpoint(*(np.array(column, object) for column in columns))
        return logits

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Adds what only ours can tell."""
        return {**super().handlers(), "ops": self.handle_ops}

    def handle_ops(self, name: str, calls: int) -> list[tuple[str, int, float]]:
        """Traces a case of ids.

        Args:
            name: The case.
            calls: How often to run it.

        Returns:
            For each kind of op, fused ones with what is fused: its name, how many there are, and
            their time in seconds a call, the median of the calls.
        """
        _, inputs = self.cases[name]
        options = tf.compat.v1.RunOptions(
            trace_level=tf.compat.v1.RunOptions.FULL_TRACE, output_partition_graphs=True
        )
        times_s: dict[str, list[float]] = {}
        counts: dict[str, int] = {}
        for call in range(calls):
            metadata = tf.compat.v1.RunMetadata()
            feed = dict(zip(self._ids.inputs, inputs[0], strict=True))
            self._ids.session.run(self._ids.output, feed, options=options, run_metadata=metadata)
            total: dict[str, float] = {}
            counts = {}
            for kind, time_s in op_times(metadata):
                total[kind] = total.get(kind, 0.0) + time_s
                counts[kind] = counts.get(kind, 0) + 1
            for kind, time_s in total.items():
                times_s.setdefault(kind, [0.0] * call).append(time_s)
        return [(kind, counts.get(kind, 0), median(values)) for kind, values in times_s.items()]


def op_times(metadata: Any) -> Iterator[tuple[str, float]]:
    """Reads a trace: the kind of each op that ran, and its time in seconds."""
    kinds = {
        node.name: "+".join([node.op, *(op.decode() for op in node.attr["fused_ops"].list.s)])
        for graph in metadata.partition_graphs
        for node in graph.node
    }
    for device in metadata.step_stats.dev_stats:
        for stats in device.node_stats:
            kind = kinds.get(stats.node_name.split(":")[0])
            if kind is not None:
                yield kind, stats.all_end_rel_micros / 1e6


if __name__ == "__main__":
    Ours().serve()
