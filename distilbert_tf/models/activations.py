"""Activation functions under the names that Hugging Face configurations use."""

from collections.abc import Callable

import keras
import tensorflow as tf

Activation = Callable[[tf.Tensor], tf.Tensor]


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(x, approximate=True)


def _quick_gelu(x: tf.Tensor) -> tf.Tensor:
    return x * tf.sigmoid(1.702 * x)


def _gelu_10(x: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.nn.gelu(x), -10.0, 10.0)


def _leaky_relu(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.leaky_relu(x, alpha=0.01)  # PyTorch's slope; TensorFlow's default is 0.2


def _laplace(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1.0 + tf.math.erf((x - 0.707107) / (0.282095 * 2.0**0.5)))


ACTIVATIONS: dict[str, Activation] = {
    "gelu": tf.nn.gelu,
    "gelu_python": tf.nn.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_10": _gelu_10,
    "hardswish": keras.activations.hard_silu,
    "laplace": _laplace,
    "leaky_relu": _leaky_relu,
    "linear": keras.activations.linear,
    "mish": keras.activations.mish,
    "quick_gelu": _quick_gelu,
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
        A function from a tensor to a tensor of the same shape.

    Raises:
        ValueError: The name is unknown, or names an activation with weights of its own.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"config.activation is {name!r}, which is not supported; "
            f"supported are {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[name]
