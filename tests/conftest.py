"""Fixtures, and the rules every test runs under: shapes checked, no network, one thread per worker."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Set before anything imports torch, matplotlib or a hub client; child processes inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # two workers with two threads each slow one another down
# Tests run on the CPU on every machine: they compare bits and numbers that were made on a CPU.
os.environ |= {"MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background jobs ignore it, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from jaxtyping import install_import_hook

install_import_hook("wsss", "beartype.beartype")  # before anything imports wsss

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference material outside the project, $WSSS_SHARED; without it the test is skipped."""
    folder = os.environ.get("WSSS_SHARED", "")
    if not folder:
        pytest.skip("WSSS_SHARED is not set: no reference material to compare with")
    assert Path(folder).is_dir(), f"WSSS_SHARED is {folder}, which is no folder"
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mini set: 16 train, 8 val, 8 test images of 128 px. Tests read it and leave it as it is."""
    from wsss.data.drawn import generate

    splits = {"train": 16, "val": 8, "test": 8}
    return generate.generate(tmp_path_factory.mktemp("data") / "mini", splits, progress=False)


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four images a split. Tests read it and leave it as it is."""
    from running import own_set

    return own_set(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture(scope="session")
def trained(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run of four steps on `own`. Tests read it and leave it as it is."""
    from running import run, tiny

    output = tmp_path_factory.mktemp("trained")
    assert run(*tiny(own, output)) == 0
    return output


@pytest.fixture(scope="session")
def models(own: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The set `own`, and the folders of `trained` and of a plain run. Tests read them and leave them as they are."""
    from running import folder, run, tiny

    from wsss.presets import PLAIN

    output = tmp_path_factory.mktemp("plain")
    off = [word for path, value in PLAIN.items() if value == 0 for word in (f"--{path}", "0")]
    assert run(*tiny(own, output, *off, "--variant", "plain")) == 0
    return own, folder(trained), folder(output)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a command that must end with exit code 1 and one sentence, and return the sentence."""
    from running import run, sentence

    def refuse(*words: object) -> str:
        capsys.readouterr()
        assert run(*words) == 1
        return sentence(capsys.readouterr().err)

    return refuse


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, one per module: its event loop would disturb the tests of other modules."""
    from browser import launched

    with launched() as found:
        yield found


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the built book: $WSSS_BOOK, else built once for these tests."""
    from browser import build_book

    folder = Path(os.environ.get("WSSS_BOOK") or build_book(tmp_path_factory.mktemp("book")))
    assert (folder / "index.html").is_file(), f"WSSS_BOOK is {folder}, which holds no index.html; `make book` builds it"
    return folder.resolve()


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """No test needs the network: a connection beyond this machine's loopback is an error."""
    patch = pytest.MonkeyPatch()
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            _refuse_unless_loopback(address[0])
        connect(self, address)

    def guarded_lookup(host: Any, *rest: Any, **options: Any) -> Any:
        _refuse_unless_loopback(host)
        return lookup(host, *rest, **options)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_lookup)
    yield
    patch.undo()


def _refuse_unless_loopback(host: Any) -> None:
    known = {*LOOPBACK, "", socket.gethostname(), None}
    if (host.decode() if isinstance(host, bytes) else host) not in known:
        raise RuntimeError(f"a test tried to reach {host}; tests must not need the network")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """Make a skipped comparison with the reference material a failure if the material is there."""
    report = yield
    if report.skipped and "WSSS_SHARED" in os.environ and "WSSS_SHARED" in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"skipped although WSSS_SHARED is set: {report.longrepr}"
    return report
