"""What follows from a BatchNorm's four arrays and its folded weights, in numpy float64. No torch, no disk."""

import numpy as np
from numpy.typing import NDArray

from service.bundle.health import MIN_SQNR_DB, RANGE_STDS, WIDE_RANGE_RATIO, FoldedWeights, Int8Scheme

Array = NDArray[np.float64]

#: Where SiLU, x / (1 + exp(-x)), is least, and its value there: the root of 1 + exp(-x) + x exp(-x) = 0.
SILU_LOWEST_AT = -1.2784645427610738
SILU_LOWEST = -0.2784645427610738
_INT8_STEPS = 127
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)


def law_std(gamma: Array, running_var: Array, eps: float) -> Array:
    """Deviation of a BatchNorm's output when its input has the running variance: |gamma| sqrt(var / (var + eps)).

    Its mean is beta. Both hold for the folded convolution too, which gives the same output.

    Args:
        gamma, running_var: (channels,).
    """
    return np.abs(gamma) * np.sqrt(running_var / (running_var + eps))


def activate(activation: str | None, values: Array) -> Array | None:
    """SiLU, ReLU or the identity of an array; None for every other function, which may have parameters of its own."""
    if activation == "Identity":
        return values
    if activation == "ReLU":
        return np.maximum(values, 0.0)
    if activation == "SiLU":
        # exp of a large positive number would overflow; both branches are the same function.
        small = np.exp(-np.abs(values))
        return values * np.where(values >= 0, 1.0, small) / (1.0 + small)
    return None


def expected_range(activation: str | None, beta: Array, std: Array) -> tuple[Array, Array] | None:
    """Lowest and highest value of each channel's activation over beta +- RANGE_STDS std, or None if it is not known.

    SiLU falls up to SILU_LOWEST_AT and rises after it, so the lowest value need not lie at an end of the interval.

    Args:
        beta, std: (channels,).
    """
    low, high = beta - RANGE_STDS * std, beta + RANGE_STDS * std
    at_low, at_high = activate(activation, low), activate(activation, high)
    if at_low is None or at_high is None:
        return None
    lowest, highest = np.minimum(at_low, at_high), np.maximum(at_low, at_high)
    if activation == "SiLU":
        lowest = np.where((low <= SILU_LOWEST_AT) & (high >= SILU_LOWEST_AT), SILU_LOWEST, lowest)
    return lowest, highest


def describe_weights(before: Array, after: Array, bias: Array) -> FoldedWeights:
    """Ranges, int8 and half-precision figures of a convolution's weights.

    Args:
        before, after: (output channels, weights of each), unfolded and folded.
        bias: (output channels,), folded.
    """
    peaks = np.abs(after).max(1)
    median = float(np.median(peaks))
    ratio = float(peaks.max()) / median if median > 0 else None
    per_tensor = sqnr_db(after, np.full(len(after), peaks.max()))
    per_channel = sqnr_db(after, peaks)
    constants = np.concatenate((after.ravel(), bias))
    with np.errstate(over="ignore"):
        half = np.abs(constants.astype(np.float16)).astype(np.float64)
    nonzero = constants != 0
    subnormal = int((nonzero & (half > 0) & (half < _SMALLEST_NORMAL)).sum())
    zero = int((nonzero & (half == 0)).sum())
    return FoldedWeights(
        before_min=float(before.min()),
        before_max=float(before.max()),
        after_min=float(after.min()),
        after_max=float(after.max()),
        range_ratio=ratio,
        sqnr_per_tensor_db=per_tensor,
        sqnr_per_channel_db=per_channel,
        int8_scheme=_scheme(per_tensor, per_channel, ratio),
        fp16_infinite=int(np.isinf(half).sum()),
        fp16_subnormal=subnormal,
        fp16_zero=zero,
        small_share=(subnormal + zero) / len(constants),
    )


def sqnr_db(weights: Array, peaks: Array) -> float | None:
    """Signal-to-quantization-noise ratio of weights in symmetric int8: 10 log10(sum w^2 / sum (w - q(w))^2).

    q(w) = step * round(w / step) with step = peak / 127, so that -127 to 127 are used; halves go to the even number.

    Args:
        weights: (output channels, weights of each).
        peaks: (output channels,), the largest |weight| that each channel's scale has to hold.

    Returns:
        Decibels; None when nothing is lost.
    """
    step = np.where(peaks > 0, peaks / _INT8_STEPS, 1.0)[:, None]
    noise = float(np.square(weights - step * np.round(weights / step)).sum())
    return 10.0 * float(np.log10(np.square(weights).sum() / noise)) if noise > 0 else None


def infinite_in_half(values: Array) -> list[int]:
    """Indices of the values (n,) that half precision rounds to infinity."""
    with np.errstate(over="ignore"):
        return [int(i) for i in np.flatnonzero(np.isinf(values.astype(np.float16)))]


def small_in_half(values: Array) -> int:
    """How many nonzero values become subnormal or zero in half precision."""
    half = np.abs(np.clip(values, -1.0, 1.0).astype(np.float16))
    return int(((values != 0) & (half < _SMALLEST_NORMAL)).sum())


def fits_half(values: Array) -> bool:
    """Whether half precision holds every value exactly."""
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float64) == values).all())


def _scheme(per_tensor: float | None, per_channel: float | None, range_ratio: float | None) -> Int8Scheme:
    # A few wide channels can hold nearly all of the signal, so that losing the others hardly shows in its ratio.
    narrow_channels_survive = range_ratio is None or range_ratio < WIDE_RANGE_RATIO
    if narrow_channels_survive and (per_tensor is None or per_tensor >= MIN_SQNR_DB):
        return "per_tensor"
    return "per_channel" if per_channel is None or per_channel >= MIN_SQNR_DB else "float"
