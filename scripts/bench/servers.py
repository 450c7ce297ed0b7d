"""Which servers there are and how each is started."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
#: The one whose answers are the reference and to which the others are compared.
REFERENCE = "yolofold"
#: The peer that most people would write themselves.
ULTRALYTICS = "ultralytics"


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
        ours: it is yolofold, and ``GET /model`` says what it runs on.
    """

    name: str
    title: str
    setup: str
    python: Path
    module: str
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    pins: tuple[str, ...] = ()
    ours: bool = False

    @property
    def environment(self) -> Path:
        """Folder of the virtual environment that it runs in."""
        return self.python.parent.parent


def reference_server(bundle: Path, python: Path) -> Server:
    """yolofold as ``scripts/run.sh`` starts it.

    Args:
        python: of the environment with its packages.
    """
    settings = {"YOLOFOLD_BUNDLE_DIR": str(bundle)}
    pins = _pins(ROOT / "requirements" / "serve.txt")
    return Server(REFERENCE, "yolofold", "Defaults.", python, "service", ("serve",), settings, pins, ours=True)


def our_servers(bundle: Path, environments: Path, scratch: Path) -> list[Server]:
    """yolofold with its defaults, the reference first, with OpenVINO in bf16, and with what is fastest here.

    Args:
        environments: folder of the virtual environments, where ours are ``yolofold`` and ``yolofold-openvino``.
        scratch: where the choice of the engine is kept.
    """
    plain = reference_server(bundle, environments / "yolofold" / "bin" / "python")
    python = environments / "yolofold-openvino" / "bin" / "python"
    pins = (*plain.pins, *_pins(ROOT / "requirements" / "serve-openvino.txt"))
    measured = {"ENGINE": "auto", "STATE_DIR": str(scratch / "yolofold-state")}
    kept = " The engine was chosen at a start before the rounds and is remembered in YOLOFOLD_STATE_DIR."

    def variant(name: str, title: str, settings: Mapping[str, str], more: str = "") -> Server:
        given = {f"YOLOFOLD_{key}": value for key, value in settings.items()}
        setup = " ".join(f"{key}={value}" for key, value in given.items() if key != "YOLOFOLD_STATE_DIR") + "." + more
        with_common = replace(plain, python=python, settings={**plain.settings, **given}, pins=pins)
        return replace(with_common, name=name, title=title, setup=setup)

    return [
        plain,
        variant(
            "yolofold-openvino-bf16",
            "yolofold, OpenVINO in bf16",
            {"ENGINE": "openvino", "PRECISION": "bf16"},
        ),
        variant("yolofold-measured", "yolofold, chosen by measurement", measured, kept),
        variant(
            "yolofold-measured-reduced",
            "yolofold, chosen by measurement, reduced decoding",
            measured | {"REDUCED_DECODE": "true"},
            kept,
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
