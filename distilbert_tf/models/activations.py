"""Activation functions under the names that Hugging Face configurations use."""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

Activation = Callable[[tf.Tensor], tf.Tensor]


_GELU_TANH = functools.partial(tf.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": tf.nn.gelu,
    "gelu_python": tf.nn.gelu,
    "gelu_new": _GELU_TANH,
    "gelu_fast": _GELU_TANH,
    "gelu_accurate": _GELU_TANH,
    "gelu_pytorch_tanh": _GELU_TANH,
    "gelu_python_tanh": _GELU_TANH,
    "gelu_10": lambda x: tf.clip_by_value(tf.nn.gelu(x), -10.0, 10.0),
    "hardswish": keras.activations.hard_silu,
    "laplace": lambda x: 0.5 * (1.0 + tf.math.erf((x - 0.707107) / (0.282095 * 2.0**0.5))),
    # PyTorch's slope; TensorFlow's default is 0.2.
    "leaky_relu": functools.partial(tf.nn.leaky_relu, alpha=0.01),
    "linear": keras.activations.linear,
    "mish": keras.activations.mish,
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    "relu": tf.nn.relu,
    "relu2": lambda x: tf.square(tf.nn.relu(x)),
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "sqrtsoftplus": lambda x: tf.sqrt(tf.nn.softplus(x)),
    "swish": tf.nn.silu,
    "tanh": tf.tanh,
}


def get_activation(name: str) -> Activation:
    """Looks up an activation by the name in `config.activation`.

    Args:
        name: A Hugging Face activation name, such as `"gelu"` (the exact one, by erf).

    Returns:
        The function; its output has the shape of its input.

    Raises:
        ValueError: The name is unknown, or names an activation with weights of its own.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"config.activation is {name!r}, which is not supported; "
            f"supported are {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[name]
