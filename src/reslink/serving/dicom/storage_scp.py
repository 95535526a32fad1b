"""DICOM node: receives head CT and MR series by C-STORE (storage SCP), and sends results by C-STORE."""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydicom import dcmread, uid

from reslink.errors import UsageError
from reslink.files import optional_import
from reslink.imaging.dicom.frames import NATIVE, PLUGINS
from reslink.imaging.dicom.modality import exclusion_reason
from reslink.serving.dicom.identifiers import EXTRA
from reslink.serving.dicom.limits import AssociationLimits
from reslink.serving.dicom.peer import Peer
from reslink.serving.dicom.pipeline import SUCCESS, SendError, Session, is_permanent_failure, is_stored
from reslink.serving.dicom.queue import EXCLUDED, REFUSED, Queue
from reslink.serving.dicom.series import missing_by_headers, series_key

if TYPE_CHECKING:
    from pynetdicom.association import Association

log = logging.getLogger(__name__)

CANNOT_UNDERSTAND: Final = 0xC000
OUT_OF_RESOURCES: Final = 0xA700
"""Status codes of C-STORE (PS3.4 B.2.3)."""

RESULT_CLASSES: Final = (uid.Comprehensive3DSRStorage, uid.SecondaryCaptureImageStorage, uid.ParametricMapStorage)
"""SOP classes of the results."""

EXPIRE_SECONDS: Final = 30.0
"""Seconds between two searches for expired slices and records."""

_IDENTIFIER_TAGS: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "Manufacturer")
_VERIFICATION: Final = "1.2.840.10008.1.1"


@dataclass(frozen=True)
class NodeSettings:
    """Settings of the DICOM node.

    Attributes:
        title: Own AE title; associations with another called AE title are rejected.
        host: Address to listen on.
        port: TCP port; 0 for any free port.
        allow: Accepted calling AE titles; empty for all.
        settle: Seconds from the release of the association of the last slice until a series counts as complete.
        quiet: Seconds without a new slice until a series is closed while its association is open or was aborted, or slices are
            missing.
        tls: TLS context for listening, such as that of ``server_context``; None without TLS.
        limits: Limits on the peers.
    """

    title: str = "RESLINK"
    host: str = "127.0.0.1"
    port: int = 11112
    allow: tuple[str, ...] = ()
    settle: float = 5.0
    quiet: float = 60.0
    tls: ssl.SSLContext | None = None
    limits: AssociationLimits = field(default_factory=AssociationLimits)


class Node:
    """Stores received instances in a queue and closes complete series.

    Args:
        settings: Settings of the node.
        queue: An opened queue.
    """

    def __init__(self, settings: NodeSettings, queue: Queue) -> None:
        self.settings, self.queue = settings, queue
        self._lock = threading.Lock()
        self._last = dict.fromkeys(queue.keys("receiving"), time.monotonic())
        self._open: dict[int, list[str]] = {}  # the series of each association, the current one last
        self._lacking: dict[str, tuple[float, bool]] = {}
        self._server: Any = None

    @property
    def port(self) -> int:
        """TCP port of the node."""
        return int(self._server.server_address[1])

    @contextmanager
    def listening(self) -> Iterator[Node]:
        """Listens while the block runs.

        Raises:
            UsageError: If pynetdicom is not installed, or the address cannot be bound.
        """
        network = _import_pynetdicom()
        from reslink.serving.dicom.association_server import LimitedServer

        entity = network.AE(self.settings.title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.settings.allow)
        limits = self.settings.limits
        entity.maximum_associations = limits.associations + limits.connections  # the server counts associations only
        entity.acse_timeout, entity.network_timeout = limits.request_seconds, limits.idle_seconds
        for context in network.AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, transfer_syntaxes())
        entity.add_supported_context(_VERIFICATION)
        events = network.evt
        handlers = [
            (events.EVT_C_STORE, self._store),
            (events.EVT_RELEASED, self._released),
            (events.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            address = (self.settings.host, self.settings.port)
            contexts, title = entity.supported_contexts, self.settings.title
            self._server = LimitedServer(limits, entity, address, title, contexts, self.settings.tls, handlers)
        except OSError as error:
            raise UsageError(
                f"The node cannot listen on {self.settings.host}:{self.settings.port}: {error.strerror or error}",
                "The address must belong to this machine, and the port must be free",
                "Stop the other process, or choose another --port",
            ) from error
        threading.Thread(target=self._server.serve_forever, name="dicom", daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()

    def close_finished(self) -> int:
        """Closes the complete series, and those whose missing slices did not arrive in time; returns how many."""
        now, count = time.monotonic(), 0
        for key in self.queue.keys("receiving"):
            with self._lock:
                last = self._last.setdefault(key, now)
                associations = [keys for keys in self._open.values() if key in keys]
                is_open, was_left = bool(associations), any(keys[-1] != key for keys in associations)
            released = self.queue.released(key)
            is_due = now - last >= self.settings.settle and released and not is_open and not self._lacks_slices(key, last)
            is_due = is_due or now - last >= self.settings.quiet
            if is_due and self.queue.close(key, interrupted=not (released or was_left)):
                count += 1
                with self._lock:
                    self._last.pop(key, None)
                    self._lacking.pop(key, None)
        return count

    def _lacks_slices(self, key: str, last: float) -> bool:
        """Returns whether slices of a series are missing; its headers are read once after each of its slices."""
        before = self._lacking.get(key)
        if before is None or before[0] != last:
            excluded = self.queue.count_marks("receiving", key, EXCLUDED)
            is_lacking = self.queue.count_marks("receiving", key, REFUSED) > 0
            is_lacking = is_lacking or bool(missing_by_headers(self.queue.folder / "receiving" / key, excluded))
            before = self._lacking[key] = last, is_lacking
        return before[1]

    def _store(self, event: Any) -> int:
        """Handles a C-STORE: returns success when the instance is stored durably, or is not needed."""
        try:
            content = event.encoded_dataset(include_meta=True)
            header = read_identifiers(content)
            series, instance = str(header["SeriesInstanceUID"][0]), str(header["SOPInstanceUID"][0])
            reason = exclusion_reason(header["SOPClassUID"][0], header["ImageType"], header["Manufacturer"][0])
        except Exception as error:  # noqa: BLE001  (pydicom raises anything for a broken data set)
            log.warning("an instance could not be parsed (%s)", type(error).__name__)
            return OUT_OF_RESOURCES if event.request.is_too_large else CANNOT_UNDERSTAND
        key = series_key(series)
        if reason is not None:
            log.info("series %s: an instance was discarded: %s", key, reason)
            self.queue.mark(key, instance, EXCLUDED)
            return SUCCESS
        if event.request.is_too_large:
            log.warning("series %s: an instance of more than %d MiB was refused", key, self.settings.limits.object_bytes >> 20)
            self._refuse(key, instance)
            return OUT_OF_RESOURCES
        return self._keep(event.assoc, key, instance, content)

    def _refuse(self, key: str, instance: str) -> None:
        with self._lock:
            self._last[key] = time.monotonic()
        self.queue.mark(key, instance, REFUSED)

    def _keep(self, association: Association, key: str, instance: str, content: bytes) -> int:
        with self._lock:
            keys = self._open.setdefault(id(association), [])
            if key in keys:
                keys.remove(key)
            keys.append(key)
            self._last[key] = time.monotonic()
        try:
            self.queue.add(key, instance, content)
        except OSError as error:
            log.error("series %s: an instance could not be written (%s)", key, error.strerror)
            self._refuse(key, instance)
            return OUT_OF_RESOURCES
        with self._lock:
            self._last[key] = time.monotonic()
        return SUCCESS

    def _released(self, event: Any) -> None:
        for key in self._forget(event):
            self.queue.release(key)

    def _closed(self, event: Any) -> None:
        self._forget(event)

    def _forget(self, event: Any) -> list[str]:
        """Removes an association; returns the series that it sent instances of."""
        with self._lock:
            keys = self._open.pop(id(event.assoc), [])
            self._last.update(dict.fromkeys(keys, time.monotonic()))
        return keys


def read_identifiers(content: bytes) -> dict[str, list[str]]:
    """Returns the values of the attributes that decide whether a file is kept.

    They are not validated, as pydicom's warnings would quote them, and warning filters apply to all threads.

    Args:
        content: The whole file.

    Raises:
        ValueError: If the SOP class, instance or series UID is missing.
    """
    header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(_IDENTIFIER_TAGS))
    values = {}
    for name in _IDENTIFIER_TAGS:
        raw = header.get_item(name)
        value = b"" if raw is None or not isinstance(raw.value, bytes) else raw.value
        values[name] = [part.strip(" \0") for part in value.decode("ascii", "replace").split("\\")]
        if name.endswith("UID") and not values[name][0]:
            raise ValueError(name)
    return values


class StoreSender:
    """Sends results by C-STORE.

    Args:
        peer: The archive.
        title: AE title of the node.
        tls: TLS context from ``client_context``; None without TLS.
    """

    def __init__(self, peer: Peer, title: str, tls: ssl.SSLContext | None = None) -> None:
        self.peer, self.title, self.tls = peer, title, tls

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Opens an association; see :class:`reslink.serving.dicom.pipeline.Sender`."""
        network = _import_pynetdicom()
        entity = network.AE(self.title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 30
        for kind in RESULT_CLASSES:
            entity.add_requested_context(kind, [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
        tls = None if self.tls is None else (self.tls, self.peer.host)
        association = entity.associate(self.peer.host, self.peer.port, ae_title=self.peer.title, tls_args=tls)
        if not association.is_established:
            rejected = association.is_rejected
            raise SendError("the archive rejected the association" if rejected else "the archive cannot be reached")
        try:
            yield _StoreSession(association)
        finally:
            association.release()


class _StoreSession:
    def __init__(self, association: Association) -> None:
        self._association = association

    def send(self, path: Path) -> None:
        """See :class:`reslink.serving.dicom.pipeline.Session`."""
        dataset = dcmread(path)
        try:
            status = self._association.send_c_store(dataset)
        except ValueError:  # the archive accepted no presentation context for this SOP class
            raise SendError("it does not accept this SOP class", permanent=True) from None
        except RuntimeError:
            raise SendError("the association ended") from None
        if not status:
            raise SendError("the association ended")
        if not is_stored(status.Status):
            raise SendError(f"status 0x{status.Status:04X}", permanent=is_permanent_failure(status.Status))


def transfer_syntaxes() -> list[str]:
    """Returns the accepted transfer syntaxes, the uncompressed ones first.

    Deflated is not accepted, as its data sets may be a thousand times larger after decompression.
    """
    from importlib.util import find_spec

    modules = {"pyjpegls": "jpeg_ls", "pylibjpeg": "openjpeg", "gdcm": "gdcm"}
    compressed = [syntax for syntax, (plugin, _) in PLUGINS.items() if find_spec(modules.get(plugin, "pydicom")) is not None]
    first = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
    native = NATIVE.difference(first, [uid.DeflatedExplicitVRLittleEndian])
    return [str(syntax) for syntax in [*first, *sorted(native), *compressed]]


def server_context(cert: Path, key: Path, ca: Path | None) -> ssl.SSLContext:
    """Returns the TLS context for listening (PS3.15 B.9). With ``ca``, clients need a certificate signed by it.

    Raises:
        UsageError: If a file cannot be used.
    """
    return _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key, ca)


def client_context(ca: Path | None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Returns the TLS context for sending. ``ca`` verifies the archive's certificate; default: the system's authorities.

    Raises:
        UsageError: If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return _load_certificates(context, cert, key, ca)


def _load_certificates(context: ssl.SSLContext, cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext:
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
            "--tls-cert and --tls-key are a certificate and its key in PEM format, and --tls-ca is an authority",
            "Check the paths, and that the key belongs to the certificate",
        ) from error
    return context


def run_node(node: Node, stop: threading.Event, threads: Sequence[threading.Thread], pause: float = 0.2) -> None:
    """Closes complete series until ``stop`` is set, then waits for the threads to finish their current series."""
    next_expiry = 0.0
    while not stop.wait(pause):
        try:
            node.close_finished()
            if time.monotonic() >= next_expiry:
                next_expiry = time.monotonic() + EXPIRE_SECONDS
                node.queue.expire()
        except OSError as error:  # for example a full disk: senders get a status, and the node continues
            log.error("the queue: %s", error.strerror)
    for thread in threads:
        thread.join()


def _import_pynetdicom() -> Any:
    """Returns pynetdicom, with logs that quote no data sets, and without its socket leak.

    Version 3.0.4 closes a socket only if shutting it down succeeds, which fails after the peer has reset the connection. The
    descriptor then stays open until garbage collection. The event of a closed connection comes too late, as most code paths
    have dropped the socket by then. The method is therefore replaced for the whole process; a test counts open sockets.
    """
    network = optional_import("pynetdicom", EXTRA)
    from pynetdicom import _config
    from pynetdicom.transport import AssociationSocket

    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    AssociationSocket._shutdown_socket = _close_socket  # type: ignore[assignment, method-assign]
    return network


def _close_socket(connection: Any) -> None:
    """Shuts a connection down if it is open, and always closes its socket."""
    open_socket = connection.socket
    if open_socket is not None:
        with suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            open_socket.close()
