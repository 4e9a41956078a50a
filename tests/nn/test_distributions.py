"""Action distributions against `torch.distributions`, numerical integrals and simulation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.nn.functional import softplus

from offrl.nn.distributions import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    SQUASH_MARGIN,
    Mixture,
    categorical_entropy,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    gaussian_entropy,
    gaussian_log_prob,
    log_std_of_entropy,
    log_tanh_derivative,
    mixture_log_prob,
    mixture_mode,
    mixture_sample,
    split_categoricals,
    split_gaussian,
    split_mixture,
    squashed_gaussian_action,
    squashed_gaussian_entropy,
    squashed_gaussian_log_prob,
    squashed_gaussian_sample,
)


def parameters() -> tuple[Tensor, Tensor]:
    """Means and log standard deviations, float64 [2, 5, 3]."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    log_std = torch.empty(2, 5, 3, dtype=torch.float64).uniform_(-3.0, 1.0, generator=generator)
    return mean, log_std


def torch_squashed(mean: Tensor, log_std: Tensor) -> Independent:
    return Independent(TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()]), 1)


def test_splitting_takes_means_first_and_clamps_the_spread() -> None:
    mean, log_std = split_gaussian(torch.tensor([[1.0, -9.0, 30.0, -30.0]]))
    assert mean.tolist() == [[1.0, -9.0]]
    assert log_std.tolist() == [[LOG_STD_MAX, LOG_STD_MIN]]
    assert split_gaussian(torch.tensor([0.0, 0.5]))[1].item() == 0.5


def test_gaussian_density_and_entropy_are_those_of_torch() -> None:
    mean, log_std = parameters()
    value = mean + 2.0 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    reference = Independent(Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(gaussian_log_prob(mean, log_std, value), reference.log_prob(value))
    torch.testing.assert_close(gaussian_entropy(log_std), reference.entropy())


def test_gaussian_density_by_hand() -> None:
    # N(1; 0, 2²) is exp(-1/8) / (2 √(2π)), for each of two components.
    expected = 2 * (-1 / 8 - math.log(2.0) - 0.5 * math.log(2 * math.pi))
    value = gaussian_log_prob(torch.zeros(2), torch.full((2,), math.log(2.0)), torch.ones(2))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_a_clamped_spread_is_not_moved() -> None:
    generator = torch.Generator().manual_seed(0)
    output = (4.0 * torch.randn(2, 50, 6, generator=generator)).requires_grad_()
    value = torch.randn(2, 50, 3, generator=generator)
    mean, log_std = output.chunk(2, dim=-1)
    clamped = (log_std < LOG_STD_MIN) | (log_std > LOG_STD_MAX)
    reference = Independent(Normal(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()), 1).log_prob(value)
    log_prob = gaussian_log_prob(*split_gaussian(output), value)
    torch.testing.assert_close(log_prob, reference)
    (slope,) = torch.autograd.grad(log_prob.sum(), output)
    torch.testing.assert_close(slope, torch.autograd.grad(reference.sum(), output)[0])
    assert clamped.any()
    assert not slope[..., 3:][clamped].any()


def test_squashed_density_is_that_of_torch() -> None:
    mean, log_std = parameters()
    before = mean + log_std.exp() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    action = before.tanh().clamp(-1 + SQUASH_MARGIN, 1 - SQUASH_MARGIN)
    torch.testing.assert_close(
        squashed_gaussian_log_prob(mean, log_std, action), torch_squashed(mean, log_std).log_prob(action)
    )


def test_the_spread_of_an_entropy() -> None:
    log_std = torch.tensor(log_std_of_entropy(-0.7), dtype=torch.float64)
    assert Normal(0.0, log_std.exp()).entropy().item() == pytest.approx(-0.7)
    assert log_std_of_entropy(-99.0) == LOG_STD_MIN
    assert log_std_of_entropy(99.0) == LOG_STD_MAX


def test_samples_and_their_density_are_those_of_torch() -> None:
    mean, log_std = parameters()
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    action, log_prob = squashed_gaussian_sample(torch.cat([mean, log_std], dim=-1), noise)
    torch.testing.assert_close(action, (mean + log_std.exp() * noise).tanh())
    torch.testing.assert_close(log_prob, torch_squashed(mean, log_std).log_prob(action))


def test_samples_are_differentiated_by_mean_and_spread() -> None:
    generator = torch.Generator().manual_seed(2)
    parameters = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    # These spreads are beyond the clamp, where nothing moves them.
    parameters[0, 3], parameters[1, 4] = LOG_STD_MAX + 0.5, LOG_STD_MIN - 0.5
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    by_action = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    mean, log_std = split_gaussian(parameters.requires_grad_())
    action = (mean + log_std.exp() * noise).tanh()
    # The density as a function of the action moves with it: dlog π includes what the sample's own place changes.
    log_prob = gaussian_log_prob(mean, log_std, mean + log_std.exp() * noise) - (1.0 - action.square()).log().sum(-1)
    (expected,) = torch.autograd.grad((by_action * action).sum() + 0.7 * log_prob.sum(), parameters)
    sample, density = squashed_gaussian_sample(parameters, noise)
    (gradient,) = torch.autograd.grad((by_action * sample).sum() + 0.7 * density.sum(), parameters)
    torch.testing.assert_close(gradient, expected)
    assert gradient[0, 3] == gradient[1, 4] == 0.0
    assert gradient[1, 3] != 0.0


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.5), (-1.5, 0.3)])
def test_squashed_density_integrates_to_one(mean: float, log_std: float) -> None:
    # Integrated over u = artanh(a), where the integrand has no steep ends; da = (1 − tanh²u) du.
    u = torch.linspace(-4.9, 4.9, 20_001, dtype=torch.float64)
    action = u.tanh().unsqueeze(-1)
    shape = action.shape
    log_prob = squashed_gaussian_log_prob(
        torch.full(shape, mean, dtype=torch.float64), torch.full(shape, log_std, dtype=torch.float64), action
    )
    inside = torch.trapezoid(log_prob.exp() * (1.0 - u.tanh().square()), u).item()
    gaussian = Normal(torch.tensor(mean).double(), torch.tensor(log_std).exp().double())
    expected = (gaussian.cdf(u[-1]) - gaussian.cdf(u[0])).item()
    assert expected > 0.99
    assert inside == pytest.approx(expected, abs=1e-6)


def test_actions_at_the_bounds_have_a_finite_density_and_gradient() -> None:
    mean = torch.zeros(2, requires_grad=True)
    log_std = torch.zeros(2, requires_grad=True)
    log_prob = squashed_gaussian_log_prob(mean, log_std, torch.tensor([1.0, -1.0]))
    log_prob.backward()
    assert mean.grad is not None
    assert log_std.grad is not None
    for value in (log_prob, mean.grad, log_std.grad):
        assert value.isfinite().all()
    inside = squashed_gaussian_log_prob(mean, log_std, torch.tensor([1.0 - SQUASH_MARGIN, -1.0 + SQUASH_MARGIN]))
    torch.testing.assert_close(log_prob, inside)


def test_log_tanh_derivative_keeps_its_precision_far_out() -> None:
    u = torch.tensor([0.0, 0.5, -2.0, 12.0, -40.0])
    exact = torch.tensor([0.0, *(math.log(1 - math.tanh(x) ** 2) for x in (0.5, -2.0)), 0.0, 0.0])
    # log(1 − tanh²u) = log 4 − 2|u| − 2 log(1 + e^{−2|u|}); the last term vanishes far out.
    exact[3], exact[4] = math.log(4.0) - 24.0, math.log(4.0) - 80.0
    torch.testing.assert_close(log_tanh_derivative(u), exact, rtol=1e-6, atol=1e-6)


def test_squashed_entropy_estimate_is_unbiased() -> None:
    mean, log_std = torch.tensor([0.7, -0.3]).double(), torch.tensor([-0.2, 0.4]).double()
    count = 200_000
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimates = squashed_gaussian_entropy(mean.expand(count, 2), log_std.expand(count, 2), noise)
    # The truth, by integrating −p log p over u = artanh(a) for each component.
    u = torch.linspace(-12.0, 12.0, 200_001, dtype=torch.float64)
    truth = 0.0
    for m, s in zip(mean, log_std, strict=True):
        density = Normal(m, s.exp()).log_prob(u)
        log_action_density = density - log_tanh_derivative(u)
        truth += -torch.trapezoid(density.exp() * log_action_density, u).item()
    error = estimates.std().item() / count**0.5
    assert error < 0.01
    assert abs(estimates.mean().item() - truth) < 4 * error


def test_squashed_entropy_passes_gradients_to_mean_and_spread() -> None:
    mean, log_std = torch.tensor([0.5], requires_grad=True), torch.tensor([0.1], requires_grad=True)
    noise = torch.tensor([0.3])
    squashed_gaussian_entropy(mean, log_std, noise).backward()
    # d/du log(1 − tanh²u) = −2 tanh u, at u = mean + σ · noise; the Gaussian's own entropy adds 1 to dσ.
    u = 0.5 + math.exp(0.1) * 0.3
    assert mean.grad is not None
    assert log_std.grad is not None
    assert mean.grad.item() == pytest.approx(-2 * math.tanh(u), abs=1e-5)
    assert log_std.grad.item() == pytest.approx(1 - 2 * math.tanh(u) * math.exp(0.1) * 0.3, abs=1e-5)


CHOICES = (3, 2, 4)


def log_probabilities() -> tuple[Tensor, list[Tensor]]:
    logits = 2.0 * torch.randn(2, 6, sum(CHOICES), generator=torch.Generator().manual_seed(3))
    return logits, split_categoricals(logits, CHOICES)


def test_categoricals_are_those_of_torch() -> None:
    logits, log_probs = log_probabilities()
    references = [Categorical(logits=part) for part in logits.split(list(CHOICES), dim=-1)]
    action = torch.stack([torch.randint(n, (2, 6)) for n in CHOICES], dim=-1)
    expected = sum(reference.log_prob(action[..., i]) for i, reference in enumerate(references))
    torch.testing.assert_close(categorical_log_prob(log_probs, action), expected)
    torch.testing.assert_close(categorical_entropy(log_probs), sum(reference.entropy() for reference in references))
    modes = torch.stack([reference.probs.argmax(dim=-1) for reference in references], dim=-1)
    assert torch.equal(categorical_mode(log_probs), modes)


def test_one_categorical_by_hand() -> None:
    (log_probs,) = split_categoricals(torch.tensor([0.0, math.log(3.0)]), (2,))
    torch.testing.assert_close(log_probs.exp(), torch.tensor([0.25, 0.75]))
    assert categorical_log_prob([log_probs], torch.tensor([0])).item() == pytest.approx(math.log(0.25))
    assert categorical_entropy([log_probs]).item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert categorical_mode([log_probs]).tolist() == [1]


def test_samples_come_as_often_as_they_are_likely() -> None:
    count = 100_000
    probabilities = [torch.tensor([0.05, 0.25, 0.7]), torch.tensor([0.6, 0.4])]
    logits = torch.cat([p.log() for p in probabilities]).expand(count, -1)
    noise = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    action = categorical_sample(split_categoricals(logits, (3, 2)), noise)
    assert action.shape == (count, 2)
    assert action.dtype == torch.int64
    for column, expected in enumerate(probabilities):
        frequencies = action[:, column].bincount(minlength=len(expected)) / count
        error = (expected * (1 - expected) / count).sqrt()
        assert ((frequencies - expected).abs() < 4 * error).all()
    # Independent choices: the joint frequency is the product.
    both = ((action[:, 0] == 2) & (action[:, 1] == 0)).float().mean().item()
    assert abs(both - 0.42) < 4 * (0.42 * 0.58 / count) ** 0.5


def test_sampling_is_finite_for_extreme_draws_and_logits() -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0]])
    for draw in (-50.0, 50.0):
        action = categorical_sample(split_categoricals(logits, (3,)), torch.full((1, 3), draw))
        assert action.tolist() == [[0]]


def test_a_squashed_gaussian_acts_by_its_mean_or_by_a_sample() -> None:
    mean, log_std = parameters()
    both, draws = torch.cat([mean, log_std], dim=-1), torch.full_like(mean, 0.5)
    torch.testing.assert_close(squashed_gaussian_action(both), mean.tanh())
    torch.testing.assert_close(squashed_gaussian_action(both, draws), squashed_gaussian_sample(both, draws)[0])


def test_a_mixture_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    output, value = torch.randn(5, 3 * 5, generator=generator), torch.randn(5, 2, generator=generator)
    mixture = split_mixture(output, components=3, actions=2)
    parts = Independent(Normal(mixture.mean, mixture.std), 1)
    reference = MixtureSameFamily(Categorical(logits=output[:, :3]), parts)
    torch.testing.assert_close(mixture_log_prob(mixture, value), reference.log_prob(value))
    torch.testing.assert_close(mixture.std, softplus(output[:, 9:]).view(5, 3, 2) + 1e-4)
    expected = output[:, 3:9].view(5, 3, 2)[torch.arange(5), output[:, :3].argmax(dim=1)]
    assert torch.equal(mixture_mode(mixture), expected)


def test_samples_of_a_mixture_have_its_moments() -> None:
    output = torch.tensor([0.0, 1.0, -2.0, 3.0, 0.5, -1.0])
    mixture = split_mixture(output, components=2, actions=1)
    noise = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1))
    expanded = Mixture(*(part.expand(len(noise), *part.shape) for part in mixture))
    drawn, weight = mixture_sample(expanded, noise), mixture.log_weight.exp()
    mean = (weight * mixture.mean[:, 0]).sum()
    second = (weight * (mixture.mean[:, 0] ** 2 + mixture.std[:, 0] ** 2)).sum()
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=0.03)
    assert (drawn**2).mean().item() == pytest.approx(second.item(), abs=0.06)
