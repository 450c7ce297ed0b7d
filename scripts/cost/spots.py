"""What is measured: each curve is a row of spots that differ in one thing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.pictures import DEFAULT, NAMES, make_picture
from scripts.bench.servers import ROOT
from scripts.bench.upload import form_body

CONNECTIONS = (1, 2, 4, 8, 16, 32)
OBJECTS = (0, 1, 10, 100, 300)
#: Where the number of connections is not what varies.
BUSY = 4


@dataclass(frozen=True)
class Spot:
    """One place on a curve.

    Attributes:
        label: what differs, for people.
        bundle: to serve.
        cores: how many the server may use.
        body: the form that is sent.
        query: of the address.
        connections: of the closed loop.
    """

    label: str
    bundle: Path
    cores: int
    body: bytes
    query: str = ""
    connections: int = BUSY


@dataclass(frozen=True)
class Curve:
    """Spots from little work to much. ``name`` is that of its file; loads last ``longer`` times as long as usual."""

    name: str
    title: str
    axis: str
    spots: tuple[Spot, ...]
    longer: int = 1


def plan_curves(bundle: Path, scales: Mapping[str, Path], cores: int) -> list[Curve]:
    """All curves, but that of the scales where there is only one.

    Args:
        bundle: the one that all curves but that of the scales serve.
        scales: bundle by label, smallest network first.
        cores: of the machine; the curve of the cores goes from one to all.
    """
    bodies = {name: form_body(make_picture(name, ROOT / "samples").jpeg) for name in NAMES}
    sizes = {name: make_picture(name, ROOT / "samples").wh for name in NAMES}
    usual = bodies[DEFAULT]
    by_size = sorted(NAMES, key=lambda name: sizes[name][0] * sizes[name][1])
    curves = [
        Curve(
            "concurrency",
            "Requests at once",
            "connections",
            tuple(Spot(str(count), bundle, cores, usual, connections=count) for count in CONNECTIONS),
        ),
        Curve(
            "picture",
            "Size of the JPEG",
            "pixels",
            tuple(Spot(f"{sizes[n][0]} x {sizes[n][1]}", bundle, cores, bodies[n]) for n in by_size),
        ),
        Curve(
            "objects",
            "Objects in the answer",
            "detections",
            tuple(Spot(str(n), bundle, cores, usual, _objects_query(n)) for n in OBJECTS),
        ),
        Curve(
            "cores",
            "Cores",
            "cores",
            tuple(Spot(str(n), bundle, n, usual) for n in range(1, cores + 1)),
        ),
    ]
    if len(scales) > 1:
        spots = tuple(Spot(label, path, cores, usual) for label, path in scales.items())
        # The largest take seconds for a picture.
        curves.append(Curve("scale", "Scale of the network", "network", spots, longer=4))
    return curves


def _objects_query(count: int) -> str:
    """A query to which the answer has so many detections: with no threshold, the network always gives 300 rows."""
    return "?conf=1" if count == 0 else f"?conf=0&max_det={count}"
