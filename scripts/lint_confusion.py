"""How surely the linter tells faults of pictures: taught on half of a folder's scenes, asked about the others.

    .venv/bin/python -m scripts.lint_confusion --bundle bundles/NAME --data FOLDER --group 4

With --group N, each N pictures that follow each other by name are one scene: crops of a photograph, frames of a film.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import load_bundle
from service.drift.shrinkage import shrunk_covariance
from service.heap import map_large_blocks
from service.inference.calibration_pictures import measure_folder
from service.lint.faults import PICTURE_FAULTS
from service.lint.signatures import CERTAIN, GROUP_SIZES, fit_signatures

NAMES = [fault.name for fault in PICTURE_FAULTS]
_QUESTIONS = 60
_MAX_PIXELS = 200_000_000


def ask(
    features: NDArray[np.float64], scenes: NDArray[np.intp], rng: np.random.Generator
) -> dict[int, NDArray[np.float64]]:
    """Counts (C, C + 1) of answers by pictures per question: true fault in rows, answers in columns, undecided last."""
    taught = np.isin(scenes, rng.permutation(scenes[-1] + 1)[: (scenes[-1] + 1) // 2])
    signatures = fit_signatures(features[taught], NAMES, shrunk_covariance, rng)
    unseen = features[~taught]
    counts = {size: np.zeros((len(NAMES), len(NAMES) + 1)) for size in GROUP_SIZES}
    for size, table in counts.items():
        for true in range(len(NAMES)):
            for _ in range(_QUESTIONS):
                shares = signatures.probabilities(unseen[rng.choice(len(unseen), size, replace=False), true])
                table[true, shares.argmax() if shares.max() >= CERTAIN else -1] += 1
    return counts


def main() -> None:
    """Print a row per fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a bundle")
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures that are in order")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--group", type=int, default=1, help="pictures in a row that are one scene")
    given = parser.parse_args()
    map_large_blocks()
    measured = measure_folder(
        load_bundle(given.bundle), given.data, _MAX_PIXELS, lambda _done, _total: None, most_with_faults=100_000
    )
    features = measured.faults
    scenes, rng = np.arange(len(features)) // given.group, np.random.default_rng(0)
    splits = [ask(features, scenes, rng) for _ in range(given.splits)]
    tables = {size: sum(split[size] for split in splits) / (_QUESTIONS * given.splits) for size in GROUP_SIZES}
    print("| fault | " + " | ".join(f"told from {size}" for size in tables) + " | claimed falsely from 1, 8, 32 |")
    print("|---" * (len(tables) + 2) + "|")
    for row, name in enumerate(NAMES):
        told = [table[row, row] if row else 1 - table[row, 1:-1].sum() for table in tables.values()]
        false = [table[row, 1:-1].sum() - (table[row, row] if row else 0) for table in tables.values()]
        shown = " | ".join(f"{share:.0%}" for share in told)
        print(f"| {name} | {shown} | {', '.join(f'{share:.1%}' for share in false)} |")


if __name__ == "__main__":
    main()
