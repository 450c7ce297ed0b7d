"""The linter's memory: what it takes, and that it waits for it where pictures are being decoded."""

import io
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from service.bundle.manifest import InputSpec
from service.bundle.store import Bundle
from service.drift.layers import WatchedLayers, watch_layers
from service.inference.decode_budget import DecodeBudget
from service.inference.linter import Linter
from service.inference.probe import Probe
from service.lint.faults import EXTREMES_BYTES
from service.lint.tensors import GivenTensors, read_tensors
from service.preprocessing.letterbox import plan_letterbox
from tests.api.serving import wait_until

SIDE = 256
SPEC = InputSpec(height=SIDE, width=SIDE)


def given_tensors(count: int, side: int = SIDE) -> GivenTensors:
    pictures = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    stream = io.BytesIO()
    np.save(stream, pictures)
    return read_tensors(stream.getvalue())


@pytest.fixture(scope="module")
def probe(bundle: Bundle) -> Probe:
    return Probe(bundle.probe_graph)


@pytest.fixture(scope="module")
def watched(bundle: Bundle) -> WatchedLayers:
    return watch_layers(bundle)


def test_tensors_are_converted_one_by_one(probe: Probe, watched: WatchedLayers) -> None:
    """What numpy allocates for 16 pictures of bytes is a few times one of them in float32, not 16 times."""
    linter, given = Linter(probe, watched, SPEC, DecodeBudget(10**9)), given_tensors(16, 2 * SIDE)
    one = 4 * given.sent[0].size
    tracemalloc.start()
    try:
        possible = linter.possible_scalings(given)
        scanning = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        looks = [linter.look_at_tensor(given, index, possible) for index in range(4)]
        looking = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [scaling.name for scaling in possible] == ["none"] and len(looks) == 4
    assert scanning < 1.25 * one + 16 * EXTREMES_BYTES < 5 * one
    assert looking < 5 * one


def test_looking_waits_for_memory_and_gives_it_back(probe: Probe, watched: WatchedLayers) -> None:
    budget = DecodeBudget(10**9)
    linter, given = Linter(probe, watched, SPEC, budget), given_tensors(1)
    (possible,) = linter.possible_scalings(given)
    square = np.ascontiguousarray(np.moveaxis(given.sent[0], 0, -1))[..., ::-1]
    found = []
    for work in (
        lambda: found.append(linter.possible_scalings(given)),
        lambda: found.append(linter.look_at_tensor(given, 0, (possible,))),
        lambda: found.append(linter.look_at_picture(square, plan_letterbox(SIDE, SIDE, SIDE))),
    ):
        before = len(found)
        waiting = threading.Thread(target=work)
        with budget.hold(10**9):
            waiting.start()
            wait_until(lambda: budget.waiting == 1)
            assert len(found) == before
        waiting.join()
        assert len(found) == before + 1 and budget.held_bytes == 0
    # The same picture, sent as a tensor and as it lies in the square.
    tensor, picture = found[1:]
    assert tensor.distances == pytest.approx(picture.distances, rel=1e-5)


def test_more_than_the_network_would_get_is_not_probed(probe: Probe, watched: WatchedLayers) -> None:
    """Of a larger tensor the middle, so that the probe's memory does not grow with what was sent."""
    large = given_tensors(1, 2 * SIDE)
    linter = Linter(probe, watched, SPEC, DecodeBudget(10**9))
    possible = linter.possible_scalings(large)
    quarter = slice(SIDE // 2, SIDE // 2 + SIDE)
    middle = replace(large, sent=large.sent[:, :, quarter, quarter])
    whole, part = (linter.look_at_tensor(given, 0, possible) for given in (large, middle))
    assert (whole.features["none"] == part.features["none"]).all()


def test_without_any_batchnorm_there_is_no_distance_from_a_law(probe: Probe, watched: WatchedLayers) -> None:
    layers = tuple(replace(layer, law=None) for layer in watched.layers)
    linter = Linter(probe, WatchedLayers(layers, watched.channels), SPEC, DecodeBudget(10**9))
    given = given_tensors(2)
    possible = linter.possible_scalings(given)
    looks = [linter.look_at_tensor(given, index, possible) for index in range(2)]
    report, about_shape = linter.conclude_tensors(given, looks, possible, None)
    assert (report.scale.distances, report.scale.certain) == ({}, True)
    assert report.findings == about_shape == ()
