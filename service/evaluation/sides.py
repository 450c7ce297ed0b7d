"""In what the two sides of a comparison differ, so that no figure is put down to something else."""

from service.evaluation.report import Network, SideDifference

FOLDING, WEIGHTS = "folding", "weights"


def find_differences(first: Network, second: Network) -> list[SideDifference]:
    """What differs between two networks and what ran them, as far as their bundles and runtimes tell."""
    pairs = zip(_described(first).items(), _described(second).values(), strict=True)
    return [SideDifference(what=what, first=a, second=b) for (what, a), b in pairs if a != b]


def describe_differences(differences: list[SideDifference], second: Network) -> str:
    """The same as the end of a sentence; whatever goes beyond what was asked to be compared is named.

    Args:
        differences: between a network and ``second``.
    """
    if not differences:
        return "the two sides differ in nothing that their bundles or runtimes tell"
    asked = FOLDING if second.graph == "unfolded" else WEIGHTS
    rest = [f"{one.what} ({one.first} and {one.second})" for one in differences if one.what != asked]
    if not rest:
        return f"the two sides differ in {asked} alone"
    more = f"more than {asked}: " if len(rest) < len(differences) else ""
    return f"the two sides differ in {more}{', '.join(rest)}"


def _described(network: Network) -> dict[str, str]:
    return {
        FOLDING: network.graph,
        WEIGHTS: network.weights_sha256[:12],
        "input": f"{network.input_px} px",
        "padding": "left out" if network.rect else "square",
        "head": network.head,
        "runtime": network.runtime,
        "provider": network.provider,
        "arithmetic": network.arithmetic,
    }
