"""Remote paths: what they show, how they are fetched, and what is repeated when a storage fails."""

from __future__ import annotations

import copy
import http.server
import logging
import ssl
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reslink import remote_files
from reslink.cli.offline import block_network
from reslink.errors import InputError, StorageError, UsageError
from reslink.files import sha256
from reslink.remote_files import (
    RemoteFileError,
    RemotePath,
    RemoteStorageError,
    content_hash,
    list_folder,
    local_file,
    parse_remote,
    read_start,
    version_hash,
    without_secrets,
)

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


class TestPaths:
    @pytest.mark.parametrize("text", ["a.png", "/a/b.png", "C:/a.png", "s3:b", "file:///a.png", "s3", ""])
    def test_other_paths_are_not_remote(self, text: str) -> None:
        assert parse_remote(text) is None
        assert parse_remote(Path(text)) is None
        assert without_secrets(text) == text

    def test_objects_that_are_no_paths_are_not_remote(self) -> None:
        assert [parse_remote(value) for value in (None, b"s3://a/b", 3)] == [None, None, None]

    @pytest.mark.parametrize("text", ["s3://bucket/a/b.png", "gs://bucket/a/b.png", "https://images.org/a/b.png"])
    def test_a_path_that_joined_the_slashes_is_the_same(self, text: str) -> None:
        assert remote(text) == parse_remote(Path(text))
        assert (str(remote(text)), remote(text).url) == (text, text)
        assert parse_remote(remote(text)) is not None

    def test_it_stays_itself_where_paths_are_copied_and_sent_to_other_processes(self) -> None:
        path = remote(SIGNED)
        for same in (sent(path), copy.deepcopy(path), path.resolve(), path.absolute()):
            assert (same, same.url, hash(same)) == (path, SIGNED, hash(path))
        assert path != remote(SIGNED + "0")
        assert sorted([path, Path("/a")]) == [Path("/a"), path]

    def test_folders_and_files_below_them(self) -> None:
        path = remote("s3://bucket/a/b.png")
        assert path.parent == remote("s3://bucket/a")
        assert (path.parent / "c/../d.png") == remote("s3://bucket/a/d.png")
        assert path.relative_to(path.parent) == Path("b.png")
        assert (path.is_relative_to(path.parent), path.is_relative_to(Path("/tmp")), path.is_file()) == (True, False, False)
        assert remote(SIGNED).parent.url == "https://me:secret@images.org/a"

    def test_secrets_are_not_shown(self) -> None:
        path = remote(SIGNED)
        shown = "https://images.org/a/b.nii.gz?…"
        assert (str(path), f"{path}", repr(path), path.as_posix()) == (shown, shown, f"RemotePath({shown!r})", shown)
        assert without_secrets(SIGNED) == shown
        assert str(remote("az://container@account/x.png")) == "az://container@account/x.png"

    def test_http_and_credentials_in_the_urls_of_buckets_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"http://images\.org/a\.png is not encrypted.*begin with s3://.*Use https://"):
            parse_remote("http://images.org/a.png")
        with pytest.raises(UsageError, match=r"s3://bucket/a\.png was given with credentials.*AWS_ACCESS_KEY_ID") as error:
            parse_remote("s3://key:5ec7e7@bucket/a.png")
        assert "5ec7e7" not in str(error.value)

    def test_offline_refuses_them_by_name(self) -> None:
        block_network(True)
        try:
            with pytest.raises(UsageError, match=r"b\.nii\.gz\?… is a remote path, and --offline.*no connection.*copy the"):
                parse_remote(SIGNED)
            with pytest.raises(UsageError, match=r"s3://b/x is a remote path"), local_file("s3://b/x"):
                pass
        finally:
            block_network(False)


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

    def test_a_file_of_several_ranges(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote_files, "_CHUNK", 1000)
        content = bytes(range(256)) * 10
        with local_file(s3.put("large.bin", content)) as local:
            assert local.read_bytes() == content

    def test_the_start_of_a_file(self, s3: Any) -> None:
        path = remote(s3.put("start.bin", b"0123456789"))
        assert (read_start(path, 4), read_start(path, 100)) == (b"0123", b"0123456789")

    def test_a_file_that_is_too_large(self, s3: Any) -> None:
        url = s3.put("big.bin", bytes(3 << 20))
        s3.reset()
        with pytest.raises(InputError, match=r"s3://heads/big\.bin has 3 MiB\. The limit is 1 MiB"), local_file(url, 1 << 20):
            pass
        assert {method for method, _ in s3.requests} == {"HEAD"}

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
        with pytest.raises(RemoteFileError, match=r"x\.png cannot be fetched: .*Forbidden.*Check the credentials") as error:
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
        assert len(s3.requests) == 6

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
        assert "(503)" in str(error.value)
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
    def test_the_account_of_azure_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class System:
            def info(self, _: str) -> dict[str, str]:
                return {"type": "directory"}

            def find(self, _: str) -> list[str]:
                return ["heads/ward/b.png", "heads/ward/a.png"]  # as adlfs: container and key

        monkeypatch.setattr(remote_files, "_file_system", lambda _: (System(), "heads/ward"))
        for start in ("az://heads@account", "az://heads", "gs://heads"):
            assert list_folder(remote(f"{start}/ward/")) == [remote(f"{start}/ward/{name}.png") for name in "ab"]

    def test_the_files_below_a_folder(self, s3: Any) -> None:
        for name in ("b.png", "a/c.png"):
            s3.put(f"folder/{name}", b"x")
        files = list_folder(remote("s3://heads/folder/"))
        assert files == [remote("s3://heads/folder/a/c.png"), remote("s3://heads/folder/b.png")]
        assert list_folder(remote("s3://heads/folder")) == files
        assert list_folder(remote("s3://heads/folder/b.png")) is None
        assert list_folder(remote("https://images.org/folder/")) is None
        with pytest.raises(RemoteFileError, match="Check the path"):
            list_folder(remote("s3://heads/none"))


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
                RemoteFileError,
                match=r"x\.png\?… redirects to a URL of (http|file)://\. A redirect of https:// leads.*Give the",
            ) as error:
                use(remote(f"https://{web.url}/x.png?sig=5ec7e7"))
            server.shutdown()
        assert "5ec7e7" not in str(error.value)
        assert len(web.seen) == 2  # fsspec asks with HEAD, then GET

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
