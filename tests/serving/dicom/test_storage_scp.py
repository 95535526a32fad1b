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
from reslink.imaging.limits import quiet
from reslink.serving.addresses import Peer
from reslink.serving.dicom.pipeline import SendError
from reslink.serving.dicom.queue import Queue
from reslink.serving.dicom.storage_scp import (
    RESULT_CLASSES,
    Node,
    NodeSettings,
    StoreSender,
    client_context,
    serve,
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


@pytest.mark.parametrize(
    ("text", "peer"),
    [("PACS@10.0.0.7:104", Peer("PACS", "10.0.0.7", 104)), ("A@[::1]:4242", Peer("A", "::1", 4242))],
)
def test_an_archive_is_written_as_title_host_and_port(text, peer):
    assert Peer.parse(text) == peer


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:x", "A" * 17 + "@host:104"])
def test_what_names_no_archive_is_refused(text):
    with pytest.raises(UsageError, match="does not name an archive"):
        Peer.parse(text)


def test_only_allowed_titles_may_call_and_only_by_its_name(node_of):
    with node_of(allow=("PACS",)) as node:
        assert pacs.echo(node.port, calling="PACS")
        assert not pacs.echo(node.port, calling="OTHER")
        assert not pacs.echo(node.port, calling="PACS", called="WRONG")
        assert pacs.store(node.port, pacs.series(1)[:1], calling="OTHER") == []


def test_a_port_that_is_taken_is_said(node_of, queue):
    with (
        node_of() as node,
        pytest.raises(UsageError, match="cannot listen on"),
        Node(NodeSettings(port=node.port), queue).listening(),
    ):
        pass


def test_success_means_that_the_slice_is_on_the_disk(node_of, queue):
    with node_of() as node:
        assert pacs.store(node.port, pacs.series(1)) == [0] * 10
        [series] = (queue.folder / "receiving").iterdir()
        assert len(list(series.glob("*.dcm"))) == 10


def test_a_full_disk_is_a_failure_and_not_a_success(node_of, queue, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(queue, "add", full)
    with node_of() as node:
        assert pacs.store(node.port, pacs.series(1)[:1]) == [0xA700]


def test_an_object_beyond_the_limit_is_not_kept_in_memory_and_the_rest_goes_on(node_of, queue, monkeypatch, caplog):
    from reslink.serving.dicom import storage_scp

    slices = pacs.series(1)
    slices[4].PixelData = bytes(1 << 20)
    monkeypatch.setattr(storage_scp, "MAX_FILE_BYTES", 1 << 18)
    most, store = [], Node._store

    def measured(node, event):
        most.append(len(event.request.DataSet.getvalue()))
        return store(node, event)

    monkeypatch.setattr(Node, "_store", measured)
    with node_of() as node:
        assert pacs.store(node.port, slices) == [0] * 4 + [0xA700] + [0] * 5
        [series] = (queue.folder / "receiving").iterdir()
        assert len(list(series.glob("*.dcm"))) == 9
    assert len(most) == 10
    assert max(most) < 1 << 19
    assert "an instance of more than 0 MiB was refused" in caplog.text


def test_a_deflated_data_set_is_not_inflated(node_of):
    """A few megabytes of it may be a thousand times as many in memory."""
    deflated = "1.2.840.10008.1.2.1.99"
    assert deflated not in transfer_syntaxes()
    with node_of() as node:
        entity = AE("TEST")
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", deflated)
        association = entity.associate("127.0.0.1", node.port, ae_title="RESLINK")
        assert not association.accepted_contexts
        association.release()


def test_a_full_disk_does_not_end_the_node(node_of, queue, monkeypatch, caplog):
    stop, calls = threading.Event(), []

    def full(*_):
        calls.append(1)
        if len(calls) == 2:
            stop.set()
        raise OSError(28, "No space left on device")

    with node_of() as node:
        monkeypatch.setattr(node, "close_finished", full)
        serve(node, stop, [], pause=0.01)
    assert "the queue: No space left on device" in caplog.text


def test_what_is_remembered_is_not_searched_all_the_time(node_of, queue, monkeypatch):
    stop, closed, expired = threading.Event(), [], []
    with node_of() as node:
        monkeypatch.setattr(queue, "expire", lambda: expired.append(1))
        monkeypatch.setattr(node, "close_finished", lambda: (closed.append(1), len(closed) == 20 and stop.set()))
        serve(node, stop, [], pause=0.001)
    assert (len(closed), len(expired)) == (20, 1)


def test_a_data_set_without_a_series_is_not_understood(node_of):
    broken = pacs.series(1)[0]
    del broken.SeriesInstanceUID
    with node_of() as node:
        assert pacs.store(node.port, [broken]) == [0xC000]


def test_a_released_series_is_finished_after_settling(node_of, queue):
    with node_of(settle=0.3, quiet=1000) as node:
        pacs.store(node.port, pacs.series(1))
        assert node.close_finished() == 0
        pacs.wait_for(node.close_finished, what="the series")
        assert len(queue.names("working")) == 1


def test_a_series_whose_association_broke_off_waits_for_the_rest(node_of, queue):
    with node_of(settle=0.0, quiet=1000) as node:
        entity = AE("TEST")
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", node.port, ae_title="RESLINK")
        association.send_c_store(pacs.series(1)[0])
        assert node.close_finished() == 0, "its association is open"
        association.abort()
        time.sleep(0.5)
        assert node.close_finished() == 0, "the rest may come"
        pacs.store(node.port, pacs.series(1)[1:])
        pacs.wait_for(node.close_finished, what="the series")
        [series] = (queue.folder / "working").iterdir()
        assert len(list(series.glob("*.dcm"))) == 10


def test_a_restart_remembers_that_a_series_was_released(node_of, queue):
    with node_of() as node:
        pacs.store(node.port, pacs.series(1))
        pacs.wait_for(lambda: all(queue.released(key) for key in queue.names("receiving")), what="the release")
    with node_of(settle=0.0, quiet=1000) as node:
        assert node.close_finished() == 1


def test_the_log_names_nobody(node_of, caplog):
    caplog.set_level(logging.DEBUG)
    with node_of() as node:
        pacs.store(node.port, pacs.series(1))
        pacs.store(node.port, pacs.series(2, Manufacturer="reslink")[:1])
        broken = pacs.series(3)[0]
        del broken.SeriesInstanceUID
        pacs.store(node.port, [broken])
    assert "let go: a result of this package" in caplog.text
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("reslink"))
    for word in ("SECRET", "2.25."):
        assert word not in ours


def test_results_being_made_keep_no_sender_waiting(node_of):
    """Making them holds the filter of warnings, of which a process has one."""
    with node_of() as node, quiet():
        assert pacs.store(node.port, pacs.series(1)) == [0] * 10


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and one that nobody knows."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ours", "other"):
        subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:TRUE"
        words = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 {subject} -keyout {name}.key -out {name}.pem"
        subprocess.run(words.split(), cwd=folder, check=True, capture_output=True)
    return folder


def test_tls_lets_in_those_whose_certificate_is_signed(node_of, certificates):
    ours, key = certificates / "ours.pem", certificates / "ours.key"
    with node_of(tls=server_context(ours, key, ours)) as node:
        known = client_context(ours, ours, key)
        assert pacs.echo(node.port, tls_args=(known, "127.0.0.1"))
        assert not pacs.echo(node.port), "without TLS"
        stranger = client_context(ours, certificates / "other.pem", certificates / "other.key")
        assert not pacs.echo(node.port, tls_args=(stranger, "127.0.0.1"))
        assert not pacs.echo(node.port, tls_args=(client_context(certificates / "other.pem", ours, key), "127.0.0.1"))


def test_an_authority_that_is_named_is_the_only_one(certificates):
    [known] = client_context(certificates / "ours.pem").get_ca_certs()
    assert known["subject"] == ((("commonName", "127.0.0.1"),),)


def test_silent_callers_keep_nobody_waiting(node_of, certificates):
    ours, key = certificates / "ours.pem", certificates / "ours.key"
    with node_of(tls=server_context(ours, key, None)) as node, ExitStack() as silent:
        for _ in range(6):
            silent.enter_context(socket.create_connection(("127.0.0.1", node.port)))
        assert pacs.echo(node.port, tls_args=(client_context(ours), "127.0.0.1"))


@pytest.mark.parametrize("tls", [False, True])
def test_the_socket_of_a_caller_that_resets_the_connection_is_closed(node_of, certificates, tls):
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
    """The open sockets of this process that a caller of the node holds the other end of, or held."""
    found = []
    for one in gc.get_objects():
        if issubclass(type(one), socket.socket) and one.family == socket.AF_INET:  # isinstance would wake proxies
            with suppress(OSError):  # it is closed
                if one.getsockname()[1] == port and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(one)
    return found


def test_tls_files_that_cannot_be_used_are_said(tmp_path, certificates):
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        server_context(tmp_path / "none.pem", tmp_path / "none.key", None)
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        server_context(certificates / "ours.pem", certificates / "other.key", None)
    assert server_context(certificates / "ours.pem", certificates / "ours.key", None).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.fixture
def archive():
    """Returns a function that starts an archive of pynetdicom which answers C-STORE with a status."""
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
    """A file of the class of a report."""
    one = pacs.series(1)[0]
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = RESULT_CLASSES[0]
    return next(pacs.write(tmp_path / "report", [one]).iterdir())


@pytest.mark.parametrize("status", [0x0000, 0xB000])
def test_a_result_is_sent(archive, report, status):
    peer, got = archive(status)
    sender = StoreSender(peer, "RESLINK")
    assert sender.echo()
    with sender.session() as session:
        session.send(report)
    assert len(got) == 1


@pytest.mark.parametrize(("status", "lasting"), [(0xA700, False), (0xA900, True), (0xC123, True), (0x0122, True)])
def test_a_refusal_lasts_or_does_not(archive, report, status, lasting):
    peer, _ = archive(status)
    with StoreSender(peer, "RESLINK").session() as session, pytest.raises(SendError, match=f"0x{status:04X}") as caught:
        session.send(report)
    assert caught.value.lasting is lasting


def test_an_archive_that_takes_no_reports_refuses_for_good(archive, report):
    peer, _ = archive(0, RESULT_CLASSES[1:])
    with StoreSender(peer, "RESLINK").session() as session, pytest.raises(SendError, match="takes no such objects") as caught:
        session.send(report)
    assert caught.value.lasting


def test_the_uncompressed_transfer_syntaxes_come_first():
    found = transfer_syntaxes()
    assert found[:2] == ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    assert len(set(found)) == len(found)


def test_several_senders_at_once_lose_nothing(node_of, queue):
    with node_of() as node:
        found: list[list[int]] = []
        threads = [threading.Thread(target=lambda n=n: found.append(pacs.store(node.port, pacs.series(n)))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[0] * 10] * 4
    assert sorted(len(list(path.glob("*.dcm"))) for path in (queue.folder / "receiving").iterdir()) == [10] * 4
