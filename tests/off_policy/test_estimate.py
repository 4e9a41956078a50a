"""The estimators: equal to straight-line code and to figures worked out by hand; and what they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from offrl.errors import DataError, RequestError
from offrl.off_policy.bootstrap import Resampler, counts, resample
from offrl.off_policy.doubly_robust import magic_blend, partial_corrections, simplex_minimum
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import estimate
from offrl.off_policy.estimator import Estimate, Estimator, Question, Reliability, find_estimator
from offrl.off_policy.intervals import INTERVALS, Bounds
from offrl.off_policy.weighted_sums import WeightedSum
from tests.off_policy.logs import random_log, take
from tests.off_policy.plain import cumulative, plain, plain_episodes, plain_magic

SEQUENTIAL = ("is", "wis", "pdis", "wpdis", "dm", "dr", "wdr")
WITH_INTERVAL = tuple(name for name in SEQUENTIAL if name != "dm")


def value(log: EpisodeLog, name: str, **options: object) -> float:
    """The value alone."""
    answer = ask(log, name, interval=None, **options).value
    assert answer is not None
    return answer


def ask(log: EpisodeLog, name: str, **options: object) -> Estimate:
    return estimate(log, [name], **options)[0]  # type: ignore[arg-type]


def one_step_log(count: int = 300, seed: int = 0) -> EpisodeLog:
    rng = np.random.default_rng(seed)
    behavior, target = rng.uniform(0.05, 0.9, count), rng.uniform(0.05, 0.9, count)
    q = rng.normal(size=count)
    return EpisodeLog.one_step(rng.normal(size=count), np.log(behavior), np.log(target), q=q, v=rng.normal(size=count))


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("cut", [False, True])
def test_equals_straight_line_code(name: str, cut: bool) -> None:
    for seed in range(3):
        log = random_log(seed, cut=cut)
        assert value(log, name) == pytest.approx(plain(name, plain_episodes(log), 0.9), abs=1e-9)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_equals_straight_line_code_where_all_episodes_are_equally_long(name: str) -> None:
    log = random_log(6, episodes=150, longest=5, cut=True)
    log = take(log, np.flatnonzero(log.lengths == 5).tolist())
    assert log.equal_lengths
    assert log.episodes > 20
    episodes = plain_episodes(log)
    assert value(log, name) == pytest.approx(plain(name, episodes, 0.9), abs=1e-9)
    if name not in ("dm", "dr"):
        clipped = replace(log, q=log.q * 0.0, v=log.v * 0.0, v_final=log.v_final * 0.0)  # type: ignore[operator]
        expected = plain(name, plain_episodes(clipped), 0.9, clip=1.3)
        assert value(clipped, name, clip=1.3) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["is", "wis", "pdis", "wpdis", "wdr"])
def test_clipped_equals_straight_line_code(name: str) -> None:
    log = random_log(4)
    if name == "wdr":  # The published form moves V̂ by a step, which a clipped weight does not allow.
        log = replace(log, q=np.zeros(log.steps), v=np.zeros(log.steps), v_final=np.zeros(log.episodes))
    answer = ask(log, name, interval=None, clip=1.3)
    episodes = plain_episodes(log)
    clipped, full = plain(name, episodes, 0.9, clip=1.3), plain(name, episodes, 0.9)
    assert answer.value == pytest.approx(clipped, abs=1e-9)
    assert answer.clipping is not None
    assert answer.clipping.bias == pytest.approx(clipped - full, abs=1e-9)
    whole = name in ("is", "wis")
    weights = [
        w[-1:] if whole else w[: len(e.ratio)] for w, e in zip(cumulative(episodes, math.inf), episodes, strict=True)
    ]
    assert answer.clipping.share == pytest.approx(np.mean([w > 1.3 for row in weights for w in row]))


def test_magic_equals_straight_line_code() -> None:
    for seed in range(4):
        log = random_log(seed, episodes=30, longest=6, cut=True)
        weighted = find_estimator("wdr").answer(Question(log))
        resampled = resample([weighted], log.longest_first, resamples=1_000, seed=0)[:, 0]
        low, high = np.quantile(resampled, [0.05, 0.95])
        expected = plain_magic(plain_episodes(log), 0.9, float(low), float(high))
        assert value(log, "magic") == pytest.approx(expected, abs=1e-5)
        partial = partial_corrections(weighted)
        blend = magic_blend(partial, resampled)
        assert blend.min() >= 0.0
        assert blend.sum() == pytest.approx(1.0)
        assert partial.mean(axis=0)[0] == pytest.approx(value(log, "dm"), abs=1e-9)
        assert partial.mean(axis=0)[-1] == pytest.approx(value(log, "wdr"), abs=1e-9)


def test_magic_tells_at_most_25_lengths_apart() -> None:
    log = random_log(longest=200)
    assert partial_corrections(find_estimator("wdr").answer(Question(log))).shape == (log.episodes, 25)


def test_three_steps_by_hand() -> None:
    """Episode 1: ratios 2, 1/2, 2, rewards 1, 2, 4. Episode 2 ends after a ratio of 1/2 and a reward of 8. γ = 1/2."""
    behavior = np.log([0.25, 0.8, 0.4, 0.5])
    target = np.log([0.5, 0.4, 0.8, 0.25])
    log = EpisodeLog(
        np.array([1.0, 2.0, 4.0, 8.0]),
        behavior,
        target,
        np.array([0, 3, 4]),
        np.array([True, True]),
        np.array([False, False]),
        0.5,
        q=np.array([1.0, 0.0, 2.0, 4.0]),
        v=np.array([3.0, 2.0, 0.0, 6.0]),
    )
    # Weights 2, 1, 2 and 1/2, 1/2, 1/2; returns 1 + 1 + 1 = 3 and 8.
    by_hand = {
        "is": (2 * 3 + 0.5 * 8) / 2,
        "wis": (2 * 3 + 0.5 * 8) / 2.5,
        "pdis": (2 * 1 + 1 * 1 + 2 * 1 + 0.5 * 8) / 2,
        "wpdis": (2 * 1 + 0.5 * 8) / 2.5 + 1 / 1.5 + 2 / 2.5,
        "dm": (3 + 6) / 2,
        # γ^t δ: 1 + 1 - 1 = 1, (2 + 0 - 0) / 2 = 1, (4 - 2) / 4 = 1/2; and 8 - 4 = 4.
        "dr": (3 + 2 * 1 + 1 * 1 + 2 * 0.5 + 6 + 0.5 * 4) / 2,
        "wdr": 4.5 + (2 * 1 + 0.5 * 4) / 2.5 + 1 / 1.5 + 2 * 0.5 / 2.5,
    }
    for name, expected in by_hand.items():
        assert value(log, name) == pytest.approx(expected, abs=1e-12), name
    assert ask(log, "wis", interval=None).effective_sample_size == pytest.approx(2.5**2 / 4.25)
    assert ask(log, "wis", interval=None).largest_weight_share == pytest.approx(0.8)


def test_contributions_average_to_the_value() -> None:
    for answer in estimate(random_log(cut=True), [*WITH_INTERVAL, "magic"], clip=2.0):
        assert len(answer.contributions) == 40
        assert np.mean(answer.contributions) == pytest.approx(answer.value)


@pytest.mark.parametrize("name", ["wis", "wpdis", "wdr"])
def test_influence_is_the_derivative_by_an_episode_s_weight(name: str) -> None:
    log = random_log(3, episodes=12, cut=True)
    answer = ask(log, name, interval=None)
    assert answer.value is not None
    copies = 200
    for episode in (0, 5, 11):
        # 200 copies of each episode and one more of this: moves the estimate by its influence over their number.
        item = find_estimator(name).answer(Question(log))
        moved = _with_one_more(item, log, episode, copies) - _with_one_more(item, log, episode, copies, more=-1)
        influence = moved / 2.0 * copies * log.episodes
        assert influence == pytest.approx(answer.contributions[episode] - answer.value, rel=0.01, abs=1e-4)


def _with_one_more(item: WeightedSum, log: EpisodeLog, episode: int, copies: int, more: int = 1) -> float:
    place = int(np.flatnonzero(log.longest_first == episode)[0])
    drawn = np.full((1, log.episodes), copies, np.uint8)
    drawn[0, place] = copies + more
    found = float(Resampler([item], log.longest_first, torch.float64).estimates(drawn)[0, 0])
    # The base is averaged as if N episodes were drawn.
    centered = (item.base - item.base.mean())[log.longest_first]
    return found + float(drawn[0] @ centered) * (1.0 / (copies * log.episodes + more) - 1.0 / log.episodes)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 2e-6), (None, 2e-6)])
def test_resampled_estimates_are_those_of_the_resampled_log(cut: bool, dtype: torch.dtype | None, error: float) -> None:
    log = random_log(5, episodes=25, longest=7, cut=cut)
    question = Question(log)
    names = SEQUENTIAL
    resampler = Resampler([find_estimator(name).answer(question) for name in names], log.longest_first, dtype)
    assert resampler.dtype == (dtype or torch.float32)
    rows = np.concatenate(list(counts(log.episodes, 6, 3)))
    assert (rows.sum(axis=1) == log.episodes).all()
    for row, found in zip(rows, resampler.estimates(rows), strict=True):
        chosen = [int(log.longest_first[i]) for i, times in enumerate(row) for _ in range(int(times))]
        episodes = plain_episodes(take(log, chosen))
        for name, number in zip(names, found, strict=True):
            assert number == pytest.approx(plain(name, episodes, 0.9), abs=error), name


def test_resamples_do_not_depend_on_who_else_is_asked() -> None:
    log = random_log()
    together = {answer.name: answer for answer in estimate(log, [*SEQUENTIAL, "magic"])}
    for name in (*WITH_INTERVAL, "magic"):
        alone = ask(log, name)
        assert alone.interval is not None
        assert together[name].interval is not None
        assert vars(alone.interval) == pytest.approx(vars(together[name].interval))
    assert ask(log, "wis", seed=1).interval != ask(log, "wis").interval


@pytest.mark.parametrize(("name", "like"), [("ips", "is"), ("snips", "wis")])
def test_one_step_logs_are_episodes_of_one_step(name: str, like: str) -> None:
    log = one_step_log()
    assert value(log, name) == value(log, like)
    assert value(log, name) == pytest.approx(plain(name, plain_episodes(log), 1.0), abs=1e-9)


def test_clipped_and_switched_one_step_estimates() -> None:
    log = one_step_log()
    episodes = plain_episodes(log)
    clipped = sum(min(e.ratio[0], 4.0) * e.reward[0] for e in episodes) / 300
    cut = ask(log, "clipped", clip=4.0)
    assert cut.value == pytest.approx(clipped, abs=1e-9)
    assert cut.clipping is not None
    assert cut.clipping.share == pytest.approx(np.mean([e.ratio[0] > 4.0 for e in episodes]))
    switched = sum(e.v[0] + e.ratio[0] * (e.reward[0] - e.q[0]) * (e.ratio[0] <= 2.0) for e in episodes) / 300
    answer = ask(log, "switch-dr", switch=2.0)
    assert answer.value == pytest.approx(switched, abs=1e-9)
    assert answer.clipping is not None
    assert answer.clipping.threshold == 2.0
    assert answer.clipping.share == pytest.approx(np.mean([e.ratio[0] > 2.0 for e in episodes]))
    assert answer.clipping.bias == pytest.approx(switched - plain("dr", episodes, 1.0), abs=1e-9)
    both = ask(log, "switch-dr", switch=4.0, clip=2.0).clipping
    assert both is not None
    assert (both.threshold, both.share) == (2.0, answer.clipping.share)
    default = ask(log, "clipped", interval=None).clipping
    assert default is not None
    assert default.threshold == pytest.approx(math.sqrt(300))


def test_long_episodes_do_not_overflow() -> None:
    """20,000 steps that the target makes 1.5 times as likely: a weight of 10^3521 in two episodes of three."""
    steps = 20_000
    target = np.concatenate([np.full(2 * steps, np.log(0.75)), np.full(steps, np.log(0.25))])
    log = EpisodeLog(
        np.concatenate([np.full(steps, 1.0), np.full(steps, 2.0), np.full(steps, 9.0)]),
        np.full(3 * steps, np.log(0.5)),
        target,
        np.array([0, steps, 2 * steps, 3 * steps]),
        np.ones(3, dtype=bool),
        np.zeros(3, dtype=bool),
        0.99,
    )
    assert value(log, "wis") == pytest.approx(150.0)
    by_hand = sum(0.99**t * (1 + 2 + 9 * 3.0 ** -(t + 1)) / (2 + 3.0 ** -(t + 1)) for t in range(600))
    assert value(log, "wpdis") == pytest.approx(by_hand, rel=0.003)
    unweighted = ask(log, "is")
    assert unweighted.value is None
    assert unweighted.reliable == "no"
    assert "too large" in unweighted.warnings[0]
    json.dumps(unweighted.to_dict(), allow_nan=False)


def test_where_the_target_does_nothing_that_was_logged_there_is_no_value() -> None:
    log = random_log(values=True)
    log = replace(log, target_log_prob=np.full(log.steps, -np.inf))
    for answer in estimate(log, [*SEQUENTIAL, "magic"]):
        json.dumps(answer.to_dict(), allow_nan=False)
        if answer.name != "dm":
            assert answer.reliable == "no"
            assert answer.effective_sample_size == 0.0
        if answer.name in ("wis", "wpdis", "wdr", "magic"):
            assert answer.value is None
            assert "never takes" in answer.warnings[0]


def test_resamples_without_weight_are_left_out_and_told() -> None:
    log = random_log(values=False)
    target = log.target_log_prob.copy()
    target[log.offsets[3] :] = -np.inf
    answer = ask(replace(log, target_log_prob=target), "wis")
    assert answer.interval is not None
    assert answer.reliable == "no"
    assert any("resamples" in warning for warning in answer.warnings)


def test_a_single_episode_gives_a_value_and_says_why_no_interval() -> None:
    for kind in INTERVALS[:4]:
        for answer in estimate(random_log(episodes=1), [*SEQUENTIAL, "magic"], interval=kind):
            assert answer.value is not None
            assert answer.interval is None
            assert any("One episode" in warning for warning in answer.warnings)
            json.dumps(answer.to_dict(), allow_nan=False)


def test_truncated_episodes_are_told_where_nothing_stands_for_the_rest() -> None:
    log = random_log(cut=True)
    told = {answer.name: " ".join(answer.warnings) for answer in estimate(log, SEQUENTIAL, interval=None)}
    assert {name for name, text in told.items() if "truncated" in text} == {"is", "wis", "pdis", "wpdis"}
    limited = replace(log, horizon=1)
    assert "truncated" not in " ".join(ask(limited, "is", interval=None).warnings)


def test_unreliable_where_few_episodes_count_or_weights_do_not_average_one() -> None:
    log = random_log(values=False, episodes=200)
    assert ask(log, "wis", minimum_effective_sample_size=190.0).reliable == "no"
    assert ask(log, "wis").reliable == "yes"
    wrong = random_log(values=False, episodes=200, longest=1)
    wrong = replace(wrong, behavior_log_prob=wrong.behavior_log_prob - np.log(2.0))
    answer = ask(wrong, "wpdis")
    assert answer.reliable == "no"
    assert "1 is expected" in answer.warnings[0]


def test_magic_s_interval_is_wdr_s_and_holds_its_value() -> None:
    for kind in INTERVALS[:4]:
        weighted, blended = estimate(random_log(6), ["wdr", "magic"], interval=kind)
        assert weighted.interval is not None
        assert blended.interval is not None
        assert blended.value is not None
        assert blended.interval.low == min(weighted.interval.low, blended.value)
        assert blended.interval.high == max(weighted.interval.high, blended.value)
        assert blended.standard_error == pytest.approx(weighted.standard_error)


@pytest.mark.parametrize("seed", range(6))
def test_simplex_minimum_beats_every_corner_and_random_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(7, 3 if seed % 2 else 9))
    matrix = root @ root.T
    best = simplex_minimum(matrix)
    assert best.min() >= 0.0
    assert best.sum() == pytest.approx(1.0)
    points = np.concatenate([np.eye(7), rng.dirichlet(np.full(7, 0.3), 5_000)])
    assert best @ matrix @ best <= np.einsum("ni,ij,nj->n", points, matrix, points).min() + 1e-8


def test_simplex_minimum_of_nothing_is_the_last() -> None:
    np.testing.assert_array_equal(simplex_minimum(np.zeros((3, 3))), [0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("names", "options", "text"),
    [
        (["fancy"], {}, "no estimator 'fancy'"),
        (["ips"], {}, "single decisions"),
        (["dr"], {}, "values"),
        (["is"], {"confidence": 1.0}, "confidence"),
        (["is"], {"resamples": 10}, "resamples"),
        (["is"], {"clip": 0.0}, "clip is 0"),
        (["is"], {"interval": "exact"}, "no interval 'exact'"),
        (["is", "wis"], {"interval": "hoeffding"}, "wis is biased"),
        (["is"], {"interval": "bernstein", "clip": 2.0, "bounds": Bounds((0.0, 1.0), 2.0)}, "cut weights are biased"),
        (["pdis"], {"interval": "bernstein"}, "needs to know"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(names: list[str], options: dict[str, object], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        estimate(random_log(values=False), names, **options)  # type: ignore[arg-type]


def test_a_single_decision_is_one_step_whatever_the_discount() -> None:
    log = replace(one_step_log(), discount=0.99)
    assert Bounds((-1.0, 2.0), 4.0).of_return(log) == (-1.0, 2.0)
    assert Bounds((-1.0, 2.0), 4.0).of_contribution(log, with_values=False) == (-4.0, 8.0)


def test_bounds_that_the_log_breaks_are_refused() -> None:
    log = random_log(values=False)
    with pytest.raises(DataError, match="beyond the bounds"):
        ask(log, "is", interval="hoeffding", bounds=Bounds((-0.1, 0.1), 1e6))
    with pytest.raises(RequestError, match="at least 1"):
        Bounds((0.0, 1.0), 0.5)
    with pytest.raises(RequestError, match="lowest"):
        Bounds((1.0, 0.0), 2.0)
    with pytest.raises(RequestError, match="horizon"):
        ask(replace(log, discount=1.0), "is", interval="hoeffding", bounds=Bounds((-9.0, 9.0), 1e6))


def test_values_that_nothing_corrects_have_no_interval_and_are_not_called_reliable() -> None:
    for kind in INTERVALS[:4]:
        answer = ask(random_log(), "dm", interval=kind)
        assert answer.value is not None
        assert (answer.interval, answer.standard_error, answer.reliable) == (None, None, "unknown")
        assert "no interval" in answer.warnings[0]


def test_nothing_is_reliable_beside_a_warning() -> None:
    assert Estimate("a", 1.0, np.ones(3)).reliable == "yes"
    assert Estimate("a", 1.0, np.ones(3), warnings=("Mind.",)).reliable == "unknown"
    assert Estimate("a", 1.0, np.ones(3), reliable=Reliability.NO, warnings=("Mind.",)).reliable == "no"
    assert Estimate("a", 1.0, np.ones(3)).doubted("Mind.").warnings == ("Mind.",)
    for names in (["is", "wpdis"], ["dr", "dm"]):
        for answer in estimate(random_log(cut=True), names):
            assert not answer.warnings or answer.reliable != "yes"


@pytest.mark.parametrize("kind", INTERVALS[:4])
@pytest.mark.parametrize("probability", [1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-300])
def test_weights_of_any_size_are_answered(kind: str, probability: float) -> None:
    """Steps that the target makes up to 10^300 times as likely, 40 of them: sizes from 10^68 up to no number at all."""
    episodes, steps = 30, 40
    rng = np.random.default_rng(0)
    rows = episodes * steps
    log = EpisodeLog(
        rng.random(rows),
        np.full(rows, np.log(probability)),
        np.log(rng.choice([0.3, 0.7], rows)),
        np.arange(episodes + 1) * steps,
        np.ones(episodes, bool),
        np.zeros(episodes, bool),
        0.99,
        q=rng.random(rows),
        v=rng.random(rows),
    )
    answers = estimate(log, [*SEQUENTIAL, "magic"], interval=kind, resamples=60)  # type: ignore[arg-type]
    assert [answer.name for answer in answers] == [*SEQUENTIAL, "magic"]
    for answer in answers:
        json.dumps(answer.to_dict(), allow_nan=False)
        assert answer.reliable != "yes"
        assert answer.value is not None or "There is no estimate" in answer.warnings[0]
    by_name = {answer.name: answer for answer in answers}
    assert by_name["wis"].interval is not None
    assert 0.0 < by_name["wis"].interval.low < by_name["wis"].interval.high < steps
    assert (by_name["is"].value is None) == (probability < 1e-7)


@pytest.mark.parametrize("kind", ["bootstrap-bca", "bootstrap-studentized", "t"])
def test_intervals_go_with_the_scale_of_the_rewards(kind: str) -> None:
    """At 10^200 squares and cubes are no numbers any more."""
    log = random_log(values=False)
    one = ask(log, "pdis", interval=kind).interval
    other = ask(replace(log, reward=1e200 * log.reward), "pdis", interval=kind).interval
    assert one is not None
    assert other is not None
    assert (other.low, other.high) == pytest.approx((1e200 * one.low, 1e200 * one.high), rel=1e-3)


def test_an_estimator_that_fails_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(question: Question) -> WeightedSum:
        return WeightedSum(np.full(question.log.episodes, math.exp(800.0)))

    def singular(question: Question) -> WeightedSum:
        raise np.linalg.LinAlgError("Singular matrix")

    def infinite(question: Question) -> Estimate:
        return Estimate("", math.inf, np.full(question.log.episodes, math.inf))

    broken = {"overflowing": overflowing, "singular": singular, "infinite": infinite}
    known = find_estimator

    def with_broken(name: str) -> Estimator:
        return Estimator("broken", broken[name], needs=()) if name in broken else known(name)

    monkeypatch.setattr("offrl.off_policy.estimate.find_estimator", with_broken)
    first, *others, last = estimate(random_log(), ["is", *broken, "wis"])
    assert (first.name, last.name) == ("is", "wis")
    assert last.interval == ask(random_log(), "wis").interval
    for name, answer in zip(broken, others, strict=True):
        assert (answer.name, answer.value, answer.reliable) == (name, None, "no")
        assert "There is no estimate" in answer.warnings[0]
        json.dumps(answer.to_dict(), allow_nan=False)
    assert "Singular matrix" in others[1].warnings[0]


def test_hints_name_what_the_log_is_enough_for() -> None:
    bare = random_log(values=False)
    with pytest.raises(RequestError) as refused:
        estimate(bare, ["ips"])
    for name in ("is", "wis", "pdis", "wpdis"):
        assert name in (refused.value.hint or "")
    assert "dr" not in (refused.value.hint or "")
    with pytest.raises(RequestError) as refused:
        estimate(bare, ["wis"], interval="hoeffding")
    assert "ask for is, pdis," in (refused.value.hint or "")
    with pytest.raises(RequestError) as refused:
        estimate(random_log(), ["wis"], interval="hoeffding")
    assert "ask for is, pdis, dr," in (refused.value.hint or "")
