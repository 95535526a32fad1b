"""Downloads from a server on this machine: whole, interrupted, changed, refused, damaged."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from reslink.cli.commands.data import open_url
from reslink.datasets.public import download
from reslink.datasets.public.download import confirm_license, download_files, save_checksums
from reslink.datasets.public.registry import Layout, PublicDataset, RemoteFile
from reslink.errors import CheckFailedError, InputError, StorageError, UsageError


def archive(*members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for i, content in enumerate(members):
            opened.writestr(f"{i}.jpg", content)
    return stream.getvalue()


CONTENT = archive(np.random.default_rng(0).bytes(3_000_000))
OTHER = archive(np.random.default_rng(1).bytes(3_000_000))
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Served(BaseHTTPRequestHandler):
    """Serves one file with ranges; the server's attributes say what goes wrong."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        plan = self.server.plan
        plan["asked"].append(self.headers.get("Range"))
        status = plan["busy"].pop(0) if plan["busy"] else plan.get("status")
        if status:
            self.send_response(status)
            if plan.get("retry"):
                self.send_header("Retry-After", plan["retry"])
            self.end_headers()
            return
        content, tag = plan["content"], f'"{hashlib.sha256(plan["content"]).hexdigest()[:8]}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        same = self.headers.get("If-Range") in (None, tag)
        start = int(wanted[1]) if wanted and same and plan.get("ranges", True) else 0
        if start >= len(content):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        body = content[start:]
        cut = plan["cuts"].pop(0) if plan["cuts"] else len(body)
        self.wfile.write(body[:cut])
        if cut < len(body):
            self.wfile.flush()
            self.connection.shutdown(2)


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    made.plan = {"content": CONTENT, "cuts": [], "asked": [], "busy": []}
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def entry(server, sha256=None, **changes):
    port = server.server_address[1]
    file = RemoteFile(name="set.zip", url=f"http://127.0.0.1:{port}/set.zip", sha256=sha256)
    fields = {
        "name": "toy", "title": "Toy", "page": "https://example.org/toy", "files": [file], "access": "open", "license": "CC0",
        "modality": "MR", "images": "2", "labels": {}, "layout": Layout(kind="folders"), "masks": "none", "patients": "none",
        "known_issues": [], "overlaps": [], "evidence": "none",
    }  # fmt: skip
    return PublicDataset(**{**fields, **changes})


def test_a_file_is_downloaded_and_its_checksum_is_saved(server, tmp_path):
    heard = []
    [path] = download_files(entry(server), tmp_path, open_url, lambda *progress: heard.append(progress))
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "checksums.json").exists()
    save_checksums(entry(server), tmp_path)
    pins = json.loads((tmp_path / "checksums.json").read_text())
    assert pins["set.zip"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert pins["set.zip"]["pinned_by"] == "the first download"
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert not list(tmp_path.glob("*.part*"))


def test_an_existing_file_is_verified_and_not_downloaded_again(server, tmp_path):
    download_files(entry(server), tmp_path, open_url)
    download_files(entry(server), tmp_path, open_url)
    assert len(server.plan["asked"]) == 1


def test_a_broken_connection_is_resumed(server, tmp_path):
    server.plan["cuts"] = [1_000_000, 500_000]
    [path] = download_files(entry(server), tmp_path, open_url)
    assert path.read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for asked in server.plan["asked"][1:]]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] <= 1_500_000


def test_an_interrupted_command_is_resumed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_TRIES", 1)
    server.plan["cuts"] = [2_000_000]
    with pytest.raises(InputError, match="Run the same command again; the download resumes from here"):
        download_files(entry(server), tmp_path, open_url)
    there = (tmp_path / "set.zip.part").stat().st_size
    assert there > 0
    [path] = download_files(entry(server), tmp_path, open_url)
    assert path.read_bytes() == CONTENT
    assert server.plan["asked"][1] == f"bytes={there}-"


def test_a_changed_file_is_downloaded_from_the_beginning(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_TRIES", 1)
    server.plan["cuts"] = [2_000_000]
    with pytest.raises(InputError):
        download_files(entry(server), tmp_path, open_url)
    server.plan["content"] = OTHER
    [path] = download_files(entry(server), tmp_path, open_url)
    assert path.read_bytes() == OTHER


def test_a_server_without_ranges_restarts(server, tmp_path):
    server.plan |= {"cuts": [1_000_000], "ranges": False}
    [path] = download_files(entry(server), tmp_path, open_url)
    assert path.read_bytes() == CONTENT


def test_a_complete_part_is_used(server, tmp_path):
    download_files(entry(server), tmp_path, open_url)
    part = tmp_path / "set.zip.part"
    (tmp_path / "set.zip").rename(part)
    tag = f'"{hashlib.sha256(CONTENT).hexdigest()[:8]}"'
    url = entry(server).files[0].url
    (tmp_path / "set.zip.part.json").write_text(json.dumps({"url": url, "tag": tag, "total": len(CONTENT)}))
    [path] = download_files(entry(server), tmp_path, open_url)
    assert path.read_bytes() == CONTENT
    assert not part.exists()


@pytest.mark.parametrize("kept", [True, False])
def test_a_file_with_another_checksum_is_removed_and_named(server, tmp_path, kept):
    wrong = "0" * 64
    if kept:
        (tmp_path / "checksums.json").write_text(json.dumps({"set.zip": {"sha256": wrong}}))
    with pytest.raises(InputError, match=f"set.zip is not the expected file.*not {wrong}") as caught:
        download_files(entry(server, None if kept else wrong), tmp_path, open_url)
    assert ("checksums.json" in str(caught.value)) is kept
    assert not (tmp_path / "set.zip").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refused_request_describes_the_manual_download(server, tmp_path, status):
    server.plan["status"] = status
    with pytest.raises(InputError, match=f"status {status}.*reslink data import FOLDER --source toy"):
        download_files(entry(server), tmp_path, open_url, pause=lambda _: None)
    assert len(server.plan["asked"]) == (5 if status == 500 else 1)


def test_a_busy_server_is_asked_again_after_a_pause(server, tmp_path):
    pauses = []
    server.plan["busy"] = [503, 429, 502]
    [path] = download_files(entry(server), tmp_path, open_url, pause=pauses.append)
    assert path.read_bytes() == CONTENT
    assert pauses == [2, 4, 8]


@pytest.mark.parametrize(
    ("asks", "seconds"), [("7", 7), ("86400", 60), ("soon", 2), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("in half a minute", 2)]
)
def test_retry_after_is_respected_within_limits(server, tmp_path, asks, seconds):
    pauses = []
    server.plan |= {"busy": [429], "retry": asks}
    download_files(entry(server), tmp_path, open_url, pause=pauses.append)
    assert pauses == [seconds]


def test_retry_after_may_be_a_date(server, tmp_path):
    pauses = []
    server.plan |= {"busy": [503], "retry": format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)}
    download_files(entry(server), tmp_path, open_url, pause=pauses.append)
    assert 20 < pauses[0] <= 30


def test_a_page_instead_of_the_archive_is_removed(server, tmp_path):
    server.plan["content"] = PAGE
    with pytest.raises(InputError, match=r"set\.zip is not a ZIP file.*checksums\.json.*login.*data import FOLDER"):
        download_files(entry(server), tmp_path, open_url)
    assert not [path for path in tmp_path.iterdir() if path.name != ".lock"]
    server.plan["content"] = CONTENT
    [path] = download_files(entry(server), tmp_path, open_url)
    assert path.read_bytes() == CONTENT


def test_a_page_saved_by_an_earlier_version_is_removed(server, tmp_path):
    (tmp_path / "set.zip").write_bytes(PAGE)
    pin = {"sha256": hashlib.sha256(PAGE).hexdigest(), "pinned_by": "the first download"}
    (tmp_path / "checksums.json").write_text(json.dumps({"set.zip": pin}))
    with pytest.raises(InputError, match="is not a ZIP file"):
        download_files(entry(server), tmp_path, open_url)
    [path] = download_files(entry(server), tmp_path, open_url)
    assert path.read_bytes() == CONTENT


def test_an_unreachable_server_is_an_input_error(server, tmp_path):
    gone = entry(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="could not be downloaded"):
        download_files(gone, tmp_path, open_url)


def test_a_restricted_data_set_is_not_downloaded(server, tmp_path):
    with pytest.raises(UsageError, match=r"cannot be downloaded automatically\. Access: restricted"):
        download_files(entry(server, files=[], access="restricted"), tmp_path, open_url)


def test_free_space_is_checked_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(StorageError, match=r"30001.. more bytes, but 10 are free"):
        download_files(entry(server), tmp_path, open_url)


def test_the_license_is_asked_once_for_each_wording(server, tmp_path):
    asked = []

    def ask(it):
        asked.append(it.terms)
        return True

    confirm_license(entry(server), tmp_path, ask)
    confirm_license(entry(server), tmp_path, ask)
    assert asked == ["CC0"]
    confirm_license(entry(server, license="CC BY 4.0"), tmp_path, ask)
    assert asked == ["CC0", "CC BY 4.0"]


def test_without_the_license_nothing_is_kept(server, tmp_path):
    with pytest.raises(CheckFailedError, match="license of toy was not accepted"):
        confirm_license(entry(server), tmp_path / "data", lambda _: False)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("url", ["http://example.org/a.zip", "file:///etc/passwd", "ftp://example.org/a"])
def test_only_https_is_opened(url):
    with pytest.raises(UsageError, match="is not an https URL"), open_url(url, {}):
        pass
