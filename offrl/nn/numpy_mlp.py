"""Small networks on few observations in NumPy: PyTorch takes longer to dispatch each operation than to do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.ops.numpy_or_torch import Array, is_plain

LARGEST_LAYER, LARGEST_FOR_ONE = 2**13, 2**16
"""Elements of a weight: for several observations, and for a single one. Beyond, PyTorch is as fast or faster."""
ZERO = np.zeros((), np.float32)
"""As an array, for a number is made one at every call, which takes as long as what is done with it."""
LARGEST_PRODUCT = 2**18
"""Multiplications of a matrix product that NumPy's BLAS still does in one thread: others take long to wake."""


def rectify(values: NDArray[Any]) -> None:
    """max(x, 0), in place."""
    np.maximum(values, ZERO, out=values)


def rectify_backward(gradient: NDArray[Any], output: NDArray[Any]) -> None:
    """The gradient by x in place of that by max(x, 0), from the latter."""
    gradient *= np.sign(output)


def squash(values: NDArray[Any]) -> None:
    """tanh x, in place."""
    np.tanh(values, out=values)


def squash_backward(gradient: NDArray[Any], output: NDArray[Any]) -> None:
    """The gradient by x in place of that by tanh x, from the latter: times 1 − tanh² x."""
    squared = output * output
    gradient *= np.subtract(1.0, squared, out=squared)


IN_PLACE: dict[str, Callable[[NDArray[Any]], None]] = {"relu": rectify, "tanh": squash}
BACKWARD: dict[str, Callable[[NDArray[Any], NDArray[Any]], None]] = {"relu": rectify_backward, "tanh": squash_backward}


class HostLayers:
    """Affine layers with an activation between them, computed in NumPy on memory that they share with PyTorch.

    Stacks of one are taken for matrices: NumPy has less to look at.

    Args:
        layers: for each layer, W [N, outputs, inputs] and b [N, 1, outputs], outside of autograd.
        gradients: places for the gradients by them, one behind the other, of the same shapes.
        activation: "relu" or "tanh".

    Attributes:
        most_rows: of an input; with more, PyTorch is faster. 0 where the layers are large, or elsewhere.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], gradients: Sequence[Tensor], activation: str) -> None:
        largest = max(weight[0].numel() for weight, _ in layers)
        here = all(weight.device.type == "cpu" for weight, _ in layers)
        several = LARGEST_PRODUCT // largest if largest <= LARGEST_LAYER else 1
        self.most_rows = several if here and largest <= LARGEST_FOR_ONE else 0
        if not self.most_rows:
            return
        self.single = all(len(weight) == 1 for weight, _ in layers)
        arrays = [(self._seen(weight), self._seen(bias)) for weight, bias in layers]
        self.weights = [weight for weight, _ in arrays]
        *self.hidden, self.last = [(weight.swapaxes(-1, -2), bias) for weight, bias in arrays]
        places = [self._seen(place) for place in gradients]
        self.places = list(zip(places[::2], places[1::2], strict=True))
        self.product: Callable[..., NDArray[Any]] = np.dot if self.single else np.matmul
        self.activate, self.backward = IN_PLACE[activation], BACKWARD[activation]

    def takes(self, x: Array) -> bool:
        """Whether these are few enough rows, [N, B, inputs]."""
        return x.shape[1] <= self.most_rows and (isinstance(x, np.ndarray) or is_plain(x))

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """[N, B, inputs] to [N, B, outputs]."""
        product, activate, values = self.product, self.activate, x[0] if self.single else x
        for weight, bias in self.hidden:
            values = product(values, weight)
            values += bias
            activate(values)
        weight, bias = self.last
        output = product(values, weight)
        output += bias
        return output[None] if self.single else output

    def record(self, x: NDArray[Any]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """The same, and each layer's input."""
        inputs = [x[0] if self.single else x]
        for weight, bias in self.hidden:
            values = self.product(inputs[-1], weight)
            values += bias
            self.activate(values)
            inputs.append(values)
        weight, bias = self.last
        output = self.product(inputs[-1], weight)
        output += bias
        return output[None] if self.single else output, inputs

    def chain_rule(
        self, by_output: NDArray[Any], inputs: Sequence[NDArray[Any]], *, fill: bool, first_input: int | None
    ) -> NDArray[Any] | None:
        """From the gradient by the output to that by the parameters, from the last layer to the first.

        Args:
            by_output: [N, B, outputs].
            inputs: of each layer.
            fill: whether to fill the places of the parameters' gradients.
            first_input: return the gradient by the network's inputs from this one on; None where it isn't wanted.
        """
        gradient = by_output[0] if self.single else by_output
        for layer in reversed(range(len(inputs))):
            if fill:
                by_weight, by_bias = self.places[layer]
                self.product(gradient.swapaxes(-1, -2), inputs[layer], out=by_weight)
                np.add.reduce(gradient, axis=-2, keepdims=True, out=by_bias)
            if layer:
                gradient = self.product(gradient, self.weights[layer])
                self.backward(gradient, inputs[layer])
        if first_input is None:
            return None
        by_input = self.product(gradient, self.weights[0][..., first_input:])
        return by_input[None] if self.single else by_input

    def _seen(self, tensor: Tensor) -> NDArray[Any]:
        return tensor.numpy()[0] if self.single else tensor.numpy()


Function = TypeVar("Function", bound=Callable[..., Any])


def without_gradients(function: Function) -> Function:
    """As `torch.no_grad()`, whose own bookkeeping takes as long as a small layer does."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            return function(*arguments, **options)
        finally:
            torch._C._set_grad_enabled(before)

    return cast(Function, call)


@contextmanager
def recording() -> Iterator[None]:
    """Autograd at work, within inference mode as well. It takes no tensors that were made there: clone them first."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
