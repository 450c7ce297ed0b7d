"""The shrunk covariance against a loop that follows the paper symbol by symbol, and in its limits."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.drift.shrinkage import LEAST_SHRINKAGE, shrunk_covariance


def by_the_paper(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ledoit & Wolf 2004, section 3.3: every product of a sample with itself formed, norms divided by p."""
    n, p = samples.shape
    s = np.zeros((p, p))
    for x in samples:
        s += np.outer(x, x) / n
    m = sum(s[i, i] for i in range(p)) / p
    d2 = sum((s[i, j] - m * (i == j)) ** 2 for i in range(p) for j in range(p)) / p
    b2 = sum(((np.outer(x, x) - s) ** 2).sum() / p for x in samples) / n**2
    b2 = min(b2, d2)
    a2 = d2 - b2
    return b2 / d2 * m * np.eye(p) + a2 / d2 * s


def correlated(rng: np.random.Generator, count: int, width: int) -> NDArray[np.float64]:
    samples = rng.standard_t(5, (count, 4)) @ rng.normal(size=(4, width)) + rng.normal(size=(count, width))
    return samples - samples.mean(axis=0)


@pytest.mark.parametrize(("count", "width"), [(5, 12), (12, 12), (60, 12), (400, 7)])
def test_it_equals_the_paper(count: int, width: int) -> None:
    samples = correlated(np.random.default_rng(count), count, width)
    np.testing.assert_allclose(shrunk_covariance(samples), by_the_paper(samples), rtol=1e-10, atol=1e-12)


def test_many_samples_lead_to_the_true_covariance() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    truth = root @ root.T
    errors = [
        np.linalg.norm(shrunk_covariance(rng.normal(size=(n, 6)) @ root.T) - truth) / np.linalg.norm(truth)
        for n in (100, 100_000)
    ]
    assert errors[1] < 0.02 < errors[0] * 0.5 + 0.02


def test_few_samples_lie_nearer_the_truth_than_their_own_covariance() -> None:
    rng = np.random.default_rng(1)
    scales = rng.uniform(0.5, 2, 50)
    samples = rng.normal(size=(30, 50)) * scales
    truth = np.diag(scales**2)
    plain = samples.T @ samples / 30
    assert np.linalg.norm(shrunk_covariance(samples) - truth) < 0.5 * np.linalg.norm(plain - truth)


def test_samples_without_structure_become_a_multiple_of_the_identity() -> None:
    """Along the axes, all of one length: the sample covariance is that multiple itself, and nothing is to shrink."""
    samples = np.concatenate([3 * np.eye(4), -3 * np.eye(4)])
    np.testing.assert_allclose(shrunk_covariance(samples), 9 / 4 * np.eye(4), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("count", "width"), [(1, 3), (2, 5), (30, 200), (64, 64)])
def test_it_can_always_be_inverted(count: int, width: int, scale: float) -> None:
    samples = correlated(np.random.default_rng(2), count + 1, width)[:count] * scale
    values = np.linalg.eigvalsh(shrunk_covariance(samples) / scale**2)
    assert values[0] > 0
    assert values[-1] / values[0] < 2 * width / LEAST_SHRINKAGE


def test_two_opposite_samples_are_shrunk_too() -> None:
    """Their products are equal, so the paper's estimate of the error is nil; its own result is singular."""
    samples = np.array([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    assert np.linalg.matrix_rank(by_the_paper(samples)) < 3
    assert np.linalg.eigvalsh(shrunk_covariance(samples))[0] > 0


@pytest.mark.parametrize("samples", [np.zeros((4, 3)), np.zeros((0, 3))])
def test_what_does_not_vary_is_refused(samples: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="do not vary"):
        shrunk_covariance(samples)
