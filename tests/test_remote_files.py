"""Remote paths: what they show, how they are fetched, and what is repeated when a storage fails."""

from __future__ import annotations

import http.server
import logging
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reslink import remote_files
from reslink.errors import InputError, StorageError, UsageError
from reslink.files import sha256
from reslink.remote_errors import RemoteFileError, RemoteStorageError
from reslink.remote_files import (
    content_hash,
    list_folder,
    local_file,
    read_ahead,
    read_start,
    version_hash,
    version_state,
    with_starts,
)
from reslink.remote_paths import RemotePath, parse_remote

SIGNED = "https://me:secret@images.org/a/b.nii.gz?X-Amz-Signature=5ec7e7&X-Amz-Credential=5ec7e7"


def sent(value: Any) -> Any:
    """Returns a value as another process would get it."""
    return ForkingPickler.loads(ForkingPickler.dumps(value))


def fetch(url: object, most: int | None = None) -> bytes:
    with local_file(url, most) as local:
        return Path(str(local)).read_bytes()


def remote(text: str) -> RemotePath:
    path = parse_remote(text)
    assert path is not None
    return path


class TestFetching:
    def test_a_file_is_fetched_and_removed(self, s3: Any) -> None:
        url = s3.put("a b/x.nii.gz", b"content")
        with local_file(url) as local:
            assert (local.read_bytes(), local.name) == (b"content", "x.nii.gz")
        assert not local.parent.exists()

    def test_a_local_path_stays_as_it_is(self) -> None:
        for path in (Path("a.png"), "a.png", b"bytes"):
            with local_file(path) as same:
                assert same is path

    def test_a_file_is_one_request(self, s3: Any) -> None:
        content = bytes(range(256)) * 10_000
        url = s3.put("large.bin", content)
        s3.reset()
        assert fetch(url) == content
        assert s3.requests == [("GET", "/heads/large.bin")]

    def test_the_start_of_a_file(self, s3: Any) -> None:
        path = remote(s3.put("start.bin", b"0123456789"))
        assert (read_start(path, 4), read_start(path, 100)) == (b"0123", b"0123456789")
        assert read_start(remote(s3.put("empty.bin", b"")), 4) == b""
        with pytest.raises(RemoteFileError, match="Check the path"):
            read_start(remote("s3://heads/none.bin"), 4)

    def test_the_start_of_a_listed_file_is_fetched_once(self, s3: Any) -> None:
        s3.put("starts/a", b"0123456789")
        for content in (b"0123456789", b"abcdefghij"):
            s3.put("starts/a", content)
            [path] = list(list_folder(remote("s3://heads/starts/")) or [])
            s3.reset()
            assert (read_start(path, 2), read_start(path, 4)) == (content[:2], content[:4])
            assert len(s3.requests) == 1

    def test_a_file_that_is_too_large(self, s3: Any) -> None:
        url = s3.put("big.bin", bytes(3 << 20))
        s3.reset()
        with pytest.raises(InputError, match=r"s3://heads/big\.bin has 3 MiB\. The limit is 1 MiB"), local_file(url, 1 << 20):
            pass
        assert len(s3.requests) == 1

    def test_a_missing_file_and_a_missing_bucket_are_not_tried_again(self, s3: Any) -> None:
        for url in (s3.put("x.png", b"x").replace("x.png", "y.png"), "s3://no-bucket/x.png"):
            s3.reset()
            with pytest.raises(RemoteFileError, match=r"[xy]\.png cannot be fetched: .*A remote path names.*Check the path"):
                fetch(url)
            assert len(s3.requests) <= 3

    def test_wrong_credentials_are_named_and_not_shown(self, s3: Any) -> None:
        url = s3.put("x.png", b"x")
        s3.reset()
        s3.forbid = True
        with pytest.raises(
            RemoteFileError, match=r"x\.png cannot be fetched: .*signature does.*Check the credentials"
        ) as error:
            fetch(url)
        assert "test" not in str(error.value)
        assert len(s3.requests) <= 2

    @pytest.mark.usefixtures("s3")
    def test_without_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(RemoteFileError, match=r"x\.png cannot be fetched: .*credentials.*Check the credentials"):
            fetch("s3://heads/x.png")

    def test_a_storage_that_is_busy_at_first(self, s3: Any) -> None:
        url = s3.put("x.png", b"content")
        s3.reset()
        s3.refuse = lambda number, *_: number < 4
        with local_file(url) as local:
            assert local.read_bytes() == b"content"
        assert len(s3.requests) == 5

    def test_a_tenth_of_all_requests_fails(self, s3: Any) -> None:
        urls = [s3.put(f"{i}.bin", bytes([i]) * 100) for i in range(20)]
        s3.reset()
        s3.refuse = lambda number, *_: number % 10 == 3
        for i, url in enumerate(urls):
            with local_file(url) as local:
                assert local.read_bytes() == bytes([i]) * 100

    def test_a_storage_that_stays_busy_gives_a_named_error(self, s3: Any) -> None:
        url = s3.put("x.png", b"x")
        s3.reset()
        s3.refuse = lambda *_: True
        with pytest.raises(RemoteStorageError, match=r"x\.png cannot be fetched in 5 attempts: .*Check the network") as error:
            fetch(url)
        assert len(s3.requests) == 5
        assert "SlowDown" in str(error.value)
        assert "max retries" not in str(error.value)
        assert isinstance(sent(error.value), RemoteStorageError)

    def test_waits_grow(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[float] = []
        monkeypatch.setattr(remote_files, "_WAITS", (0.5, 1.0, 2.0, 4.0))
        monkeypatch.setattr(remote_files.time, "sleep", waits.append)
        s3.refuse = lambda *_: True
        with pytest.raises(RemoteStorageError):
            read_start(remote("s3://heads/x.png"), 1)
        assert [limit / 2 <= wait <= limit for wait, limit in zip(waits, (0.5, 1, 2, 4), strict=True)] == [True] * 4

    @pytest.mark.usefixtures("s3")
    def test_a_server_that_cannot_be_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(RemoteStorageError, match=r"x\.png cannot be fetched in 5 attempts: .*Check the network"):
            version_hash(remote("s3://heads/x.png"))

    def test_a_full_disk_is_not_a_fault_of_the_storage(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        url = s3.put("x.png", b"x")
        s3.reset()

        def full(*_args: object, **_options: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
        with pytest.raises(StorageError, match=r"copy of a remote file.*No space left"), local_file(url):
            pass
        assert s3.requests == []

    def test_a_missing_package_is_named_with_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for url, package, extra in (
            ("s3://b/x", "s3fs", "remote"),
            ("gs://b/x", "gcsfs", "gcs"),
            ("az://b/x", "adlfs", "azure"),
        ):
            monkeypatch.setitem(__import__("sys").modules, package, None)
            with pytest.raises(UsageError, match=rf"The package '{package}' is not installed.*'{extra}'"), local_file(url):
                pass

    def test_nothing_secret_is_logged(self, s3: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="reslink")
        with local_file(s3.put("x.png", b"x")):
            pass
        assert [record for record in caplog.records if record.name.startswith("reslink")] == []


class TestReadAhead:
    """The next files are fetched before they are needed."""

    def test_files_arrive_in_order_and_each_is_fetched_once(self, s3: Any) -> None:
        urls = [s3.put(f"ahead/{i}.bin", bytes([i]) * 10) for i in range(40)]
        s3.reset()
        s3.refuse = lambda number, *_: number % 10 == 3
        contents = [fetch(url) for url in read_ahead(urls, lambda url: [url], 100)]
        assert contents == [bytes([i]) * 10 for i in range(40)]
        served = [path for i, (_, path) in enumerate(s3.requests) if i % 10 != 3]
        assert sorted(served) == sorted(f"/heads/ahead/{i}.bin" for i in range(40))

    def test_several_at_once_and_few_are_kept(self, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        urls = [s3.put(f"ahead/{i}.bin", b"x") for i in range(60)]
        s3.reset()
        together = threading.Barrier(4)

        def refuse(number: int, *_: object) -> bool:
            if number < 4:
                together.wait(20)  # broken, which fails the test, if fewer than four requests come together
            return False

        s3.refuse = refuse
        kept = []
        for url in read_ahead(urls, lambda url: [url], 100):
            kept.append(len([file for file in tmp_path.rglob("*") if file.is_file()]))
            fetch(url)
        assert not together.broken
        assert 1 < max(kept) <= 32
        assert list(tmp_path.iterdir()) == []

    def test_an_error_is_raised_where_the_file_is_read(self, s3: Any) -> None:
        urls = [s3.put("ahead/0.bin", b"x"), "s3://heads/ahead/none.bin", s3.put("ahead/big.bin", bytes(3 << 20))]
        messages = []
        for url in read_ahead(urls, lambda url: [url], 1 << 20):
            try:
                messages.append(fetch(url).decode())
            except InputError as error:
                messages.append(str(error))
        assert messages[0] == "x"
        assert "none.bin cannot be fetched" in messages[1]
        assert "big.bin has 3 MiB" in messages[2]

    def test_files_that_nobody_reads_are_removed(self, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        url = s3.put("ahead/0.bin", b"x")
        items = read_ahead([url] * 3, lambda url: [url], 100)
        next(items)
        items.close()  # type: ignore[attr-defined]
        assert list(tmp_path.iterdir()) == []
        assert fetch(url) == b"x"

    def test_local_items_are_taken_one_by_one(self) -> None:
        taken = []

        def items() -> Iterator[str]:
            for name in "abc":
                taken.append(name)
                yield name

        ahead = read_ahead(items(), lambda name: [name], 100)
        assert (next(ahead), taken) == ("a", ["a"])
        assert (next(ahead), taken) == ("b", ["a", "b"])

    def test_local_items_after_a_remote_one_are_not_all_taken(self, s3: Any) -> None:
        taken = []

        def items() -> Iterator[str]:
            yield s3.put("ahead/0.bin", b"x")
            for i in range(1000):
                taken.append(i)
                yield str(i)

        next(read_ahead(items(), lambda name: [name], 100))
        assert len(taken) < 50

    def test_another_thread_fetches_its_own_copy(self, s3: Any) -> None:
        url = s3.put("ahead/0.bin", b"x")
        items = read_ahead([url, url], lambda url: [url], 100)
        next(items)
        with local_file(url) as own, ThreadPoolExecutor(1) as pool:
            other = pool.submit(fetch, url)
            assert other.result() == own.read_bytes() == b"x"
        assert list(items) == [url]

    def test_an_end_does_not_wait_for_repetitions(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        urls = [s3.put(f"ended/{i}.dcm", b"x") for i in range(20)]
        monkeypatch.setattr(remote_files, "_WAITS", (60.0,) * 7)
        s3.refuse = lambda *_: True
        items = read_ahead(urls, lambda url: [url], 100)
        next(items)
        time.sleep(0.5)
        began = time.monotonic()
        items.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < 20

    def test_starts_are_fetched_several_at_once_and_only_where_needed(self, s3: Any) -> None:
        for i in range(8):
            s3.put(f"with/{i}.{'png' if i < 4 else 'dcm'}", f"start {i} of {id(self)}".encode())
        paths = list(list_folder(remote("s3://heads/with/")) or [])
        s3.reset()
        together = threading.Barrier(4)
        s3.refuse = lambda *_: bool(together.wait(20)) and False
        assert list(with_starts(paths, lambda path: path.suffix == ".dcm")) == paths
        assert [path for _, path in sorted(s3.requests)] == [f"/heads/with/{i}.dcm" for i in range(4, 8)]
        assert read_start(paths[7], 7) == b"start 7"
        assert len(s3.requests) == 4
        local = [Path("a"), Path("b")]
        assert list(with_starts(local)) == local


class TestVersions:
    def test_the_hash_changes_with_the_content_and_fetches_nothing(self, s3: Any) -> None:
        path = remote(s3.put("x.png", b"one"))
        s3.reset()
        first = version_hash(path)
        assert {method for method, _ in s3.requests} == {"HEAD"}
        assert first == version_hash(path)
        s3.put("x.png", b"two")
        assert version_hash(path) != first

    def test_the_hash_of_the_content(self, s3: Any) -> None:
        assert content_hash(remote(s3.put("x.png", b"one")), 10) == sha256(b"one")

    @pytest.mark.parametrize(
        ("a", "b", "same"),
        [
            ("?id=1", "?id=2", False),
            ("?id=1", "", False),
            ("?se=1", "?se=2", False),
            ("?id=1&X-Amz-Date=1&X-Amz-Signature=1", "?id=1&X-Amz-Date=2&X-Amz-Signature=2", True),
            ("?id=1&X-Amz-Date=1&X-Amz-Signature=1", "?id=2&X-Amz-Date=1&X-Amz-Signature=1", False),
            ("?X-Goog-Expires=1&X-Goog-Signature=1", "?X-Goog-Expires=2&X-Goog-Signature=2", True),
            ("?AWSAccessKeyId=k&Expires=1&Signature=1", "?AWSAccessKeyId=k&Expires=2&Signature=2", True),
            ("?sv=2&se=1&sr=b&sp=r&sig=1", "?sv=2&se=2&sr=b&sp=r&sig=2", True),
            ("?sv=2&sig=1&snapshot=1", "?sv=2&sig=1&snapshot=2", False),
        ],
    )
    def test_the_query_counts_without_its_signature(self, monkeypatch: pytest.MonkeyPatch, a: str, b: str, same: bool) -> None:
        system = SimpleNamespace(info=lambda _: {"ETag": '"1"', "size": 3})
        monkeypatch.setattr(remote_files, "_file_system", lambda _: (system, ""))
        first, second = (version_hash(remote(f"https://images.org/x.png{query}")) for query in (a, b))
        assert (first == second) == same


class TestFolders:
    def test_only_the_page_that_failed_is_repeated(self, s3: Any) -> None:
        from moto.s3.models import s3_backends

        s3.put("pages/0.png", b"x")
        backend = s3_backends["123456789012"]["aws"]
        for i in range(1, 3500):
            backend.put_object("heads", f"pages/{i}.png", b"x")
        s3.reset()
        s3.refuse = lambda number, *_: number % 2 == 0  # every second request, so that no list succeeds as a whole
        files = list(list_folder(remote("s3://heads/pages/")) or [])
        assert len(set(files)) == len(files) == 3500

    def test_a_listing_states_the_versions(self, s3: Any) -> None:
        url = s3.put("listed/x.png", b"one")
        [listed] = list(list_folder(remote("s3://heads/listed/")) or [])
        assert listed == remote(url)
        asked = version_hash(remote(url)), version_state(remote(url))
        s3.reset()
        assert (version_hash(listed), version_state(listed)) == asked
        assert (listed.version, s3.requests) == (asked[0], [])

    def test_the_account_of_azure_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class System:
            def info(self, _: str) -> dict[str, str]:
                return {"type": "directory"}

            def find(self, _: str, detail: bool) -> dict[str, dict[str, Any]]:
                assert detail
                return {"heads/ward/b.png": {}, "heads/ward/a.png": {}}  # as adlfs: container and key

        monkeypatch.setattr(remote_files, "_file_system", lambda *_, **__: (System(), "heads/ward"))
        for start in ("az://heads@account", "az://heads", "gs://heads"):
            assert list(list_folder(remote(f"{start}/ward/")) or []) == [remote(f"{start}/ward/{name}.png") for name in "ab"]

    def test_the_files_below_a_folder(self, s3: Any) -> None:
        for name in ("b.png", "a/c.png"):
            s3.put(f"folder/{name}", b"x")
        files = list(list_folder(remote("s3://heads/folder/")) or [])
        assert files == [remote("s3://heads/folder/a/c.png"), remote("s3://heads/folder/b.png")]
        assert list(list_folder(remote("s3://heads/folder")) or []) == files
        assert list_folder(remote("s3://heads/folder/b.png")) is None
        assert list_folder(remote("https://images.org/folder/")) is None
        with pytest.raises(RemoteFileError, match="Check the path"):
            list(list_folder(remote("s3://heads/none")) or [])


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A web server with TLS on this machine, which answers requests with ``answers`` by path."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from fsspec.implementations.http import HTTPFileSystem

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "tls.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))

    class Handler(http.server.BaseHTTPRequestHandler):
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {}  # noqa: RUF012
        seen: list[tuple[str, str]] = []  # noqa: RUF012

        def do_GET(self) -> None:
            self.seen.append((self.path, self.headers.get("Authorization", "")))
            status, headers, body = self.answers.get(self.path.partition("?")[0], (404, {}, b""))
            self.send_response(status)
            for header, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:
                    self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trusted = ssl.create_default_context(cafile=str(pem))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
    monkeypatch.setattr("reslink.remote_files._WAITS", (0.0, 0.0, 0.0, 0.0))
    HTTPFileSystem.clear_instance_cache()
    Handler.answers, Handler.seen = {}, []
    Handler.url = f"localhost:{server.server_port}"  # type: ignore[attr-defined]
    yield Handler
    server.shutdown()
    server.server_close()


class TestWeb:
    def test_a_signed_url_is_fetched_and_not_shown(self, web: Any) -> None:
        web.answers["/x.png"] = (200, {"ETag": '"1"'}, b"content")
        path = remote(f"https://me:pass@{web.url}/x.png?X-Amz-Signature=5ec7e7")
        with local_file(path) as local:
            assert (local.read_bytes(), local.name) == (b"content", "x.png")
        assert {(where, how.partition(" ")[0]) for where, how in web.seen} == {("/x.png?X-Amz-Signature=5ec7e7", "Basic")}
        assert version_hash(path) == version_hash(remote(f"https://{web.url}/x.png?X-Amz-Signature=other"))

    @pytest.mark.parametrize(("status", "kind"), [(403, RemoteFileError), (404, RemoteFileError), (500, RemoteStorageError)])
    def test_a_failure_names_the_url_without_its_secrets(self, web: Any, status: int, kind: type[Exception]) -> None:
        web.answers["/x.png"] = (status, {}, b"")
        path = remote(f"https://me:pass@{web.url}/x.png?X-Amz-Signature=5ec7e7")
        with pytest.raises(kind, match=rf"https://localhost:\d+/x\.png\?… cannot be fetched.*({status}|FileNotFound)") as error:
            read_start(path, 1)
        assert not {"5ec7e7", "pass@", "me:"} & {word for word in ("5ec7e7", "pass@", "me:") if word in str(error.value)}
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__
        assert len(web.seen) == (10 if status == 500 else 2)  # each attempt asks for the size in two ways

    @pytest.mark.parametrize("target", ["http://{host}/y.png?token=5ec7e7", "HTTP://{host}/y.png", "file:///etc/passwd"])
    @pytest.mark.parametrize("use", [lambda path: read_start(path, 1), fetch, version_hash])
    def test_a_redirect_to_another_scheme_is_refused(self, web: Any, target: str, use: Any) -> None:
        class Plain(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pytest.fail("a request in the clear")

            do_HEAD = do_GET

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            location = target.format(host=f"127.0.0.1:{server.server_port}")
            web.answers["/x.png"] = (302, {"Location": location}, b"")
            with pytest.raises(
                match=r"x\.png\?… redirects to a URL of (http|file)://\. A redirect of https:// leads.*Give the",
            ) as error:
                use(remote(f"https://{web.url}/x.png?sig=5ec7e7"))
            server.shutdown()
        assert "5ec7e7" not in str(error.value)
        assert len(web.seen) == (1 if use is fetch else 2)  # fsspec asks with HEAD, then GET

    @pytest.mark.parametrize("target", ["/y.png", "y.png", "https://{host}/y.png", "//{host}/y.png"])
    def test_a_redirect_to_https_is_followed(self, web: Any, target: str) -> None:
        web.answers["/x.png"] = (302, {"Location": target.format(host=web.url)}, b"")
        web.answers["/y.png"] = (200, {"ETag": '"1"'}, b"content")
        assert fetch(f"https://{web.url}/x.png") == b"content"

    @pytest.mark.usefixtures("web")
    def test_a_server_that_cannot_be_reached_is_tried_again(self) -> None:
        with pytest.raises(RemoteStorageError, match=r"x\.png cannot be fetched in 5 attempts: .*Connect call failed.*network"):
            read_start(remote("https://localhost:9/x.png"), 1)

    def test_a_certificate_that_is_not_trusted_is_named(self, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context())
        with pytest.raises(RemoteFileError, match=r"x\.png cannot be fetched: .*Check the certificate of the server"):
            read_start(remote(f"https://{web.url}/x.png"), 1)

    def test_a_server_that_states_no_entity_tag_or_a_weak_one(self, web: Any) -> None:
        web.answers["/x.png"] = (200, {}, b"content")
        assert version_hash(remote(f"https://{web.url}/x.png")) is None
        web.answers["/x.png"] = (200, {"ETag": 'W/"1"'}, b"content")
        assert version_hash(remote(f"https://{web.url}/x.png")) is None

    def test_a_server_that_states_no_size_cannot_send_without_end(self, web: Any) -> None:
        web.answers["/x.png"] = (200, {"Content-Length": "", "Connection": "close"}, bytes(3 << 20))
        with pytest.raises(InputError, match=r"x\.png has .*MiB\. The limit is 1 MiB"):
            fetch(f"https://{web.url}/x.png", 1 << 20)
