"""Starting one network from another that was trained for the same task, as fine-tuning a cloned policy wants it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn.distributions import log_std_of_entropy
from offrl.nn.mlp import ACTIVATIONS, MLP


def require_kind(algorithm: str, kind: str, kinds: Sequence[str]) -> None:
    """Raise `RecipeError` unless a policy to start from is of one of the kinds that an algorithm can take over.

    Args:
        algorithm: its name, for people.
        kind: the policy's, see `offrl.types.GivesPolicy`.
        kinds: those that are possible.
    """
    if kind not in kinds:
        raise RecipeError(
            f"{algorithm} can't start from a {kind.replace('_', ' ')} policy here",
            hint=f"train bc with agent.policy={' or '.join(kinds)}",
        )


def adopt_layers(network: MLP, source: MLP) -> None:
    """Copy every layer of `source` into `network`; of the last layer, as many outputs as both have, the first ones.

    Raises:
        SpaceMismatchError: they read inputs of different widths.
        RecipeError: they differ in seeds, hidden widths, activation, layer normalization or convolutions.
    """
    _check_alike(network, source)
    parts, others = network.state_dict(), source.state_dict()
    for name, own in parts.items():
        # Once they are found alike, only the last layer's outputs can differ in number.
        shared = tuple(slice(min(sizes)) for sizes in zip(own.shape, others[name].shape, strict=True))
        own[shared] = others[name][shared]


@torch.no_grad()
def set_spread(network: MLP, log_std: float) -> None:
    """Make the second half of the outputs, the log standard deviation of a policy, the same number in all states."""
    *_, weight, bias = network.layers[-1].parameters()
    weight.chunk(2, dim=-2)[1].zero_()
    bias.chunk(2, dim=-1)[1].fill_(log_std)


def adopt_squashed_gaussian(algorithm: str, network: MLP, policy: MLP, kind: str, entropy: float) -> None:
    """Make a network that gives mean | log standard deviation before a tanh act as a cloned policy does.

    Args:
        algorithm: whose network it is, for people.
        network: changed in place.
        policy: what was cloned.
        kind: the policy's, see `offrl.types.GivesPolicy`.
        entropy: of each component of an action before squashing, in nats, for a policy without a spread.

    Raises:
        RecipeError: the kind doesn't fit, or options of the two networks differ.
        SpaceMismatchError: the networks read observations of different widths.
    """
    require_kind(algorithm, kind, ("squashed_gaussian", "deterministic"))
    adopt_layers(network, policy)
    if kind == "deterministic":
        set_spread(network, log_std_of_entropy(entropy))


def _check_alike(network: MLP, source: MLP) -> None:
    own, given = (_shapes_of_convolutions(part) for part in (network, source))
    if given and not own:
        raise RecipeError(
            "the policy to start from has convolutions of its own, and this actor reads its critics'",
            hint="go on with ppo, whose actor has its own, or train bc with agent.convolutions=[]",
        )
    if own != given:
        raise RecipeError(
            "the policy to start from has other convolutions",
            hint="leave agent.convolutions out, or train the policy to start from with the same ones",
        )
    inputs, others = (next(part.parameters()).shape[-1] for part in (network, source))
    if inputs != others:
        raise SpaceMismatchError(
            f"the policy to start from reads {others} numbers, this one {inputs}",
            hint="start from a policy that was trained on the same observations",
        )
    if network.seeds != source.seeds:
        raise RecipeError(
            f"there are {source.seeds} policies to start from, and {network.seeds} seeds to train",
            hint=f"train {source.seeds} seeds",
        )
    for option in ("hidden", "activation", "layer_norm"):
        here, there = _option(network, option), _option(source, option)
        if here != there:
            raise RecipeError(
                f"the policy to start from has {option}={there}, this one {option}={here}",
                hint=f"leave agent.{option} out, or train the policy to start from with agent.{option}={here}",
            )


def _shapes_of_convolutions(network: MLP) -> dict[str, torch.Size]:
    return {name: part.shape for name, part in network.state_dict().items() if name.startswith("encoder.")}


def _option(network: MLP, name: str) -> str:
    """As it stands in a recipe."""
    if name == "hidden":
        return str(list(network.hidden))
    if name == "layer_norm":
        return str(bool(network.norms)).lower()
    return next(known for known, function in ACTIVATIONS.items() if function is network.activation)
