"""Options that several commands share: those that choose the bundle, and where a report goes."""

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[str | None, typer.Option(help="auto, embedded, an official name or a path. [YOLOFOLD_WEIGHTS]")]
Imgsz = Annotated[int | None, typer.Option(help="Side of the square input, pixels. [YOLOFOLD_IMGSZ]")]
Rect = Annotated[
    bool | None, typer.Option("--rect/--square", help="Leave padding out, or pad to the whole square. [YOLOFOLD_RECT]")
]
Head = Annotated[str | None, typer.Option(help="auto, one2one or one2many. [YOLOFOLD_HEAD]")]
DefaultConf = Annotated[
    float | None,
    typer.Option(help="Confidence boxes must exceed where a request says nothing. [YOLOFOLD_DEFAULT_CONF]"),
]
BundleDir = Annotated[Path | None, typer.Option(help="Where bundles are kept. [YOLOFOLD_BUNDLE_DIR]")]
ReportFile = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]


def missing_folder(report: Path | None) -> str | None:
    """Why a report could not be written, for which nobody should wait until it is done; None if it can be."""
    if report is None or report.parent.is_dir():
        return None
    return f"{report} cannot be written: there is no folder {report.parent.resolve()}."
