"""A network that starts from another computes what the other does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from offrl.errors import OffrlError, RecipeError, SpaceMismatchError
from offrl.nn import MLP, seed_generators
from offrl.nn.copy_weights import adopt_layers, adopt_squashed_gaussian, require_kind, set_spread
from offrl.nn.distributions import log_std_of_entropy


def network(outputs: int = 2, seeds: tuple[int, ...] = (0, 1), inputs: int = 3, **options: Any) -> MLP:
    made = MLP(inputs, outputs, options.pop("hidden", (7, 5)), seed_generators(seeds), **options)
    made.flat.add_(0.1)
    return made


@pytest.mark.parametrize(("own", "others"), [(2, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_outputs_that_both_have_are_the_others(own: int, others: int, layer_norm: bool) -> None:
    ours, source = network(own, (0, 1), layer_norm=layer_norm), network(others, (2, 3), layer_norm=layer_norm)
    source.flat.mul_(1.3)
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    before = ours.clone()
    adopt_layers(ours, source)
    torch.testing.assert_close(ours(x)[..., :2], source(x)[..., :2])
    assert torch.equal(ours.layers[-1].weight[:, :, 2:], before.layers[-1].weight[:, :, 2:])
    source.flat.zero_()
    assert ours.flat.abs().min() > 0, "what was adopted is a copy"


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (network(inputs=4), SpaceMismatchError, "reads 4 numbers, this one 3"),
        (network(seeds=(0, 1, 2)), RecipeError, "3 policies to start from, and 2 seeds"),
        (network(hidden=(7, 6)), RecipeError, r"hidden=\[7, 6\], this one hidden=\[7, 5\]"),
        (network(hidden=(7,)), RecipeError, r"hidden=\[7\]"),
        (network(activation="tanh"), RecipeError, "activation=tanh, this one activation=relu"),
        (network(layer_norm=True), RecipeError, "layer_norm=true, this one layer_norm=false"),
    ],
)
def test_what_differs_is_named_and_nothing_is_copied(source: MLP, kind: type[OffrlError], words: str) -> None:
    ours = network()
    before = ours.flat.clone()
    with pytest.raises(kind, match=words):
        adopt_layers(ours, source)
    assert torch.equal(ours.flat, before)


def test_a_kind_that_fits_nothing_is_refused() -> None:
    require_kind("SAC", "deterministic", ("squashed_gaussian", "deterministic"))
    with pytest.raises(RecipeError, match=r"(?s)SAC can't start from a squashed gaussian policy.*policy=a or b"):
        require_kind("SAC", "squashed_gaussian", ("a", "b"))


def test_a_spread_is_set_for_all_states_and_the_means_stay() -> None:
    ours = network(4)
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    before = ours(x)
    set_spread(ours, -0.7)
    assert torch.equal(ours(x)[..., :2], before[..., :2])
    assert torch.equal(ours(x)[..., 2:], torch.full((2, 6, 2), -0.7))


def test_a_squashed_policy_keeps_a_clone_s_spread_and_gets_one_where_it_has_none() -> None:
    ours, source = network(4), network(2, (2, 3))
    adopt_squashed_gaussian("X", ours, source, "deterministic", -1.0)
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    mean, log_std = ours(x).chunk(2, dim=-1)
    torch.testing.assert_close(mean, source(x))
    torch.testing.assert_close(log_std, torch.full_like(log_std, log_std_of_entropy(-1.0)))
    spread = network(4, (2, 3))
    adopt_squashed_gaussian("X", ours, spread, "squashed_gaussian", -1.0)
    torch.testing.assert_close(ours(x), spread(x))
    with pytest.raises(RecipeError, match="X can't start from a categorical policy"):
        adopt_squashed_gaussian("X", ours, spread, "categorical", -1.0)
