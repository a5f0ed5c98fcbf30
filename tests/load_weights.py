"""Loads SavedModels as TensorFlow's two loaders do, in a process without this package.

Arguments: a file for the result, then SavedModels. The result is a NumPy archive, with the
variables of each under `<number of the SavedModel>/<loader>/<number of the variable>`.
"""

import sys

import numpy as np
import tensorflow as tf


def main(result, saved_models):
    """Loads them all, and writes their variables."""
    arrays = {}
    for number, saved_model in enumerate(saved_models):
        for loader, load in {"tf2": load_tf2, "session": load_session}.items():
            for index, array in enumerate(load(saved_model)):
                arrays[f"{number}/{loader}/{index}"] = array
    np.savez(result, **arrays)


def load_tf2(saved_model):
    """Loads into Python objects."""
    return [variable.numpy() for variable in tf.saved_model.load(saved_model).weights]


def load_session(saved_model):
    """Loads into a session, as TF Serving does."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, [tf.saved_model.SERVING], saved_model)
        # Every variable that holds something.
        handles = [op.outputs[0] for op in graph.get_operations() if op.type == "VarHandleOp"]
        filled = session.run([tf.raw_ops.VarIsInitializedOp(resource=each) for each in handles])
        reads = [
            tf.raw_ops.ReadVariableOp(resource=handle, dtype=handle.op.get_attr("dtype"))
            for handle, is_filled in zip(handles, filled, strict=True)
            if is_filled
        ]
        return session.run(reads)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
