"""Log of the service: one line per request, without file names, addresses, paths, DICOM attributes or pixels."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Final

LOGGER: Final = logging.getLogger("reslink.serving")
_OTHER_LOGGERS: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "python_multipart",
    "multipart",
    "asyncio",
    "concurrent.futures",
)


def configure(quiet: bool = False) -> None:
    """Sends the log to stderr, and silences other packages, whose messages may quote a request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.WARNING if quiet else logging.INFO)
    LOGGER.propagate = False
    for name in _OTHER_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def log_request(number: int, method: str, route: str, status: int, seconds: float) -> None:
    """Logs a completed request; ``route`` is one of the service's own routes, never the path as it was sent."""
    LOGGER.info("request %d %s %s %d %.0f ms", number, method, route, status, 1000 * seconds)


def log_unexpected_error(number: int, error: BaseException) -> None:
    """Logs the type and source line of an unexpected exception, but not its message, which may quote a file."""
    frames = traceback.extract_tb(error.__traceback__)
    location = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "an unknown location"
    LOGGER.error("request %d failed: %s at %s", number, type(error).__name__, location)
