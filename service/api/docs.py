"""``GET /docs`` (Swagger UI from this package, so it works offline) and the OpenAPI document."""

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse

from service.api.examples import add_examples
from service.api.page import WEB
from service.api.problem_examples import add_problem_examples
from service.api.problems import Problem

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def get_docs() -> FileResponse:
    """The API documentation for people."""
    return FileResponse(WEB / "docs.html")


def install_openapi(app: FastAPI) -> None:
    """Serve an OpenAPI document whose failures are problem documents, as the answers really are."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            schemas = document["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            # FastAPI adds these for its own 422 answers, which are not used here.
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            add_examples(document)
            add_problem_examples(document, app.state.settings)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
