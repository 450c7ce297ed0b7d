"""How to make the confidence with the highest F1 a model's default."""

import shlex

from service.evaluation.report import OperatingPoints
from service.settings import Settings


def adoption_advice(points: OperatingPoints, settings: Settings) -> str | None:
    """The setting and the commands for a person to copy; None where there is nothing better than the default.

    Args:
        points: of all classes together.
        settings: those that the bundle was found by; the commands repeat what differs from the defaults.
    """
    best, default = points.best_f1, points.default
    if best is None or best.f1 <= default.f1:
        return None
    fields, chosen = Settings.model_fields, settings.model_dump()
    given = {"default-conf": f"{best.confidence:g}"} | {
        name.replace("_", "-"): str(chosen[name])
        for name in ("weights", "imgsz", "head", "bundle_dir")
        if chosen[name] != fields[name].default
    }
    options = " ".join(f"--{name} {shlex.quote(value)}" for name, value in given.items())
    return (
        f"F1 is highest above a confidence of {best.confidence:g}; the default is {default.confidence:g}. To adopt "
        f"it, set\nYOLOFOLD_DEFAULT_CONF={best.confidence:g} for prepare and serve alike, or run\n"
        f"  python -m service prepare {options}\n"
        f"  python -m service serve {options}\n"
        "Figures on the pictures that it was chosen on flatter it a little: choose on one split, report on another."
    )
