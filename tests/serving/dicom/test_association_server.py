"""Good senders go on while others attack the node, and its memory stays bounded."""

from __future__ import annotations

import logging
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pacs
import psutil
import pytest
from pydicom import Dataset, Sequence
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from reslink.serving.dicom.limits import AssociationLimits
from reslink.serving.dicom.queue import Queue
from reslink.serving.dicom.storage_scp import Node, NodeSettings

MIB = 1 << 20
CT = "1.2.840.10008.5.1.4.1.1.2"
COMMAND, LAST_COMMAND, DATA, LAST_DATA = 1, 3, 0, 2
LIMITS = AssociationLimits(
    associations=4, connections=4, request_seconds=0.5, idle_seconds=20.0, object_bytes=2 * MIB, buffer_bytes=4 * MIB
)
ANNOUNCED = struct.pack(">BBI", 1, 0, 0xFFFFFFFE)


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[Node]:
    with (
        Queue(tmp_path_factory.mktemp("node") / "queue").opened() as queue,
        Node(NodeSettings(port=0, limits=LIMITS), queue).listening() as running,
    ):
        yield running


def connect(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), 30)


@contextmanager
def opened(node: Node) -> Iterator[Association]:
    """An association; its presentation context 1 is CT."""
    entity = AE("ATTACKER")
    entity.add_requested_context(CT, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", node.port, ae_title="RESLINK")
    assert association.is_established
    try:
        yield association
    finally:
        association.abort()


def raw(association: Association) -> socket.socket:
    """The socket of an association, for sending anything."""
    assert association.dul.socket is not None
    assert association.dul.socket.socket is not None
    return association.dul.socket.socket


@contextmanager
def associated(node: Node) -> Iterator[socket.socket]:
    with opened(node) as association:
        yield raw(association)


def fragment(control: int, content: bytes, context: int = 1) -> bytes:
    """A P-DATA PDU with one fragment."""
    item = struct.pack(">IBB", len(content) + 2, context, control) + content
    return struct.pack(">BBI", 4, 0, len(item)) + item


def command(**changes: Any) -> bytes:
    """A C-STORE command set; a change to None leaves an element out."""
    elements = {"AffectedSOPClassUID": CT, "CommandField": 1, "MessageID": 1, "Priority": 0, "CommandDataSetType": 0}
    elements |= {"AffectedSOPInstanceUID": "1.2.3", **changes}
    dataset = Dataset()
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    encoded = encode(dataset, True, True)
    assert encoded is not None
    return struct.pack("<HHII", 0, 0, 4, len(encoded)) + encoded


def send_until_closed(connection: socket.socket, part: bytes, limit: int) -> int:
    """Sends a part again and again; returns the number of bytes until the node closed the connection, or the limit."""
    sent = 0
    with suppress(OSError):
        while sent < limit:
            connection.sendall(part)
            sent += len(part)
    return sent


def is_closed(connection: socket.socket) -> bool:
    """Waits until the node closes the connection."""
    connection.settimeout(30)
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return True


@contextmanager
def announces_four_gigabytes(node: Node) -> Iterator[None]:
    with connect(node) as connection:
        connection.sendall(ANNOUNCED)
        assert send_until_closed(connection, bytes(MIB), 200 * MIB) < 32 * MIB
        yield


@contextmanager
def announces_four_gigabytes_in_an_association(node: Node) -> Iterator[None]:
    with associated(node) as connection:
        connection.sendall(b"\4" + ANNOUNCED[1:])
        assert send_until_closed(connection, bytes(MIB), 200 * MIB) < 32 * MIB
        yield


@contextmanager
def silent_connections(node: Node, first: bytes = b"") -> Iterator[None]:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(node)) for _ in range(17)]
        for connection in connections:
            with suppress(OSError):
                connection.sendall(first)
        yield
        assert all(map(is_closed, connections))


@contextmanager
def half_headers(node: Node) -> Iterator[None]:
    with silent_connections(node, b"\1\0\0"):
        yield


@contextmanager
def half_requests(node: Node) -> Iterator[None]:
    with silent_connections(node, struct.pack(">BBI", 1, 0, 500) + bytes(40)):
        yield


@contextmanager
def silent_associations(node: Node) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(LIMITS.associations):
            stack.enter_context(associated(node))
        threading.Event().wait(LIMITS.request_seconds + 0.1)
        yield


@contextmanager
def endless_object(node: Node) -> Iterator[None]:
    with associated(node) as connection:
        connection.sendall(fragment(LAST_COMMAND, command()))
        assert send_until_closed(connection, fragment(DATA, bytes(16000)), 200 * MIB) < 32 * MIB
        yield


@contextmanager
def endless_command(node: Node) -> Iterator[None]:
    with associated(node) as connection:
        assert send_until_closed(connection, fragment(COMMAND, bytes(16000)), 200 * MIB) < 32 * MIB
        yield


@contextmanager
def waiting_objects(node: Node) -> Iterator[None]:
    """Each association holds a large object that it does not finish."""
    with ExitStack() as stack:
        for _ in range(LIMITS.associations - 1):
            connection = stack.enter_context(associated(node))
            connection.sendall(fragment(LAST_COMMAND, command()) + fragment(DATA, bytes(MIB - 100)) * 2)
        yield


@contextmanager
def garbage(node: Node) -> Iterator[None]:
    random_bytes = random.Random(1).randbytes
    with ExitStack() as stack:
        for first in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 64, b"\1\0\0\0\0\4" + b"\xff" * 4, random_bytes(4096)):
            with suppress(OSError):
                stack.enter_context(connect(node)).sendall(first)
        for first in (random_bytes(4096), b"\4\0\0\0\0\0", b"\4\0\0\0\0\4\0\0\0\0", b"\4\0\0\0\0\5\0\0\0\1\1"):
            with associated(node) as connection, suppress(OSError):
                connection.sendall(first)
        yield


@contextmanager
def slow_drip(node: Node) -> Iterator[None]:
    with ExitStack() as stack:
        stop = threading.Event()
        stack.callback(stop.set)
        connections = [stack.enter_context(connect(node)) for _ in range(LIMITS.connections)]
        for connection in connections:
            connection.sendall(struct.pack(">BBI", 1, 0, 500))
        thread = threading.Thread(target=_drip, args=(connections, stop))
        thread.start()
        yield
        assert all(map(is_closed, connections))
        stop.set()
        thread.join()


def _drip(connections: list[socket.socket], stop: threading.Event) -> None:
    while not stop.wait(0.05):
        for connection in connections:
            with suppress(OSError):
                connection.sendall(b"\0")


ATTACKS = [
    announces_four_gigabytes,
    announces_four_gigabytes_in_an_association,
    silent_connections,
    half_headers,
    half_requests,
    silent_associations,
    endless_object,
    endless_command,
    waiting_objects,
    garbage,
    slow_drip,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_good_senders_go_on(node: Node, attack: Callable[[Node], Any]) -> None:
    memory = psutil.Process()
    before = memory.memory_info().rss
    with attack(node):
        assert pacs.store(node.port, pacs.series(1, slices=20, size=64)) == [0] * 20
        assert memory.memory_info().rss - before < 48 * MIB


def nested(depth: int) -> bytes:
    """A command set whose first element is a sequence in a sequence in a sequence …"""
    start = b"\x08\x00\x15\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return start * depth + command()


BAD_MESSAGES = {
    "unknown command": [fragment(LAST_COMMAND, command(CommandField=0x7777))],
    "no command field": [fragment(LAST_COMMAND, command(CommandField=None))],
    "command of another service": [fragment(LAST_COMMAND, command(CommandField=0x0020)), fragment(LAST_DATA, bytes(8))],
    "event report": [
        fragment(LAST_COMMAND, command(CommandField=0x0100, EventTypeID=1, CommandDataSetType=0x0101)),
    ],
    "response": [fragment(LAST_COMMAND, command(CommandField=0x8001, CommandDataSetType=0x0101, Status=0))],
    "no instance": [fragment(LAST_COMMAND, command(AffectedSOPInstanceUID=None)), fragment(LAST_DATA, bytes(8))],
    "nested sequences": [fragment(LAST_COMMAND, nested(900))],
    "sequence": [fragment(LAST_COMMAND, command(ReferencedSOPSequence=Sequence([Dataset()]), CommandField=0x7777))],
    "cut command": [fragment(LAST_COMMAND, command()[:31])],
    "empty command": [fragment(LAST_COMMAND, b"")],
    "command in an object": [fragment(LAST_COMMAND, command()), fragment(DATA, bytes(8)), fragment(LAST_COMMAND, command())],
    "command in a command": [fragment(LAST_COMMAND, command()), fragment(LAST_COMMAND, command())],
    "data without a command": [fragment(LAST_DATA, bytes(8))],
    "other presentation context": [fragment(LAST_COMMAND, command(), context=77)],
}


@pytest.mark.parametrize("messages", BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_a_bad_message_ends_one_association_with_an_abort_and_one_line(node, caplog, capfd, messages) -> None:
    caplog.set_level(logging.INFO, "reslink")
    [good] = pacs.series(1, slices=1, size=64)
    with opened(node) as other, opened(node) as association:
        raw(association).sendall(b"".join(messages))
        pacs.wait_for(lambda: association.is_aborted, 20, "the abort")
        assert other.send_c_store(good).Status == 0
    assert [record.levelname for record in caplog.records if "aborted" in record.getMessage()] == ["WARNING"]
    assert "Traceback" not in "".join(capfd.readouterr())


def test_more_associations_than_allowed_are_rejected(node: Node, caplog) -> None:
    with ExitStack() as stack:
        for _ in range(LIMITS.associations):
            stack.enter_context(associated(node))
        entity = AE("TEST")
        entity.add_requested_context(CT)
        assert entity.associate("127.0.0.1", node.port, ae_title="RESLINK").is_rejected
    assert f"an association was rejected: {LIMITS.associations} are open" in caplog.text


def test_a_wrong_title_takes_no_slot(node: Node) -> None:
    """It could otherwise close an idle association of somebody else."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(associated(node)) for _ in range(LIMITS.associations)]
        threading.Event().wait(LIMITS.request_seconds + 0.1)
        assert not pacs.echo(node.port, called="WRONG")
        for connection in sockets:
            connection.getpeername()
            assert len(node._server.peers(established=True)) == LIMITS.associations
