"""Speed-up of one arm over another from paired times: estimate, interval, verdict. Pure numpy.

The arms of one round run close together in time, so whatever slows the machine down for longer than a round
cancels in its ratio. The logarithm makes both directions equal: swapping the arms only flips its sign.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from service.bundle.latency import Verdict

# With fewer sessions Student's t is so wide that hardly any effect could be told from noise.
MIN_SESSIONS = 4


@dataclass(frozen=True)
class Speedup:
    """Baseline time over candidate time, above 1 if the candidate is faster, with its 95 % interval."""

    estimate: float
    low: float
    high: float


def estimate_speedup(baseline: NDArray[np.float64], candidate: NDArray[np.float64]) -> Speedup:
    """Compare two arms round by round, and let only whole sessions count as independent.

    How the allocator happened to place a network decides its speed for as long as it is loaded, so two loads of
    one file can differ by several per cent in every round. A session is one load of every arm: the median of
    its rounds' ln(baseline / candidate) is one observation, luck included. The estimate is exp of the
    observations' mean, the interval Student's t with sessions - 1 degrees of freedom.

    Source: Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013), who repeat an experiment
    at the highest level that varies and take the interval from that level's means.

    Args:
        baseline: (sessions, rounds) times in any unit; each element comes from the same round as the candidate's.
        candidate: (sessions, rounds) times in that unit.

    Raises:
        ValueError: fewer than 4 sessions, arrays of different shape, or a time not positive and finite.
    """
    if baseline.shape != candidate.shape or baseline.ndim != 2 or len(baseline) < MIN_SESSIONS or not baseline.size:
        shapes = f"{baseline.shape} and {candidate.shape}"
        raise ValueError(f"expected the same {MIN_SESSIONS} or more sessions of rounds, got shapes {shapes}")
    if not all(np.isfinite(times).all() and (times > 0).all() for times in (baseline, candidate)):
        raise ValueError("every time must be positive and finite")
    observations = np.median(np.log(baseline) - np.log(candidate), axis=1)
    mean = float(observations.mean())
    half = student_t(len(observations) - 1) * float(observations.std(ddof=1)) / math.sqrt(len(observations))
    return Speedup(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def student_t(freedom: int) -> float:
    """97.5 % quantile of Student's t, within 0.2 % from 3 degrees of freedom on.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))


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
