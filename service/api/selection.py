"""The query parameters that say which detections are wanted."""

from typing import Annotated

from fastapi import Depends, Query

from service.api.image_request import Confidence
from service.api.query import KnownQuery, resolve_classes
from service.api.state import ServiceDep
from service.inference.detector import Selection

MAX_DET = 300

#: Refuses every other parameter.
KNOWN_PARAMETERS = Depends(KnownQuery("conf", "max_det", repeatable=("classes",)))


async def wanted_detections(
    service: ServiceDep,
    conf: Confidence = None,
    max_det: Annotated[int, Query(ge=1, le=MAX_DET, description="Most detections answered per image.")] = MAX_DET,
    classes: Annotated[
        list[str] | None,
        Query(description="Only these classes, by name or id; repeat it for several.", examples=[["bus", "0"]]),
    ] = None,
) -> Selection:
    """What a request wants. Raises RequestRefused for a class there is not."""
    model = service.bundle.manifest.model
    return Selection(
        model.default_confidence if conf is None else conf,
        max_det,
        None if classes is None else resolve_classes(classes, model.classes),
    )


SelectionDep = Annotated[Selection, Depends(wanted_detections)]
