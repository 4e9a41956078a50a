"""Stacked multilayer perceptrons: S networks, or S ensembles of E, in one batched matrix product a layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from offrl.nn.flat import FlatModule, joined, uniform_per_seed
from offrl.nn.numpy_mlp import HostLayers, recording
from offrl.ops.numpy_or_torch import Array, at_hand, handed_back

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


NARROW, MANY = 16, 128
"""Products with up to so many columns, and from so many rows on, are computed through their transposes: the plain way
takes two to four times as long."""


class StackedLinear(nn.Module):
    """y = x Wᵀ + b for each of N stacked networks; W is [outputs, inputs] and starts as `torch.nn.Linear`'s does."""

    def __init__(self, inputs: int, outputs: int, ensemble: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(uniform_per_seed((ensemble, outputs, inputs), bound, generators))
        self.bias = nn.Parameter(uniform_per_seed((ensemble, 1, outputs), bound, generators))

    def forward(self, x: Tensor, members: int) -> Tensor:
        """[N, B, inputs] to [N, B, outputs], N = S · members; the members beyond the first ones are left out."""
        return affine(x, Layer.of(_stack(self.weight, members), _stack(self.bias, members)))


class Layer(NamedTuple):
    """An affine layer's parameters for N networks, and views of them that are worth making once.

    Attributes:
        weight: W, [N, outputs, inputs].
        bias: b, [N, 1, outputs].
        weight_transposed: [N, inputs, outputs].
        bias_transposed: [N, outputs, 1].
    """

    weight: Tensor
    bias: Tensor
    weight_transposed: Tensor
    bias_transposed: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Layer:
        """The layer with these parameters."""
        return cls(weight, bias, weight.mT, bias.mT)


Layers = Sequence[Layer]


def affine(x: Tensor, layer: Layer) -> Tensor:
    """x Wᵀ + b for x [N, B, inputs]."""
    if x.shape[1] >= MANY and layer.weight.shape[1] <= NARROW:
        return torch.baddbmm(layer.bias_transposed, layer.weight, x.mT).mT
    return torch.baddbmm(layer.bias, x, layer.weight_transposed)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b for stacks of matrices [N, rows, …] and [N, …, columns]."""
    if a.shape[2] == 1:
        return a * b
    if a.shape[1] >= MANY and b.shape[2] <= NARROW:
        return torch.bmm(b.mT, a.mT).mT
    return torch.bmm(a, b)


def _product_into(a: Tensor, b: Tensor, out: Tensor) -> None:
    if a.shape[1] >= MANY and b.shape[2] <= NARROW:
        out.copy_(torch.bmm(b.mT, a.mT).mT)
    else:
        torch.bmm(a, b, out=out)


class PlainLayers(torch.autograd.Function):
    """Affine layers with ReLU or tanh between them, differentiated by hand: faster than autograd's own record.

    `apply(x, activation, layers, *parameters)` takes x [S · E, B, inputs], "relu" or "tanh", the layers, and the
    parameters to differentiate by: W [S, E, …] and b [S, E, …] of each layer, whose memory the layers share; or none.
    It can be differentiated once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str, layers: Layers, *parameters: Tensor) -> Tensor:
        """The last layer's output, [S · E, B, outputs]."""
        output, inputs = plain_layers(x, activation, layers)
        ctx.save_for_backward(*inputs, *(layer.weight for layer in layers))
        ctx.activation, ctx.shapes = activation, [parameter.shape for parameter in parameters]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The parameters' gradients lie back to back in one tensor, as the optimizer wants them."""
        depth = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:depth], ctx.saved_tensors[depth:]
        gradients = back_to_back(gradient, ctx.shapes)
        stacked = [part.flatten(0, 1) for part in gradients]
        by_input = chain_rule(
            gradient, ctx.activation, inputs, weights, stacked, 0 if ctx.needs_input_grad[0] else None
        )
        return (by_input, None, None, *gradients)


def chain_rule(
    gradient: Tensor,
    activation: str,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first_input: int | None,
) -> Tensor | None:
    """From the gradient by plain layers' output to that by their parameters, from the last layer to the first.

    Args:
        gradient: [N, B, outputs].
        activation: "relu" or "tanh".
        inputs: of each layer, [N, B, …].
        weights: of each layer, [N, outputs, inputs].
        gradients: filled, for each layer by weight and by bias, of those shapes; or empty.
        first_input: return the gradient by the network's inputs from this one on; None where it isn't wanted.
    """
    for layer in reversed(range(len(weights))):
        if gradients:
            _product_into(gradient.mT, inputs[layer], gradients[2 * layer])
            torch.sum(gradient, dim=1, keepdim=True, out=gradients[2 * layer + 1])
        if layer:
            gradient = DERIVATIVES[activation](_product(gradient, weights[layer]), inputs[layer])
    return None if first_input is None else _product(gradient, weights[0][..., first_input:])


DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda gradient, output: torch.ops.aten.threshold_backward.grad_input(
        gradient, output, 0.0, grad_input=gradient
    ),
    "tanh": lambda gradient, output: torch.ops.aten.tanh_backward.grad_input(gradient, output, grad_input=gradient),
}
"""The gradient by an activation's input, written over that by its output, from the output itself."""


def plain_layers(x: Tensor, activation: str, layers: Layers) -> tuple[Tensor, list[Tensor]]:
    """The output of affine layers with activations between them, and each layer's input."""
    inputs = [x]
    for layer in layers[:-1]:
        hidden = affine(inputs[-1], layer)
        inputs.append(hidden.relu_() if activation == "relu" else hidden.tanh_())
    return affine(inputs[-1], layers[-1]), inputs


def back_to_back(like: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Uninitialized tensors of these shapes, one behind the other in memory."""
    if not shapes:
        return []
    sizes = [shape.numel() for shape in shapes]
    parts = like.new_empty(sum(sizes)).split(sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class Recorded(Protocol):
    """What a network gave, and derivatives from there, outside of autograd: see `MLP.record`."""

    @property
    def output(self) -> Array:
        """As the network's `forward` has it."""

    def gradient(self, by_output: Array) -> Tensor:
        """By all parameters, in the order of `flat`, from the gradient by the output, which is of its shape."""

    def gradient_by_input(self, by_output: Array, first: int = 0) -> Tensor:
        """By what the network was given, from its column `first` on, [S, B, inputs − first]."""


class RecordedGraph(NamedTuple):
    """The record that autograd made of any network.

    Attributes:
        x: what the network was given.
        graph: its output in autograd's record.
    """

    network: FlatModule
    output: Array
    x: Tensor
    graph: Tensor

    def gradient(self, by_output: Array) -> Tensor:
        """By all parameters."""
        return joined(torch.autograd.grad(self.graph, self.network.own_parameters, handed_back(by_output)))

    def gradient_by_input(self, by_output: Array, first: int = 0) -> Tensor:
        """By the input's columns from `first` on."""
        return torch.autograd.grad(self.graph, self.x, handed_back(by_output))[0][..., first:]


def record_graph(network: FlatModule, x: Array, **options: Any) -> RecordedGraph:
    """`network(x, **options)`, recorded by autograd."""
    with recording():
        given = handed_back(x).clone().requires_grad_()
        graph = network(given, **options)
    return RecordedGraph(network, handed_back(graph.detach(), to=x), given, graph)


class RecordedLayers(NamedTuple):
    """What a plain network gave, and the inputs of its layers.

    Attributes:
        members: how many of an ensemble were applied, the first ones.
        inputs: of each layer, [S · members, B, …].
    """

    network: MLP
    output: Array
    members: int
    inputs: list[Tensor]

    def gradient(self, by_output: Array) -> Tensor:
        """By all parameters. There is one place for it: the network's next call overwrites what this one returned."""
        gradient, parts = self.network.gradient_place()
        self._chain_rule(handed_back(by_output), parts, None)
        return gradient

    def gradient_by_input(self, by_output: Array, first: int = 0) -> Tensor:
        """By the input's columns from `first` on, which all members saw."""
        by_input = self._chain_rule(handed_back(by_output), [], first)
        assert by_input is not None
        return by_input if self.members == 1 else by_input.unflatten(0, (-1, self.members)).sum(dim=1)

    def _chain_rule(self, by_output: Tensor, parts: Sequence[Tensor], first_input: int | None) -> Tensor | None:
        network = self.network
        slope = by_output.flatten(0, 1) if network.ensemble else by_output
        weights = [layer.weight for layer in network.stacked(self.members)]
        return chain_rule(slope, network.activation_name, self.inputs, weights, parts, first_input)


class RecordedOnHost(NamedTuple):
    """The same of a small network, computed in NumPy.

    Attributes:
        inputs: of each layer, as arrays.
    """

    network: MLP
    output: Array
    members: int
    inputs: list[NDArray[Any]]

    def gradient(self, by_output: Array) -> Tensor:
        """By all parameters. There is one place for it: the network's next call overwrites what this one returned."""
        self._chain_rule(by_output, fill=True, first_input=None)
        return self.network.gradient_place()[0]

    def gradient_by_input(self, by_output: Array, first: int = 0) -> Tensor:
        """By the input's columns from `first` on, which all members saw."""
        by_input = self._chain_rule(by_output, fill=False, first_input=first)
        assert by_input is not None
        return by_input if self.members == 1 else by_input.unflatten(0, (-1, self.members)).sum(dim=1)

    def _chain_rule(self, by_output: Array, *, fill: bool, first_input: int | None) -> Tensor | None:
        slope = at_hand(by_output)
        if self.network.ensemble:
            slope = slope.reshape(-1, *slope.shape[2:])
        host = self.network.on_host(self.members)
        by_input = host.chain_rule(slope, self.inputs, fill=fill, first_input=first_input)
        return None if by_input is None else torch.from_numpy(by_input)


class StackedLayerNorm(nn.Module):
    """Layer normalization (Ba et al., 2016) with a gain and offset of its own for each stacked network."""

    def __init__(self, features: int, ensemble: int, seeds: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(seeds, ensemble, 1, features))
        self.offset = nn.Parameter(torch.zeros(seeds, ensemble, 1, features))

    def forward(self, x: Tensor, members: int) -> Tensor:
        normal = nn.functional.layer_norm(x, x.shape[-1:])
        return normal * _stack(self.gain, members) + _stack(self.offset, members)


def _stack(parameter: Tensor, members: int) -> Tensor:
    """[S, E, …] to [S · members, …]."""
    return _first(parameter, members).flatten(0, 1)


def _first(parameter: Tensor, members: int) -> Tensor:
    """[S, E, …] to [S, members, …]; all of them are left as they are, since a slice's derivative fills a whole copy."""
    return parameter if members == parameter.shape[1] else parameter[:, :members]


class MLP(FlatModule):
    """S multilayer perceptrons, or S ensembles of E of them.

    Args:
        inputs: width of the input.
        outputs: width of the output; the last layer is linear.
        hidden: widths of the hidden layers.
        generators: one per seed; seed s's weights are drawn from the s-th and don't depend on S.
        ensemble: members per seed (twin critics: 2), or None for a single network without that axis.
        activation: a name in `ACTIVATIONS`.
        layer_norm: normalize each hidden layer before its activation.
        dropout: chance of zeroing a hidden unit; the masks come from the draws handed to `forward`.
    """

    stacked_layers: dict[int, Layers]
    host_layers: dict[int, HostLayers]
    own_gradient: tuple[Tensor, list[Tensor]] | None = None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        generators: list[torch.Generator],
        *,
        ensemble: int | None = None,
        activation: str = "relu",
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.seeds, self.ensemble, self.hidden = len(generators), ensemble, tuple(hidden)
        self.activation_name, self.activation = activation, ACTIVATIONS[activation]
        self.keep = 1.0 - dropout
        self.has_derivative = activation in DERIVATIVES and not layer_norm
        members = ensemble or 1
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            StackedLinear(fan_in, fan_out, members, generators) for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(StackedLayerNorm(width, members, self.seeds) for width in hidden if layer_norm)
        self.flatten()

    def rehomed(self) -> None:
        """The parameters lie elsewhere now."""
        self.stacked_layers, self.host_layers = {}, {}
        self.own_gradient = None

    def forward(self, x: Array, *, members: int | None = None, dropout_noise: Tensor | None = None) -> Array:
        """Apply the networks.

        Args:
            x: [S, B, inputs]; every member of an ensemble sees the same input. For an array, and outside of autograd,
                small plain networks without an ensemble give an array.
            members: how many of the ensemble to apply, the first ones; None for all.
            dropout_noise: standard normal draws [S, B, sum(hidden)], or [S, members, B, sum(hidden)] with an ensemble;
                None leaves dropout off.

        Returns:
            [S, B, outputs], or [S, members, B, outputs] with an ensemble.
        """
        if isinstance(x, np.ndarray):
            if self._is_plain(dropout_noise) and not self.ensemble and (host := self.on_host(1)).takes(x):
                return host(x)
            x = torch.from_numpy(x)
        members = members or self.ensemble or 1
        x = self._for_each(x, members)
        stacked = dropout_noise.flatten(0, 1) if self.ensemble and dropout_noise is not None else dropout_noise
        masks = dropout_masks(stacked, self.keep, self.hidden)
        x = self._plain(x, members) if self._is_plain(dropout_noise) else self._general(x, members, masks)
        return self._shaped(x, members)

    def _is_plain(self, dropout_noise: Tensor | None) -> bool:
        dropping = dropout_noise is not None and self.keep < 1.0
        return self.has_derivative and not dropping

    def _plain(self, x: Tensor, members: int) -> Tensor:
        if not torch.is_grad_enabled() and (host := self.on_host(members)).takes(x):
            return torch.from_numpy(host(x.numpy()))
        layers = self.stacked(members)
        if not torch.is_grad_enabled():
            return plain_layers(x, self.activation_name, layers)[0]
        parameters = [_first(parameter, members) for parameter in self.own_parameters]
        output: Tensor = PlainLayers.apply(x, self.activation_name, layers, *parameters)  # type: ignore[no-untyped-call]
        return output

    def record(self, x: Array, *, members: int | None = None, dropout_noise: Tensor | None = None) -> Recorded:
        """`forward`, for gradients that start from a hand-made one by the output, which is an array where x is one.

        Autograd's bookkeeping costs small networks as much as their arithmetic: plain ones do without.
        """
        count = members or self.ensemble or 1
        if not self._is_plain(dropout_noise):
            return record_graph(self, x, members=members, dropout_noise=dropout_noise)
        each = x if count == 1 else self._for_each(handed_back(x), count)
        if (host := self.on_host(count)).takes(each):
            values, on_host = host.record(at_hand(each))
            return RecordedOnHost(self, handed_back(self._shaped(values, count), to=x), count, on_host)
        output, inputs = plain_layers(handed_back(each), self.activation_name, self.stacked(count))
        return RecordedLayers(self, handed_back(self._shaped(output, count), to=x), count, inputs)

    def _for_each(self, x: Tensor, members: int) -> Tensor:
        """[S, B, inputs] to [S · members, B, inputs]."""
        return x.unsqueeze(1).expand(-1, members, -1, -1).flatten(0, 1) if members > 1 else x

    def _shaped(self, output: Array, members: int) -> Array:
        """[S · members, B, outputs] to [S, members, B, outputs], where there is an ensemble."""
        return output.reshape(self.seeds, members, *output.shape[1:]) if self.ensemble else output

    def gradient_place(self) -> tuple[Tensor, list[Tensor]]:
        """A tensor like `flat`, the same one each time, and its parts as `stacked` has the parameters'."""
        if self.own_gradient is None:
            # Whoever asks first: other calls must be able to fill it as well.
            with torch.inference_mode(False):
                gradient = torch.empty_like(self.flat)
            parts = gradient.split([parameter.numel() for parameter in self.own_parameters])
            shaped = [
                part.view(whole.shape).flatten(0, 1) for part, whole in zip(parts, self.own_parameters, strict=True)
            ]
            self.own_gradient = gradient, shaped
        return self.own_gradient

    def stacked(self, members: int) -> Layers:
        """The layers of the first members of every seed, as [S · members, …]; they are looked up once."""
        if members not in self.stacked_layers:
            parts = [_stack(parameter.detach(), members) for parameter in self.own_parameters]
            self.stacked_layers[members] = [Layer.of(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return self.stacked_layers[members]

    def on_host(self, members: int) -> HostLayers:
        """What computes the first members of a plain network for few observations."""
        if members not in self.host_layers:
            self.host_layers[members] = HostLayers(
                [(layer.weight, layer.bias) for layer in self.stacked(members)],
                self.gradient_place()[1] if members == (self.ensemble or 1) else (),
                self.activation_name,
            )
        return self.host_layers[members]

    def _general(self, x: Tensor, members: int, masks: Sequence[Tensor]) -> Tensor:
        for depth, layer in enumerate(self.layers[:-1]):
            x = layer(x, members)
            if self.norms:
                x = self.norms[depth](x, members)
            x = self.activation(x)
            if masks:
                x = x * masks[depth]
        output: Tensor = self.layers[-1](x, members)
        return output


def dropout_masks(noise: Tensor | None, keep: float, hidden: Sequence[int]) -> Sequence[Tensor]:
    """Factors on the units of each hidden layer, from draws [..., sum(hidden)]; none at all where nothing is dropped.

    A unit is kept where its draw falls under the `keep` quantile of the normal, and scaled up to stay unbiased.
    """
    if noise is None or keep == 1.0:
        return ()
    mask = (noise < NormalDist().inv_cdf(keep)).to(noise.dtype) / keep
    return torch.split(mask, list(hidden), dim=-1)
