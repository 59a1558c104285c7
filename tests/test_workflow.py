"""The publishing workflow: it calls make targets that CI calls as well, and names nobody and no address."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / ".github" / "workflows" / "book.yml").read_text()
WORKFLOW = yaml.safe_load(TEXT)
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
ACTIONS = {
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "actions/upload-pages-artifact@v3",
    "actions/deploy-pages@v4",
}
TARGETS = re.findall(r"^part (\w+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_every_step_is_a_make_target_of_ci_or_a_standard_action():
    runs = [step["run"] for step in STEPS if "run" in step]
    assert runs and set(runs) <= {f"make {target}" for target in TARGETS}
    assert {step["uses"] for step in STEPS if "uses" in step} == ACTIONS
    assert all("run" in step or "uses" in step for step in STEPS)


def test_ci_calls_targets_that_exist():
    made = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(TARGETS) == len(set(TARGETS)) > 1 and set(TARGETS) <= set(made)


def test_it_runs_on_main_on_requests_and_weekly_and_deploys_from_main_only():
    when = WORKFLOW[True]  # YAML 1.1 reads the key `on` as true
    assert when["push"] == {"branches": ["main"]} and "pull_request" in when
    assert [len(row["cron"].split()) for row in when["schedule"]] == [5] and when["schedule"][0]["cron"][-1] != "*"
    jobs = WORKFLOW["jobs"]
    assert "github.ref == 'refs/heads/main'" in jobs["deploy"]["if"] and jobs["deploy"]["needs"] == "book"
    assert [name for name, job in jobs.items() if "deploy-pages" in str(job)] == ["deploy"]
    assert "schedule" in jobs["notebooks"]["if"] and {"run": "make smoke"} in jobs["notebooks"]["steps"]


def test_what_is_published_is_checked_and_printed_before():
    runs = [step.get("run") or step["uses"] for step in WORKFLOW["jobs"]["book"]["steps"]]
    assert runs[2:] == ["make strict", "make fresh", "make pdf", "actions/upload-pages-artifact@v3"]


def test_it_names_nobody_and_no_address():
    rest = re.sub("|".join(map(re.escape, ACTIONS)), "", TEXT)
    assert not re.search(r"https?:|@|secrets|token\b(?!: write)", rest)
