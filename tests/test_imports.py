"""Who may import whom, read from the source; and what the serving process really loads, seen in one."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bundle.store import Bundle
from service.cli import COMMANDS
from tests.conftest import ROOT, clean_environ

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "onnx_message": set(),
    "bundle": {"onnx_message", "errors"},
    "preprocessing": {"errors"},
    "comparison": set(),
    "heap": set(),
    "child": set(),
    "machine": {"bundle"},
    "pictures": set(),
    "nearest": set(),
    "drift": {"bundle", "errors"},
    "lint": {"bundle", "preprocessing", "errors"},
    "onnxruntime_folding": set(),
    "openvino_properties": set(),
    "observatory": {"bundle", "nearest", "errors"},
    "measurement": {
        "bundle",
        "machine",
        "child",
        "onnx_message",
        "onnxruntime_folding",
        "openvino_properties",
        "errors",
    },
    "prepare": {"bundle", "preprocessing", "comparison", "pictures", "settings", "machine", "measurement", "errors"},
    "inference": {
        "bundle",
        "preprocessing",
        "comparison",
        "drift",
        "lint",
        "settings",
        "machine",
        "onnxruntime_folding",
        "openvino_properties",
        "errors",
    },
    "tuning": {
        "inference",
        "bundle",
        "preprocessing",
        "comparison",
        "pictures",
        "settings",
        "machine",
        "child",
        "heap",
        "errors",
    },
    "evaluation": {"inference", "tuning", "bundle", "preprocessing", "comparison", "settings", "errors"},
    "recalibration": {
        "prepare",
        "inference",
        "evaluation",
        "tuning",
        "observatory",
        "measurement",
        "bundle",
        "preprocessing",
        "settings",
        "heap",
        "errors",
    },
    "quantization": {"inference", "tuning", "bundle", "preprocessing", "machine", "errors"},
    "api": {
        "inference",
        "tuning",
        "observatory",
        "drift",
        "lint",
        "measurement",
        "bundle",
        "preprocessing",
        "settings",
        "machine",
        "heap",
        "nearest",
        "errors",
    },
    "commands": {
        "api",
        "inference",
        "drift",
        "lint",
        "prepare",
        "observatory",
        "measurement",
        "evaluation",
        "recalibration",
        "quantization",
        "bundle",
        "settings",
        "machine",
        "errors",
    },
    "cli": {"commands", "heap", "errors"},
    "__main__": {"cli"},
}
#: What no other command should wait for, let alone need installed: the commands that load it, once they run.
LOADED_BY = {
    "prepare": {"prepare", "bn_diff"},
    "api": {"serve"},
    "evaluation": {"evaluate"},
    "recalibration": {"recalibrate"},
    "quantization": {"quantize", "halve"},
}
NEVER_WHILE_SERVING = ("torch", "torchvision", "ultralytics", "onnx", "dill", "cloudpickle", "pycocotools")


def source_files() -> list[Path]:
    return sorted((ROOT / "service").rglob("*.py"))


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT / "service")
    return inside.parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[tuple[str, bool]]:
    """Each module imported, and whether at the top of the file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which part is meant"
            yield node.module or "", node in tree.body


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    for module, at_top in imported_modules(path):
        name = module.split(".")
        if name[0] == "service" and len(name) > 1 and name[1] != part:
            assert name[1] in MAY_IMPORT[part], f"{path} imports {module}"
        if part == "commands" and len(name) > 1 and name[1] in LOADED_BY:
            assert path.stem in LOADED_BY[name[1]], f"{path} imports {module}"
            assert not at_top, f"{path} imports {module} before it is known to be needed"
        if name[0] in ("torch", "torchvision", "ultralytics"):
            assert part == "prepare", f"{path} imports {module}"


def test_no_command_imports_another() -> None:
    names = {command.__name__ for command in COMMANDS}
    folder = ROOT / "service/commands"
    assert names <= {path.stem for path in folder.iterdir()}
    for path in folder.glob("*.py"):
        for module, _ in imported_modules(path):
            assert module not in {f"service.commands.{name}" for name in names}, f"{path} imports {module}"


def test_listing_the_commands_loads_nothing_that_only_one_of_them_needs() -> None:
    program = "import sys, service.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "service.commands.serve" in loaded
    assert loaded.isdisjoint({*NEVER_WHILE_SERVING, *(f"service.{part}" for part in LOADED_BY)})


def test_the_table_knows_every_part() -> None:
    assert {part_of(path) for path in source_files()} - {"__init__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_running_service_never_loads_torch_or_a_model_unpickler(bundle: Bundle, engine: str) -> None:
    program = f"""
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from service.api.app import create_app
from service.bundle.store import load_bundle
from service.settings import load_settings
settings = load_settings({{}}, engine={engine!r})
with TestClient(create_app(settings, load_bundle(Path({str(bundle.path)!r})))) as client:
    assert client.get("/readyz").status_code == 200
    picture = Path("samples/parcel.jpg").read_bytes()
    assert client.post("/detect", content=picture, headers={{"Content-Type": "image/jpeg"}}).status_code == 200
    assert client.get("/model/bn-stats?detail=full").status_code == 200
    assert client.get("/model/fold").status_code == 200
    assert client.get("/model/drift").status_code == client.get("/metrics").status_code == 200
    answer = client.post("/model/drift/image", content=picture, headers={{"Content-Type": "image/jpeg"}})
    assert answer.status_code == 200
    answer = client.post("/model/fold/check", content=picture, headers={{"Content-Type": "image/jpeg"}})
    assert answer.status_code == 200
print(*sorted({{name.split(".")[0] for name, module in sys.modules.items() if module is not None}}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "onnxruntime" in loaded
    assert ("openvino" in loaded) == (engine == "openvino")
    assert loaded.isdisjoint(NEVER_WHILE_SERVING)


@pytest.mark.parametrize(
    "use",
    [
        "import onnxruntime as o; o.InferenceSession({graph!r})",
        "import openvino as o; o.Core().compile_model({graph!r}, 'CPU')",
    ],
    ids=["onnxruntime", "openvino"],
)
def test_no_runtime_reports_to_its_maker(bundle: Bundle, tmp_path: Path, use: str) -> None:
    """Left to itself each keeps an identifier of the user under their home; with reporting off it keeps none."""

    def files_left_by(first_line: str) -> list[Path]:
        home = tmp_path / str(len(list(tmp_path.iterdir())))
        home.mkdir()
        # Set in continuous integration, this alone would switch the reporting off.
        environ = {k: v for k, v in clean_environ().items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
        environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        environ |= {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # nobody: nothing leaves
        program = f"{first_line}\n{use.format(graph=str(bundle.deployed_graph))}"
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, check=True)
        return [path for path in home.rglob("*") if path.is_file()]

    assert files_left_by("") != []  # or this test would prove nothing about the next line
    assert files_left_by("import service") == []
