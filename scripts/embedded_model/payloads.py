"""What the codes say: random texts of the kinds that people and machines put into them."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import numpy as np

Rng = np.random.Generator
Payload = Callable[[Rng], str]

_ALPHANUMERIC = string.ascii_uppercase + string.digits
_PROSE = string.ascii_letters + string.digits + "  -/.:?=&_"


def pick(rng: Rng, alphabet: str, low: int, high: int) -> str:
    """Between `low` and `high` characters of an alphabet."""
    count = int(rng.integers(low, high + 1))
    return "".join(alphabet[int(i)] for i in rng.integers(0, len(alphabet), count))


def digits(low: int, high: int | None = None) -> Payload:
    """Between `low` and `high` digits (exactly `low` if alone)."""
    return lambda rng: pick(rng, string.digits, low, high or low)


def upper(low: int, high: int) -> Payload:
    """Capitals and digits."""
    return lambda rng: pick(rng, _ALPHANUMERIC, low, high)


def prose(low: int, high: int) -> Payload:
    """Mixed characters; lengths are log-uniform so that sparse and dense symbols are equally common."""

    def draw(rng: Rng) -> str:
        count = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        return "x" + pick(rng, _PROSE, count, count).strip()

    return draw


def one_of(choices: Sequence[Payload]) -> Payload:
    """One of several kinds of text, all equally likely."""
    return lambda rng: choices[int(rng.integers(len(choices)))](rng)


def even_digits(rng: Rng) -> str:
    """4 to 18 digits, an even number of them."""
    length = 2 * int(rng.integers(2, 10))
    return pick(rng, string.digits, length, length)


def codabar(rng: Rng) -> str:
    """Start letter, figures, stop letter."""
    start, stop = pick(rng, "ABCD", 1, 1), pick(rng, "ABCD", 1, 1)
    return start + pick(rng, string.digits + "-$", 5, 14) + stop


def upc_e(rng: Rng) -> str:
    """Number system 0 and six digits."""
    return "0" + pick(rng, string.digits, 6, 6)


def limited(rng: Rng) -> str:
    """Thirteen digits that DataBar Limited can hold."""
    return "0" + pick(rng, string.digits, 12, 12)


def with_add_on(main: Payload) -> Payload:
    """Retail number, one in seven followed by the two or five digits of an add-on symbol."""

    def draw(rng: Rng) -> str:
        number = main(rng)
        if rng.random() < 0.14:
            length = 5 if rng.random() < 0.6 else 2
            number += " " + pick(rng, string.digits, length, length)
        return number

    return draw


def gs1(rng: Rng) -> str:
    """Trade item number, more often than not with a batch."""
    body = pick(rng, string.digits, 12, 12)
    text = f"[01]9{body}{gtin_check('9' + body)}"
    if rng.random() < 0.6:
        text += "[10]" + pick(rng, _ALPHANUMERIC, 3, 12)
    return text


def gtin_check(body: str) -> int:
    """Check digit of a GTIN (GS1 General Specifications, section 7.9): weights 3, 1, 3, ... from the right."""
    weighted = sum(int(digit) * (3 if i % 2 == 0 else 1) for i, digit in enumerate(reversed(body)))
    return -weighted % 10


def web_address(rng: Rng) -> str:
    """A link as on posters and packs."""
    scheme = "https://" if rng.random() < 0.8 else "HTTP://"
    name = pick(rng, string.ascii_lowercase, 3, 14)
    return f"{scheme}{name}.example/" + pick(rng, _ALPHANUMERIC.lower() + "/-_?=", 0, 40)


def contact(rng: Rng) -> str:
    """A visiting card, a wireless network or a payment: several lines of text."""
    lines = int(rng.integers(2, 7))
    return "\n".join(f"{pick(rng, string.ascii_uppercase, 1, 5)}:{pick(rng, _PROSE, 5, 24)}" for _ in range(lines))


def boarding_pass(rng: Rng) -> str:
    """A ticket: capitals and digits, about sixty."""
    return "M1" + pick(rng, _ALPHANUMERIC + "  /", 50, 66)
