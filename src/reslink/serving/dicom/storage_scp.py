"""A DICOM node: takes head CT and MR by C-STORE, and sends back what bundles say about them."""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydicom import dcmread, uid

from reslink.errors import UsageError
from reslink.files import optional_import
from reslink.imaging.dicom.frames import NATIVE, PLUGINS
from reslink.imaging.dicom.modality import refusal
from reslink.imaging.limits import MAX_FILE_BYTES
from reslink.serving.addresses import Peer
from reslink.serving.dicom.pipeline import SendError, Session, lasts
from reslink.serving.dicom.queue import Queue
from reslink.serving.dicom.results import EXTRA
from reslink.serving.dicom.series import key_of

if TYPE_CHECKING:
    from pynetdicom.association import Association

log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000
CANNOT_UNDERSTAND: Final = 0xC000
OUT_OF_RESOURCES: Final = 0xA700
"""Answers to C-STORE (PS3.4 B.2.3)."""

RESULT_CLASSES: Final = (uid.Comprehensive3DSRStorage, uid.SecondaryCaptureImageStorage, uid.ParametricMapStorage)
"""What the node sends."""

HANDSHAKE: Final = 10.0
"""Seconds that a caller has for each step of the TLS handshake."""

EXPIRE_EVERY: Final = 30.0
"""Seconds between two searches for what was kept or remembered long enough."""

_WANTED: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "Manufacturer")
_VERIFICATION: Final = "1.2.840.10008.1.1"


@dataclass(frozen=True)
class NodeSettings:
    """How the node listens.

    Attributes:
        title: Its own AE title; associations that call another one are rejected.
        host: Address to listen on.
        port: TCP port; 0 for any free one.
        allow: AE titles that may call; empty for all.
        settle: Seconds after the association that delivered the last slice of a series was released.
        quiet: Seconds without a new slice, after which a series counts as finished although that association is open, or
            broke off.
        tls: For TLS, what ``server_context`` returns.
    """

    title: str = "RESLINK"
    host: str = "127.0.0.1"
    port: int = 11112
    allow: tuple[str, ...] = ()
    settle: float = 5.0
    quiet: float = 60.0
    tls: ssl.SSLContext | None = None


class Node:
    """Takes instances into a queue and closes series that have come in whole.

    Args:
        settings: How it listens.
        queue: Opened.
    """

    def __init__(self, settings: NodeSettings, queue: Queue) -> None:
        self.settings, self.queue = settings, queue
        self._lock = threading.Lock()
        self._last = dict.fromkeys(queue.names("receiving"), time.monotonic())
        self._open: dict[int, set[str]] = {}
        self._too_large: set[int] = set()
        self._server: Any = None

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._server.server_address[1])

    @contextmanager
    def listening(self) -> Iterator[Node]:
        """Listens as long as the block runs.

        Raises:
            UsageError: If pynetdicom is not installed, or the port cannot be listened on.
        """
        network = _pynetdicom()
        entity = network.AE(self.settings.title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.settings.allow)
        entity.maximum_associations, entity.network_timeout = 16, 60
        for context in network.AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, transfer_syntaxes())
        entity.add_supported_context(_VERIFICATION)
        events = network.evt
        handlers = [
            (events.EVT_PDU_RECV, self._measured),
            (events.EVT_C_STORE, self._store),
            (events.EVT_RELEASED, self._released),
            (events.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            address = (self.settings.host, self.settings.port)
            self._server = entity.start_server(address, block=False, evt_handlers=handlers, ssl_context=self.settings.tls)
        except OSError as error:
            raise UsageError(
                f"The node cannot listen on {self.settings.host}:{self.settings.port}: {error.strerror or error}",
                "A port is held by one process at a time",
                "End the other process, or choose another --port",
            ) from error
        try:
            yield self
        finally:
            self._server.shutdown()

    def close_finished(self) -> int:
        """Closes the series that have come in whole; returns how many."""
        now, count = time.monotonic(), 0
        for key in self.queue.names("receiving"):
            with self._lock:
                held = any(key in keys for keys in self._open.values()) or not self.queue.released(key)
                due = now - self._last.setdefault(key, now) >= (self.settings.quiet if held else self.settings.settle)
            if due and self.queue.close(key):
                count += 1
                with self._lock:
                    self._last.pop(key, None)
        return count

    def _store(self, event: Any) -> int:
        """Answers a C-STORE: success once the instance is on the disk, or where it is nothing to keep."""
        if id(event.assoc) in self._too_large:
            self._too_large.discard(id(event.assoc))
            log.warning("an instance of more than %d MiB was refused", MAX_FILE_BYTES >> 20)
            return OUT_OF_RESOURCES
        try:
            content = event.encoded_dataset(include_meta=True)
            header = facts_of(content)
            series, instance = str(header["SeriesInstanceUID"][0]), str(header["SOPInstanceUID"][0])
            why = refusal(header["SOPClassUID"][0], header["ImageType"], header["Manufacturer"][0])
        except Exception as error:  # noqa: BLE001  (pydicom raises anything for a broken data set)
            log.warning("an instance could not be understood (%s)", type(error).__name__)
            return CANNOT_UNDERSTAND
        key = key_of(series)
        if why is not None:
            log.info("series %s: an instance was let go: %s", key, why)
            return SUCCESS
        return self._keep(event.assoc, key, instance, content)

    def _measured(self, event: Any) -> None:
        """Throws away what came of an object beyond the limit: pynetdicom keeps a message in memory until it is whole."""
        message = event.assoc.dimse.message
        if message is not None and message.data_set.tell() > MAX_FILE_BYTES:
            message.data_set = io.BytesIO()
            self._too_large.add(id(event.assoc))

    def _keep(self, association: Association, key: str, instance: str, content: bytes) -> int:
        with self._lock:
            self._open.setdefault(id(association), set()).add(key)
            self._last[key] = time.monotonic()
        try:
            self.queue.add(key, instance, content)
        except OSError as error:
            log.error("series %s: an instance could not be written (%s)", key, error.strerror)
            return OUT_OF_RESOURCES
        with self._lock:
            self._last[key] = time.monotonic()
        return SUCCESS

    def _released(self, event: Any) -> None:
        for key in self._forget(event):
            self.queue.release(key)

    def _closed(self, event: Any) -> None:
        self._forget(event)

    def _forget(self, event: Any) -> set[str]:
        """Returns the series that an association delivered to, which is over now."""
        with self._lock:
            keys = self._open.pop(id(event.assoc), set())
            self._too_large.discard(id(event.assoc))
            self._last.update(dict.fromkeys(keys, time.monotonic()))
        return keys


def facts_of(content: bytes) -> dict[str, list[str]]:
    """Returns the few values of a file by which it is kept or let go, as they are written.

    They are not validated: pydicom's warnings quote values, and the filter that would silence them is one for all threads.

    Args:
        content: The whole file.

    Raises:
        ValueError: If there is no class, instance or series.
    """
    header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(_WANTED))
    found = {}
    for word in _WANTED:
        raw = header.get_item(word)
        value = b"" if raw is None or not isinstance(raw.value, bytes) else raw.value
        found[word] = [part.strip(" \0") for part in value.decode("ascii", "replace").split("\\")]
        if word.endswith("UID") and not found[word][0]:
            raise ValueError(word)
    return found


class StoreSender:
    """Sends results by C-STORE.

    Args:
        peer: The archive.
        title: The AE title of the node.
        tls: For TLS, what ``client_context`` returns.
    """

    def __init__(self, peer: Peer, title: str, tls: ssl.SSLContext | None = None) -> None:
        self.peer, self.title, self.tls = peer, title, tls

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Opens an association; see :class:`reslink.serving.dicom.pipeline.Sender`."""
        network = _pynetdicom()
        entity = network.AE(self.title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 30
        for kind in RESULT_CLASSES:
            entity.add_requested_context(kind, [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
        tls = None if self.tls is None else (self.tls, self.peer.host)
        association = entity.associate(self.peer.host, self.peer.port, ae_title=self.peer.title, tls_args=tls)
        if not association.is_established:
            why = "the archive rejected the association" if association.is_rejected else "the archive cannot be reached"
            raise SendError(why)
        try:
            yield _StoreSession(association)
        finally:
            association.release()

    def echo(self) -> bool:
        """Whether the archive answers a C-ECHO."""
        network = _pynetdicom()
        entity = network.AE(self.title)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 10
        entity.add_requested_context(_VERIFICATION)
        tls = None if self.tls is None else (self.tls, self.peer.host)
        association = entity.associate(self.peer.host, self.peer.port, ae_title=self.peer.title, tls_args=tls)
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return bool(status) and status.Status == SUCCESS


class _StoreSession:
    def __init__(self, association: Association) -> None:
        self._association = association

    def send(self, path: Path) -> None:
        """See :class:`reslink.serving.dicom.pipeline.Session`."""
        dataset = dcmread(path)
        try:
            status = self._association.send_c_store(dataset)
        except ValueError:  # no context was accepted for this kind of object
            raise SendError("it takes no such objects", lasting=True) from None
        except RuntimeError:
            raise SendError("the association ended") from None
        if not status:
            raise SendError("the association ended")
        if status.Status != SUCCESS and status.Status >> 12 != 0xB:  # a warning means that it was stored
            raise SendError(f"status 0x{status.Status:04X}", lasting=lasts(status.Status))


def transfer_syntaxes() -> list[str]:
    """Returns the transfer syntaxes that are taken here, the uncompressed ones in front.

    Deflated is not among them: a data set of it may be a thousand times as large once it is inflated to see what it is.
    """
    from importlib.util import find_spec

    modules = {"pyjpegls": "jpeg_ls", "pylibjpeg": "openjpeg", "gdcm": "gdcm"}
    there = [syntax for syntax, (plugin, _) in PLUGINS.items() if find_spec(modules.get(plugin, "pydicom")) is not None]
    first = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
    rest = NATIVE.difference(first, [uid.DeflatedExplicitVRLittleEndian])
    return [str(syntax) for syntax in [*first, *sorted(rest), *there]]


def server_context(cert: Path, key: Path, ca: Path | None) -> ssl.SSLContext:
    """Returns TLS for listening (PS3.15 B.9); with ``ca``, only callers whose certificate it signed are let in.

    Raises:
        UsageError: If a file cannot be used.
    """
    return _filled(_LaterHandshake(ssl.PROTOCOL_TLS_SERVER), cert, key, ca)


def client_context(ca: Path | None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Returns TLS for sending; ``ca`` signs the archive's certificate, the system's authorities where it is not given.

    Raises:
        UsageError: If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return _filled(context, cert, key, ca)


class _LaterHandshake(ssl.SSLContext):
    """Leaves the handshake to the thread of the association: pynetdicom's would keep everybody waiting for a silent caller."""

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Returns the socket, its handshake still to come, with a limit on how long it may take."""
        sock.settimeout(HANDSHAKE)
        return super().wrap_socket(sock, *args, **options | {"do_handshake_on_connect": False})


def _filled(context: ssl.SSLContext, cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if cert is not None:
            context.load_cert_chain(cert, key)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise UsageError(
            f"The TLS files cannot be used ({error.strerror or type(error).__name__})",
            "--tls-cert and --tls-key are a certificate and its key in PEM, --tls-ca the authority of the others",
            "Check the paths, and that key and certificate belong together",
        ) from error
    return context


def serve(node: Node, stop: threading.Event, threads: Sequence[threading.Thread], pause: float = 0.2) -> None:
    """Closes finished series until ``stop`` is set, then waits for the threads to finish what they are at."""
    again = 0.0
    while not stop.wait(pause):
        try:
            node.close_finished()
            if time.monotonic() >= again:
                again = time.monotonic() + EXPIRE_EVERY
                node.queue.expire()
        except OSError as error:  # a full disk, say: senders are told, and the node lives on
            log.error("the queue: %s", error.strerror)
    for thread in threads:
        thread.join()


def _pynetdicom() -> Any:
    """Returns pynetdicom, kept from quoting data sets in its log, as are the libraries below, and from leaving sockets open.

    Version 3.0.4 closes a socket only where shutting it down succeeds, which fails once the peer has reset the connection; the
    descriptor is then held until the garbage is collected. The event of a closed connection comes too late, as most paths have
    dropped the socket by then. So the method is replaced, for the whole process; a test counts the sockets that stay open.
    """
    network = optional_import("pynetdicom", EXTRA)
    from pynetdicom import _config
    from pynetdicom.transport import AssociationSocket

    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    AssociationSocket._shutdown_socket = _shut  # type: ignore[assignment, method-assign]
    return network


def _shut(connection: Any) -> None:
    """Shuts a connection down where it still stands, and closes its socket in any case."""
    held = connection.socket
    if held is not None:
        with suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            held.close()
