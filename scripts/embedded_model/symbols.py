"""Symbologies of the five classes and their crisp bitmaps, written by zxing-cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import zxingcpp

from scripts.embedded_model.payloads import (
    boarding_pass,
    codabar,
    contact,
    digits,
    even_digits,
    gs1,
    limited,
    one_of,
    prose,
    upc_e,
    upper,
    web_address,
    with_add_on,
)

CLASS_NAMES = ("linear", "qr_code", "data_matrix", "pdf417", "aztec")

Rng = np.random.Generator
Gray = npt.NDArray[Any]
Options = dict[str, object]

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


def _qr_options(rng: Rng) -> Options:
    return {"ec_level": str(rng.choice(["L", "M", "Q", "H"]))}


# Numbers that zxing-cpp and Zint give to the rectangular sizes of ISO/IEC 16022 and of DMRE (ISO/IEC 21471).
_RECTANGLES = range(25, 49)


def _matrix_options(rng: Rng) -> Options:
    kind = rng.random()
    if kind < 0.16:
        return {"version": int(rng.choice(_RECTANGLES))}
    return {"force_square": True} if kind < 0.85 else _NO_OPTIONS


def _pdf_options(rng: Rng) -> Options:
    return {"columns": int(rng.integers(1, 9))} if rng.random() < 0.7 else _NO_OPTIONS


def _micro_pdf_options(rng: Rng) -> Options:
    return {"columns": int(rng.integers(1, 5))}


def _aztec_options(rng: Rng) -> Options:
    return {"ec_level": f"{int(rng.integers(20, 60))}%"}


_ANY_QR = one_of(
    [web_address, web_address, web_address, prose(4, 160), prose(4, 160), prose(80, 500), contact, digits(4, 40)]
)
_ANY_MATRIX = one_of([prose(3, 90), prose(3, 30), digits(4, 60), upper(4, 30)])
_ANY_AZTEC = one_of([prose(4, 160), prose(4, 60), boarding_pass, digits(4, 80)])

SYMBOLOGIES: tuple[Symbology, ...] = (
    Symbology("EAN13", 0, with_add_on(digits(12)), weight=3.6, stretchable=True),
    Symbology("EAN8", 0, digits(7), stretchable=True),
    Symbology("UPCA", 0, with_add_on(digits(11)), weight=1.5, stretchable=True),
    Symbology("UPCE", 0, upc_e, stretchable=True),
    Symbology("Code39", 0, upper(3, 14), weight=1.5, stretchable=True),
    Symbology("Code93", 0, upper(4, 16), stretchable=True),
    Symbology("Code128", 0, one_of([prose(3, 20), digits(6, 24), upper(5, 16)]), weight=3.0, stretchable=True),
    Symbology("ITF", 0, even_digits, stretchable=True),
    Symbology("ITF14", 0, digits(13), stretchable=True, framed=True),
    Symbology("Codabar", 0, codabar, stretchable=True),
    Symbology("DataBarOmni", 0, digits(13), weight=0.6, stretchable=True),
    Symbology("DataBarLtd", 0, limited, weight=0.4, stretchable=True),
    Symbology("DataBarStk", 0, digits(13), weight=0.4),
    Symbology("DataBarStkOmni", 0, digits(13), weight=0.4),
    Symbology("DataBarExp", 0, gs1, weight=0.6, stretchable=True),
    Symbology("DataBarExpStk", 0, gs1, weight=0.7),
    Symbology("QRCode", 1, _ANY_QR, _qr_options, weight=9.0),
    Symbology("MicroQRCode", 1, digits(3, 14), weight=0.8),
    Symbology("RMQRCode", 1, upper(4, 50), weight=0.5),
    Symbology("DataMatrix", 2, _ANY_MATRIX, _matrix_options),
    Symbology("PDF417", 3, prose(8, 300), _pdf_options, weight=5.5),
    Symbology("CompactPDF417", 3, prose(8, 160), weight=0.8),
    Symbology("MicroPDF417", 3, upper(4, 40), _micro_pdf_options, weight=0.9),
    Symbology("AztecCode", 4, _ANY_AZTEC, _aztec_options, weight=9.0),
    Symbology("AztecRune", 4, lambda rng: str(int(rng.integers(0, 256))), weight=0.3),
)

# Chosen so that labels come out nearly equal, `linear` with its sixteen symbologies a little more common: a code
# of many modules finds room in a picture less often than a sparse one.
CLASS_WEIGHTS = (0.29, 0.18, 0.15, 0.22, 0.16)


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
