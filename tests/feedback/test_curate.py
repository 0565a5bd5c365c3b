"""What users said becomes data: counted, deduplicated, split by prompt, with only answers to be learned."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import SHAPE, write_project
from treadle.core.errors import UserError
from treadle.core.project import load_project
from treadle.data.rows import Documents
from treadle.data.shards import END_ID, Shard
from treadle.data.tokenizer import decode, train_tokenizer
from treadle.evaluate.metrics import Figure
from treadle.feedback.curate import curate, feedback_corpus, feedback_dataset
from treadle.feedback.promote import decide_improvement, decide_run
from treadle.model.hub import save_model
from treadle.model.model import make_model
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger


def row(
    id: int, answer: str, prompt: str | None = "p", text: str | None = "t", rating: str | None = None, edited: str | None = None
):
    now = datetime.now(UTC)
    return {"id": id, "answer": answer, "prompt": prompt, "text": text, "rating": rating, "edited": edited, "version": 1, "at": now}


def test_each_kind_is_kept_or_set_aside_with_its_reason():
    rows = [
        row(1, "a", rating="up"),
        row(2, "b", prompt="q", rating="down", edited="better"),
        row(3, "c", rating="down"),
        row(4, "d", prompt=None, text=None, rating="up"),
        row(5, "e", prompt="r", rating="down"), row(6, "e", prompt="r", edited="changed my mind"),
        row(7, "f", rating="up"),
        row(8, "g", edited="  "),
        row(9, "h"),
    ]
    records, aside, account = curate(rows)
    assert [record.fields["answer"] for record in records] == ["t", "better", "changed my mind"]
    assert account.as_dict() == {
        "in": 9, "kept": 3,
        "set_aside": {"empty": 1, "rejected without an edit": 2, "said before": 1, "superseded": 1, "text not stored": 1},
    }
    assert [item.source for item in aside if item.reason == "superseded"] == ["answer e"]
    assert records[1].meta["kind"] == "edited"


answers = st.tuples(st.sampled_from("abcdef"), st.sampled_from([None, "p", "q"]), st.sampled_from([None, "up", "down"]))


@given(st.lists(st.tuples(answers, st.sampled_from([None, "x", "y", ""]))))
def test_the_account_always_balances(given_rows: list):
    rows = [row(i, a, prompt=p, text=p, rating=r, edited=e) for i, ((a, p, r), e) in enumerate(given_rows)]
    records, aside, account = curate(rows)
    assert account.as_dict()["in"] == len(rows) == len(records) + len(aside)
    assert len({record.id for record in records}) == len(records)


@pytest.fixture
def workshop(tmp_path: Path):
    project = write_project(tmp_path)
    store, ledger = Store(project.store), Ledger(project.store)
    texts = ["def add(a, b): return a + b\n"] * 20
    with store.create("model-0", parents=(), config={}, version=1, seed=0) as draft:
        train_tokenizer(texts, 290).save(str(draft.path / "tokenizer.json"))
        save_model(make_model(SHAPE, 0), draft.path)
    return project, store, ledger, store.open("model-0")


def fill(ledger: Ledger, count: int) -> None:
    for i in range(count):
        ledger.record_answer(
            id=f"a{i}", version=1, package="package-0", stored=True, prompt=f"def f{i // 2}(", text="x", settings={},
            prompt_tokens=1, answer_tokens=1, seconds=0.1, finish_reason="stop",
        )
        ledger.record_feedback(f"a{i}", "down", f"a, b{i % 2}): return {i}")


def test_prompts_are_read_and_answers_are_predicted(workshop: tuple):
    project, store, ledger, base = workshop
    fill(ledger, 40)
    corpus = feedback_corpus(project, store, ledger, base)
    assert corpus.counts["account"] == {"in": 40, "kept": 40, "set_aside": {}}
    dataset = feedback_dataset(project, store, corpus, base)
    tokenizer = train_tokenizer(["def add(a, b): return a + b\n"] * 20, 290)
    seen = {}
    for part in ("train", "test"):
        shard = Shard(dataset.path, part)
        for index in range(len(shard)):
            tokens, mask = shard.document(index), shard.document_targets(index)
            prompt, answer = decode(tokenizer, tokens[~mask].tolist()), decode(tokenizer, tokens[mask][:-1].tolist())
            assert tokens[-1] == END_ID
            assert mask[-1]
            assert prompt.startswith("def f")
            assert answer.startswith("a, b")
            assert shard.bytes[index] == len(answer.encode())
            assert seen.setdefault(prompt, part) == part
    assert len(seen) == 20
    assert feedback_dataset(project, store, corpus, base).id == dataset.id


def test_what_is_held_out_stays_so_as_feedback_grows(workshop: tuple):
    project, store, ledger, base = workshop
    fill(ledger, 40)
    first = Shard(feedback_dataset(project, store, feedback_corpus(project, store, ledger, base), base).path, "test").ids
    for i in range(40, 60):
        ledger.record_answer(
            id=f"a{i}", version=1, package="package-0", stored=True, prompt=f"class C{i}", text="x", settings={},
            prompt_tokens=1, answer_tokens=1, seconds=0.1, finish_reason="stop",
        )
        ledger.record_feedback(f"a{i}", "up", None)
    later = feedback_dataset(project, store, feedback_corpus(project, store, ledger, base), base)
    assert set(first) <= set(Shard(later.path, "test").ids)


def test_too_little_feedback_is_said_with_numbers(workshop: tuple):
    project, store, ledger, base = workshop
    with pytest.raises(UserError, match="0 pieces of feedback, 0 usable: 8 are needed"):
        feedback_corpus(project, store, ledger, base)
    fill(ledger, 8)
    corpus = feedback_corpus(project, store, ledger, base)
    few = load_project(project.folder, ["improve.holdout=0.01"])
    with pytest.raises(UserError, match=r"0 of 8 answers are held out .* 5 are needed"):
        feedback_dataset(few, store, corpus, base)


def test_rows_hold_one_document_each(workshop: tuple):
    project, store, ledger, base = workshop
    fill(ledger, 40)
    shard = Shard(feedback_dataset(project, store, feedback_corpus(project, store, ledger, base), base).path, "train")
    rows = Documents(shard, 16, seed=0)
    batch = rows.batch_at(0, rows.documents)
    found = sorted(tuple(t for t in target.tolist() if t >= 0) for target in batch.targets["next"])
    expected = sorted(tuple(shard.document(i)[-16:][shard.document_targets(i)[-16:]].tolist()) for i in range(len(shard)))
    assert found == expected  # each document once per epoch, its answer alone predicted
    inputs, targets = batch.inputs["text"], batch.targets["next"]
    ends = (targets == END_ID).nonzero()
    assert len(ends) == rows.documents
    for row_, place in ends.tolist():
        assert (targets[row_, place + 1 :] < 0).all()
    short = [i for i in range(len(inputs)) if (targets[i] >= 0).any() and inputs[i, 0] == END_ID]
    assert short
    again = np.concatenate([rows.batch_at(step, 2).inputs["text"].numpy() for step in range(3)])
    assert np.array_equal(again, rows.batch_at(0, 6).inputs["text"].numpy())


@pytest.mark.parametrize(
    ("gained", "kept", "promoted"),
    [
        ((-0.3, -0.4, -0.1), (0.01, 0.0, 0.02), True),
        ((-0.3, -0.7, 0.1), (0.0, 0.0, 0.0), False),  # perhaps no gain at all
        ((-0.3, -0.4, -0.1), (0.03, 0.0, 0.05), False),  # perhaps worse than the bound
        ((0.2, 0.1, 0.3), (-0.1, -0.2, -0.05), False),
    ],
)
def test_a_version_goes_live_only_if_it_is_measured_to_be_better(gained: tuple, kept: tuple, promoted: bool):
    decision = decide_improvement(Figure(*gained), 2.0, Figure(*kept), 2.0, max_loss=0.02)
    assert decision.promote is promoted
    assert len(decision.conditions) == 2
    assert "its interval" in decision.reason
    assert all(holds for _, holds in decision.conditions) is promoted


def test_a_new_build_must_beat_the_live_version():
    assert decide_run(Figure(-0.1, -0.2, -0.01), 2.0, 3).promote
    refused = decide_run(Figure(-0.1, -0.2, 0.0), 2.0, 3)
    assert not refused.promote
    assert "against version 3" in refused.reason
