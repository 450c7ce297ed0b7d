"""Every error this project raises on purpose, as one tree. HTTP status codes live in ``service.api.problems``."""


class YolofoldError(Exception):
    """Base of all domain errors. ``str(error)`` is written for the person who has to act on it."""


def fault_in_words(error: BaseException) -> str:
    """What a failure is called where it is reported in passing: of errors that are not ours the type says most."""
    return str(error) if isinstance(error, YolofoldError) else f"{type(error).__name__}: {error}".rstrip(": ")


class SettingsError(YolofoldError):
    """A setting is unknown, malformed or contradicts another."""


class AddressUnusable(YolofoldError):
    """The address to listen on cannot be resolved or belongs to another machine, or its port is taken or forbidden."""


class ReportUnwritable(YolofoldError):
    """A report cannot be written where it was asked for."""


# --- prepare -----------------------------------------------------------------------------------------------


class PrepareError(YolofoldError):
    """Preparation stopped; no bundle was written."""


class WeightsError(PrepareError):
    """The weights cannot be used."""


class WeightsNotFound(WeightsError):
    """No file lies at the path given, or the name is not an official one."""


class WeightsDownloadFailed(WeightsError):
    """An official checkpoint could not be downloaded within the time-out."""


class WeightsHashMismatch(WeightsError):
    """The file's SHA-256 is not the one that was demanded; it has not been opened."""


class UnreadableCheckpoint(WeightsError):
    """The file is not an Ultralytics checkpoint that can be loaded safely."""


class UnsupportedModel(WeightsError):
    """The checkpoint is sound but of a task, channel count or head that is not served."""


class PrepareExtraMissing(PrepareError):
    """The packages that only preparation and what builds on it need are not installed."""


class FoldRejected(PrepareError):
    """The folded model does not reproduce the unfolded one within tolerance.

    ``layer`` names the first BatchNorm at fault, or is None when only the end-to-end comparison failed.
    """

    def __init__(self, message: str, layer: str | None = None) -> None:
        super().__init__(message)
        self.layer = layer


class ExportFailed(PrepareError):
    """The ONNX file does not have the promised shape, node counts or outputs."""


# --- bundle ------------------------------------------------------------------------------------------------


class BundleError(YolofoldError):
    """The bundle on disk cannot be served."""


class BundleMissing(BundleError):
    """There is no bundle where one was expected."""


class BundleIncomplete(BundleError):
    """A file that the manifest lists is missing, or one it does not list is present."""


class BundleCorrupt(BundleError):
    """A file's bytes do not have the SHA-256 that the manifest records."""


class BundleSchemaError(BundleError):
    """A bundle file is not of the schema (or schema version) this release reads."""


class BundleUncertified(BundleError):
    """The bundle carries no passing fold certificate."""


class BundleDirUnusable(BundleError):
    """The folder that bundles are kept in cannot be made or written to."""


class BundleNameRefused(YolofoldError):
    """A bundle beside the served one may not be called so; it was not written."""


class LayerNotFound(YolofoldError):
    """No BatchNorm layer has the name asked for. ``near`` lists the closest names, best first."""

    def __init__(self, name: str, near: list[str]) -> None:
        hint = f" Did you mean: {', '.join(near)}?" if near else ""
        super().__init__(f"There is no BatchNorm layer named {name[:100]!r}.{hint}")
        self.name = name
        self.near = near


# --- measurement -------------------------------------------------------------------------------------------


class MeasurementRefused(YolofoldError):
    """A latency measurement cannot begin or go on; the message says why."""


class MeasurementCancelled(MeasurementRefused):
    """Somebody asked for the measurement to end."""


class MeasurementRunning(YolofoldError):
    """Another measurement is running; only one may, since two would falsify each other."""


# --- inference ---------------------------------------------------------------------------------------------


class ImageError(YolofoldError):
    """The bytes sent cannot be turned into pixels."""


class UnsupportedImage(ImageError):
    """The content is not one of the accepted image formats."""


class BrokenImage(ImageError):
    """The format is accepted, but the data is truncated or damaged."""


class ImageTooLarge(ImageError):
    """The picture has more pixels than ``limit``, that of its kind. Decided from its header, before decoding."""

    def __init__(self, message: str, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class PictureUnusable(YolofoldError):
    """A file of a folder of pictures cannot be served, or has changed under the command that reads it twice."""


class BrokenTensor(ImageError):
    """The bytes are no .npy file of pictures as tensors; the message names the dtype, shape or values at fault."""


class EngineError(YolofoldError):
    """The inference runtime could not load or run the graph."""


class EngineNotMeasured(EngineError):
    """The process that was to measure the engines gave no report: it could not be started, hung or died."""


class SelfCheckFailed(EngineError):
    """On this machine the deployed graph does not give the answer that the bundle stores for it."""


class Overloaded(YolofoldError):
    """The queue is full. ``retry_after_s`` is when to try again, in whole seconds (at least 1)."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(YolofoldError):
    """The request waited or ran for longer than its time-out."""


class NobodyWaits(YolofoldError):
    """Whoever asked for the work has gone or been told that it takes too long. Nobody is there to be told."""


# --- drift -------------------------------------------------------------------------------------------------


class CalibrationUnusable(YolofoldError):
    """Pictures allow no calibration, or its file is damaged, another bundle's or cannot be written."""


# --- evaluation --------------------------------------------------------------------------------------------


class EvaluationError(YolofoldError):
    """The evaluation stopped; it gives no figures."""


class DataSetError(EvaluationError):
    """The data set has no known layout, or something in it is broken. Names the file, and the line where it has one."""


class ClassMismatch(EvaluationError):
    """The classes of a data set or of a second bundle are not those of the model."""


class EvaluatorMissing(EvaluationError):
    """The packages that only the evaluation needs are not installed."""


# --- recalibration -----------------------------------------------------------------------------------------


class RecalibrationError(YolofoldError):
    """The recalibration stopped; no bundle was written and the served one is as it was."""


# --- quantization ------------------------------------------------------------------------------------------


class QuantizationError(YolofoldError):
    """The quantization stopped; no bundle was written and the one given is as it was."""


class QuantizationRefused(QuantizationError):
    """The quantized graph does not find the same boxes, or there were too few boxes to tell."""
