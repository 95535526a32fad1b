"""Limits on the memory, time and slots that a peer of the DICOM node can use; pynetdicom 3.0.4 has none of them.

Without them, pynetdicom buffers a PDU of any announced length, counts silent connections as associations, and lets an unknown
command end a thread with a traceback.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from queue import Queue
from typing import Any, Final, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from reslink.serving.dicom.limits import AssociationLimits

log = logging.getLogger(__name__)

HEADER_BYTES: Final = 1 << 18
"""How much of an object beyond the size limit is kept, so that its UIDs can be read."""

_RATE_GRACE_SECONDS: Final = 60.0
_LOCAL_LIMIT_EXCEEDED: Final = (0x02, 0x03, 0x02)
"""Result, source and reason of A-ASSOCIATE-RJ (PS3.8 9.3.4): transient, presentation related, local limit exceeded."""


class _ProtocolError(Exception):
    """A peer violates the protocol or a limit; the message is for the log."""


class _SharedContexts(list[PresentationContext]):
    """The supported contexts. pynetdicom copies them for each connection, in 0.1 s, and never changes them."""

    def __deepcopy__(self, memo: object) -> _SharedContexts:
        return self


class LimitedServer(ThreadedAssociationServer):
    """A server of pynetdicom with limits.

    Args:
        limits: The limits.
        args: As for the base class.
        options: As for the base class.
    """

    def __init__(self, limits: AssociationLimits, *args: Any, **options: Any) -> None:
        self.limits = limits
        super().__init__(*args, **options | {"request_handler": _LimitedHandler})
        self.contexts = _SharedContexts(self.contexts)
        self.bind(evt.EVT_REQUESTED, self._admit)

    def shutdown(self) -> None:
        """Stops listening, and closes all connections."""
        socketserver.BaseServer.shutdown(self)  # that of pynetdicom expects a server that its own AE has started
        self.server_close()
        for peer in [*self.peers(established=True), *self.peers(established=False)]:
            _hang_up(peer)

    def peers(self, established: bool) -> list[Association]:
        """Returns the associations, or the connections without one, the least recently active first."""
        chosen = [
            peer for peer in self.active_associations if peer.is_established is established and not _messages(peer).closing
        ]
        return sorted(chosen, key=lambda peer: _messages(peer).last)

    def buffered_bytes(self) -> int:
        """Returns the size of the objects that are being received."""
        return sum(_messages(peer).size for peer in self.peers(established=True))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection. The TLS handshake follows with the first read, in its own thread, as it would block others."""
        connection, address = cast(socket.socket, self.socket).accept()
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, *_: object) -> bool:
        """Closes the oldest connections without an association to make room for a new one."""
        waiting = self.peers(established=False)
        for peer in waiting[: max(0, len(waiting) + 1 - self.limits.connections)]:
            _hang_up(peer)
        return True

    def handle_error(self, *_: object) -> None:
        """Logs that a connection could not be set up."""
        error = sys.exc_info()[1]
        log.warning("a connection could not be set up (%s)", type(error).__name__)

    def _admit(self, event: Any) -> None:
        """Rejects a requested association while all slots are in use, unless one of them is idle."""
        association, established = event.assoc, self.peers(established=True)
        primitive, titles = association.requestor.primitive, self.ae.require_calling_aet
        wrong_title = primitive.called_ae_title != self.ae_title.strip() or (
            titles and primitive.calling_ae_title not in titles
        )
        if len(established) < self.limits.associations or wrong_title:  # pynetdicom rejects a wrong title
            return
        if time.monotonic() - _messages(established[0]).last > self.limits.request_seconds:
            _hang_up(established[0])
            return
        log.warning("an association was rejected: %d are open", len(established))
        association.acse.send_reject(*_LOCAL_LIMIT_EXCEEDED)
        association.is_rejected = True
        association.kill()


class _LimitedHandler(RequestHandler):
    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dimse = _LimitedMessages(association)
        association.dul.event_queue = Queue()  # it holds the event of the socket that is replaced
        association.dul.socket = _LimitedSocket(association, client_socket=self.request)
        for thread in (association, association.dul):
            thread.run = partial(_run_guarded, association, thread.run)  # type: ignore[method-assign]
        return association


class _LimitedSocket(AssociationSocket):
    """Reads no PDU beyond the limit, waits for none longer than the limit, and reads none while messages are queued."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Returns the next bytes, fewer if the peer has closed the connection.

        Raises:
            OSError: If they do not arrive in time.
        """
        limits, messages = _limits(self.assoc), _messages(self.assoc)
        if nr_bytes > limits.pdu_bytes:
            _abort(self.assoc, f"a PDU of {nr_bytes} bytes was announced, and at most {limits.pdu_bytes} are allowed")
            raise OSError
        since = time.monotonic() if self.assoc.is_established else messages.opened
        deadline = since + (limits.idle_seconds if self.assoc.is_established else limits.request_seconds)
        received = bytearray()
        while self.socket is not None and len(received) < nr_bytes:
            self.socket.settimeout(max(1e-3, deadline - time.monotonic()))
            part = self.socket.recv(min(1 << 16, nr_bytes - len(received)))
            if not part:
                break
            received += part
        return received

    @property
    def ready(self) -> bool:
        """Whether there is data to read, and no message waits to be processed."""
        return self.assoc.dimse.msg_queue.qsize() < 2 and super().ready


class _LimitedMessages(DIMSEServiceProvider):
    """Assembles the messages of an association: C-STORE and C-ECHO requests within the limits.

    Attributes:
        opened: When the connection was opened.
        last: When it last delivered data.
        size: Bytes of the current object.
        closing: Whether the connection is being closed.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.opened = self.last = self._began = time.monotonic()
        self.closing = False
        self.size = self._discarded = 0
        self._header = b""

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Adds the fragments of a PDU to the current message; queues it when it is complete, and aborts if it is not valid."""
        try:
            self._receive(primitive)
        except _ProtocolError as error:
            self._refuse(str(error))
        except Exception as error:  # noqa: BLE001  (pynetdicom raises anything for a broken command)
            self._refuse(f"a command could not be read ({type(error).__name__})")

    def _refuse(self, reason: str) -> None:
        self.message, self.size = None, 0
        _abort(self.assoc, reason)
        self.dul.event_queue.put("Evt17")  # the state machine closes the connection

    def _receive(self, primitive: P_DATA) -> None:
        self.last = time.monotonic()
        if self.message is None:
            self.message, self._began, self._discarded, self._header = DIMSEMessage(), self.last, 0, b""
        message = self.message
        for context, fragment in primitive.presentation_data_value_list:
            self._check_fragment(message, context, fragment)
            part = P_DATA()
            part.presentation_data_value_list = [[context, fragment]]  # type: ignore[list-item]  # its setter requires lists
            is_complete = message.decode_msg(part, self.assoc)
            self._limit_size(message)
            if is_complete:
                self._queue(message)
                return

    def _check_fragment(self, message: DIMSEMessage, context: int, fragment: bytes) -> None:
        has_command = type(message) is not DIMSEMessage
        if not fragment or bool(fragment[0] & 1) is has_command:
            raise _ProtocolError("a command within an object" if fragment and has_command else "data without a command")
        if not has_command and message.encoded_command_set.tell() + len(fragment) > _limits(self.assoc).command_bytes:
            raise _ProtocolError(f"a command of more than {_limits(self.assoc).command_bytes} bytes")
        if context not in self.assoc._accepted_cx:
            raise _ProtocolError("a message in a presentation context that was not accepted")

    def _limit_size(self, message: DIMSEMessage) -> None:
        """Discards the received part of an object beyond the limits, as pynetdicom buffers whole messages in memory."""
        limits, data = _limits(self.assoc), message.data_set or BytesIO()
        self.size = data.tell()
        total, seconds = self._discarded + self.size, self.last - self._began - _RATE_GRACE_SECONDS
        if total > 2 * limits.object_bytes:
            raise _ProtocolError(f"an object of more than {2 * limits.object_bytes >> 20} MiB")
        if total < seconds * limits.bytes_per_second:
            raise _ProtocolError(f"an object arrived at less than {limits.bytes_per_second} bytes per second")
        if not (self._discarded or self.size > limits.object_bytes or self._exceeds_share()):
            return
        self._header = self._header or data.getvalue()[:HEADER_BYTES]
        self._discarded += self.size
        message.data_set, self.size = BytesIO(), 0

    def _exceeds_share(self) -> bool:
        limits, server = _limits(self.assoc), cast(LimitedServer, self.assoc._server)
        return self.size > limits.buffer_bytes // limits.associations and server.buffered_bytes() > limits.buffer_bytes

    def _queue(self, message: DIMSEMessage) -> None:
        request: Any = message.message_to_primitive()
        if type(request) not in (C_STORE, C_ECHO) or not request.is_valid_request:
            raise _ProtocolError(f"a {type(request).__name__} message that is not a valid C-STORE or C-ECHO request")
        if self._discarded:
            request.DataSet = BytesIO(self._header)
        request.is_too_large = bool(self._discarded)
        self.message, self.size = None, 0
        self.msg_queue.put((cast(int, message.context_id), request))


def _messages(association: Association) -> _LimitedMessages:
    return cast(_LimitedMessages, association.dimse)


def _limits(association: Association) -> AssociationLimits:
    return cast(LimitedServer, association._server).limits


def _abort(association: Association, reason: str) -> None:
    """Logs why an association ends, and sends A-ABORT; the caller closes the connection."""
    _messages(association).closing = True
    log.warning("an association was aborted: %s", reason)
    pdu = A_ABORT_RQ()
    pdu.source, pdu.reason_diagnostic = 0x02, 0x00  # service provider, reason not specified
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with suppress(OSError):
            connection.socket.settimeout(1.0)
            connection.socket.sendall(pdu.encode())


def _hang_up(association: Association) -> None:
    """Closes the connection of an association from another thread; its own threads notice it."""
    _messages(association).closing = True
    connection = association.dul.socket
    open_socket = None if connection is None else connection.socket
    if open_socket is not None:
        with suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)


def _run_guarded(association: Association, run: Callable[[], None]) -> None:
    """Runs a thread of an association: an exception ends the association with one line in the log, and its socket is closed."""
    try:
        run()
    except Exception as error:  # noqa: BLE001  (the peer may have sent anything)
        _abort(association, f"an unexpected message ({type(error).__name__})")
    finally:
        if threading.current_thread() is association.dul:
            _end(association)


def _end(association: Association) -> None:
    """Closes the socket after the last event, tells the node, and wakes an association that waits for its request."""
    connection = association.dul.socket
    if connection is not None:
        with suppress(Exception):
            connection._shutdown_socket()
    if association.dul.state_machine.current_state != "Sta1":
        evt.trigger(association, evt.EVT_CONN_CLOSE, {"address": association.requestor.address_info})
    waiting: Any = association.dul.to_user_queue
    if not association.is_established:
        waiting.put(None)
