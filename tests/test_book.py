"""The book: a missing number fails the strict build, a changed record shows, executed notebooks are not stale."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_records import is_stale, put, record

from wsss.config import Compat, Config
from wsss.report import records, tables

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
PAGES = re.findall(r"file: (\S+)", (BOOK / "_toc.yml").read_text())
RUN_PAGES = [page.removeprefix("runs/") for page in PAGES if page.startswith("runs/")]


@pytest.fixture
def project(tmp_path):
    """A project of one record, with the book's own extension and no page yet."""
    root = tmp_path
    (root / "_config.yml").touch()
    (root / "wsss").symlink_to(ROOT / "wsss")
    shutil.copytree(BOOK / "_ext", root / "book" / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data" / "published", root / "data" / "published")
    records.save(record(), root / "data" / "results" / "mini" / "mini" / "0.json")
    return root


def build(project, text="", **environment):
    """Strict build of one page; returns what Sphinx says and the page."""
    if text:
        (project / "book" / "index.rst").write_text(f"Title\n=====\n\n{text}\n")
    command = [sys.executable, "-m", "sphinx", "-qWC", "--keep-going", "-D", "extensions=wsss_show", "book", "_html"]
    paths = os.pathsep.join(str(path) for path in (project / "book" / "_ext", project))
    own = {key: value for key, value in os.environ.items() if key != "WSSS_RUNS"}
    done = subprocess.run(
        command, cwd=project, env=own | {"PYTHONPATH": paths} | environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, (project / "_html" / "index.html").read_text()


def save(project, variant, seed, kinds=("segmentation",), **numbers):
    """A record with these numbers for each kind of label map."""
    results = dict.fromkeys(kinds, numbers | {"miou": numbers["miou_headline"]})
    path = project / "data" / "results" / "mini" / variant / f"{seed}.json"
    records.save(record(variant=variant, seed=seed, results=results), path)


def text_of(page):
    return re.sub("<[^>]+>", "", page)


def test_numbers_of_records_and_of_the_literature(project):
    text = ":result:`mini/mini#segmentation.miou` :result:`mini/mini/0#images` "
    text += ":result:`published#segmentation/ToCo (21k)/voc_val`"
    code, said, page = build(project, text)
    assert code == 0, said
    shown = re.findall(r'<abbr class="wsss-result" title="[^"]+">([^<]+)</abbr>', page)
    assert shown == ["40.0 (1 seed)", "2", "71.1"]


FAULTS = {
    ":result:`mini/mini#cam.miou`": "result mini/mini#cam.miou: .*has no result cam.miou",
    ":result:`mini/nobody#segmentation.miou`": "no published record of mini/nobody",
    ":result:`published#segmentation/Nobody/voc_val`": "data/published has no number segmentation/Nobody/voc_val",
    ":result:`x`": "result x: ",
    ":difference:`mini-components/base + X/CAM`": "mini-components has no row base \\+ X",
    ":answer:`nothing`": "no experiment named nothing",
    ":tested:`test_nothing`": "there is no test test_nothing",
    ".. results-table:: nothing": "no table named nothing",
    ".. results-table:: voc\n   :commands: nowhere": "no page nowhere",
    ".. results-figure:: nothing": "no figure named nothing",
    ".. results-figure:: a#0": "results-figure: .*a.ipynb",
    ".. cost-table:: nothing": "no table nothing",
    ".. bench-table:: infer": "infer.json is not a line of wsss bench infer",
}
"""What a page may ask for in vain, and what the strict build then says."""


def test_what_is_missing_fails_the_strict_build_and_of_an_unchanged_page_again(project):
    put(project / "data" / "results" / "bench" / "infer.json", {"bench": "infer"})
    for text in ("\n\n".join(FAULTS), ""):
        code, said, page = build(project, text)
        assert code != 0 and page.count("n/a") >= len(FAULTS)
        assert not [fault for fault, words in FAULTS.items() if not re.search(words, said)], said


def test_a_changed_record_and_a_new_one_change_the_page(project):
    assert "40.0 (1 seed)" in build(project, ":result:`mini/mini#segmentation.miou`")[2]
    records.save(record(seed=1), project / "data" / "results" / "mini" / "mini" / "1.json")
    assert "40.5 ± 0.7 (2 seeds)" in build(project)[2]
    changed = record(results={"segmentation": {"miou": 50.0}})
    records.save(changed, project / "data" / "results" / "mini" / "mini" / "0.json")
    assert "45.5 ± 6.4 (2 seeds)" in build(project)[2]


def test_a_table_shows_what_was_not_run(project):
    code, said, page = build(project, ".. results-table:: headline\n   :name: t\n   :caption: Words.")
    assert code == 0, said
    assert "Words." in page and "wsss train voc --seed 0" in text_of(page)
    assert "run, not paired" in page and "40.0 (1 seed)" not in page, "a run without its base is not shown"


def test_an_experiment_shows_the_rows_that_were_run_and_without_any_its_command(project):
    save(project, "mini", 0, miou_headline=40.0)
    code, said, page = build(project, ".. results-table:: mini-components\n\n.. results-table:: voc-components")
    assert code == 0, said
    cells = [text_of(cell) for cell in re.findall(r"<td><p>(.*?)</p></td>", page)]
    assert "base + both" in cells and "base + CSA" not in cells and "no record" in cells
    assert "Not run: plain classification" in text_of(page) and "wsss sweep voc-components" in text_of(page)


def test_a_table_and_a_figure_offer_their_data(project):
    code, said, page = build(project, ".. results-table:: voc\n\n.. results-figure:: published_curves")
    assert code == 0, said
    assert '<svg class="wsss-figure" role="img" aria-label="mIoU over steps in the published logs' in page
    table, figure = ((project / "_html" / link).read_text() for link in re.findall(r'href="(_down[^"]+csv)"', page))
    assert table == tables.build("voc", []).csv()
    assert figure.startswith("panel,series,x,y\n") and 'ViT-B, thousand steps",CAM,20,72.334' in figure


INFER = {"bench": "infer", "images": 20, "width": 500, "height": 375, "protocol": "voc", "backbone": "deit", "units": 9}
INFER |= {"images_a_second": 0.125, "seconds": 160.0, "crf_seconds": 31.5, "tflop": 32.1, "ratio": 1.5, "threads": 2}
INFER |= {"phases": {"network": 120.0, "resizing": 1.0, "reading and softmax": 1.5, "crf": 37.5}, "gemm_seconds": 0.4}
INFER |= {"peak_memory_gb": 1.5, "device": "cpu", "workers": 2, "dtype": "float32", "note": "an idle machine"}
MEMORY = {"bench": "memory", "done": [0, 1, 2, 3], "process_mb": [9.0] * 4, "workers_mb": [5.0] * 4, "workers": 2}


def test_benches_are_shown_each_on_its_own(project):
    folder = project / "data" / "results" / "bench"
    text = ".. bench-table:: infer\n\n.. bench-table::\n\n.. results-figure:: evaluation_memory"
    code, said, page = build(project, text)
    assert code == 0, said
    assert all(f"there is no record of wsss bench {kind}." in text_of(page) for kind in ("memory", "infer", "step"))
    put(folder / "infer.json", INFER)
    put(folder / "evaluation-memory.json", MEMORY | {"images": 3})
    page = build(project)[2]
    assert "20 of 500x375, voc, deit, float32 (an idle machine)" in page and ">1.50<" in page
    assert "Not measured yet: there is no record of wsss bench step." in text_of(page)
    assert 'aria-label="Resident memory over 3 images' in page


def test_estimates_for_gpus_are_made_when_the_page_is_built(project):
    code, said, page = build(project, ".. cost-table:: runs\n\n.. cost-table:: memory\n   :caption: Words.")
    assert code == 0, said
    assert (
        "torchrun --nproc_per_node 2 -m wsss train PRESET --seed 0" in re.sub("<[^>]+>", "", page) and "Words." in page
    )
    times = project / "data" / "published" / "training_time.csv"
    times.write_text(times.read_text().replace("ToCo,voc,A100,2,3,43", "ToCo,voc,A100,2,7,00"))
    assert ">2.6 to 3.7<" in page and "to 7.0<" in build(project)[2]


def test_commands_of_a_table_lead_to_the_page_that_says_what_they_take(project):
    (project / "book" / "gpu.rst").write_text(":orphan:\n\nGPU\n===\n")
    code, said, page = build(project, ".. results-table:: voc\n   :commands: gpu")
    assert code == 0, said
    assert re.search('<a class="reference internal" href="gpu.html"><code[^>]*>(<[^>]+>)*wsss', page)


def test_your_run_is_shown_in_your_book_only(project):
    row = {"what": "mini, seed 0: CAM mIoU", "published": "40.0 (1 seed)", "yours": 41.0, "counts": True}
    put(
        project / "runs" / "verdict.json",
        {"rows": [row | {"low": 38.0, "high": 42.0, "within": True}], "passed": True, "reach": "They exclude nothing."},
    )
    assert "nothing has been run yet" in build(project, ".. verdict::")[2]
    page = build(project, WSSS_RUNS="runs")[2]
    assert (
        "mini, seed 0: CAM mIoU" in page
        and "All judged numbers lie within the interval" in page
        and "They exclude nothing." in page
    )


def test_a_row_of_the_records_opens_its_file(project):
    code, said, page = build(project, ".. results-table:: records")
    (link,) = re.findall(r'href="(_downloads/[^"]+json)"', page)
    assert code == 0, said
    published = project / "data" / "results" / "mini" / "mini" / "0.json"
    assert (project / "_html" / link).read_bytes() == published.read_bytes()


# The pages.


@pytest.mark.parametrize("name", RUN_PAGES)
def test_an_executed_notebook_matches_its_source(name):
    executed, source = BOOK / "runs" / f"{name}.ipynb", ROOT / "notebooks" / f"{name}.ipynb"
    assert executed.is_file(), f"book/runs/{name}.ipynb is missing: run the notebook, then `make publish`"
    assert not is_stale(executed, source), f"notebooks/{name}.ipynb has changed since: run it, `make publish`"
    stamp = json.loads(executed.read_text())["metadata"]["wsss"]
    assert stamp["commit"] and not stamp["dirty"] and stamp["notebook"] == f"notebooks/{name}.ipynb"
    assert {"device", "versions", "seconds", "parameters"} <= set(stamp)


def test_every_switch_has_its_row_among_the_deviations():
    page = (BOOK / "choices.md").read_text()
    for field in dataclasses.fields(Compat):
        assert f"`{field.name}`" in page, f"compat.{field.name} has no row in book/choices.md"


EQUATIONS = {
    "cam.py": {"class_scores": "scores", "to_unit_range": "cam", "training_labels": "labels"}
    | {"evaluation_labels": "evaluation"},
    "contrast.py": {"affinity_labels": "pairs", "patch_contrast_loss": "ptc", "class_contrast_loss": "ctc"},
    "method.py": {"classification_loss": "cls", "segmentation_loss": "seg", "objective": "objective"}
    | {"alignment_terms": "B7"},
    "optim.py": {"rate_factor": "rate"},
    "refine.py": {"neighbour_weights": "R1 R2", "refine": "R3", "segmentation_labels": "R4 R5"},
    "energy.py": {"filtered": "E1", "energy_loss": "E2 E3"},
    "subspace.py": {"project": "A", "subspace_contrast_loss": "A1", "patch_subspace_loss": "A2"}
    | {"orthogonality_loss": "A3a", "decorrelation_loss": "A3b"},
    "alignment.py": {"student_cam": "B1", "teacher_cam": "B2", "intensity_loss": "B3", "cam_affinity": "B4"}
    | {"structure_loss": "B5"},
    "schedule.py": {"direction_weights": "B6"},
}
"""Function -> labels of the numbered equations, or tags, of the book that it computes."""


def test_every_equation_of_the_book_stands_in_the_first_line_of_its_function():
    pages = "".join((BOOK / f"{page}.md").read_text() for page in ("method", "module_a", "module_b"))
    numbers = {label: number for number, label in enumerate(re.findall(r"\(eq-(\w+)\)$", pages, re.MULTILINE), 1)}
    tags = set(re.findall(r"\\tag\{(\w+)\}", pages))
    named = [label for table in EQUATIONS.values() for labels in table.values() for label in labels.split()]
    assert sorted(named) == sorted(tags | set(numbers)) and len(named) == 31
    for file, functions in EQUATIONS.items():
        tree = ast.parse((ROOT / "wsss" / file).read_text())
        for function in (node for node in tree.body if getattr(node, "name", "") in functions):
            sentence = re.split(r"\n\n|(?<!\beq)\. ", ast.get_docstring(function))[0]
            for label in functions[function.name].split():
                wanted = f"eq\\. {numbers[label]}" if label in numbers else label
                assert re.search(rf"\([^()]*\b{wanted}\b[^()]*\)", sentence), f"{function.name} does not name {label}"
        assert {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} >= functions.keys()


def test_a_notebook_in_colab_is_told_to_get_the_project_where_it_has_an_address(monkeypatch):
    monkeypatch.syspath_prepend(BOOK / "_ext")
    import wsss_site

    shown = [node.astext() for node in wsss_site.elsewhere({"repository_url": "https://example.org/wsss"})]
    assert "git clone https://example.org/wsss " in shown[-1] and "pip install" in shown[-1]
    assert wsss_site.elsewhere({}) == []


@pytest.fixture
def show(monkeypatch):
    """The extension that shows source, drawings and verdicts."""
    monkeypatch.syspath_prepend(BOOK / "_ext")
    import wsss_show

    return wsss_show


DRAWINGS = sorted((BOOK / "_static" / "drawings").glob("*.svg"))


def test_source_names_its_equation(show):
    assert show.source_of("alignment.structure_loss")[2] == "B5" and show.source_of("refine.refine")[2] == "R3"
    with pytest.raises(KeyError):
        show.source_of("alignment.nothing")


@pytest.mark.parametrize("file", DRAWINGS, ids=lambda file: file.stem)
def test_a_drawing_is_described_and_asks_for_nothing(show, file):
    drawn = show.inlined(file, file.stem)
    title, words = (re.search(rf'<{tag} id="{file.stem}-[td]">(.+?)</{tag}>', drawn) for tag in ("title", "desc"))
    assert title and words and len(words[1]) > 60
    assert not re.findall(r'href="(?!data:|#)', drawn) and "font-size=" not in drawn
    assert set(re.findall(r"url\(#([^)]+)\)", drawn)) <= set(re.findall(r'id="([^"]+)"', drawn))


@pytest.mark.parametrize(
    ("bounds", "p", "word"),
    [
        ((1.2, 0.4, 2.0), 0.01, "shown"),
        ((0.3, 0.1, 0.5), 0.01, "shown, but small"),
        ((0.1, -0.4, 0.6), 0.5, "no effect"),
        ((0.8, -0.4, 2.0), 0.2, "open"),
        ((0.8, float("nan"), float("nan")), float("nan"), "open"),
    ],
)
def test_verdicts(show, bounds, p, word):
    assert show.judged(show.OverSeeds(*bounds, p, 3), p) == word


def test_a_difference_and_its_verdict_come_from_records(project):
    for seed in range(3):
        save(project, "mini-base", seed, miou_headline=40.0)
        save(project, "mini", seed, miou_headline=40.2 + seed / 10)
    text = ":difference:`mini-components/base + both/segmentation` :answer:`mini-components/base + both/segmentation` "
    code, said, page = build(project, text + ":answer:`mini-subspaces` :difference:`mini-components/base + MSC/CAM`")
    assert code == 0, said
    assert (
        "+0.3 [+0.1 to +0.5] (3 seeds, shown, but small) +0.3, shown, but small (3 seeds) not run yet not run yet"
        in text_of(page)
    )


def test_what_is_shown_and_what_maps_miss_come_from_records_and_a_model_s_numbers_from_its_card(project):
    both = ("segmentation", "cam")
    for seed in range(3):
        save(project, "mini-base", seed, both, miou_headline=40.0, under_activation=30.0)
        save(project, "mini", seed, both, miou_headline=43.0 + seed / 10, under_activation=28.0 + seed / 10)
    measured = {f"{kind}.miou_headline": 12.34 for kind in ("segmentation", "cam", "aux_cam")}
    card = {"this_file": measured | {"classification.map_headline": 59.6}, "backbone": "vit_tiny, patch 8"}
    card |= {"images_in_percent": {"named": 57.7, "outlined": 30.3}, "steps": 2000}
    card |= {"train_images": 3131, "evaluated_on": "300 images of val", "protocol": {"size": 160}}
    put(project / "data" / "weights" / "x.json", card)
    text = ":difference:`mini-components/base + both/CAM#under_activation` :missed:`base + both`\n\n"
    code, said, page = build(project, text + ".. shown::\n\n.. model-card:: data/weights/x.json")
    assert code == 0, said
    shown = text_of(page)
    assert "-1.9 [-2.1 to -1.7] (3 seeds) falls on drawn images" in shown
    assert shown.count("base + both against base") == 2 and "+3.1" in shown
    assert all(number in shown for number in ("12.3", "59.6", "57.7", "30.3"))
    assert "vit_tiny, 2,000 steps on 3,131 photographs" in shown
    save(project, "mini", 0, both, miou_headline=43.0, under_activation=45.0)
    assert "is not shown to fall" in text_of(build(project)[2])


def test_no_two_pages_have_one_title():
    titles = [(BOOK / f"{page}.md").read_text().splitlines()[0] for page in PAGES if (BOOK / f"{page}.md").is_file()]
    for name in RUN_PAGES:
        cells = json.loads((BOOK / "runs" / f"{name}.ipynb").read_text())["cells"]
        titles.append("".join(cells[0]["source"]).splitlines()[0])
    assert len(titles) == len(PAGES) and len(set(titles)) == len(titles)


def test_the_contents_are_short():
    """What a reader sees of the contents without opening the appendix."""
    assert len(re.findall(r"^ {6}- file", (BOOK / "_toc.yml").read_text(), re.M)) <= 15


@pytest.mark.parametrize("part", ["msc", "csa"])
def test_every_setting_of_the_modules_is_described_and_a_row_of_the_choices(show, part):
    """What the reconstruction chose, its alternatives and the words to type."""
    page, fields = (BOOK / "choices.md").read_text(), dataclasses.fields(getattr(Config(), part))
    assert {f"{part}.{row.name}" for row in fields} <= show.described().keys()
    assert not [row.name for row in fields if f"`--{part}.{row.name}`" not in page]
