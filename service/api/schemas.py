"""The answers' shapes. What a bundle stores is answered as stored and described there."""

from typing import Literal

from pydantic import BaseModel, Field

from service.api.measuring import Measurement
from service.bundle.batchnorm import BatchNormLayer, BatchNormTotals
from service.bundle.fp16 import Fp16Spec
from service.bundle.health import BatchNormWarning, DeadChannel, LayerHealth, NetworkHealth
from service.bundle.int8 import Int8Spec
from service.bundle.latency import LatencyReport
from service.bundle.manifest import GraphSpec, ModelSpec, WeightsSource, WeightsSpec
from service.inference.engine import Precision
from service.tuning.records import EngineChoice


class ModelRef(BaseModel):
    """Which model answered."""

    name: str = Field(description="The checkpoint's name.", examples=["yolo26n"])
    version: str = Field(description="Names the bundle by its content.", examples=["1f3a9c0b2d4e"])
    task: str = Field(description="What it is for: finding objects as boxes.", examples=["detect"])


class ImageSize(BaseModel):
    """Size of the upright picture in pixels."""

    width: int = Field(description="Columns.", examples=[810])
    height: int = Field(description="Rows.", examples=[1080])


class Box(BaseModel):
    """Corners in pixels of the upright picture, from its top-left; clipped to it."""

    x1: float = Field(description="Left edge.", examples=[22.1])
    y1: float = Field(description="Upper edge.", examples=[231.0])
    x2: float = Field(description="Right edge.", examples=[805.2])
    y2: float = Field(description="Lower edge.", examples=[756.9])


class Detection(BaseModel):
    """One object found."""

    name: str = Field(description="Name of its class.", examples=["bus"])
    class_id: int = Field(alias="class", description="Id of its class.", examples=[5])
    confidence: float = Field(description="0 to 1.", examples=[0.93])
    box: Box = Field(description="Where it is.")


class TimingMs(BaseModel):
    """Milliseconds since the whole body was received, in a batch since the picture's turn came. The steps do not cover
    the answer's transfer."""

    decode: float = Field(description="Image file to pixels.", examples=[2.4])
    queue: float = Field(description="Waiting for a worker and for memory to decode into.", examples=[0.1])
    inference: float = Field(description="Letterboxing and the network.", examples=[21.0])
    postprocess: float = Field(description="Selecting boxes and mapping them to the picture.", examples=[0.1])
    total: float = Field(description="All of it, hand-overs between threads included.", examples=[24.0])


class DetectAnswer(BaseModel):
    """What was found in one picture."""

    model: ModelRef = Field(description="The model that found them.")
    image: ImageSize = Field(description="Size of the picture, in which the boxes are.")
    detections: list[Detection] = Field(description="By falling confidence.")
    timing_ms: TimingMs = Field(description="Where the time went.")


class FoldSummary(BaseModel):
    """The fold certificate in a few figures."""

    passed: bool = Field(description="The certificate passed; else the bundle would not be served.")
    folded: int = Field(description="BatchNorm layers folded into their convolution.")
    dropped: int = Field(description="BatchNorm layers of a head that is not deployed.")
    unfoldable: int = Field(description="BatchNorm layers kept in the deployed graph.")
    worst_layer: str | None = Field(
        description="The folded BatchNorm that comes nearest to its tolerance; null where none was folded."
    )
    worst_layer_relative_error: float | None = Field(
        description="That layer's error over the sum of the magnitudes of the terms of its output; null where none "
        "was folded."
    )
    worst_layer_tolerance: float | None = Field(
        description="What float32 arithmetic allows this error; null where none was folded."
    )
    end_to_end_tolerance: float = Field(description="Bound on worst_end_to_end_relative_error.")
    worst_end_to_end_relative_error: float | None = Field(
        description="Worst difference of decoded boxes and scores over all proof inputs, each over its own largest "
        "value; null without any."
    )


class EngineInfo(BaseModel):
    """What runs the network here."""

    runtime: str = Field(description="The runtime and its release.", examples=["ONNX Runtime 1.32.0"])
    provider: str = Field(description="What executes the graph, as the runtime names it.", examples=["CPU"])
    precision: Precision = Field(
        description="What the convolutions multiply in; with a plus, the quantized ones and all else. GPUs multiply "
        "float32 as TF32."
    )
    threads: int = Field(description="Threads one inference may use while it is alone.", examples=[2])
    threads_under_load: int = Field(
        description="Threads one inference may use while as many run at once as fill the cores.", examples=[1]
    )
    max_batch_size: int = Field(
        description="Most pictures in one inference; 1 where they run one by one.", examples=[1]
    )
    workers: int = Field(description="Requests worked on at once.")


class EngineChoiceAnswer(EngineChoice):
    """How the engine was chosen: what every candidate achieved, and why it serves or does not."""

    remembered: bool = Field(description="It was measured at an earlier start on this machine.")
    kept: bool = Field(description="The next start will find it; otherwise that one measures again.")
    provisional: bool = Field(
        description="It was measured while other work kept more than a quarter of the machine's cores busy, see "
        "`other_cores`. Where it is kept, a start uses it only if the machine is busy then, too; the first quiet one "
        "measures again."
    )


class Graphs(BaseModel):
    """The bundle's two ONNX files in float."""

    deployed: GraphSpec = Field(description="The graph that is served unless in int8 or fp16, its BatchNorm folded.")
    reference: GraphSpec = Field(description="The same network with its BatchNorm kept.")


class Int8Answer(Int8Spec):
    """How the deployed graph was quantized, and what the gate found before it was let into the bundle."""

    sha256: str = Field(description="SHA-256 of the quantized graph's file, hexadecimal.")


class ModelAnswer(BaseModel):
    """The model being served, where it came from and what runs it."""

    source: WeightsSource = Field(description="Where the weights came from.")
    note: str | None = Field(
        description="Why the embedded weights are served instead of official ones, or that they were recalibrated."
    )
    created_at: str = Field(description="When the bundle was prepared, UTC, ISO 8601.")
    model: ModelSpec = Field(description="Its name, version, classes, input and head.")
    weights: WeightsSpec = Field(description="The checkpoint that the bundle was prepared from.")
    graphs: Graphs = Field(description="The bundle's two networks.")
    fold: FoldSummary = Field(description="What the fold certificate says; GET /model/fold has all of it.")
    int8: Int8Answer | None = Field(
        description="The quantized graph, which `YOLOFOLD_PRECISION=int8` serves; null where the bundle holds none."
    )
    fp16: Fp16Spec | None = Field(
        description="The graph in fp16, which `YOLOFOLD_PRECISION=fp16` serves on a GPU; null where the bundle holds "
        "none."
    )
    engine: EngineInfo = Field(description="The runtime in this process, and how it shares the cores out.")
    engine_choice: EngineChoiceAnswer | None = Field(
        description="The measurement that `YOLOFOLD_ENGINE=auto` chose the engine by; null where the settings name one "
        "and where `engine_warning` says why there is none."
    )
    engine_warning: str | None = Field(
        description="Why plain ONNX Runtime serves although `YOLOFOLD_ENGINE=auto` was to choose; else null."
    )
    ultralytics_predict: dict[str, bool | int | float] = Field(
        description="Arguments with which Ultralytics' own predict on the same checkpoint gives the same detections.",
        examples=[{"imgsz": 640, "rect": False, "max_det": 300, "nms": False}],
    )
    tools: dict[str, str] = Field(description="Versions of the tools that prepared the bundle.")


class LayerFold(BaseModel):
    """What the certificate says about one folded layer."""

    max_abs_error: float = Field(description="Largest |folded - reference| over all proof inputs.")
    relative_error: float = Field(
        description="Worst channel's error over the sum of the magnitudes of the terms of its output."
    )
    tolerance: float = Field(description="Bound on relative_error, from the number of terms and float32's precision.")
    passed: bool = Field(description="relative_error is at most tolerance.")


class ChannelArrays(BaseModel):
    """Per-channel values; null stands for NaN or infinity."""

    gamma: list[float | None] = Field(description="Learned factor of the normalised value.")
    beta: list[float | None] = Field(description="Learned offset after it.")
    running_mean: list[float | None] = Field(description="Mean of its input in training.")
    running_var: list[float | None] = Field(description="Variance of its input in training.")
    scale: list[float | None] = Field(
        description="gamma / sqrt(running_var + eps): what folding multiplies the weights by."
    )
    shift: list[float | None] = Field(
        description="beta - running_mean * scale: the folded bias, where the convolution had none."
    )
    law_mean: list[float | None] = Field(description="Mean of the folded convolution's output over the training data.")
    law_std: list[float | None] = Field(description="Standard deviation of the same.")
    expected_low: list[float | None] = Field(description="Least activation expected; null when it is not known.")
    expected_high: list[float | None] = Field(description="Largest activation expected; null likewise.")


class LayerAnswer(BatchNormLayer):
    """One BatchNorm layer with its health, its fold error and, in full detail, its arrays and dead channels."""

    health: LayerHealth = Field(description="What its figures mean.")
    prunable_share: float = Field(description="Channels with |gamma| of at most `prunable.threshold`.")
    fold: LayerFold | None = Field(description="Its error in the fold certificate; null when it was not folded.")
    ledger: list[DeadChannel] | None = Field(
        None, description="What removing each dead channel changes and saves. Present with detail=full only."
    )
    arrays: ChannelArrays | None = Field(None, description="Present with detail=full only.")


class Threshold(BaseModel):
    """A limit used in the statistics."""

    value: float | None = Field(description="The limit; null when it differs from layer to layer.")
    meaning: str = Field(description="What it decides, in words.")


class PrunableAnswer(BaseModel):
    """Channels a single threshold on |gamma| would prune, in layers that are not dropped."""

    percentile: float | None = Field(description="As asked for; null when a threshold was asked for.")
    threshold: float = Field(description="Largest |gamma| that counts.")
    channels: int = Field(description="How many channels would be pruned.")
    share: float = Field(description="Their share of all channels of those layers.")


class BatchNormAnswer(BaseModel):
    """BatchNorm statistics read before folding, what they mean, and what folding them gained."""

    schema_version: Literal[3] = Field(description="Rises with every change that could break a reader.")
    model: ModelRef = Field(description="The model being served.")
    thresholds: dict[str, Threshold] = Field(description="The limits behind the counts, by name.")
    totals: BatchNormTotals = Field(description="Counts over all layers of the checkpoint, whatever is asked for.")
    network: NetworkHealth = Field(description="What the figures of the whole network mean.")
    prunable: PrunableAnswer = Field(description="What one threshold on |gamma| would prune.")
    warnings: list[BatchNormWarning] = Field(description="By severity, then layer, then code.")
    layers: list[LayerAnswer] = Field(description="The layers asked for, in the order asked for.")
    latency: LatencyReport = Field(description="What folding was measured to gain while the bundle was made.")


class LatencyAnswer(BaseModel):
    """What folding was measured to gain."""

    prepared: LatencyReport = Field(description="Measured while the bundle was made.")
    stale: bool = Field(description="True when that was on another kind of machine than this one.")
    stale_reasons: list[str] = Field(
        description="What differs from the machine it was measured on; empty where nothing does.",
        examples=[["usable cores: 16 when measured, 2 here"]],
    )
    measured: Measurement | None = Field(description="Started last in this process; null before the first.")


class Health(BaseModel):
    """A probe's answer."""

    status: str = Field(description="alive from /healthz, ready from /readyz.", examples=["ready"])
