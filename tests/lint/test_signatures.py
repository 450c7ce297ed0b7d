"""The discriminant on data whose answer is known, and against a plain computation."""

import numpy as np
import pytest

from service.lint.signatures import CERTAIN, fit_signatures

NAMES = ("none", "first", "second")


def plain_covariance(samples: np.ndarray) -> np.ndarray:
    return samples.T @ samples / len(samples)


def drawn(pictures: int, features: int, apart: float, seed: int) -> np.ndarray:
    """(pictures, 3, features): one picture's own part is common to its three versions, as with real faults."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(features, features)) / np.sqrt(features) + np.eye(features)
    centers = apart * rng.normal(size=(1, 3, features)) / np.sqrt(features)
    own = rng.normal(size=(pictures, 1, features))
    return (own + 0.3 * rng.normal(size=(pictures, 3, features)) + centers) @ mixing


def test_likelihoods_are_those_of_normal_distributions_with_one_covariance():
    import torch

    features = drawn(300, 4, 3.0, 1)
    fitted = fit_signatures(features, NAMES, plain_covariance, np.random.default_rng(0))
    centers = features.mean(0)
    covariance = plain_covariance((features - centers).reshape(-1, 4))
    normals = [torch.distributions.MultivariateNormal(*map(torch.tensor, (c, covariance))) for c in centers]
    wanted = torch.stack([normal.log_prob(torch.tensor(features[:, 1])) for normal in normals], 1).numpy()
    given = fitted.log_likelihoods(features[:, 1]) * fitted.temperature
    # Both are known up to a constant per picture.
    assert given - given[:, :1] == pytest.approx(wanted - wanted[:, :1], abs=1e-8)


def test_confusions_are_those_of_pictures_never_seen():
    fitted = fit_signatures(drawn(400, 6, 1.5, 2), NAMES, plain_covariance, np.random.default_rng(0))
    fresh = drawn(4000, 6, 1.5, 2)[400:]
    for true in range(3):
        probabilities = np.array([fitted.probabilities(one[None]) for one in fresh[:, true]])
        answered = np.where(probabilities.max(1) >= CERTAIN, probabilities.argmax(1), 3)
        share = np.bincount(answered, minlength=4) / len(fresh)
        assert fitted.confusion[1][true] == pytest.approx(share, abs=0.08)  # 400 pictures: three standard errors
        assert fitted.confusion[1][true].sum() == pytest.approx(1)


def test_classes_that_are_alike_are_not_told_apart():
    fitted = fit_signatures(drawn(400, 6, 0.0, 3), NAMES, plain_covariance, np.random.default_rng(0))
    assert fitted.confusion[1][:, -1] == pytest.approx(1.0, abs=0.05)  # no answer
    assert fitted.probabilities(drawn(1, 6, 0.0, 3)[:, 0]).max() < 0.6


def test_groups_are_told_better_than_single_pictures():
    features = drawn(200, 6, 1.0, 4)
    fitted = fit_signatures(features, NAMES, plain_covariance, np.random.default_rng(0))
    single, many = np.diag(fitted.confusion[1]).mean(), np.diag(fitted.confusion[32]).mean()
    assert single < many
    assert fitted.probabilities(features[:32, 2]).argmax() == 2
    assert fitted.probabilities(features[:32, 2]).sum() == pytest.approx(1)


def test_probabilities_hold_what_they_promise():
    """Of the pictures that it is 60 to 90 per cent sure of, about as many are right."""
    fitted = fit_signatures(drawn(400, 30, 1.5, 5), NAMES, plain_covariance, np.random.default_rng(0))
    fresh = drawn(4000, 30, 1.5, 5)[400:]
    sure, right = [], []
    for true in range(3):
        for likelihoods in fitted.log_likelihoods(fresh[:, true]):
            shares = np.exp(likelihoods - likelihoods.max())
            sure.append(shares.max() / shares.sum())
            right.append(likelihoods.argmax() == true)
    sure, right = np.array(sure), np.array(right)
    chosen = (sure > 0.6) & (sure < 0.9)
    assert right[chosen].mean() == pytest.approx(sure[chosen].mean(), abs=0.06)


def test_a_feature_that_never_changes_does_no_harm():
    features = np.concatenate([drawn(100, 3, 2.0, 6), np.full((100, 3, 1), 7.0)], -1)
    shrunk = lambda samples: plain_covariance(samples) + 1e-6 * np.eye(samples.shape[1])  # noqa: E731
    fitted = fit_signatures(features, NAMES, shrunk, np.random.default_rng(0))
    assert np.isfinite(fitted.log_likelihoods(features[:, 0])).all()


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="5 folds"):
        fit_signatures(drawn(4, 3, 1.0, 7), NAMES, plain_covariance, np.random.default_rng(0))
