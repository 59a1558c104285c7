"""Fetching archives from a server on this machine's loopback that behaves in every way but well."""

import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from running import run

from wsss.data import archives
from wsss.data.archives import Archive, fetch
from wsss.paths import UserError

BODY = np.random.default_rng(0).bytes(600_000)
MD5 = hashlib.md5(BODY).hexdigest()
HASTE = {"timeout": 5.0, "attempts": 3, "pause": 0.0}


@dataclass
class Server:
    """What the server does with each request: a function of its handler and the bytes that were asked for."""

    url: str = ""
    behaviour: Callable[["Handler", int], None] = lambda handler, start: handler.serve(start)
    asked: list[str] = field(default_factory=list)
    """The Range header of each request, empty without one."""
    stopped: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    """Serves BODY by the behaviour of the moment."""

    control: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range", "")
        self.control.asked.append(span)
        start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span else 0
        self.control.behaviour(self, start)

    def head(self, start: int, total: int, length: int | None = None) -> None:
        """200 or 206 and the headers of a body from `start`."""
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(total - start if length is None else length))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()

    def serve(self, start: int, body: bytes = BODY, end: int | None = None) -> None:
        """The body as it should be, but that it stops at `end`."""
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.head(start, len(body))
        self.wfile.write(body[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    control = Server()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Handler,), {"control": control}))
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    control.url = f"http://127.0.0.1:{httpd.server_address[1]}/voc.tar"
    yield control
    control.stopped.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def archive(server: Server) -> Archive:
    return Archive("voc.tar", server.url, MD5)


def assert_fails(archive: Archive, folder: Path, says: str, patience: Mapping[str, float] = HASTE) -> None:
    """UserError that matches; nothing stands under the final name."""
    with pytest.raises(UserError, match=says):
        fetch(archive, folder, **patience)
    assert not (folder / archive.name).exists()


def test_fetches_once(server, archive, tmp_path):
    path = fetch(archive, tmp_path / "new/folder", **HASTE)
    assert path == tmp_path / "new/folder/voc.tar" and path.read_bytes() == BODY
    assert fetch(archive, path.parent, **HASTE) == path and server.asked == [""], "what is there is not fetched again"
    assert [one.name for one in path.parent.iterdir()] == ["voc.tar"]


def test_a_dropped_connection_is_resumed(server, archive, tmp_path):
    server.behaviour = lambda handler, start: handler.serve(start, end=start + 250_000)
    assert fetch(archive, tmp_path, **HASTE).read_bytes() == BODY
    assert server.asked == ["", "bytes=250000-", "bytes=500000-"]


@pytest.mark.parametrize(
    ("left", "asked"),
    [
        (BODY[:1234], ["bytes=1234-"]),
        (BODY, [f"bytes={len(BODY)}-"]),
        (b"of another file", ["bytes=15-", ""]),
        (BODY + b"more", [f"bytes={len(BODY) + 4}-", ""]),
    ],
    ids=["a part", "whole", "other", "longer"],
)
def test_what_an_earlier_command_left_is_resumed_or_given_up(server, archive, tmp_path, left, asked):
    (tmp_path / "voc.tar.part").write_bytes(left)
    assert fetch(archive, tmp_path, **HASTE).read_bytes() == BODY
    assert server.asked == asked


def test_a_server_that_announces_too_much(server, archive, tmp_path):
    def lie(handler: Handler, start: int) -> None:
        handler.head(start, 2 * len(BODY))
        handler.wfile.write(BODY[start:])

    server.behaviour = lie
    assert_fails(archive, tmp_path, r"ended after 600,000 of the 1,200,000 bytes announced; 600,000 bytes are kept")
    assert (tmp_path / "voc.tar.part").read_bytes() == BODY


def test_a_wrong_file(server, archive, tmp_path):
    server.behaviour = lambda handler, start: handler.serve(start, b"<html>moved</html>")
    assert_fails(archive, tmp_path, f"sent a file with the md5 .*, not {MD5}; it was deleted")
    assert not list(tmp_path.iterdir()), "nothing of it is kept"


def test_a_wrong_file_under_the_final_name(archive, tmp_path):
    (tmp_path / "voc.tar").write_bytes(b"other")
    with pytest.raises(UserError, match=f"voc.tar has the md5 .*, not {MD5}; delete it"):
        fetch(archive, tmp_path, **HASTE)
    assert (tmp_path / "voc.tar").read_bytes() == b"other", "a user's file is left to the user"


def test_a_server_that_ignores_range(server, archive, tmp_path):
    (tmp_path / "voc.tar.part").write_bytes(b"x" * 1000)
    server.behaviour = lambda handler, start: handler.serve(0)
    assert fetch(archive, tmp_path, **HASTE).read_bytes() == BODY
    assert server.asked == ["bytes=1000-"]


def test_a_server_that_sends_another_range(server, archive, tmp_path):
    (tmp_path / "voc.tar.part").write_bytes(BODY[:1000])
    server.behaviour = lambda handler, start: handler.serve(start + 1)
    assert_fails(archive, tmp_path, "another range than was asked for")
    assert (tmp_path / "voc.tar.part").read_bytes() == BODY[:1000]


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (503, 3)])
def test_answers_that_are_errors(server, archive, tmp_path, code, requests):
    server.behaviour = lambda handler, start: handler.send_error(code)
    assert_fails(archive, tmp_path, f"the server answers {code} ")
    assert len(server.asked) == requests, "only what may pass is tried again"


def test_a_server_that_hangs(server, archive, tmp_path):
    def hang(handler: Handler, start: int) -> None:
        if not start:
            handler.head(0, len(BODY))
            handler.wfile.write(BODY[:300_000])
            handler.wfile.flush()
        server.stopped.wait(10)

    server.behaviour = hang
    assert_fails(archive, tmp_path, "the server is silent", {"timeout": 0.2, "attempts": 2, "pause": 0.0})
    assert (tmp_path / "voc.tar.part").read_bytes() == BODY[:300_000]


def test_no_server(archive, tmp_path):
    gone = replace(archive, url="http://127.0.0.1:9/voc.tar")
    assert_fails(gone, tmp_path, "could not be fetched: Connection refused; 0 bytes are kept")


def test_without_a_checksum_the_length_is_verified(server, archive, tmp_path, capsys):
    unknown = replace(archive, md5="")
    assert fetch(unknown, tmp_path, **HASTE).read_bytes() == BODY
    assert "no checksum is known, so only its length was verified" in capsys.readouterr().out
    (tmp_path / "voc.tar").unlink()

    def no_length(handler: Handler, start: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)

    server.behaviour = no_length
    assert_fails(unknown, tmp_path, "announces no length and no checksum is known")
    assert fetch(archive, tmp_path, **HASTE).read_bytes() == BODY, "a checksum alone will do"


# The disk.


def test_a_small_disk(archive, tmp_path, monkeypatch):
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    assert_fails(archive, tmp_path, "600,000 bytes are to come, but the disk has 1,000 left")


def test_a_disk_that_fills(server, archive, tmp_path, monkeypatch):
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_receive", full)
    assert_fails(archive, tmp_path, "cannot write .*voc.tar: No space left on device; the same command continues")
    assert len(server.asked) == 1, "another attempt would not help"


def test_a_folder_that_cannot_be_made(archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*: Not a directory"):
        fetch(archive, tmp_path / "file/folder", **HASTE)


# The command.


def test_facts_of_the_official_archives_are_torchvisions():
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = DATASET_YEAR_DICT["2012"]
    assert Archive(known["filename"], known["url"], known["md5"]) == archives.OFFICIAL["voc"]
    assert Archive(SBDataset.filename, SBDataset.url, SBDataset.md5) == archives.OFFICIAL["sbd"]


def test_the_command_fetches_what_is_not_named(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(archives.OFFICIAL, "voc", Archive("voc.tar", server.url, MD5))
    monkeypatch.setitem(archives.OFFICIAL, "sbd", Archive("sbd.tgz", server.url, "0" * 32))
    words = ["data", "prepare", "voc", tmp_path / "out", "--download", tmp_path / "downloads"]
    assert run(*words) == 1
    assert f"not {'0' * 32}; it was deleted" in capsys.readouterr().err
    assert (tmp_path / "downloads/voc.tar").read_bytes() == BODY
    assert run(*words, "--sbd", tmp_path) == 1
    assert "voc.tar is no tar archive" in capsys.readouterr().err
    assert len(server.asked) == 2 and not (tmp_path / "out").exists()
