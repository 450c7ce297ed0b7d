"""Symbologies of the five classes and their crisp bitmaps, written by zxing-cpp."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import zxingcpp

CLASS_NAMES = ("linear", "qr_code", "data_matrix", "pdf417", "aztec")

Rng = np.random.Generator
Gray = npt.NDArray[Any]
Options = dict[str, object]

_ALPHANUMERIC = string.ascii_uppercase + string.digits
_PROSE = string.ascii_letters + string.digits + "  -/.:?=&_"
_NO_OPTIONS: Options = {}


@dataclass(frozen=True)
class Symbology:
    """One kind of code: its class, zxing-cpp format name and how to draw a random payload.

    A `stretchable` code may be cut to any bar height; a `framed` one has its quiet zone inside a frame.
    """

    name: str
    class_id: int
    payload: Callable[[Rng], str]
    options: Callable[[Rng], Options] = field(default=lambda _rng: _NO_OPTIONS)
    weight: float = 1.0
    stretchable: bool = False
    framed: bool = False


@dataclass(frozen=True)
class Symbol:
    """A written code: `modules` is HxW uint8, 255 where ink goes, one pixel a module, no quiet zone."""

    symbology: Symbology
    text: str
    modules: Gray


def _pick(rng: Rng, alphabet: str, low: int, high: int) -> str:
    count = int(rng.integers(low, high + 1))
    return "".join(alphabet[int(i)] for i in rng.integers(0, len(alphabet), count))


def _digits(low: int, high: int | None = None) -> Callable[[Rng], str]:
    return lambda rng: _pick(rng, string.digits, low, high or low)


def _upper(low: int, high: int) -> Callable[[Rng], str]:
    return lambda rng: _pick(rng, _ALPHANUMERIC, low, high)


def _prose(low: int, high: int) -> Callable[[Rng], str]:
    """Lengths are log-uniform so that sparse and dense symbols are equally common."""

    def draw(rng: Rng) -> str:
        count = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        return "x" + _pick(rng, _PROSE, count, count).strip()

    return draw


def _even_digits(rng: Rng) -> str:
    length = 2 * int(rng.integers(2, 10))
    return _pick(rng, string.digits, length, length)


def _codabar(rng: Rng) -> str:
    start, stop = _pick(rng, "ABCD", 1, 1), _pick(rng, "ABCD", 1, 1)
    return start + _pick(rng, string.digits + "-$", 5, 14) + stop


def _upc_e(rng: Rng) -> str:
    return "0" + _pick(rng, string.digits, 6, 6)


def _limited(rng: Rng) -> str:
    return "0" + _pick(rng, string.digits, 12, 12)


def _gs1(rng: Rng) -> str:
    body = _pick(rng, string.digits, 12, 12)
    text = f"[01]9{body}{_gtin_check('9' + body)}"
    if rng.random() < 0.6:
        text += "[10]" + _pick(rng, _ALPHANUMERIC, 3, 12)
    return text


def _gtin_check(body: str) -> int:
    weighted = sum(int(digit) * (3 if i % 2 == 0 else 1) for i, digit in enumerate(reversed(body)))
    return -weighted % 10


def _qr_options(rng: Rng) -> Options:
    return {"ec_level": str(rng.choice(["L", "M", "Q", "H"]))}


def _matrix_options(rng: Rng) -> Options:
    return {"force_square": True} if rng.random() < 0.6 else _NO_OPTIONS


def _pdf_options(rng: Rng) -> Options:
    return {"columns": int(rng.integers(1, 9))} if rng.random() < 0.7 else _NO_OPTIONS


def _micro_pdf_options(rng: Rng) -> Options:
    return {"columns": int(rng.integers(1, 5))}


def _aztec_options(rng: Rng) -> Options:
    return {"ec_level": f"{int(rng.integers(20, 60))}%"}


SYMBOLOGIES: tuple[Symbology, ...] = (
    Symbology("EAN13", 0, _digits(12), weight=3.0, stretchable=True),
    Symbology("EAN8", 0, _digits(7), stretchable=True),
    Symbology("UPCA", 0, _digits(11), weight=1.5, stretchable=True),
    Symbology("UPCE", 0, _upc_e, stretchable=True),
    Symbology("Code39", 0, _upper(3, 14), weight=1.5, stretchable=True),
    Symbology("Code93", 0, _upper(4, 16), stretchable=True),
    Symbology("Code128", 0, _prose(3, 24), weight=3.0, stretchable=True),
    Symbology("ITF", 0, _even_digits, stretchable=True),
    Symbology("ITF14", 0, _digits(13), stretchable=True, framed=True),
    Symbology("Codabar", 0, _codabar, stretchable=True),
    Symbology("DataBarOmni", 0, _digits(13), weight=0.6, stretchable=True),
    Symbology("DataBarLtd", 0, _limited, weight=0.4, stretchable=True),
    Symbology("DataBarStk", 0, _digits(13), weight=0.4),
    Symbology("DataBarStkOmni", 0, _digits(13), weight=0.4),
    Symbology("DataBarExp", 0, _gs1, weight=0.6, stretchable=True),
    Symbology("DataBarExpStk", 0, _gs1, weight=0.6),
    Symbology("QRCode", 1, _prose(4, 260), _qr_options, weight=8.0),
    Symbology("MicroQRCode", 1, _digits(3, 14), weight=1.0),
    Symbology("RMQRCode", 1, _upper(4, 50), weight=0.8),
    Symbology("DataMatrix", 2, _prose(3, 180), _matrix_options, weight=1.0),
    Symbology("PDF417", 3, _prose(8, 300), _pdf_options, weight=5.0),
    Symbology("CompactPDF417", 3, _prose(8, 160), weight=1.0),
    Symbology("MicroPDF417", 3, _upper(4, 40), _micro_pdf_options, weight=1.0),
    Symbology("AztecCode", 4, _prose(4, 240), _aztec_options, weight=8.0),
    Symbology("AztecRune", 4, lambda rng: str(int(rng.integers(0, 256))), weight=0.4),
)

CLASS_WEIGHTS = (0.34, 0.22, 0.17, 0.14, 0.13)


def draw_symbology(rng: Rng) -> Symbology:
    """Draw a class by `CLASS_WEIGHTS`, then a symbology of that class by its weight."""
    class_id = int(rng.choice(len(CLASS_NAMES), p=CLASS_WEIGHTS))
    members = [s for s in SYMBOLOGIES if s.class_id == class_id]
    weights = np.array([s.weight for s in members])
    return members[int(rng.choice(len(members), p=weights / weights.sum()))]


def write_symbol(rng: Rng, symbology: Symbology) -> Symbol:
    """Write a random payload of `symbology`.

    Raises:
        ValueError: zxing-cpp refused eight payloads in a row.
    """
    reason = ""
    for _ in range(8):
        text = symbology.payload(rng)
        try:
            code = zxingcpp.create_barcode(
                text, getattr(zxingcpp.BarcodeFormat, symbology.name), **symbology.options(rng)
            )
            image = zxingcpp.write_barcode_to_image(code, scale=1, add_quiet_zones=symbology.framed)
        except ValueError as error:
            reason = str(error)
            continue
        ink = np.where(np.array(image) < 128, 255, 0).astype(np.uint8)
        return Symbol(symbology, text, _trim(ink, symbology))
    raise ValueError(f"cannot write {symbology.name}: {reason}")


def _trim(ink: Gray, symbology: Symbology) -> Gray:
    """DataBar bitmaps keep their light guard modules; the visible code starts at the first bar."""
    if symbology.class_id != 0:
        return ink
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
