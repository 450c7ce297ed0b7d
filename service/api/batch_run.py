"""The pictures of one batch on their way through the queue, and what has come of each."""

import time
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Request
from starlette.datastructures import UploadFile

from service.api.body import UploadShare, file_too_large
from service.api.counters import STAGES
from service.api.detect_answer import detect_answer, steps_ms
from service.api.form import content_of
from service.api.problems import EMPTY_BODY, RequestRefused, describe_failure, kind_of
from service.api.state import Service
from service.inference.detector import Selection

_LONGEST_NAME = 255


class BatchRun:
    """One batch. Each picture leaves memory when it has been looked at, and its answer is kept encoded."""

    def __init__(
        self, request: Request, service: Service, share: UploadShare, selection: Selection, deadline: float
    ) -> None:
        """
        Args:
            share: of the uploads' budget, which holds the pictures.
            deadline: of the whole batch, on ``time.monotonic``'s clock, seconds.
        """
        self._request, self._service, self._share = request, service, share
        self._selection, self._deadline = selection, deadline
        self._counters = request.app.state.counters
        self._results: list[orjson.Fragment] = []
        self._failures: list[Exception] = []
        self._detections = 0
        self._steps_ms = dict.fromkeys(STAGES, 0.0)

    async def answer(self, uploads: Sequence[UploadFile]) -> dict[str, Any]:
        """Look at every picture; ready to be encoded as ``BatchAnswer``.

        Raises:
            Exception: the service itself failed every picture: it is full, too late, cannot run the network or has a
                defect.
        """
        began = time.perf_counter()
        self._results = [orjson.Fragment(b"null")] * len(uploads)

        async def look(index: int) -> None:
            await self._look(index, uploads[index])

        await self._service.bulk.run(len(uploads), look)
        self._raise_common_fault(len(uploads))
        timing = {**self._steps_ms, "total": (time.perf_counter() - began) * 1e3}
        return {
            "results": self._results,
            "totals": {"images": len(uploads), "failed": len(self._failures), "detections": self._detections},
            "timing_ms": {step: round(ms, 3) for step, ms in timing.items()},
        }

    async def _look(self, index: int, upload: UploadFile) -> None:
        which = {"index": index, "file": _printable(upload.filename or "")}
        data = content_of(upload)
        await upload.close()
        try:
            document = await self._detect(data)
        except Exception as error:  # whatever one picture meets, the others have their answers
            self._failures.append(error)
            document = describe_failure(self._request, error)
        self._counters.add_batch_image(document.get("status", 200))
        self._results[index] = orjson.Fragment(orjson.dumps(which | document))

    async def _detect(self, data: bytes) -> dict[str, Any]:
        give_back, limit = self._share.detach(len(data)), self._service.settings.max_upload_bytes
        if not 0 < len(data) <= limit:
            give_back()
            raise file_too_large(limit) if data else RequestRefused(EMPTY_BODY, "The file is empty.")
        detector = self._service.detector
        began, found = await self._service.bulk.submit(
            lambda: detector.detect(data, self._selection), self._deadline, give_back
        )
        steps, class_ids = steps_ms(found.value, found.waited_s), found.value.detections.class_id.tolist()
        self._counters.add_detections(steps, class_ids)
        self._detections += len(class_ids)
        for step, ms in steps.items():
            self._steps_ms[step] += ms
        return detect_answer(found.value, self._service.bundle.manifest.model, steps, began)

    def _raise_common_fault(self, images: int) -> None:
        """Let the request fail as a single one would, where no picture had a chance."""
        faults = [error for error in self._failures if kind_of(error).status >= 500]
        if len(faults) == images:
            raise faults[0]


def _printable(file_name: str) -> str:
    """A file name as JSON can carry it: forms in odd character sets can give half a character."""
    return file_name[:_LONGEST_NAME].encode("utf-8", "replace").decode("utf-8")
