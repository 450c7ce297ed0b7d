"""Whole answers for the API's description, as this release gave them once; ``scripts.api_examples`` takes them anew."""

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).with_name("examples")
#: How much of a long list is shown.
BLOCKS_SHOWN, LAYERS_SHOWN = 3, 3


class Answer(NamedTuple):
    """One example.

    Attributes:
        file: its name in ``FOLDER``.
        request: what was asked, the example's summary.
        note: what the reader has to know besides.
        media_type: the representation.
    """

    file: str
    request: str
    note: str = ""
    media_type: str = "application/json"


_CALIBRATED = "After `python -m service calibrate`."
#: By path and method.
ANSWERS: dict[tuple[str, str], tuple[Answer, ...]] = {
    ("/detect", "post"): (Answer("detect.json", "The picture samples/parcel.jpg."),),
    ("/detect/batch", "post"): (
        Answer("detect_batch.json", "Two files: samples/parcel.jpg, and one that is cut off."),
    ),
    ("/model", "get"): (Answer("model.json", "The embedded weights."),),
    ("/model/layers", "get"): (
        Answer(
            "model_layers.json",
            f"The first {BLOCKS_SHOWN} blocks.",
            f"Shortened: the answer has all blocks of the network, the embedded weights' 24; here are {BLOCKS_SHOWN}.",
        ),
    ),
    ("/model/bn-stats", "get"): (
        Answer(
            "bn_stats.json", "?layer=model.0.bn&detail=full", "`totals`, `network` and `prunable` are of all layers."
        ),
        Answer("bn_stats.csv", "?layer=model.0.bn", media_type="text/csv"),
    ),
    ("/model/bn-diff", "get"): (
        Answer(
            "bn_diff.json",
            "The first layers.",
            f"Shortened: the verdicts are about all layers, of which {LAYERS_SHOWN} are shown here.",
        ),
    ),
    ("/model/fold", "get"): (
        Answer("fold.json", "?layer=model.0.bn", "`end_to_end` and `worst_layer` are of the whole network."),
    ),
    ("/model/fold/check", "post"): (Answer("fold_check.json", "The picture samples/parcel.jpg."),),
    ("/model/drift", "get"): (
        Answer("drift.json", "A window of ordinary pictures, then one of dark ones.", _CALIBRATED),
    ),
    ("/model/drift/image", "post"): (Answer("drift_image.json", "?channels=3", _CALIBRATED),),
    ("/model/lint", "post"): (Answer("lint.json", "Eight tensors from 0 to 255, red and blue swapped.", _CALIBRATED),),
    ("/model/latency", "get"): (Answer("latency.json", "When a measurement started with ?rounds=12 has ended."),),
    ("/model/latency", "post"): (Answer("latency_started.json", "?rounds=12"),),
    ("/model/latency", "delete"): (Answer("latency_cancelled.json", "While a measurement runs."),),
    ("/metrics", "get"): (Answer("metrics.txt", "A few families.", "Shortened: there are more.", "text/plain"),),
    ("/healthz", "get"): (Answer("healthz.json", "While the process lives."),),
    ("/readyz", "get"): (Answer("readyz.json", "When the service can detect."),),
}


def add_examples(document: dict[str, Any]) -> None:
    """Put them into an OpenAPI document. Declared with their routes they would lose every null on the way."""
    for (path, method), answers in ANSWERS.items():
        responses = document["paths"][path][method]["responses"]
        content = next(responses[status] for status in responses if status.startswith("2"))["content"]
        for answer in answers:
            shown = {"summary": answer.request, "value": _read(FOLDER / answer.file)}
            if answer.note:
                shown["description"] = answer.note
            content[answer.media_type]["examples"] = {Path(answer.file).stem: shown}


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else text
