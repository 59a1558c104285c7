"""The publishing workflow: it calls make targets that CI calls as well, and names nobody and no address."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / ".github" / "workflows" / "book.yml").read_text()
WORKFLOW = yaml.safe_load(TEXT)
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
TARGETS = re.findall(r"^part (\w+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_every_step_is_a_make_target_of_ci_or_an_action_of_github_s_own():
    """What runs there runs here, too, and nobody else's code is fetched."""
    for step in STEPS:
        assert ("run" in step) != ("uses" in step)
        assert step.get("run", "").removeprefix("make ") in ("", "smoke", *TARGETS)  # slow tests hold smoke
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v1"))


def test_ci_calls_targets_that_exist():
    made = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(TARGETS) == len(set(TARGETS)) > 1 and set(TARGETS) <= set(made)


def test_only_main_is_published_and_only_after_its_book_was_built_strictly():
    jobs = WORKFLOW["jobs"]
    published = [name for name, job in jobs.items() if any("deploy" in step.get("uses", "") for step in job["steps"])]
    assert published, "the book is published"
    for job in (jobs[name] for name in published):
        assert "github.ref == 'refs/heads/main'" in job["if"] and "github.event_name != 'pull_request'" in job["if"]
        done = [step.get("run") or step["uses"] for step in jobs[job["needs"]]["steps"]]
        uploaded = next(place for place, words in enumerate(done) if "upload-pages" in words)
        assert "make strict" in done[:uploaded]
    writing = [name for name, job in jobs.items() if "write" in str(job.get("permissions", ""))]
    assert writing == published and WORKFLOW["permissions"] == {"contents": "read"}


def test_it_names_nobody_and_no_address():
    rest = re.sub(r"actions/[\w-]+@v\d+", "", TEXT)
    assert not re.search(r"https?:|@|secrets|token\b(?!: write)", rest)
