"""Loads a SavedModel with a TensorFlow's C API, whose loader is the one that TF Serving has.

A script for any Python: `c_api_loader.py <directory of tensorflow> <SavedModel>`. Prints what
went wrong and exits with 1 if it cannot be loaded. Python's own loaders are more lenient: they take
out attributes with default values that their TensorFlow does not know.
"""

import ctypes
import os
import sys


def main(package: str, saved_model: str) -> str:
    """Loads it; gives the error, "" for none."""
    for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        library = ctypes.CDLL(os.path.join(package, name), mode=ctypes.RTLD_GLOBAL)
    pointer = ctypes.c_void_p
    for name in ("TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions"):
        getattr(library, name).restype = pointer
    library.TF_LoadSessionFromSavedModel.restype = pointer
    library.TF_Message.restype = ctypes.c_char_p
    status, graph, options = (
        pointer(getattr(library, f"TF_New{kind}")())
        for kind in ("Status", "Graph", "SessionOptions")
    )
    tags = (ctypes.c_char_p * 1)(b"serve")
    library.TF_LoadSessionFromSavedModel(
        options, None, saved_model.encode(), tags, 1, graph, None, status
    )
    return library.TF_Message(status).decode()


if __name__ == "__main__":
    message = main(*sys.argv[1:])
    print(message)
    sys.exit(bool(message))
