"""``GET /``: the page, and the static files it and the API documentation need."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

WEB = Path(__file__).resolve().parent.parent / "web"
STATIC_PATH = "/static"

router = APIRouter(include_in_schema=False)
static_files = StaticFiles(directory=WEB)


@router.get("/")
async def get_page() -> FileResponse:
    """The page for people."""
    return FileResponse(WEB / "index.html")
