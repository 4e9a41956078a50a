"""What a discriminator's losses and rewards come to, beside their formulas in D."""

from __future__ import annotations

import pytest
import torch

from offrl.ops.adversarial import decision_entropy, expert_loss, generator_loss, reward_of, weighted_mean

LOGIT = torch.tensor([[-3.0, -0.5, 0.0, 2.0]], dtype=torch.float64)
D = torch.sigmoid(LOGIT)


def test_rewards_are_what_they_are_named_after() -> None:
    torch.testing.assert_close(reward_of(LOGIT, "positive"), -(1.0 - D).log())
    torch.testing.assert_close(reward_of(LOGIT, "negative"), D.log())
    torch.testing.assert_close(reward_of(LOGIT, "logit"), D.log() - (1.0 - D).log())


def test_rewards_of_extreme_logits_stay_finite() -> None:
    extreme = torch.tensor([-200.0, 200.0])
    assert reward_of(extreme, "positive").tolist() == [0.0, 200.0]
    assert reward_of(extreme, "negative").tolist() == [-200.0, 0.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_cross_entropies(smoothing: float) -> None:
    expected = -(1.0 - smoothing) * D.log() - smoothing * (1.0 - D).log()
    torch.testing.assert_close(expert_loss(LOGIT, smoothing), expected)
    torch.testing.assert_close(generator_loss(LOGIT), -(1.0 - D).log())


def test_entropy_is_that_of_the_decision() -> None:
    torch.testing.assert_close(decision_entropy(LOGIT), -D * D.log() - (1.0 - D) * (1.0 - D).log())


def test_weights_count_as_repetitions() -> None:
    values, weight = torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([[1.0, 1.0, 2.0]])
    assert weighted_mean(values, None).tolist() == [3.0]
    assert weighted_mean(values, weight).tolist() == [3.75]
