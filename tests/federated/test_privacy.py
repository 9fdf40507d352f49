"""Clipping, noise and epsilon: by hand, by statistics, and by other accountants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq
from scipy.stats import norm

from hf_rec.federated.privacy import add_noise, clip_update, epsilon, norm_of

numbers = st.floats(-1e3, 1e3, width=32)
weights = st.fixed_dictionaries(
    {"a": arrays(np.float32, (3, 2), elements=numbers), "b": arrays(np.float32, 4, elements=numbers)}
)


@given(weights, weights, st.floats(1e-3, 1e4))
def test_a_clipped_update_is_no_longer_than_the_limit_and_points_the_same_way(own, received, limit):
    clipped = clip_update(own, received, limit)
    update = {name: own[name] - received[name] for name in own}
    found = {name: clipped[name] - received[name] for name in own}
    assert norm_of(found.values()) <= limit * 1.001 + 1e-3
    if norm_of(update.values()) <= limit:
        assert all((clipped[name] == own[name]).all() for name in own)
    else:
        scale = limit / norm_of(update.values())
        assert all(np.allclose(found[name], scale * update[name], rtol=1e-3, atol=1e-3) for name in own)
    assert all(clipped[name].dtype == np.float32 for name in own)


def test_an_update_of_zero_stays():
    same = {"a": np.ones(3, np.float32)}
    assert (clip_update(same, same, 1.0)["a"] == 1).all()


def test_noise_has_the_deviation_and_is_drawn_by_the_generator():
    zeros = {"a": np.zeros((300, 200), np.float32), "b": np.zeros(40_000, np.float32)}
    noisy = add_noise(zeros, 0.5, np.random.default_rng(0))
    drawn = np.concatenate([array.ravel() for array in noisy.values()])
    assert drawn.std() == pytest.approx(0.5, rel=0.01) and abs(drawn.mean()) < 0.01
    assert abs(np.corrcoef(noisy["a"].ravel()[:40_000], noisy["b"])[0, 1]) < 0.02
    again, other = (add_noise(zeros, 0.5, np.random.default_rng(seed)) for seed in (0, 1))
    assert (again["a"] == noisy["a"]).all() and (other["a"] != noisy["a"]).any()


def exact(multiplier: float, rounds: int, delta: float) -> float:
    """The epsilon of Gaussian noise, where the curve of Balle and Wang (2018) crosses delta."""
    mu = math.sqrt(rounds) / multiplier
    curve = lambda value: norm.cdf(mu / 2 - value / mu) - math.exp(value) * norm.cdf(-mu / 2 - value / mu)  # noqa: E731
    return brentq(lambda value: curve(value) - delta, 0, 200)


@pytest.mark.parametrize(("multiplier", "rounds", "delta"), [(1.0, 1, 1e-3), (4.0, 1, 1e-6), (4.0, 20, 1e-5)])
def test_epsilon_is_that_of_other_accountants(multiplier, rounds, delta):
    dp_accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import pld, rdp

    found = epsilon(multiplier, rounds, delta)
    assert found == pytest.approx(exact(multiplier, rounds, delta), rel=1e-4)
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), rounds)
    assert found == pytest.approx(pld.PLDAccountant().compose(event).get_epsilon(delta), rel=1e-3, abs=1e-3)
    assert found <= rdp.RdpAccountant().compose(event).get_epsilon(delta) <= 1.35 * found


def test_epsilon_is_below_that_of_the_accountant_of_opacus_and_near_it():
    pytest.importorskip("dp_accounting")
    accountants = pytest.importorskip("opacus.accountants")
    accountant = accountants.RDPAccountant()
    accountant.history = [(1.3, 1.0, 12)]
    other = accountant.get_epsilon(delta=1e-5)
    assert 0.7 * other < epsilon(1.3, 12, 1e-5) <= other


def test_who_was_never_drawn_has_spent_nothing():
    assert epsilon(1.0, 0, 1e-5) == 0
