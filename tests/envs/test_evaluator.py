"""Evaluation of constant policies in an environment whose returns can be counted."""

from __future__ import annotations

import numpy as np
import pytest

from offrl.envs.evaluator import Evaluation, evaluate, evaluate_function, evaluate_random
from offrl.envs.starts import Purpose, Starts
from offrl.errors import RequestError, SpaceMismatchError
from tests.envs.counting import COUNTING, NESTED, PARTS, Counting, constant_policy

ONE = Starts(Purpose.FINAL, (0,))


def count_by_hand(reset_seeds: list[int], quota: int, second_action: float) -> Evaluation:
    """The first `quota` episodes of one environment after another."""
    returns, lengths = [], []
    for seed in reset_seeds:
        environment = Counting()
        environment.reset(seed=seed)
        for _ in range(quota):
            rewards, ended = [], False
            while not ended:
                _, reward, terminated, truncated, _ = environment.step([0.0, second_action])
                rewards.append(reward)
                ended = terminated or truncated
            returns.append(sum(rewards))
            lengths.append(len(rewards))
            environment.reset()
    return Evaluation(np.array(returns), np.array(lengths))


@pytest.mark.parametrize(("episodes", "copies"), [(1, 1), (7, 7), (10, 10), (20, 10), (12, 6), (13, 1), (22, 2)])
def test_every_copy_gives_its_first_episodes(episodes: int, copies: int) -> None:
    # In the environment's units the second components of the two seeds' actions are 5 and 0.
    starts = Starts(Purpose.FINAL, (4, 9), 3)
    evaluation = evaluate(constant_policy([[0.0, 0.0], [1.0, -1.0]]), COUNTING, episodes, starts)
    assert evaluation.returns.shape == evaluation.lengths.shape == (2, episodes)
    for position, second_action in enumerate([5.0, 0.0]):
        own = Starts(Purpose.FINAL, (starts.seeds[position],), 3).reset_seeds(copies)
        expected = count_by_hand(own, episodes // copies, second_action)
        np.testing.assert_array_equal(evaluation.lengths[position], expected.lengths)
        np.testing.assert_allclose(evaluation.returns[position], expected.returns, rtol=1e-6)


def test_a_function_that_acts_like_a_policy_gets_its_returns() -> None:
    starts = Starts(Purpose.FINAL, (4,), 3)
    policy = evaluate(constant_policy([[0.0, 0.0]]), COUNTING, 20, starts)
    shown: list[int] = []

    def act(observation: np.ndarray) -> np.ndarray:
        shown.append(len(observation))
        return np.tile(np.float32([0.0, 5.0]), (len(observation), 1))

    function = evaluate_function(act, COUNTING, 20, starts)
    np.testing.assert_array_equal(function.returns, policy.returns)
    np.testing.assert_array_equal(function.lengths, policy.lengths)
    assert function.returns.shape == (1, 20)
    assert set(shown) == {10}


def test_short_episodes_are_not_favored() -> None:
    """Taking the first episodes to finish would have shorter ones."""
    evaluation = evaluate(constant_policy([[0.0, 0.0]]), COUNTING, 40, ONE)
    everything = count_by_hand(ONE.reset_seeds(10), 4, 5.0)
    assert sorted(evaluation.lengths[0]) == sorted(everything.lengths)
    assert set(evaluation.lengths[0]) == set(range(1, 8))


def test_purpose_training_seed_and_number_pick_the_episodes() -> None:
    policy = constant_policy([[0.0, 0.0]])
    asked = [
        ONE,
        ONE,
        Starts(Purpose.PROGRESS, (0,)),
        Starts(Purpose.FINAL, (1,)),
        Starts(Purpose.FINAL, (0,), 1),
    ]
    one, again, *others = (evaluate(policy, COUNTING, 10, starts) for starts in asked)
    np.testing.assert_array_equal(one.lengths, again.lengths)
    for other in others:
        assert (one.lengths != other.lengths).any()


def test_seeds_of_one_training_start_elsewhere() -> None:
    alike = constant_policy([[0.0, 0.0], [0.0, 0.0]])
    lengths = evaluate(alike, COUNTING, 10, Starts(Purpose.FINAL, (0, 1))).lengths
    assert (lengths[0] != lengths[1]).any()
    np.testing.assert_array_equal(evaluate(constant_policy([[0.0, 0.0]]), COUNTING, 10, ONE).lengths[0], lengths[0])


def test_nested_observations() -> None:
    evaluation = evaluate(constant_policy([[0.0, 0.0]], space=PARTS), NESTED, 6, ONE)
    np.testing.assert_array_equal(evaluation.lengths[0], count_by_hand(ONE.reset_seeds(6), 1, 5.0).lengths)


def test_random_actions_span_the_action_space() -> None:
    evaluation = evaluate_random(COUNTING, 200, seed=5)
    assert evaluation.returns.shape == (1, 200)
    still = count_by_hand(Starts(Purpose.FINAL, (5,)).reset_seeds(10), 20, 0.0)
    np.testing.assert_array_equal(evaluation.lengths[0], still.lengths)
    # What the actions add to a return is between 0 and 10 for each step, uniformly: mean 5, variance 100 / 12.
    steps = int(evaluation.lengths.sum())
    added = (evaluation.returns[0] - still.returns).sum() / steps
    assert abs(added - 5.0) < 5 * (100 / 12 / steps) ** 0.5
    np.testing.assert_array_equal(evaluate_random(COUNTING, 200, seed=5).returns, evaluation.returns)


def test_another_environment_is_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="CountingNested"):
        evaluate(constant_policy([[0.0, 0.0]]), NESTED, 1, ONE)
    with pytest.raises(RequestError, match="Nowhere"):
        evaluate(constant_policy([[0.0, 0.0]]), "Nowhere-v0", 1, ONE)
