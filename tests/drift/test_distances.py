"""Distances between normal laws against loops of plain floats, torch's closed forms and the axioms they must meet."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from service.drift.distances import (
    LARGEST,
    REVIVED,
    VARIANCE_FLOOR,
    Normal,
    channel_distances,
    law_distance,
    layer_distances,
    pool,
    training_law,
)


def law(rng: np.random.Generator, channels: int = 40) -> Normal:
    return Normal(rng.normal(0, 3, channels), rng.lognormal(0, 2, channels) + 10 * VARIANCE_FLOOR)


def constant(mean: float, variance: float, channels: int = 1) -> Normal:
    return Normal(np.full(channels, mean), np.full(channels, variance))


def kl(m: float, v: float, mu: float, s2: float) -> float:
    """By Simpson's rule over the observed density, 12 deviations to both sides: no closed form involved."""
    steps, half = 4000, 12 * math.sqrt(v)
    total = 0.0
    for i in range(steps + 1):
        x = m - half + 2 * half * i / steps
        log_p = -((x - m) ** 2) / (2 * v) - math.log(2 * math.pi * v) / 2
        log_q = -((x - mu) ** 2) / (2 * s2) - math.log(2 * math.pi * s2) / 2
        weight = 1 if i in (0, steps) else 4 if i % 2 else 2
        total += weight * math.exp(log_p) * (log_p - log_q)
    return total * 2 * half / steps / 3


def test_the_training_law_is_that_of_normalised_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, 4096)
    running_var, eps, gamma, beta = float(x.var()), 1e-3, -1.7, 0.4
    y = gamma * (x - x.mean()) / math.sqrt(running_var + eps) + beta
    expected = training_law(np.array([gamma]), np.array([beta]), np.array([running_var]), eps)
    assert expected.mean[0] == pytest.approx(y.mean(), rel=1e-9)
    assert expected.variance[0] == pytest.approx(y.var(), rel=1e-9)


def test_a_channel_that_never_varied_has_a_constant_law() -> None:
    assert training_law(np.ones(1), np.zeros(1), np.zeros(1), 1e-3).variance[0] == 0


def test_pooled_moments_are_those_of_all_positions_at_once() -> None:
    pictures = np.random.default_rng(1).normal(size=(7, 5, 30)) * np.arange(1, 8)[:, None, None]
    pooled = pool(pictures.mean(axis=2), pictures.var(axis=2))
    together = pictures.transpose(1, 0, 2).reshape(5, -1)
    np.testing.assert_allclose(pooled.mean, together.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(pooled.variance, together.var(axis=1), rtol=1e-12)


def test_pictures_weigh_alike() -> None:
    """Not by their number of positions, which the moments do not tell."""
    pooled = pool(np.array([[0.0], [4.0]]), np.array([[1.0], [3.0]]))
    assert (pooled.mean[0], pooled.variance[0]) == (2.0, 2.0 + 4.0)


def test_channel_distances_equal_a_loop_and_an_integral() -> None:
    rng = np.random.default_rng(2)
    observed, reference = law(rng, 12), law(rng, 12)
    found = channel_distances(observed, reference)
    for c in range(12):
        m, v = float(observed.mean[c]), float(observed.variance[c])
        mu, s2 = float(reference.mean[c]), float(reference.variance[c])
        assert found.z[c] == pytest.approx((m - mu) / math.sqrt(s2), rel=1e-12)
        assert found.log_variance_ratio[c] == pytest.approx(math.log(v) - math.log(s2), rel=1e-9)
        assert found.symmetric_kl[c] == pytest.approx(kl(m, v, mu, s2) + kl(mu, s2, m, v), rel=1e-6)
        assert found.wasserstein2[c] == pytest.approx(
            math.sqrt((m - mu) ** 2 + (math.sqrt(v) - math.sqrt(s2)) ** 2), rel=1e-9
        )


def test_the_wasserstein_distance_is_that_of_sorted_samples() -> None:
    """In one dimension the best transport pairs equal ranks, so quantiles give the distance without any formula."""
    normal = np.sort(np.random.default_rng(3).normal(size=400_000))
    apart = math.sqrt(float(np.square((2 + 0.5 * normal) - (-1 + 3 * normal)).mean()))
    assert channel_distances(constant(2, 0.25), constant(-1, 9)).wasserstein2[0] == pytest.approx(apart, rel=0.01)


def test_divergences_equal_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    from torch.distributions import Normal as TorchNormal
    from torch.distributions import kl_divergence

    rng = np.random.default_rng(4)
    observed, reference = law(rng), law(rng)
    p, q = (TorchNormal(torch.tensor(x.mean), torch.tensor(np.sqrt(x.variance))) for x in (observed, reference))
    there, back = kl_divergence(p, q).numpy(), kl_divergence(q, p).numpy()
    np.testing.assert_allclose(channel_distances(observed, reference).symmetric_kl, there + back, rtol=1e-9)
    assert law_distance(observed, reference) == pytest.approx(float(there.mean()), rel=1e-9)
    assert law_distance(reference, observed) == pytest.approx(float(back.mean()), rel=1e-9)


def test_a_law_has_no_distance_from_itself() -> None:
    same = law(np.random.default_rng(5))
    found = channel_distances(same, same)
    for distance in (found.z, found.log_variance_ratio, found.symmetric_kl, found.wasserstein2):
        np.testing.assert_allclose(distance, 0, atol=1e-12)
    assert law_distance(same, same) == pytest.approx(0, abs=1e-12)


def test_symmetric_distances_are_symmetric_and_z_keeps_its_sign() -> None:
    rng = np.random.default_rng(6)
    a, b = law(rng), law(rng)
    there, back = channel_distances(a, b), channel_distances(b, a)
    np.testing.assert_allclose(there.symmetric_kl, back.symmetric_kl, rtol=1e-12)
    np.testing.assert_allclose(there.wasserstein2, back.wasserstein2, rtol=1e-12)
    np.testing.assert_allclose(there.log_variance_ratio, -back.log_variance_ratio, rtol=1e-12)
    assert (np.sign(there.z) == np.sign(a.mean - b.mean)).all()


def test_the_wasserstein_distance_obeys_the_triangle_inequality() -> None:
    rng = np.random.default_rng(7)
    a, b, c = law(rng, 500), law(rng, 500), law(rng, 500)
    direct = channel_distances(a, c).wasserstein2
    detour = channel_distances(a, b).wasserstein2 + channel_distances(b, c).wasserstein2
    assert (direct <= detour * (1 + 1e-12)).all()


def test_layer_figures_equal_a_loop_over_the_living_channels() -> None:
    rng = np.random.default_rng(8)
    observed, reference = law(rng), law(rng)
    dead = [3, 17]
    reference.variance[dead] = 0
    found = layer_distances(observed, reference, worst=4)
    alive = [c for c in range(40) if c not in dead]
    single = [channel_distances(*(Normal(x.mean[[c]], x.variance[[c]]) for x in (observed, reference))) for c in alive]
    assert found.channels == 38
    assert found.z_rms == pytest.approx(math.sqrt(sum(s.z[0] ** 2 for s in single) / 38))
    ordered = sorted(abs(s.log_variance_ratio[0]) for s in single)
    assert found.log_variance_ratio == pytest.approx((ordered[18] + ordered[19]) / 2)
    assert found.symmetric_kl == pytest.approx(sum(s.symmetric_kl[0] for s in single) / 38)
    assert found.wasserstein2 == pytest.approx(math.sqrt(sum(s.wasserstein2[0] ** 2 for s in single) / 38))
    furthest = sorted(range(38), key=lambda i: -single[i].symmetric_kl[0])[:4]
    assert found.worst_channels == tuple(alive[i] for i in furthest)


def test_the_worst_channels_are_no_more_than_those_that_count() -> None:
    reference = Normal(np.zeros(3), np.array([1.0, 0.0, 1.0]))
    assert layer_distances(constant(1, 1, 3), reference).worst_channels == (0, 2)


def test_a_dead_channel_that_leaves_its_constant_is_named() -> None:
    reference = Normal(np.zeros(5), np.array([0.0, VARIANCE_FLOOR, 0.0, 0.0, 1.0]))
    little, much = 0.5 * REVIVED, 2 * REVIVED
    observed = Normal(np.array([0.0, 0.0, little, much, 9.0]), np.array([1.0, VARIANCE_FLOOR, 0.0, 0.0, 1.0]))
    found = layer_distances(observed, reference)
    assert found.revived == (0, 3)
    assert (found.channels, found.worst_channels, found.z_rms) == (1, (4,), 9.0)


def test_a_layer_of_dead_channels_has_no_distance_but_names_those_revived() -> None:
    found = layer_distances(constant(0, 1, 2), constant(0, 0, 2))
    assert (found.channels, found.z_rms, found.symmetric_kl, found.wasserstein2) == (0, 0, 0, 0)
    assert found.revived == (0, 1)
    assert law_distance(constant(0, 1, 2), constant(0, 0, 2)) == 0


def test_a_flat_picture_counts_as_varying_by_the_floor() -> None:
    flat, floored = constant(0.5, 0), constant(0.5, VARIANCE_FLOOR)
    reference = constant(0, 1)
    assert channel_distances(flat, reference) == channel_distances(floored, reference)
    assert law_distance(flat, reference) == law_distance(floored, reference) > 0


EXTREMES = np.array([0.0, 5e-324, 1e-300, 1e-6, 1.0, 1e6, LARGEST, 1e300, 1.7976931348623157e308])


def random_extremes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    spread = 10.0 ** rng.uniform(-308, 308, count)
    return np.where(rng.random(count) < 0.5, rng.choice(EXTREMES, count), spread)


@pytest.mark.filterwarnings("error")
def test_nothing_finite_leads_to_infinity_or_not_a_number() -> None:
    rng = np.random.default_rng(9)
    for _ in range(300):
        means = random_extremes(rng, 60).reshape(2, 30) * rng.choice([-1, 1], (2, 30))
        variances = random_extremes(rng, 60).reshape(2, 30)
        observed, reference = (Normal(m, v) for m, v in zip(means, variances, strict=True))
        channels = channel_distances(observed, reference)
        layer = layer_distances(observed, reference)
        pooled = pool(means, variances)
        figures = [channels.z, channels.log_variance_ratio, channels.symmetric_kl, channels.wasserstein2]
        figures += [layer.z_rms, layer.log_variance_ratio, layer.symmetric_kl, layer.wasserstein2]
        figures += [law_distance(observed, reference), pooled.mean, pooled.variance]
        figures += [training_law(means[0], means[1], variances[0], 1e-3).variance]
        assert all(np.isfinite(figure).all() for figure in figures)
        assert all((np.asarray(figure) >= 0).all() for figure in figures[2:9] if figure is not figures[1])


@pytest.mark.parametrize(
    ("mean", "variance"),
    [([0.0], [-1e-9]), ([math.nan], [1.0]), ([0.0], [math.inf]), ([0.0, 1.0], [1.0]), ([[0.0]], [[1.0]])],
)
def test_impossible_moments_are_refused(mean: list[float], variance: list[float]) -> None:
    with pytest.raises(ValueError):
        Normal(np.array(mean), np.array(variance))


def test_laws_of_different_layers_are_not_compared() -> None:
    for compare in (channel_distances, layer_distances, law_distance):
        with pytest.raises(ValueError, match="2 channels observed, 3"):
            compare(constant(0, 1, 2), constant(0, 1, 3))


@pytest.mark.parametrize("variances", [np.zeros((0, 3)), np.full((2, 3), -1.0), np.zeros((2, 4)), np.zeros(3)])
def test_moments_that_cannot_be_pooled_are_refused(variances: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError):
        pool(np.zeros((len(variances), 3)), variances)


def test_an_eps_of_nothing_is_refused_only_beside_a_variance_of_nothing() -> None:
    with pytest.raises(ValueError, match="eps"):
        training_law(np.ones(2), np.zeros(2), np.array([4.0, 0.0]), 0.0)
    law = training_law(np.array([2.0]), np.array([1.0]), np.array([4.0]), 0.0)
    assert (law.mean, law.variance) == ([1.0], [4.0])
