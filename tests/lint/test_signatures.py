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


SIGNATURES = fit_signatures(drawn(200, 24, 4.0, 8), NAMES, plain_covariance, np.random.default_rng(0))


def equally_far(count: int, squared: float) -> np.ndarray:
    """Pictures (count, 24) about the first class, any two of them at the same distance as `Signatures` measures it."""
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(24, 24)))[0]
    # Unit vectors are 2 apart, squared; half the mean square over 24 features shall be ``squared``.
    whitened = rotation[:count] * np.sqrt(24 * squared)
    return SIGNATURES.centers[0] + whitened @ np.linalg.inv(np.linalg.cholesky(SIGNATURES.precision)) * SIGNATURES.scale


@pytest.mark.parametrize(("count", "related"), [(2, 0.0), (5, 0.3), (9, 0.9), (9, 1.0)])
def test_pictures_correlated_equally_are_judged_by_their_joint_normal_density(count, related):
    """The pictures' covariance is the Kronecker product of their correlation with the classes' own."""
    import torch

    pictures = equally_far(count, SIGNATURES.near * (1 - related))
    assert SIGNATURES.relations(pictures) == pytest.approx(np.eye(count) * (1 - related) + related, abs=1e-9)
    assert SIGNATURES.effective_pictures(pictures) == pytest.approx(count / (1 + (count - 1) * related))
    correlation = np.eye(count) * (1 - related + 1e-9) + related  # with an inverse, for copies too
    covariance = np.kron(correlation, np.linalg.inv(SIGNATURES.precision) * SIGNATURES.temperature)
    joint = [
        torch.distributions.MultivariateNormal(
            torch.zeros(len(covariance)).double(), torch.tensor(covariance)
        ).log_prob(torch.tensor(((pictures - center) / SIGNATURES.scale).ravel()))
        for center in SIGNATURES.centers
    ]
    wanted = torch.softmax(torch.stack(joint), 0).numpy()
    assert SIGNATURES.probabilities(pictures) == pytest.approx(wanted, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("copies", [2, 32])
def test_copies_of_pictures_change_nothing(copies):
    features = drawn(3, 24, 4.0, 8)[:, 1]
    repeated = np.repeat(features, copies, 0)
    assert SIGNATURES.probabilities(repeated) == pytest.approx(SIGNATURES.probabilities(features), rel=1e-9)
    assert SIGNATURES.effective_pictures(repeated) == pytest.approx(SIGNATURES.effective_pictures(features), rel=1e-9)


def test_different_pictures_keep_their_weight():
    fresh = drawn(2000, 24, 4.0, 8)[-32:]
    for true in range(3):
        assert SIGNATURES.effective_pictures(fresh[:, true]) > 28


def test_frames_of_one_scene_claim_nothing_falsely_more_often_than_one_picture():
    """32 frames each of scenes, with a little noise of their own; by their number they would all be certain."""
    fitted = fit_signatures(drawn(400, 24, 1.0, 9), NAMES, plain_covariance, np.random.default_rng(0))
    scenes, rng = drawn(1000, 24, 1.0, 9)[400:, 0], np.random.default_rng(3)
    false = {"one": 0, "frames": 0, "by number": 0}
    for scene in scenes:
        frames = scene + 0.02 * fitted.scale * rng.normal(size=(32, 24))
        assert fitted.effective_pictures(frames) < 1.5
        by_number = fitted.log_likelihoods(frames).sum(0)
        shares = {
            "one": fitted.probabilities(scene[None]),
            "frames": fitted.probabilities(frames),
            "by number": np.exp(by_number - by_number.max()) / np.exp(by_number - by_number.max()).sum(),
        }
        for name, probabilities in shares.items():
            false[name] += probabilities[1:].max() >= CERTAIN
    allowed = (1 - CERTAIN) * len(scenes)
    assert false["one"] <= allowed and false["frames"] <= allowed, false
    assert false["by number"] > allowed, "the frames would have been told rightly anyway"


def test_the_distance_is_that_of_whitened_features():
    some, others = drawn(4, 24, 4.0, 8)[:, 0], drawn(5, 24, 4.0, 10)[:, 1]
    for i, one in enumerate(some):
        for j, other in enumerate(others):
            offset = (one - other) / SIGNATURES.scale
            wanted = offset @ SIGNATURES.precision @ offset / 48
            assert SIGNATURES.distances(some, others)[i, j] == pytest.approx(wanted, rel=1e-9)


def test_pairs_of_different_pictures_count_as_related_in_one_of_a_hundred():
    fitted = fit_signatures(drawn(300, 24, 4.0, 11), NAMES, plain_covariance, np.random.default_rng(0))
    fresh = drawn(2300, 24, 4.0, 11)[300:]
    pairs = fitted.distances(fresh[:1000, 0], fresh[1000:, 0])
    assert 0.002 < (pairs < fitted.near).mean() < 0.02
