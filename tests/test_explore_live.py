"""The live explorer in JupyterLab: what is moved in the browser is read by the kernel, which answers on demand."""

import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress

import nbformat
import pytest
from browser import opened
from running import environment, folder, wait_until

pytestmark = pytest.mark.slow

SHOW = """
from pathlib import Path
from wsss.explore import sources, widget

seers, classes = sources.of_runs([Path({run!r})])
live = widget.Explorer(sources.of_set(Path({root!r}), "val", classes, 2), seers, classes)
live
"""
READ = "print('read', live.threshold, live.label, live.image, live.answer.get('name'))"
SETTINGS = {
    "ServerApp.ip": "127.0.0.1",
    "ServerApp.token": "",
    "ServerApp.password": "",
    "ServerApp.open_browser": "False",
    "ServerApp.allow_root": "True",
    "LabApp.news_url": "",
    "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    "LabApp.extension_manager": "readonly",
}


@contextmanager
def lab(home):
    """JupyterLab on the notebooks of a folder; its address."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (pip install -e '.[test]')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "RUNTIME")}
    words = [f"--{name}={value}" for name, value in {**SETTINGS, "ServerApp.port": port}.items()]
    command = [sys.executable, "-m", "jupyterlab", *words, f"--ServerApp.root_dir={home}"]
    with open(home / "lab.log", "wb") as log:
        server = subprocess.Popen(command, env=environment(**own), stdout=log, stderr=log, cwd=home)
        try:
            wait_until(lambda: answers(server, port))
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def answers(server, port):
    assert server.poll() is None, "JupyterLab has ended; see lab.log"
    with suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
        return True


def test_a_slider_is_read_by_the_kernel_and_the_kernel_answers(browser, own, trained, tmp_path):
    cells = [SHOW.format(run=str(folder(trained)), root=str(own)), READ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells], metadata=kernel
    )
    nbformat.write(notebook, tmp_path / "live.ipynb")
    with lab(tmp_path) as address, opened(browser, f"{address}/lab/tree/live.ipynb") as (page, faults):
        execute(page, 0)
        page.wait_for_selector(".wsss-explorer[data-ready]")
        page.locator(".wsss-explorer [data-image='1']").click()
        page.locator(".wsss-explorer [data-key=threshold]").fill("0.73")
        page.locator(".wsss-explorer [data-key=label][value='1']").check()
        assert read(page) == "read 0.73 1 1 None"
        page.locator(".wsss-explorer [data-ask=refine]").click()
        title = "CAM, last layer (block 3), above 0.73, refined"
        page.wait_for_selector(f".wsss-explorer [data-key=view][value='{title}']:checked", state="attached")
        assert read(page) == f"read 0.73 1 1 {title}"
        page.locator(".wsss-explorer input[type=file]").set_input_files(own / "JPEGImages/val_2.jpg")
        page.wait_for_selector(".wsss-explorer [data-image='2'][aria-pressed=true]")
        assert read(page) == f"read 0.73 -1 2 {title}"  # another photograph: no class is chosen
        assert not [fault for fault in faults if fault.startswith(("asks", "script"))]


def execute(page, number):
    """Run a cell and wait for its end. What is asked for before the kernel is connected is lost, so ask again."""
    cell, prompt = page.locator(".jp-CodeCell").nth(number), f"document.querySelectorAll('.jp-InputPrompt')[{number}]"
    before, asked = cell.locator(".jp-InputPrompt").text_content(), 0
    while cell.locator(".jp-InputPrompt").text_content() == before:
        assert (asked := asked + 1) < 100, "the kernel does not run the cell"
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(2000)
    page.wait_for_function(f"!{prompt}.textContent.includes('*')")


def read(page):
    execute(page, 1)
    return page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output").text_content().strip()
