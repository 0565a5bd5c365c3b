"""Keys: hashes at rest, what each opens and until when; a ledger of an earlier Treadle keeps its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from earlier import AT, SECRET, make_earlier

from treadle.core.errors import UserError
from treadle.store.keys import SCOPES, USUAL, Use, parse_expiry, parse_limits
from treadle.store.ledger import Ledger

Open = Callable[[], Ledger]


def name_of(ledger: Ledger, secret: str) -> str | None:
    key = ledger.find_key(secret)
    return key.name if key else None


def test_keys_are_kept_as_hashes_and_can_be_revoked(ledger: Ledger) -> None:
    key = ledger.add_key("phone app")
    other = ledger.add_key("web")
    assert key != other
    assert len(key) > 40
    assert name_of(ledger, key) == "phone app"
    assert name_of(ledger, other) == "web"
    for wrong in ("", "tk-", key[:-1], key + "x", key.upper(), "\u00e9\ud800"):
        assert name_of(ledger, wrong) is None
    stored = repr([dict(row) for row in ledger._all(sa.text("SELECT * FROM keys"))])
    assert "sha256" in stored
    assert key not in stored
    with pytest.raises(UserError, match="there is a key named 'web' already"):
        ledger.add_key("web")
    for name in ("", "x" * 81, "a\nb", "a\x00"):
        with pytest.raises(UserError, match="cannot name a key"):
            ledger.add_key(name)

    ledger.revoke_key("web")
    assert name_of(ledger, other) is None
    assert name_of(ledger, key) == "phone app"
    for name in ("web", "nobody"):
        with pytest.raises(UserError, match="there is no live key"):
            ledger.revoke_key(name)
    assert [(row["name"], row["revoked"] is not None) for row in ledger.all_keys()] == [("phone app", False), ("web", True)]
    assert [row["action"] for row in ledger.audit()] == ["add key", "add key", "revoke key"]


def test_a_key_keeps_its_scopes_and_its_end(ledger: Ledger) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    secret = ledger.add_key("scraper", ["metrics"], end)
    key = ledger.find_key(secret)
    assert key is not None
    assert (key.scopes, key.expires, key.expired) == ({"metrics"}, end, False)
    both = ledger.find_key(ledger.add_key("both", ["feedback", "answer", "answer"]))
    assert both is not None
    assert (both.scopes, both.expires) == ({"answer", "feedback"}, None)
    every = ledger.find_key(ledger.add_key("every"))
    assert every is not None
    assert every.scopes == set(USUAL)
    assert [(row["name"], row["scopes"], row["expires"]) for row in ledger.all_keys()] == [
        ("scraper", "metrics", end), ("both", "answer feedback", None), ("every", "answer feedback metrics", None),
    ]
    with pytest.raises(UserError, match="there is no scope 'admin'") as caught:
        ledger.add_key("root", ["answer", "admin"])
    assert "answer, feedback, metrics" in caught.value.cure


def test_moments_are_in_utc_wherever_the_database_stands(postgres: str, tmp_path: Path) -> None:
    end = datetime(2999, 1, 1, 0, 30, tzinfo=UTC)
    ledger = Ledger(tmp_path, f"{postgres}?options=-c%20timezone%3DAsia/Tokyo")
    assert ledger._all(sa.text("SHOW timezone"))[0]["TimeZone"] == "Asia/Tokyo"
    key = ledger.find_key(ledger.add_key("a", expires=end))
    assert key is not None
    assert f"{key.expires:%Y-%m-%d %H:%M}" == "2999-01-01 00:30"
    assert ledger.check_audit()[0] == 1
    ledger.close()


def test_a_key_that_has_expired_is_found_and_no_longer_live(ledger: Ledger) -> None:
    secret = ledger.add_key("guest", expires=datetime.now(UTC) - timedelta(seconds=1))
    key = ledger.find_key(secret)
    assert key is not None
    assert key.expired
    ledger.add_key("member", expires=datetime.now(UTC) + timedelta(days=1))
    assert [key.name for key in ledger.live_keys()] == ["member"]


def test_use_is_summed_by_key_and_day(open_ledger: Open) -> None:
    ledgers = [open_ledger() for _ in range(3)]
    for name in ("alice", "bob", "carol"):
        ledgers[0].add_key(name, limits={"concurrent": 2, "tokens_per_day": None})
    monday, tuesday = date(2026, 5, 4), date(2026, 5, 5)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: ledgers[n % 3].record_uses({("alice", monday): Use(1, n, 2)}), range(30)))
    assert ledgers[1].record_uses({("alice", tuesday): Use(1, 5_000_000_000, 0)}) == {("alice", tuesday): Use(1, 5_000_000_000, 0)}
    assert ledgers[1].record_uses({("bob", monday): Use(0, 3, 0)}) == {("bob", monday): Use(0, 3, 0)}
    assert ledgers[2].record_uses({("bob", monday): Use(1, 4, 1)}) == {("bob", monday): Use(1, 7, 1)}
    assert open_ledger().use_on(monday) == {"alice": Use(30, sum(range(30)), 60), "bob": Use(1, 7, 1)}
    assert ledgers[0].use_on(date(2026, 5, 6)) == {}
    listed = ledgers[0].list_keys()
    assert [(row["name"], row["last_used"]) for row in listed] == [("alice", tuesday), ("bob", monday), ("carol", None)]
    assert listed[0]["limits"] == {"concurrent": 2, "tokens_per_day": None}
    ledgers[0].record_uses({("carol", datetime.now(UTC).date()): Use(1, 2, 3)})
    assert ledgers[0].list_keys()[2]["today"] == {"requests": 1, "tokens": 2, "predictions": 3}


def test_limits_of_a_key_are_read_as_the_files_are() -> None:
    given = ["requests_per_minute=20k", "concurrent=2", "tokens_per_day=none", "money_per_day=2.5"]
    found = parse_limits(given, priced=True)
    assert found == {"requests_per_minute": 20_000, "concurrent": 2, "tokens_per_day": None, "money_per_day": 2.5}
    assert parse_limits(["money_per_day=none"], priced=False) == {"money_per_day": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [("requests=1", "no such limit"), ("concurrent", "a count is written"), ("concurrent=0", "greater than or equal to 1"),
     ("concurrent=2.5", "whole number"), ("concurrent=true", "a count is written"), ("money_per_day=-1", "greater than 0"),
     ("money_per_day=NaN", "finite"), ("money_per_day=a lot", "valid number"), ("=1", "no such limit")],
)
def test_a_limit_that_is_none_is_said(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse_limits([text], priced=True)
    assert f"--limit {text!r}" in str(caught.value)
    assert "requests_per_minute" in caught.value.cure


def test_money_needs_a_price() -> None:
    with pytest.raises(UserError, match="no price") as caught:
        parse_limits(["money_per_day=1"], priced=False)
    assert "serve.price" in caught.value.cure


@pytest.mark.parametrize(("text", "seconds"), [("30 days", 30 * 86400), ("90 min", 5400), ("1.5 h", 5400)])
def test_an_end_is_a_time_from_now(text: str, seconds: float) -> None:
    assert abs((parse_expiry(text) - datetime.now(UTC)).total_seconds() - seconds) < 60


def test_an_end_is_the_end_of_a_day() -> None:
    assert parse_expiry("2999-12-31") == datetime(3000, 1, 1, tzinfo=UTC)
    assert parse_expiry(f"{datetime.now(UTC):%Y-%m-%d}") > datetime.now(UTC)


@pytest.mark.parametrize("text", ["", "soon", "30", "2999-13-01", "9999-12-31", "-1 day", "1e300 days", "0 s", "2020-01-01"])
def test_an_end_that_is_none_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UserError, match="--expires") as caught:
        parse_expiry(text)
    assert "30 days" in caught.value.cure


def test_an_earlier_ledger_opens_and_keeps_its_keys(ledger_url: str, tmp_path: Path) -> None:
    make_earlier(ledger_url)
    for _ in range(2):  # the second finds nothing to do
        ledger = Ledger(tmp_path / "store", ledger_url)
        key = ledger.find_key(SECRET)
        assert key is not None
        assert (key.name, key.scopes, key.expires) == ("alice", set(SCOPES), None)
        rows = [(row["name"], row["at"], row["revoked"]) for row in ledger.all_keys()]
        assert sorted(rows)[:2] == [("alice", AT, None), ("bob", AT, AT)]
        ledger.close()
    ledger = Ledger(tmp_path / "store", ledger_url)
    assert name_of(ledger, ledger.add_key("carol", ["answer"])) == "carol"
    ledger.close()


def test_many_processes_bring_an_earlier_ledger_up_to_date_at_once(ledger_url: str, tmp_path: Path) -> None:
    make_earlier(ledger_url)
    script = "import sys, pathlib, treadle.store.ledger as l; l.Ledger(pathlib.Path(sys.argv[1]), sys.argv[2]).add_key(sys.argv[3])"
    children = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), ledger_url, f"key {n}"]) for n in range(4)]
    assert [child.wait(timeout=120) for child in children] == [0] * 4
    ledger = Ledger(tmp_path / "store", ledger_url)
    assert sorted(row["name"] for row in ledger.all_keys()) == ["alice", "bob", *(f"key {n}" for n in range(4))]
    ledger.close()
