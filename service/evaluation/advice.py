"""How to make the confidence with the highest F1 a model's default."""

import shlex

from service.bundle.store import MANIFEST
from service.evaluation.report import OperatingPoints
from service.settings import Settings

_CAUTION = "Figures on the pictures it was chosen on flatter it a little: choose on one split, report on another."


def adoption_advice(points: OperatingPoints, settings: Settings) -> str | None:
    """The setting and the commands for a person to copy; None where there is nothing better than the default.

    Args:
        points: of all classes together.
        settings: those that the bundle was found by; the commands repeat what differs from the defaults.
    """
    best, default = points.best_f1, points.default
    if best is None or best.f1 <= default.f1:
        return None
    intro = (
        f"F1 is highest above a confidence of {best.confidence:g}; the default is {default.confidence:g}. To adopt it, "
        f"set\nYOLOFOLD_DEFAULT_CONF={best.confidence:g} for prepare and serve alike"
    )
    if (settings.bundle_dir / MANIFEST).is_file():  # a bundle by itself does not tell where its weights are
        return f"{intro}, and prepare the weights of this bundle again.\n{_CAUTION}"
    fields, chosen = Settings.model_fields, settings.model_dump()
    given = {"default-conf": f"{best.confidence:g}"} | {
        name.replace("_", "-"): str(chosen[name])
        for name in ("weights", "imgsz", "head", "bundle_dir")
        if chosen[name] != fields[name].default
    }
    options = " ".join(f"--{name} {shlex.quote(value)}" for name, value in given.items())
    options += " --rect" if settings.rect else ""
    commands = "".join(f"  python -m service {name} {options}\n" for name in ("prepare", "serve"))
    return f"{intro}, or run\n{commands}{_CAUTION}"
