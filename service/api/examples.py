"""Whole answers, as this release gave them once, for the API's description."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("examples")
#: Path and method to the name of the file that holds one of its answers.
ANSWERS = {
    ("/model/drift", "get"): "drift",
    ("/model/drift/image", "post"): "drift_image",
    ("/model/lint", "post"): "lint",
}


def add_examples(document: dict[str, Any]) -> None:
    """Put them into an OpenAPI document. Declared with their routes they would lose every null on the way."""
    for (path, method), name in ANSWERS.items():
        content = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]
        content["example"] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
