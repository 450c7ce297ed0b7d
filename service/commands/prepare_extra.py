"""Preparation's packages, which an environment that only serves does not have."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import PrepareExtraMissing

#: The images that serve are built without it.
PREPARE = "service.prepare"


@contextmanager
def needing_prepare_extra(command: str) -> Iterator[None]:
    """Guard the imports with which a command gets at ``service.prepare``, and those only.

    Raises:
        PrepareExtraMissing: a package is not installed; the message is the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.startswith("service") and missing != PREPARE:
            raise  # our own fault, which installing something would not mend
        raise PrepareExtraMissing(
            f"`{command}` needs {missing}, which serving does not and which is not installed here. Run "
            "`python -m pip install '.[prepare]'` in this environment, in the folder of the repository; with Docker, "
            "use the image of the stage `prepare`."
        ) from error
