"""A Conv + BatchNorm network small enough to time in milliseconds, as ONNX files made without torch."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 32
EPSILON = 1e-3


class Graphs:
    """``reference`` keeps its two BatchNorms, ``deployed`` has them folded; uint8 (B, S, S, 3) BGR to (B, 4, S, S)."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.weights = {
            "1": rng.normal(0, 0.3, (8, 3, 3, 3)),
            "2": rng.normal(0, 0.3, (4, 8, 1, 1)),
        }
        self.norms = {name: _norm(rng, len(weight)) for name, weight in self.weights.items()}
        self.reference = self._write(folder / "reference.onnx", folded=False)
        self.deployed = self._write(folder / "model.onnx", folded=True)

    def _write(self, path: Path, folded: bool) -> Path:
        nodes = [
            helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Gather", ["planes", "rgb"], ["swapped"], axis=1),
            helper.make_node("Cast", ["swapped"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "white"], ["x0"]),
        ]
        constants = {"rgb": np.array([2, 1, 0]), "white": np.array(255.0)}
        for number, before in (("1", "x0"), ("2", "x1")):
            layer, added = self._layer(number, before, folded)
            nodes += layer
            constants |= added
        stored = [
            numpy_helper.from_array(value if name == "rgb" else value.astype(np.float32), name)
            for name, value in constants.items()
        ]
        pixels = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
        maps = helper.make_tensor_value_info("x2", TensorProto.FLOAT, ["batch", 4, SIZE, SIZE])
        graph = helper.make_graph(nodes, "tiny", [pixels], [maps], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path

    def _layer(self, number: str, before: str, folded: bool) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        """Convolution, BatchNorm unless folded, SiLU."""
        weight, norm = self.weights[number], self.norms[number]
        pad = weight.shape[2] // 2
        out = f"n{number}"
        if folded:
            scale = norm["gamma"] / np.sqrt(norm["var"] + EPSILON)
            constants = {
                f"w{number}": weight * scale[:, None, None, None],
                f"b{number}": norm["beta"] - norm["mean"] * scale,
            }
            nodes = [helper.make_node("Conv", [before, *constants], [out], pads=[pad] * 4)]
        else:
            names = [f"{name}{number}" for name in ("gamma", "beta", "mean", "var")]
            constants = {f"w{number}": weight} | dict(zip(names, norm.values(), strict=True))
            nodes = [
                helper.make_node("Conv", [before, f"w{number}"], [f"c{number}"], pads=[pad] * 4),
                helper.make_node("BatchNormalization", [f"c{number}", *names], [out], epsilon=EPSILON),
            ]
        nodes += [
            helper.make_node("Sigmoid", [out], [f"s{number}"]),
            helper.make_node("Mul", [out, f"s{number}"], [f"x{number}"]),
        ]
        return nodes, constants


def _norm(rng: np.random.Generator, channels: int) -> dict[str, np.ndarray]:
    return {
        "gamma": rng.uniform(0.5, 2.0, channels),
        "beta": rng.normal(0, 0.3, channels),
        "mean": rng.normal(0, 0.2, channels),
        "var": rng.uniform(0.5, 2.0, channels),
    }
