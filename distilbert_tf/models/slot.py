"""Where the tensors of a checkpoint lie in the variables of a layer.

Every layer with weights has a method `slots`, which returns its slots by the last part of their
names: `weight`, `bias`.
"""

from typing import NamedTuple

import keras
import numpy as np


class Slot(NamedTuple):
    """Where a tensor of a checkpoint lies in a model.

    Attributes:
        variable: The variable.
        transposed: Whether the checkpoint holds it transposed.
        rows: The rows of the variable that are the tensor, if the variable holds several tensors.
    """

    variable: keras.Variable
    transposed: bool = False
    rows: slice = slice(None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the checkpoint."""
        shape = (len(range(*self.rows.indices(self.variable.shape[0]))), *self.variable.shape[1:])
        return shape[::-1] if self.transposed else shape

    def take(self, array: np.ndarray) -> np.ndarray:
        """Takes the tensor, in the layout of the checkpoint, out of the value of the variable."""
        return array[self.rows].T if self.transposed else array[self.rows]

    def read(self) -> np.ndarray:
        """Returns the tensor in the layout of the checkpoint."""
        return self.take(self.variable.numpy())

    def write(self, tensor: np.ndarray) -> None:
        """Puts a tensor of the checkpoint into the variable."""
        value = tensor.T if self.transposed else tensor
        if self.rows != slice(None):
            whole = np.array(self.variable.numpy())
            whole[self.rows] = value
            value = whole
        self.variable.assign(value)
