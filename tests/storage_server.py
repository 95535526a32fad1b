"""An S3 server on this machine with planted faults: moto behind a counter that refuses some requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "heads"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
FORBIDDEN = b"<Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match.</Message></Error>"

Request = dict[str, Any]


class Storage:
    """The server.

    Attributes:
        url: Its endpoint.
        requests: Method and path of each request.
        refuse: Whether a request gets the status 503, by its number from 0 and its method and path.
        forbid: Whether every request gets the status 403, as with wrong credentials, or those of a method and path.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.refuse: Callable[[int, str, str], bool] = lambda *_: False
        self.forbid: bool | Callable[[str, str], bool] = False
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, request: Request, start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = request["REQUEST_METHOD"], request["PATH_INFO"]
        with self._lock:
            number = len(self.requests)
            self.requests.append((method, path))
        if self.refuse(number, method, path):
            return _refusal("503 Slow Down", SLOW_DOWN, method, start)
        if self.forbid(method, path) if callable(self.forbid) else self.forbid:
            return _refusal("403 Forbidden", FORBIDDEN, method, start)
        return self._app(request, start)  # type: ignore[no-any-return,no-untyped-call]

    def reset(self) -> None:
        """Forgets the requests and the faults."""
        self.requests, self.refuse, self.forbid = [], lambda *_: False, False

    def put(self, key: str, content: bytes) -> str:
        """Stores an object, and returns its URL."""
        client = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"


def _refusal(status: str, body: bytes, method: str, start: Callable[..., Any]) -> list[bytes]:
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if method == "HEAD" else [body]  # a body after HEAD would be read as the next answer


@contextmanager
def running_storage() -> Iterator[Storage]:
    storage = Storage()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, storage, threaded=True)
    storage.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield storage
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
