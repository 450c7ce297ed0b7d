"""Which servers there are and how each is started."""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
#: The one whose answers are the reference and to which the others are compared.
REFERENCE = "yolofold"


@dataclass(frozen=True)
class Server:
    """One way to serve the model.

    Attributes:
        name: on the command line and in files.
        title: for people.
        setup: how it is set up, in words.
        python: interpreter of its own environment.
        module: run with ``-m``, in the repository's folder.
        arguments: of the module.
        settings: environment variables besides the task's.
        pins: its packages and their versions.
    """

    name: str
    title: str
    setup: str
    python: Path
    module: str
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    pins: tuple[str, ...] = ()


def our_servers(bundle: Path) -> list[Server]:
    """yolofold as ``scripts/run.sh`` starts it, the reference first, and with OpenVINO in bf16."""
    common = {"YOLOFOLD_BUNDLE_DIR": str(bundle)}
    pins = _pins(ROOT / "requirements" / "serve.txt")
    python, serve = Path(sys.executable), ("serve",)
    return [
        Server(REFERENCE, "yolofold", "Defaults.", python, "service", serve, common, pins),
        Server(
            "yolofold-openvino-bf16",
            "yolofold, OpenVINO in bf16",
            "YOLOFOLD_ENGINE=openvino YOLOFOLD_PRECISION=bf16.",
            python,
            "service",
            serve,
            common | {"YOLOFOLD_ENGINE": "openvino", "YOLOFOLD_PRECISION": "bf16"},
            (*pins, *_pins(ROOT / "requirements" / "serve-openvino.txt")),
        ),
    ]


def peers(environments: Path, scratch: Path) -> list[Server]:
    """Every peer that has a requirements file, in alphabetical order, each in its environment of the same name.

    Args:
        environments: folder of the virtual environments.
        scratch: where they may keep settings and caches.
    """
    # So that none of them asks the network, installs something or writes to the user's home.
    quiet = {
        "YOLO_CONFIG_DIR": str(scratch),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "BENTOML_HOME": str(scratch / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLSERVER_MODEL_REPOSITORY_ROOT": str(scratch),
        "MLSERVER_METRICS_DIR": str(scratch / "mlserver"),
        "MLSERVER_ENVIRONMENTS_DIR": str(scratch / "mlserver-environments"),
        "MODEL_CACHE_DIR": str(scratch / "roboflow"),
        "OFFLINE_MODE": "true",
        "RAY_TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    found = []
    for requirements in sorted((HERE / "requirements").glob("*.txt")):
        name = requirements.stem
        title, setup = describe(HERE / "peers" / f"{name}.py")
        python = environments / name / "bin" / "python"
        found.append(Server(name, title, setup, python, f"{__package__}.peers.{name}", (), quiet, _pins(requirements)))
    return found


def describe(module: Path) -> tuple[str, str]:
    """Title and setup of a peer from its docstring, read without importing what is not installed here.

    Raises:
        ValueError: it has no docstring of two parts.
    """
    title, _, setup = (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n\n")
    if not title or not setup:
        raise ValueError(f"expected a docstring with a title line, an empty line and the setup in {module}")
    return title.rstrip("."), " ".join(setup.split())


def _pins(requirements: Path) -> tuple[str, ...]:
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if "==" in line and not line.startswith("#"))
