"""Speed-up of one arm over another from paired rounds: estimate, interval, verdict. Pure numpy.

The arms of one round run close together in time, so whatever slows the machine down for longer than a round
cancels in its ratio. The logarithm makes both directions equal: swapping the arms only flips its sign.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from service.bundle.latency import Verdict

# Fewer rounds hold fewer than six blocks, too few to tell how much their median varies.
MIN_ROUNDS = 12
RESAMPLES = 4000
SEED = 20260114


@dataclass(frozen=True)
class Speedup:
    """Baseline time over candidate time, above 1 if the candidate is faster, with its 95 % interval."""

    estimate: float
    low: float
    high: float


def estimate_speedup(baseline: NDArray[np.float64], candidate: NDArray[np.float64]) -> Speedup:
    """Compare two arms round by round.

    Estimate: exp(median(ln(baseline / candidate))). Interval: the quantiles ``tail_probability`` and its
    complement of the same median over resamples of the rounds (``bootstrap_medians``). The seed is fixed, so
    equal times give an equal interval.

    Args:
        baseline: (rounds,) times in any unit; element i comes from the same round as ``candidate[i]``.
        candidate: (rounds,) times in that unit.

    Raises:
        ValueError: fewer than 12 rounds, arrays of different length, or a time not positive and finite.
    """
    if baseline.shape != candidate.shape or baseline.ndim != 1 or baseline.size < MIN_ROUNDS:
        shapes = f"{baseline.shape} and {candidate.shape}"
        raise ValueError(f"expected two lists of the same {MIN_ROUNDS} or more rounds, got shapes {shapes}")
    if not all(np.isfinite(times).all() and (times > 0).all() for times in (baseline, candidate)):
        raise ValueError("every time must be positive and finite")
    log_ratios = np.log(baseline) - np.log(candidate)
    tail = tail_probability(math.ceil(log_ratios.size / block_length(log_ratios.size)))
    low, high = np.quantile(bootstrap_medians(log_ratios), [tail, 1 - tail])
    return Speedup(math.exp(np.median(log_ratios)), math.exp(low), math.exp(high))


def block_length(rounds: int) -> int:
    """Neighbouring rounds resampled together: ceil(rounds^(1/4)).

    Source: Hall, Horowitz and Jing, "On blocking rules for the bootstrap with dependent data", Biometrika 82
    (1995), whose exponent for one-sided quantiles this is.
    """
    return math.ceil(math.sqrt(math.sqrt(rounds)))


def tail_probability(blocks: int) -> float:
    """Share of the resamples to leave out at each end for a 95 % interval from so few ``blocks``.

    With k blocks it is Phi(-sqrt(k / (k - 1)) t), where t is the 97.5 % quantile of Student's t with k - 1
    degrees of freedom. It tends to 2.5 %, which by itself would cover only about 90 % at 30 rounds.

    Sources: the expanded percentile interval of Hesterberg, "What teachers should know about the bootstrap",
    Am. Stat. 69 (2015), counting blocks as its observations; t by Abramowitz and Stegun 26.7.5.
    """
    z, freedom = NormalDist().inv_cdf(0.975), blocks - 1
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return NormalDist().cdf(-t * math.sqrt(blocks / freedom))


def bootstrap_medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians of resamples of a time series made of whole blocks, which keeps the correlation of neighbours.

    Blocks start at uniformly drawn places and wrap around the end, so every value is drawn equally often.

    Sources: Künsch, "The jackknife and the bootstrap for general stationary observations", Ann. Statist. 17
    (1989), for the blocks; Politis and Romano, "A circular block-resampling procedure for stationary data"
    (1992), for the wrapping.

    Args:
        values: (n,) in the order they were measured.

    Returns:
        (4000,) medians, in no particular order.
    """
    count, length = values.size, block_length(values.size)
    starts = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, math.ceil(count / length)))
    places = (starts[:, :, None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :count] % count
    return np.asarray(np.median(values[places], axis=1), np.float64)


def noise_floor(null: Speedup) -> float:
    """Size of the |ln speed-up| that this machine shows between two arms that do the same work.

    It is max(|ln low|, |ln high|), the far end of the null control's interval: its half-width plus its own
    offset from 1, since an offset between equals is an error that the other comparisons may share.
    """
    return max(abs(math.log(null.low)), abs(math.log(null.high)))


def judge(speedup: Speedup, floor: float = 0.0) -> Verdict:
    """Conclude ``gain`` or ``loss`` only if two conditions hold, ``indistinguishable`` otherwise.

    The interval must exclude 1, and |ln estimate| must exceed ``floor`` (see ``noise_floor``). The null
    control itself is judged against 0, so its own floor cannot hide that the machine tells equals apart.
    """
    if speedup.low <= 1 <= speedup.high or abs(math.log(speedup.estimate)) <= floor:
        return "indistinguishable"
    return "gain" if speedup.estimate > 1 else "loss"
