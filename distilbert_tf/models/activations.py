"""Activation functions under the names that Hugging Face configurations use."""

import functools
import math
from collections.abc import Callable

import keras
import tensorflow as tf

Activation = Callable[[tf.Tensor], tf.Tensor]


@tf.custom_gradient
def _trained_gelu(x: tf.Tensor) -> tuple[tf.Tensor, Activation]:
    """The exact GELU, x * P(X <= x) of a normal X; its gradient reads what it has computed."""
    below = 0.5 * tf.math.erfc(x * -(0.5**0.5))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        density = tf.exp(-0.5 * tf.square(x)) * (2.0 * math.pi) ** -0.5
        return upstream * (below + x * density)

    return x * below, gradient


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


# For training: as exact, and gradients take half the passes over the rows. But TensorFlow's graph
# optimizer makes no part of a product of it, which makes it slower without gradients.
TRAINED_ACTIVATIONS = {"gelu": _trained_gelu, "gelu_python": _trained_gelu}


def get_activation(name: str, training: bool = False) -> Activation:
    """Looks up an activation by the name in `config.activation`.

    Args:
        name: A Hugging Face activation name, such as `"gelu"` (the exact one, by erf).
        training: Whether to return what is fastest with its gradient.

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
    return TRAINED_ACTIVATIONS.get(name, ACTIVATIONS[name]) if training else ACTIVATIONS[name]
