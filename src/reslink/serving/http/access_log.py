"""The log of the service: a line a request, which holds no file name, no address, no path, no tag and no pixel."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Final

LOGGER: Final = logging.getLogger("reslink.serving")
_OTHERS: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "python_multipart",
    "multipart",
    "asyncio",
    "concurrent.futures",
)


def start(quiet: bool = False) -> None:
    """Sends the log to stderr; silences what other packages say, which may quote a request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.WARNING if quiet else logging.INFO)
    LOGGER.propagate = False
    for name in _OTHERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def request(number: int, method: str, route: str, status: int, seconds: float) -> None:
    """Says that a request was answered; ``route`` is a known one, never the path as it was sent."""
    LOGGER.info("request %d %s %s %d %.0f ms", number, method, route, status, 1000 * seconds)


def fault(number: int, error: BaseException) -> None:
    """Says where an error came from that nobody expected: its kind and place, not its message, which may quote a file."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "an unknown place"
    LOGGER.error("request %d failed: %s at %s", number, type(error).__name__, place)
