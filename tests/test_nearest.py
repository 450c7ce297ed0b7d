"""Which names are proposed for one that there is not."""

import pytest

from service.bundle.store import Bundle
from service.nearest import near_matches

PARAMETERS = ("conf", "max_det", "classes")


@pytest.mark.parametrize(
    ("name", "known", "first"),
    [
        ("model.0", ["model.2.cv1.bn", "model.2.cv2.bn", "model.10.cv1.bn", "model.0.bn"], ["model.0.bn"]),
        ("MODEL.0", ["model.10.cv1.bn", "model.0.bn"], ["model.0.bn"]),
        # A point ends the part: what begins with the same figures is not below it.
        ("model.1", ["model.10.cv1.bn", "model.1.bn", "model.19.m.bn"], ["model.1.bn", "model.10.cv1.bn"]),
        ("one2one", ["model.23.cv2.0.0.bn", "model.23.one2one_cv2.0.0.bn"], ["model.23.one2one_cv2.0.0.bn"]),
        ("confidence", PARAMETERS, ["conf"]),
        ("det", PARAMETERS, ["max_det"]),
        ("sideways", PARAMETERS, []),
        ("", ["model.0.bn"], []),
    ],
)
def test_what_lies_below_comes_before_what_contains_and_what_is_similar(
    name: str, known: list[str], first: list[str]
) -> None:
    found = near_matches(name, known)
    assert found[: len(first)] == first and bool(found) == bool(first)
    assert len(found) <= 3


def test_each_block_of_the_network_leads_to_its_own_layers(bundle: Bundle) -> None:
    names = [layer.name for layer in bundle.batchnorm.layers]
    blocks = {".".join(name.split(".")[:2]) for name in names}
    assert {"model.0", "model.1", "model.10", "model.23"} <= blocks
    for block in blocks:
        below = [name for name in names if name.startswith(f"{block}.")]
        assert set(near_matches(block, names)[: len(below)]) <= set(below)
