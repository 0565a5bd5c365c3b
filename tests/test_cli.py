"""The words of the command line as a user types them: exit codes, one JSON document, one clear message."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tiny import write_project
from treadle.cli import app
from treadle.store.ledger import Ledger


def treadle(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "treadle", *words], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_project(folder)
    treadle("run", "--json", cwd=folder)
    return folder


def test_help_and_check_do_not_load_torch(tmp_path: Path):
    write_project(tmp_path)
    for words in (["--help"], ["check", "--json"], ["schema"], ["recipes"]):
        code = f"import sys; sys.argv = ['treadle', *{words!r}]\nfrom treadle.cli import main\ntry: main()\n"
        code += "except SystemExit as e: assert not e.code, e.code\nassert 'torch' not in sys.modules, 'torch was imported'"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_init_makes_a_project_that_checks_and_refuses_to_overwrite_it(tmp_path: Path):
    assert "treadle run" in treadle("init", "pycode", cwd=tmp_path).stdout
    found = json.loads(treadle("check", "--json", "-f", "pycode", cwd=tmp_path).stdout)
    assert found["name"] == "pycode"
    assert found["sources"][0]["count"] > 100
    assert "holds a project already" in treadle("init", "pycode", cwd=tmp_path, code=2).stderr
    assert "did you mean 'pycode'? known: " in treadle("init", "pycoed", cwd=tmp_path, code=2).stderr


def test_all_errors_at_once_with_lines_and_exit_code_2(tmp_path: Path):
    write_project(tmp_path)
    file = tmp_path / "treadle.yaml"
    file.write_text(file.read_text().replace("heads: 2", "haeds: 2").replace("30 steps", "30 stepz"))
    done = treadle("check", "--json", cwd=tmp_path, code=2)
    problems = json.loads(done.stdout)["error"]["problems"]
    assert [(p["key"], p["line"]) for p in problems] == [("model.trunk.transformer.haeds", 7), ("train.budget", 8)]
    assert "did you mean 'heads'?" in done.stderr
    assert "treadle.yaml:8:17" in done.stderr
    assert "there is no such file" in treadle("plan", "-f", "nowhere", cwd=tmp_path, code=2).stderr


def test_set_overrides_any_key(tmp_path: Path):
    write_project(tmp_path)
    found = json.loads(treadle("check", "--json", "--set", "train.budget='7 steps'", cwd=tmp_path).stdout)
    assert {"key": "budget", "value": "7 steps", "reason": "given"} in found["derived"]
    assert "is not a known key" in treadle("check", "--set", "train.bugdet=7", cwd=tmp_path, code=2).stderr


def test_missing_data_is_the_users_error(tmp_path: Path):
    write_project(tmp_path)
    for word in ("check", "plan", "run"):
        done = treadle(word, "--set", "data.sources.0.files='nowhere/*.py'", cwd=tmp_path, code=2)
        assert "data.sources.0.files" in done.stderr
        assert "cure:" in done.stderr


def test_what_will_not_fit_is_said_before_anything_starts(tmp_path: Path):
    write_project(tmp_path)
    done = treadle("run", "--set", "plan.memory='1 MB'", cwd=tmp_path, code=2)
    assert "will not fit" in done.stderr
    assert not (tmp_path / ".treadle" / "artifacts").exists()


def test_run_gives_one_json_document(project: Path):
    done = treadle("run", "--json", cwd=project)
    found = json.loads(done.stdout)
    assert found["version"] == 1
    assert found["scorecard"]["metrics"]["bits_per_byte"]["value"] > 0
    assert "cached" in done.stderr


def test_run_prints_the_scorecard_for_people(project: Path):
    text = treadle("run", cwd=project).stdout
    for words in ("records in", "bits_per_byte", "trigram baseline", "gate: bits_per_byte <= 8: passed", "treadle serve"):
        assert words in text


def test_a_refusing_gate_exits_1_and_still_shows_what_was_measured(project: Path):
    done = treadle("run", "--set", "evaluate.gate.bits_per_byte='<= 0.1'", cwd=project, code=1)
    assert "the gate refused" in done.stderr
    assert "REFUSED" in done.stdout
    done = treadle("run", "--json", "--set", "evaluate.gate.bits_per_byte='<= 0.1'", cwd=project, code=1)
    assert json.loads(done.stdout)["error"]["kind"] == "GateRefused"
    assert json.loads(done.stdout)["scorecard"]["gate"][0]["passed"] is False


def test_plan_trace_report_and_improve_on_a_built_project(project: Path):
    assert json.loads(treadle("plan", "--json", cwd=project).stdout)["parameters"] > 1000
    assert "PSF-2.0" in treadle("trace", "v1", cwd=project).stdout
    assert "cure" in treadle("trace", "nothing-such", cwd=project, code=2).stderr
    path = json.loads(treadle("report", "--json", cwd=project).stdout)["path"]
    assert "<html" in Path(path).read_text()[:200]
    assert "8 are needed" in treadle("improve", cwd=project, code=2).stderr
    assert "no earlier version" in treadle("rollback", cwd=project, code=2).stderr


def test_rollback_says_how_to_take_it_back(tmp_path: Path):
    ledger = Ledger(write_project(tmp_path).store)
    for package in ("package-1", "package-2"):
        ledger.promote(package, "better")
    for words, live, back in ((["rollback"], 1, 2), (["rollback", "--to", "2"], 2, 1)):
        done = CliRunner().invoke(app, [*words, "-f", str(tmp_path)])
        assert (done.exit_code, ledger.live()["version"]) == (0, live)
        assert f"treadle rollback --to {back} -f {tmp_path}" in done.output


def test_keys_are_made_listed_and_revoked(project: Path):
    key = treadle("key", "add", "alice", cwd=project).stdout.strip()
    assert key.startswith("tk-")
    assert key not in "".join(p.read_bytes().decode("latin-1") for p in (project / ".treadle").glob("ledger.db*"))
    assert "already" in treadle("key", "add", "alice", cwd=project, code=2).stderr
    treadle("key", "revoke", "alice", cwd=project)
    words = ["key", "add", "scraper", "--scope", "metrics", "--scope", "answer", "--expires", "30 days", "--limit", "concurrent=2"]
    made = json.loads(treadle(*words, "--json", cwd=project).stdout)
    assert "passed" in treadle("key", "add", "old", "--expires", "2020-01-01", cwd=project, code=2).stderr
    assert "answer, feedback, metrics" in treadle("key", "add", "root", "--scope", "admin", cwd=project, code=2).stderr
    assert "serve.price" in treadle("key", "add", "rich", "--limit", "money_per_day=1", cwd=project, code=2).stderr
    _, alice, scraper = treadle("key", "list", cwd=project).stdout.splitlines()
    assert alice.split() == ["alice", "answer,", "feedback,", "metrics", "revoked", "last", "used", "never"]
    assert scraper.split()[:3] == ["scraper", "answer,", "metrics"]
    assert "concurrent=2" in scraper
    assert f"live until {made['expires'][:16]} UTC" in scraper


def test_the_audit_trail_is_shown_and_verified(tmp_path: Path):
    project = write_project(tmp_path)
    assert treadle("audit", cwd=tmp_path).stdout == "no entries\n"
    ledger = Ledger(project.store)
    ledger.promote("package-1", "better")
    ledger.add_key("alice")
    first, second = treadle("audit", cwd=tmp_path).stdout.splitlines()
    assert "promote" in first
    assert 'package: "package-1"' in first
    assert "add key" in second
    found = json.loads(treadle("audit", "verify", "--json", cwd=tmp_path).stdout)
    assert found == {"entries": 2, "head": ledger.audit()[1]["hash"]}
    assert "2 entries" in treadle("audit", "verify", "--head", found["head"], cwd=tmp_path).stdout
    assert "lost its end" in treadle("audit", "verify", "--head", "f" * 64, cwd=tmp_path, code=1).stderr
    with sqlite3.connect(project.store / "ledger.db") as connection:
        connection.execute("DROP TRIGGER audit_is_not_changed")
        connection.execute("UPDATE audit SET action = 'rollback' WHERE id = 1")
    connection.close()
    wrong = treadle("audit", "verify", cwd=tmp_path, code=1).stderr
    assert "entry 1 (rollback" in wrong
    assert "cure: compare with a backup" in wrong


def test_serve_says_what_is_missing(tmp_path: Path):
    write_project(tmp_path)
    assert "treadle run" in treadle("serve", cwd=tmp_path, code=2).stderr


def test_serve_says_where_in_one_json_document(project: Path):
    words = [sys.executable, "-m", "treadle", "serve", "--json"]
    process = subprocess.Popen(words, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while "}" not in text:
            text += process.stdout.readline() or pytest.fail("the server ended before it was ready")
        found = json.loads(text)
        assert found["version"] == 1
        with urllib.request.urlopen(found["url"] + "/healthz", timeout=10) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
    assert process.wait(timeout=60) == 0


def test_a_reader_that_goes_away_is_no_error(project: Path):
    done = subprocess.run(
        f"{sys.executable} -m treadle schema | head -1", shell=True, cwd=project, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
