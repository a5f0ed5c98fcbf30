"""This package, as it is served: SavedModels, written in one process and loaded in another."""

import os
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers.protocol import InferenceWorker


class Ours(InferenceWorker):
    """Ids go to a SavedModel without a tokenizer, strings to what `export_saved_model` writes."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Writes the three SavedModels: ids, text, and pairs of texts."""
        from distilbert_tf import DistilBertTokenizer, TFDistilBertForSequenceClassification
        from export.saved_model import export_saved_model
        from export.tracing import trace_by_size

        model = TFDistilBertForSequenceClassification.from_pretrained(checkpoint)
        tokenizer = DistilBertTokenizer.from_pretrained(checkpoint)

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2)
        def classify(ids: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs = {"input_ids": ids, "attention_mask": mask}
            return {"logits": trace_by_size(model, mask, lambda: model(inputs, training=False))}

        module = tf.Module()
        module.classify = classify
        # Not the Keras model itself, whose own signature would be traced and saved too.
        module.weights = [variable.value for variable in model.variables]
        without_gradients = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, os.path.join(artefacts, "ids"), classify, without_gradients)
        for kind in ("text", "pair"):
            export_saved_model(
                model,
                tokenizer,
                os.path.join(artefacts, kind),
                pair=kind == "pair",
                verify=False,
            )

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Loads the ids' SavedModel; those of the texts follow when a case needs them."""
        self._config = tf.compat.v1.ConfigProto()
        if options.get("set_threads", True):
            self._config.intra_op_parallelism_threads = threads
        self._artefacts = artefacts
        self._calls: dict[str, Callable[..., np.ndarray]] = {}
        self._sessions: dict[str, tf.compat.v1.Session] = {}
        self._names: dict[str, tuple[str, list[str]]] = {}
        self._endpoint("ids")

    def _endpoint(self, kind: str) -> Callable[..., np.ndarray]:
        """Loads a SavedModel into a session, as TF Serving does, and gives its endpoint."""
        if kind not in self._calls:
            path = os.path.join(self._artefacts, kind, "" if kind == "ids" else "1")
            session = tf.compat.v1.Session(graph=tf.Graph(), config=self._config)
            self._sessions[kind] = session
            with session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
            signature = meta_graph.signature_def["serving_default"]
            inputs = [info.name for _, info in sorted(signature.inputs.items())]
            self._names[kind] = signature.outputs["logits"].name, inputs
            self._calls[kind] = session.make_callable(*self._names[kind])
        return self._calls[kind]

    def to_inputs(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Keeps the arrays."""
        return ids, mask

    def run_ids(self, inputs: Any) -> np.ndarray:
        """Calls the endpoint."""
        return self._endpoint("ids")(*inputs)

    def text_inputs(self, texts: list[Any]) -> Any:
        """Chooses the SavedModel; the strings stay Python's, so that their way in is timed."""
        if isinstance(texts[0], list):
            return self._endpoint("pair"), list(zip(*texts, strict=True))
        return self._endpoint("text"), [texts]

    def run_texts(self, texts: Any) -> np.ndarray:
        """Calls the endpoint with strings."""
        call, columns = texts
        return call(*(np.array(column, object) for column in columns))

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
        output, names = self._names["ids"]
        options = tf.compat.v1.RunOptions(
            trace_level=tf.compat.v1.RunOptions.FULL_TRACE, output_partition_graphs=True
        )
        times_s: dict[str, list[float]] = {}
        counts: dict[str, int] = {}
        for call in range(calls):
            metadata = tf.compat.v1.RunMetadata()
            feed = dict(zip(names, inputs[0], strict=True))
            self._sessions["ids"].run(output, feed, options=options, run_metadata=metadata)
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
