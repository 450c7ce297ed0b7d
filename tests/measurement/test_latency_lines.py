"""The lines that prepare prints about latency."""

import pytest

from service.bundle.latency import Comparison, Series, Verdict
from service.measurement.terminal import series_verdicts


def comparison(question: str, low: float, estimate: float, high: float, verdict: Verdict) -> Comparison:
    return Comparison(
        name="x",
        question=question,
        baseline="a",
        candidate="b",
        speedup=estimate,
        ci95_low=low,
        ci95_high=high,
        verdict=verdict,
    )


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            (1.17, 1.22, 1.27, "indistinguishable"),
            "1.22x [1.17, 1.27] indistinguishable What? (two copies of the same graph seem to differ by up to 1.25x)",
        ),
        ((0.97, 1.02, 1.07, "indistinguishable"), "1.02x [0.97, 1.07] indistinguishable What?"),
        ((1.27, 1.32, 1.37, "gain"), "1.32x [1.27, 1.37] gain              What?"),
    ],
)
@pytest.mark.parametrize("null", [(0.80, 0.9, 1.01), (0.99, 1.1, 1.25)])
def test_a_verdict_that_its_interval_does_not_explain_is_explained(
    null: tuple[float, float, float], answer: tuple[float, float, float, Verdict], line: str
) -> None:
    control = comparison("Noise?", *null, "indistinguishable")
    series = Series.model_construct(null_control=control, comparisons=[comparison("What?", *answer)])
    first, second = series_verdicts(series)
    assert first.endswith("indistinguishable Noise?")
    assert second.strip() == line
