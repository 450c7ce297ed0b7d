"""``GET /model/drift``: whether live pictures still look as they should. ``POST /model/drift/image``: one picture."""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.answers import json_answer
from service.api.body import read_image_file
from service.api.drift_schemas import (
    ChannelDrift,
    DriftAnswer,
    DriftBaseline,
    DriftScores,
    DriftWindow,
    ImageDrift,
    LayerDrift,
)
from service.api.image_request import CLIENT_LEFT, IMAGE_BODY, IMAGE_PROBLEMS, run_on_upload, until_client_leaves
from service.api.query import KnownQuery
from service.api.schemas import ImageSize, ModelRef
from service.api.state import Service, ServiceDep
from service.bundle.probe import FIGURES
from service.drift.baseline import WINDOW
from service.drift.distances import LayerDistances, Normal, channel_distances, counting_channels
from service.drift.features import Samples
from service.drift.lesson import FIRST_PICTURES
from service.drift.monitor import LayerReport, Report, compare_layers, compare_with_training
from service.inference.probe import Reading
from service.preprocessing.letterbox import Letterbox, content_tensor

router = APIRouter(prefix="/model/drift", tags=["model"])

MAX_CHANNELS = 100


@router.get(
    "",
    summary="Drift of live pictures",
    response_description="Whether the pictures have changed, since when and in what.",
    response_model=DriftAnswer,
    responses=problems.document_problems(problems.UNKNOWN_PARAMETER, problems.NOT_READY),
    dependencies=[Depends(KnownQuery())],
)
def get_drift(service: ServiceDep) -> Response:
    """A share of the pictures sent to `/detect` and `/detect/batch` goes once more through the network's first layers,
    off the hot path.

    Each probed convolution's output is held against the law it had in training, which folding preserves: mean beta,
    variance gamma² var / (var + eps). It is measured over the picture as the network gets it but without padding, each
    side cut about the middle to a multiple of 32 pixels. Windows of 32 pictures are also held against clean pictures:
    those given to `python -m service calibrate`, else the first 256 sampled, of which every second is measured with
    known faults, too. Only the latter comparison raises an alarm.
    """
    return json_answer(_drift_answer(service))


@router.post(
    "/image",
    summary="How far one image lies from training",
    response_description="The distances of this picture.",
    response_model=ImageDrift,
    responses=problems.document_problems(*IMAGE_PROBLEMS, problems.INVALID_PARAMETER),
    openapi_extra={"requestBody": IMAGE_BODY},
    dependencies=[Depends(KnownQuery("channels"))],
)
async def measure_image(
    request: Request,
    service: ServiceDep,
    channels: Annotated[int, Query(ge=1, le=MAX_CHANNELS, description="Most channels answered.")] = 10,
) -> Response:
    """Send the image as to `/detect`. Answers the layers and channels furthest from their training law.

    One picture is no sample of the training data: a plain one lies far from the law without being wrong. Compare it
    with pictures known to be good. It does not count among the sampled ones. Measured is the picture without padding,
    as for `GET /model/drift`.
    """
    deadline = time.monotonic() + service.settings.request_timeout_s
    service.pool.require_room()
    try:
        with service.uploads.open() as share:
            limit = service.settings.max_upload_bytes
            data = await read_image_file(request, share, max_bytes=limit, deadline=deadline)
            measure = partial(_measure, service, most=channels)
            measuring = run_on_upload(service.pool, share, data, measure, deadline)
            return json_answer((await until_client_leaves(request, measuring)).value)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


def _measure(service: Service, data: bytes, most: int) -> ImageDrift:
    plan, square = service.detector.fit(data)
    reading = service.drift.probe.measure(content_tensor(square, plan))
    return _image_answer(service, plan, reading, most)


def _model_ref(service: Service) -> ModelRef:
    model = service.bundle.manifest.model
    return ModelRef(name=model.name, version=model.version, task=model.task)


def _drift_answer(service: Service) -> DriftAnswer:
    drift = service.drift
    report = drift.monitor.report()
    return DriftAnswer(
        model=_model_ref(service),
        state="off" if drift.sampler is None else report.state,
        cpu_share=drift.cpu_share,
        sampled=report.sampled,
        window=WINDOW,
        baseline=_baseline(report),
        onset=None if report.onset is None else _utc(report.onset),
        problems=list(report.problems),
        failure=report.failure,
        training=_scores(report.training),
        against_baseline=_scores(report.baseline),
        layers=[_layer(layer) for layer in report.layers],
        windows=[
            DriftWindow(begun_at=_utc(w.begun), ended_at=_utc(w.ended), score=w.score, alarm=w.alarm)
            for w in report.windows
        ],
    )


def _baseline(report: Report) -> DriftBaseline:
    found = report.calibrated
    pictures = report.gathered if found is None else found.baseline.pictures
    return DriftBaseline(
        source=report.source,
        pictures=pictures,
        wanted=FIRST_PICTURES if found is None else pictures,
        created_at=None if found is None else found.created_at,
        threshold=None if found is None else found.baseline.threshold,
        false_alarm_rate=None if found is None else found.baseline.rate,
        measured_rate=None if found is None else found.baseline.measured_rate,
        faults=[] if found is None else list(found.baseline.faults),
    )


def _scores(found: LayerDistances | None) -> DriftScores | None:
    if found is None:
        return None
    return DriftScores(
        channels=found.channels,
        z_rms=found.z_rms,
        log_variance_ratio=found.log_variance_ratio,
        symmetric_kl=found.symmetric_kl,
        wasserstein2=found.wasserstein2,
    )


def _layer(report: LayerReport) -> LayerDrift:
    training = report.training
    return LayerDrift(
        name=report.name,
        training=_scores(training),
        baseline=_scores(report.baseline),
        worst_channels=[] if training is None else list(training.worst_channels),
        revived=[] if training is None else list(training.revived),
    )


def _image_answer(service: Service, plan: Letterbox, reading: Reading, most: int) -> ImageDrift:
    drift = service.drift
    observed = Normal(reading.means, reading.variances)
    calibration = drift.monitor.calibration
    samples = Samples.of([reading])
    layers = compare_layers(drift.watched, observed, None if calibration is None else calibration.law)
    return ImageDrift(
        model=_model_ref(service),
        image=ImageSize(width=plan.source_wh[0], height=plan.source_wh[1]),
        score=None if calibration is None else calibration.baseline.score(samples.features(drift.watched.channels)),
        training=_scores(compare_with_training(drift.watched, observed)),
        layers=[_layer(layer) for layer in sorted(layers, key=_divergence, reverse=True)],
        channels=_channels(service, observed, most),
        figures=dict(zip(FIGURES, reading.figures.tolist(), strict=True)),
    )


def _divergence(layer: LayerReport) -> float:
    return -1.0 if layer.training is None else layer.training.symmetric_kl


def _channels(service: Service, observed: Normal, most: int) -> list[ChannelDrift]:
    found = []
    for layer in service.drift.watched.layers:
        if layer.law is None:
            continue
        part, law = layer.part(observed), layer.law
        distances = channel_distances(part, law)
        found += [
            ChannelDrift(
                layer=layer.name,
                channel=channel,
                mean=float(part.mean[channel]),
                variance=float(part.variance[channel]),
                training_mean=float(law.mean[channel]),
                training_variance=float(law.variance[channel]),
                z=float(distances.z[channel]),
                log_variance_ratio=float(distances.log_variance_ratio[channel]),
                symmetric_kl=float(distances.symmetric_kl[channel]),
                wasserstein2=float(distances.wasserstein2[channel]),
            )
            for channel in np.flatnonzero(counting_channels(law)).tolist()
        ]
    return sorted(found, key=lambda channel: -channel.symmetric_kl)[:most]


def _utc(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
