"""The node: who may call, when a series is finished, TLS, and what the log says."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import struct
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pacs
import pytest
from pynetdicom import AE, evt

from reslink.errors import UsageError
from reslink.imaging.limits import silence_warnings
from reslink.serving.dicom.limits import AssociationLimits
from reslink.serving.dicom.peer import Peer
from reslink.serving.dicom.pipeline import SendError
from reslink.serving.dicom.queue import REFUSED, Queue
from reslink.serving.dicom.series import read_head_series, series_key
from reslink.serving.dicom.storage_scp import (
    RESULT_CLASSES,
    Node,
    NodeSettings,
    StoreSender,
    client_context,
    run_node,
    server_context,
    transfer_syntaxes,
)


@pytest.fixture
def queue(tmp_path):
    with Queue(tmp_path / "queue").opened() as opened:
        yield opened


@pytest.fixture
def node_of(queue):
    """Returns a function that makes a node of some settings, on a free port."""
    return lambda **settings: Node(NodeSettings(port=0, **settings), queue).listening()


def test_calling_and_called_ae_titles_are_checked(node_of):
    with node_of(allow=("PACS",)) as node:
        assert pacs.echo(node.port, calling="PACS")
        assert not pacs.echo(node.port, calling="OTHER")
        assert not pacs.echo(node.port, calling="PACS", called="WRONG")
        assert pacs.store(node.port, pacs.series(1)[:1], calling="OTHER") == []


def test_a_used_port_is_reported(node_of, queue):
    with (
        node_of() as node,
        pytest.raises(UsageError, match="cannot listen on"),
        Node(NodeSettings(port=node.port), queue).listening(),
    ):
        pass


def test_success_means_that_the_slice_is_stored(node_of, queue):
    with node_of() as node:
        assert pacs.store(node.port, pacs.series(1)) == [0] * 10
        [series] = (queue.folder / "receiving").iterdir()
        assert len(list(series.glob("*.dcm"))) == 10


def test_a_full_disk_is_a_failure_status(node_of, queue, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(queue, "add", full)
    with node_of() as node:
        assert pacs.store(node.port, pacs.series(1)[:1]) == [0xA700]


def test_a_too_large_object_is_not_buffered_in_memory(node_of, queue, monkeypatch, caplog):
    slices = pacs.series(1)
    slices[4].PixelData = bytes(400 << 10)
    sizes, store = [], Node._store

    def measured(node, event):
        sizes.append(len(event.request.DataSet.getvalue()))
        return store(node, event)

    monkeypatch.setattr(Node, "_store", measured)
    with node_of(limits=AssociationLimits(object_bytes=1 << 18)) as node:
        assert pacs.store(node.port, slices) == [0] * 4 + [0xA700] + [0] * 5
        [series] = (queue.folder / "receiving").iterdir()
        assert len(list(series.glob("*.dcm"))) == 9
    assert len(sizes) == 10
    assert max(sizes) <= 1 << 18
    assert queue.count_marks("receiving", series.name, REFUSED) == 1
    assert "an instance of more than 0 MiB was refused" in caplog.text


def test_deflated_data_sets_are_not_accepted(node_of):
    """A few megabytes may decompress to gigabytes."""
    deflated = "1.2.840.10008.1.2.1.99"
    assert deflated not in transfer_syntaxes()
    with node_of() as node:
        entity = AE("TEST")
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", deflated)
        association = entity.associate("127.0.0.1", node.port, ae_title="RESLINK")
        assert not association.accepted_contexts
        association.release()


def test_a_full_disk_does_not_stop_the_node(node_of, queue, monkeypatch, caplog):
    stop, calls = threading.Event(), []

    def full(*_):
        calls.append(1)
        if len(calls) == 2:
            stop.set()
        raise OSError(28, "No space left on device")

    with node_of() as node:
        monkeypatch.setattr(node, "close_finished", full)
        run_node(node, stop, [], pause=0.01)
    assert "the queue: No space left on device" in caplog.text


def test_expired_records_are_searched_rarely(node_of, queue, monkeypatch):
    stop, closed, expired = threading.Event(), [], []
    with node_of() as node:
        monkeypatch.setattr(queue, "expire", lambda: expired.append(1))
        monkeypatch.setattr(node, "close_finished", lambda: (closed.append(1), len(closed) == 20 and stop.set()))
        run_node(node, stop, [], pause=0.001)
    assert (len(closed), len(expired)) == (20, 1)


def test_a_data_set_without_a_series_uid_is_refused(node_of):
    broken = pacs.series(1)[0]
    del broken.SeriesInstanceUID
    with node_of() as node:
        assert pacs.store(node.port, [broken]) == [0xC000]


def test_a_released_series_is_complete_after_settling(node_of, queue):
    with node_of(settle=0.3, quiet=1000) as node:
        pacs.store(node.port, pacs.series(1))
        assert node.close_finished() == 0
        pacs.wait_for(node.close_finished, what="the series")
        assert len(queue.keys("working")) == 1


def fill_disk_after(queue: Queue, monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Lets the queue store a number of instances and refuse the others; returns the refusals, to be emptied for space."""
    add, calls = queue.add, [0]

    def limited(*words):
        calls[0] += 1
        if calls[0] > count:
            raise OSError(28, "No space left on device")
        add(*words)

    monkeypatch.setattr(queue, "add", limited)
    return calls


def test_a_series_with_refused_slices_waits_for_them(node_of, queue, monkeypatch):
    """18 of 20 slices are refused by a full disk; the other two are no series."""
    slices = pacs.series(1, slices=20, size=64)
    with node_of(settle=0.0, quiet=1000) as node:
        with monkeypatch.context() as patch:
            fill_disk_after(queue, patch, 2)
            assert pacs.store(node.port, slices) == [0, 0] + [0xA700] * 18
        pacs.wait_for(lambda: queue.released(queue.keys("receiving")[0]), 20, "the release")
        assert node.close_finished() == 0
        assert pacs.store(node.port, slices[2:]) == [0] * 18
        pacs.wait_for(node.close_finished, 20, "the series")
        [key] = queue.keys("working")
        assert queue.missing_slices(key) == []


@pytest.mark.parametrize("cause", ["refused", "gap", "stated number", "aborted"])
def test_missing_slices_are_waited_for_until_the_quiet_time(node_of, queue, monkeypatch, cause):
    slices = pacs.series(1, slices=10, size=64, **({"NumberOfSeriesRelatedInstances": 10} if cause == "stated number" else {}))
    sent = slices[:4] + slices[5:] if cause == "gap" else slices[:7]
    with node_of(settle=0.0, quiet=0.2) as node:
        if cause == "refused":
            fill_disk_after(queue, monkeypatch, 7)
            sent = slices
        pacs.store(node.port, sent, abort=cause == "aborted")
        pacs.wait_for(lambda: not node._open, 20, "the end of the association")
        assert node.close_finished() == 0
        pacs.wait_for(node.close_finished, 20, "the series")
    [key] = queue.keys("working")
    series = read_head_series(queue.folder / "working" / key, missing=queue.missing_slices(key))
    words = {"refused": "refused", "gap": "1 gap", "stated number": "state 10 instances, 7 arrived", "aborted": "release"}
    [reason] = series.incomplete
    assert words[cause] in reason


def test_localizers_that_are_not_stored_count_as_arrived(node_of, queue):
    slices = pacs.series(1, slices=10, size=64, NumberOfSeriesRelatedInstances=11)
    other = pacs.series(1, slices=11, size=64, Manufacturer="reslink")[10]
    with node_of(settle=0.0, quiet=1000) as node:
        assert pacs.store(node.port, [other, *slices]) == [0] * 11
        pacs.wait_for(node.close_finished, 20, "the series")


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_silent_association_may_lack_slices_unless_it_went_on_to_another_series(node_of, queue, goes_on):
    """A sender may send several series in one association."""
    with node_of(settle=0.0, quiet=0.0) as node:
        entity = AE("TEST")
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", node.port, ae_title="RESLINK")
        numbers = (1, 2) if goes_on else (1,)
        for number in numbers:
            association.send_c_store(pacs.series(number)[0])
        assert node.close_finished() == len(numbers)
        reasons = [queue.missing_slices(series_key(pacs.series(number)[0].SeriesInstanceUID)) for number in numbers]
        assert reasons == [[]] * goes_on + [["its association was not released, so that slices may be missing"]]
        association.release()


def test_a_series_of_an_aborted_association_waits_for_the_rest(node_of, queue):
    with node_of(settle=0.0, quiet=1000) as node:
        entity = AE("TEST")
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", node.port, ae_title="RESLINK")
        association.send_c_store(pacs.series(1)[0])
        assert node.close_finished() == 0, "its association is open"
        association.abort()
        time.sleep(0.5)
        assert node.close_finished() == 0, "the rest may still arrive"
        pacs.store(node.port, pacs.series(1)[1:])
        pacs.wait_for(node.close_finished, what="the series")
        [series] = (queue.folder / "working").iterdir()
        assert len(list(series.glob("*.dcm"))) == 10


def test_the_release_of_a_series_survives_a_restart(node_of, queue):
    with node_of() as node:
        pacs.store(node.port, pacs.series(1))
        pacs.wait_for(lambda: all(queue.released(key) for key in queue.keys("receiving")), what="the release")
    with node_of(settle=0.0, quiet=1000) as node:
        assert node.close_finished() == 1


def test_the_log_contains_no_patient_data(node_of, caplog):
    caplog.set_level(logging.DEBUG)
    with node_of() as node:
        pacs.store(node.port, pacs.series(1))
        pacs.store(node.port, pacs.series(2, Manufacturer="reslink")[:1])
        broken = pacs.series(3)[0]
        del broken.SeriesInstanceUID
        pacs.store(node.port, [broken])
    assert "discarded: a result of this package" in caplog.text
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("reslink"))
    for word in ("SECRET", "2.25."):
        assert word not in ours


def test_creating_results_does_not_block_senders(node_of):
    """Creating results holds the lock of the process-wide warning filter."""
    with node_of() as node, silence_warnings():
        assert pacs.store(node.port, pacs.series(1)) == [0] * 10


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """Two self-signed certificates for 127.0.0.1: a trusted one and an unknown one."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ours", "other"):
        subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:TRUE"
        key = f"-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key"
        words = f"openssl req -x509 {key} -days 2 {subject} -out {name}.pem"
        subprocess.run(words.split(), cwd=folder, check=True, capture_output=True)
    return folder


def test_tls_accepts_signed_client_certificates_only(node_of, certificates):
    ours, key = certificates / "ours.pem", certificates / "ours.key"
    with node_of(tls=server_context(ours, key, ours)) as node:
        trusted = client_context(ours, ours, key)
        assert pacs.echo(node.port, tls_args=(trusted, "127.0.0.1"))
        assert not pacs.echo(node.port), "without TLS"
        stranger = client_context(ours, certificates / "other.pem", certificates / "other.key")
        assert not pacs.echo(node.port, tls_args=(stranger, "127.0.0.1"))
        assert not pacs.echo(node.port, tls_args=(client_context(certificates / "other.pem", ours, key), "127.0.0.1"))


def test_a_given_authority_is_the_only_one(certificates):
    [authority] = client_context(certificates / "ours.pem").get_ca_certs()
    assert authority["subject"] == ((("commonName", "127.0.0.1"),),)


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\0"], ids=["silent", "half a handshake"])
def test_unfinished_tls_handshakes_block_nobody(node_of, certificates, first):
    """The context is a plain one, as a caller of NodeSettings may give; pynetdicom shakes hands in the thread that accepts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "ours.pem", certificates / "ours.key")
    limits = AssociationLimits(request_seconds=0.5)
    with node_of(tls=context, limits=limits) as node, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", node.port))) for _ in range(6)]
        for connection in silent:
            connection.sendall(first)
        begin = time.monotonic()
        assert pacs.echo(node.port, tls_args=(client_context(certificates / "ours.pem"), "127.0.0.1"))
        for connection in silent:
            connection.settimeout(20)
            with suppress(ConnectionError):
                while connection.recv(1 << 10):  # an alert may precede the end
                    pass
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize("tls", [False, True])
def test_the_socket_is_closed_after_a_connection_reset(node_of, certificates, tls):
    ours, key = certificates / "ours.pem", certificates / "ours.key"
    gc.collect()
    gc.disable()
    try:
        with node_of(tls=server_context(ours, key, None) if tls else None) as node:
            for _ in range(3):
                caller = socket.create_connection(("127.0.0.1", node.port))
                pacs.wait_for(lambda: len(node_sockets(node.port)) == 1, 20, "the association")
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
                caller.close()
                pacs.wait_for(lambda: not node_sockets(node.port), 20, "closing")
    finally:
        gc.enable()


def node_sockets(port: int) -> list[socket.socket]:
    """Open sockets of this process that are connected to the node, or were."""
    sockets = []
    for one in gc.get_objects():
        if issubclass(type(one), socket.socket) and one.family == socket.AF_INET:  # isinstance would wake proxies
            with suppress(OSError):  # it is closed
                if one.getsockname()[1] == port and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    sockets.append(one)
    return sockets


def test_unusable_tls_files_are_reported(tmp_path, certificates):
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        server_context(tmp_path / "none.pem", tmp_path / "none.key", None)
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        server_context(certificates / "ours.pem", certificates / "other.key", None)
    assert server_context(certificates / "ours.pem", certificates / "ours.key", None).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.fixture
def archive():
    """Returns a function that starts a pynetdicom archive which responds to C-STORE with a status."""
    servers = []

    def start(status: int, classes=RESULT_CLASSES) -> tuple[Peer, list[str]]:
        entity, got = AE("ARCHIVE"), []
        for kind in (*classes, "1.2.840.10008.1.1"):
            entity.add_supported_context(kind)

        def store(event):
            got.append(str(event.request.AffectedSOPInstanceUID))
            return status

        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
        servers.append(server)
        return Peer("ARCHIVE", "127.0.0.1", server.server_address[1]), got

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def report(tmp_path):
    """A file with the SOP class of a report."""
    one = pacs.series(1)[0]
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = RESULT_CLASSES[0]
    return next(pacs.write(tmp_path / "report", [one]).iterdir())


PERMANENT = [(0xA700, False), (0x0110, False), (0x0124, False), (0xA900, True), (0xC123, True), (0x0122, True)]


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0x0111])
def test_a_result_is_sent(archive, report, status):
    peer, got = archive(status)
    with StoreSender(peer, "RESLINK").session() as session:
        session.send(report)
    assert len(got) == 1


@pytest.mark.parametrize(("status", "permanent"), PERMANENT)
def test_only_permanent_failures_are_permanent(archive, report, status, permanent):
    peer, _ = archive(status)
    with StoreSender(peer, "RESLINK").session() as session, pytest.raises(SendError, match=f"0x{status:04X}") as caught:
        session.send(report)
    assert caught.value.permanent is permanent


def test_an_unsupported_sop_class_is_a_permanent_failure(archive, report):
    peer, _ = archive(0, RESULT_CLASSES[1:])
    with (
        StoreSender(peer, "RESLINK").session() as session,
        pytest.raises(SendError, match="does not accept this SOP class") as caught,
    ):
        session.send(report)
    assert caught.value.permanent


def test_the_uncompressed_transfer_syntaxes_come_first():
    syntaxes = transfer_syntaxes()
    assert syntaxes[:2] == ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    assert len(set(syntaxes)) == len(syntaxes)


def test_concurrent_senders_lose_nothing(node_of, queue):
    with node_of() as node:
        statuses: list[list[int]] = []
        threads = [
            threading.Thread(target=lambda n=n: statuses.append(pacs.store(node.port, pacs.series(n)))) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [[0] * 10] * 4
    assert sorted(len(list(path.glob("*.dcm"))) for path in (queue.folder / "receiving").iterdir()) == [10] * 4
