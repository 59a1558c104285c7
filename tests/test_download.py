"""Fetching archives from a server on this machine's loopback that misbehaves in many ways."""

import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

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
        """Serve the right body, but stop at `end`."""
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


def test_fetches_once(server, archive, tmp_path):
    path = fetch(archive, tmp_path / "new/folder", **HASTE)
    assert path == tmp_path / "new/folder/voc.tar" and path.read_bytes() == BODY
    assert fetch(archive, path.parent, **HASTE) == path and server.asked == [""], "what is there is not fetched again"
    assert [one.name for one in path.parent.iterdir()] == ["voc.tar"]


def drop(handler: Handler, start: int) -> None:
    handler.serve(start, end=start + 250_000)


@pytest.mark.parametrize(
    ("left", "asked", "behaviour"),
    [
        (b"", ["", "bytes=250000-", "bytes=500000-"], drop),
        (BODY[:1234], ["bytes=1234-"], Handler.serve),
        (BODY, [f"bytes={len(BODY)}-"], Handler.serve),
        (b"of another file", ["bytes=15-", ""], Handler.serve),
        (BODY + b"more", [f"bytes={len(BODY) + 4}-", ""], Handler.serve),
        (b"x" * 1000, ["bytes=1000-"], lambda handler, start: handler.serve(0)),
    ],
    ids=["a dropped connection", "a part", "whole", "other", "longer", "a server that ignores Range"],
)
def test_what_is_there_is_resumed_or_given_up(server, archive, tmp_path, left, asked, behaviour):
    (tmp_path / "voc.tar.part").write_bytes(left)
    server.behaviour = behaviour
    assert fetch(archive, tmp_path, **HASTE).read_bytes() == BODY
    assert server.asked == asked


def lie(handler: Handler, start: int) -> None:
    handler.head(start, 2 * len(BODY))
    handler.wfile.write(BODY[start:])


def hang(handler: Handler, start: int) -> None:
    if not start:
        handler.head(0, len(BODY))
        handler.wfile.write(BODY[:300_000])
        handler.wfile.flush()
    handler.control.stopped.wait(10)


def no_length(handler: Handler, start: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(BODY)


FAILS: dict[str, tuple[Callable[[Handler, int], None], str, bytes | None]] = {
    "announces too much": (lie, "ended after 600,000 of the 1,200,000 bytes announced; 600,000 bytes are kept", BODY),
    "a wrong file": (
        lambda handler, start: handler.serve(start, b"<html>moved</html>"),
        f"sent a file with the md5 .*, not {MD5}; it was deleted",
        None,
    ),
    "another range": (lambda handler, start: handler.serve(start + 1), "range that was not asked for", BODY[:1000]),
    "hangs": (hang, "the server is silent", BODY[:300_000]),
    "404": (lambda handler, start: handler.send_error(404), "the server answers 404 ", None),
    "503": (lambda handler, start: handler.send_error(503), "the server answers 503 ", None),
}


@pytest.mark.parametrize("how", FAILS)
def test_a_server_that_fails(server, archive, tmp_path, how):
    """The bytes received are kept, no file has the final name, and only faults that may pass are tried again."""
    server.behaviour, says, kept = FAILS[how]
    part = tmp_path / "voc.tar.part"
    if how == "another range":
        part.write_bytes(BODY[:1000])
    with pytest.raises(UserError, match=says):
        fetch(archive, tmp_path, **(HASTE | {"timeout": 0.2} if how == "hangs" else HASTE))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if kept is None else [kept])
    assert how not in ("404", "503") or len(server.asked) == (1 if how == "404" else 3)


def test_no_server(archive, tmp_path):
    with pytest.raises(UserError, match="could not be fetched: Connection refused; 0 bytes are kept"):
        fetch(replace(archive, url="http://127.0.0.1:9/voc.tar"), tmp_path, **HASTE)


def test_a_wrong_file_under_the_final_name(archive, tmp_path):
    (tmp_path / "voc.tar").write_bytes(b"other")
    with pytest.raises(UserError, match=f"voc.tar has the md5 .*, not {MD5}; delete it"):
        fetch(archive, tmp_path, **HASTE)
    assert (tmp_path / "voc.tar").read_bytes() == b"other", "a user's file is left to the user"


def test_without_a_checksum_the_length_is_verified(server, archive, tmp_path, capsys):
    unknown = replace(archive, md5="")
    assert fetch(unknown, tmp_path, **HASTE).read_bytes() == BODY
    assert "no checksum is known, so only its length was verified" in capsys.readouterr().out
    (tmp_path / "voc.tar").unlink()
    server.behaviour = no_length
    with pytest.raises(UserError, match="announces no length and no checksum is known"):
        fetch(unknown, tmp_path, **HASTE)
    assert fetch(archive, tmp_path, **HASTE).read_bytes() == BODY, "a checksum alone will do"


def test_a_disk_that_is_small_or_fills(server, archive, tmp_path, monkeypatch):
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        real = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
        with pytest.raises(UserError, match="600,000 bytes are missing, but the disk has 1,000 free"):
            fetch(archive, tmp_path, **HASTE)
    monkeypatch.setattr(archives, "_receive", full)
    with pytest.raises(
        UserError, match="cannot write .*voc.tar: No space left on device; run the command again to continue"
    ):
        fetch(archive, tmp_path, **HASTE)
    assert len(server.asked) == 2, "another attempt would not help"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*: Not a directory"):
        fetch(archive, tmp_path / "file/folder", **HASTE)


def test_facts_of_the_official_archives_are_torchvisions():
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = DATASET_YEAR_DICT["2012"]
    assert Archive(known["filename"], known["url"], known["md5"]) == archives.OFFICIAL["voc"]
    assert Archive(SBDataset.filename, SBDataset.url, SBDataset.md5) == archives.OFFICIAL["sbd"]


def test_the_command_fetches_what_is_not_named(server, tmp_path, monkeypatch, refused):
    monkeypatch.setitem(archives.OFFICIAL, "voc", Archive("voc.tar", server.url, MD5))
    monkeypatch.setitem(archives.OFFICIAL, "sbd", Archive("sbd.tgz", server.url, "0" * 32))
    words = ["data", "prepare", "voc", tmp_path / "out", "--download", tmp_path / "downloads"]
    assert f"not {'0' * 32}; it was deleted" in refused(*words)
    assert (tmp_path / "downloads/voc.tar").read_bytes() == BODY
    assert "voc.tar is not a tar archive" in refused(*words, "--sbd", tmp_path)
    assert len(server.asked) == 2 and not (tmp_path / "out").exists()
