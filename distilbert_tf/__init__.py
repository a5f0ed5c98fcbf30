"""DistilBERT on TensorFlow."""

from distilbert_tf.version import __version__

__all__ = ["__version__"]
