"""A checkpoint file as a live float32 network with one head selected."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from service.bundle.batchnorm import Stage
from service.bundle.manifest import HeadKind
from service.errors import UnreadableCheckpoint, UnsupportedModel
from service.prepare.checkpoint_file import why_unreadable
from service.prepare.ultralytics_runtime import Detect, Focus, load_checkpoint, v10Detect


@dataclass(frozen=True)
class LoadedModel:
    """A detection network as its checkpoint holds it: float32, eval mode, both heads, nothing folded.

    Attributes:
        network: the Ultralytics DetectionModel.
        name: file name without suffix.
        classes: class names by id.
        architecture: YAML the network was built from, as recorded in the checkpoint.
        trained_imgsz: side of the pictures it was trained on, pixels, None where the checkpoint does not say.
    """

    network: nn.Module
    name: str
    classes: list[str]
    architecture: str
    trained_imgsz: int | None


def load_model(path: Path) -> LoadedModel:
    """Open a ``.pt`` with Ultralytics' safe loading.

    Raises:
        UnreadableCheckpoint: not a checkpoint, damaged, or it refers to types outside the allow-list.
        UnsupportedModel: another task than detection, an unknown head, not three channels, already fused, or
            numbers no network can work with.
    """
    try:
        network, stored = load_checkpoint(path, device=torch.device("cpu"))
    except Exception as error:  # Ultralytics, torch and zip errors alike mean the same to the operator
        raise UnreadableCheckpoint(
            f"{path} is no Ultralytics checkpoint that can be loaded safely: {why_unreadable(path, error)}."
        ) from error
    _use_plain_batchnorm(network)
    _refuse_unsupported(network, path)
    classes = _class_names(network, path)
    yaml_file = Path(str(description(network).get("yaml_file", "unknown"))).name
    network.eval().requires_grad_(False)
    return LoadedModel(network, path.stem, classes, yaml_file, _trained_imgsz(stored))


def _use_plain_batchnorm(network: nn.Module) -> None:
    """Replace each SyncBatchNorm, in place, by the BatchNorm2d that it is unless several devices train it."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.SyncBatchNorm):
            plain = nn.BatchNorm2d(
                module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
            )
            plain.load_state_dict(module.state_dict())
            network.set_submodule(name, plain)


def _refuse_unsupported(network: nn.Module, path: Path) -> None:
    task = getattr(network, "task", "unknown")
    if task != "detect":
        raise UnsupportedModel(f"{path} is a checkpoint for the task {task!r}; only 'detect' is served so far.")
    head = blocks(network)[-1]
    if type(head) not in (Detect, v10Detect):
        raise UnsupportedModel(f"{path} ends in a {type(head).__name__} head; only Detect heads are served.")
    channels = _image_channels(network)
    if channels != 3:
        raise UnsupportedModel(f"{path} takes {channels} image channels; only 3 are served.")
    if not any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
        raise UnsupportedModel(f"{path} holds no BatchNorm2d: it was fused before it was saved. Use the original.")
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is None:
            raise UnsupportedModel(
                f"{path}: {name} keeps no running statistics. It would normalise each image by whatever else is in "
                "its batch, so its answers could not be repeated."
            )
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UnsupportedModel(f"{path}: {name} holds values that are not finite numbers; training has diverged.")
        if name.endswith(".running_var") and (tensor < 0).any():
            raise UnsupportedModel(f"{path}: {name} holds a negative variance; the checkpoint is damaged.")
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not _can_divide(module):
            raise UnsupportedModel(
                f"{path}: {name} divides by the root of running_var + eps, which is not a positive number in each "
                f"channel; its eps is {module.eps!r}."
            )


def _can_divide(batchnorm: nn.BatchNorm2d) -> bool:
    assert batchnorm.running_var is not None
    if not isinstance(batchnorm.eps, int | float) or not math.isfinite(batchnorm.eps):
        return False
    return bool((batchnorm.running_var.double() + batchnorm.eps > 0).all())


def _image_channels(network: nn.Module) -> int:
    """Asked of the first convolution: the YAML's name for it has changed, and it may be missing there."""
    channels = next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    return channels // 4 if isinstance(blocks(network)[0], Focus) else channels


def _class_names(network: nn.Module, path: Path) -> list[str]:
    """Class names by id. Ultralytics stores a mapping, whose keys may have become strings on the way; where it stores
    none, classes are called as Ultralytics calls them then."""
    stored, count = getattr(network, "names", None), blocks(network)[-1].nc
    if stored is None:
        return [f"class{i}" for i in range(count)]
    try:
        names = dict(enumerate(stored)) if isinstance(stored, list | tuple) else {int(k): v for k, v in stored.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UnsupportedModel(
            f"{path} names its classes by {str(stored)[:80]!r}; it must be a list, or a mapping from 0 to {count - 1}."
        ) from error
    if sorted(names) != list(range(count)):
        raise UnsupportedModel(
            f"{path} detects {count} classes but names those with the ids {sorted(names)[:20]}; it must name each of "
            f"0 to {count - 1}."
        )
    # A pickle may hold half a character, which no file and no answer can.
    return [str(names[i]).encode(errors="replace").decode() for i in range(count)]


def _trained_imgsz(stored: dict[str, Any]) -> int | None:
    imgsz = (stored.get("train_args") or {}).get("imgsz")
    return imgsz if isinstance(imgsz, int) else None


def choose_head(network: nn.Module, wanted: HeadKind | Literal["auto"], preferred: HeadKind = "one2one") -> HeadKind:
    """The head to deploy: ``auto`` takes the ``preferred`` one where the checkpoint has both.

    Raises:
        UnsupportedModel: a one2one head was demanded of a checkpoint without one.
    """
    has_one2one = has_two_heads(network)
    if wanted == "one2one" and not has_one2one:
        raise UnsupportedModel("The checkpoint has no one2one head. Use the head 'auto' or 'one2many'.")
    if wanted == "auto":
        return preferred if has_one2one else "one2many"
    return wanted


def has_two_heads(network: nn.Module) -> bool:
    """Whether the checkpoint has a one2one head beside its one2many head."""
    return getattr(blocks(network)[-1], "one2one_cv2", None) is not None


def select_head(network: nn.Module, head: HeadKind) -> None:
    """Let a network with two heads answer from one, in place; it goes on executing both."""
    blocks(network)[-1].end2end = head == "one2one"


def drop_unused_head(network: nn.Module, head: HeadKind) -> None:
    """Keep one head of a network, in place; BatchNorm is left alone.

    Both arms of every comparison get this, so that what is compared is folding and nothing else.
    """
    if not has_two_heads(network):
        return
    select_head(network, head)
    blocks(network)[-1].fuse()  # Ultralytics' name for dropping the head that is not selected


def blocks(network: nn.Module) -> list[Any]:
    """The top-level blocks of an Ultralytics network in order; the last one is its head."""
    return list(cast(nn.Sequential, network.get_submodule("model")))


def description(network: nn.Module) -> dict[str, Any]:
    """The parsed YAML an Ultralytics network was built from."""
    return cast(dict[str, Any], cast(Any, network).yaml)


def stage_of_block(network: nn.Module) -> dict[int, Stage]:
    """Stage of each top-level block by index; the YAML says where the backbone ends, the last block is the head."""
    backbone, last = len(description(network)["backbone"]), len(blocks(network)) - 1
    return {i: "head" if i == last else "backbone" if i < backbone else "neck" for i in range(last + 1)}
