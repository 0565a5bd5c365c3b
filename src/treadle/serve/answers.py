"""Answers and feedback on their way into the ledger: what may be kept, and nothing in it that must not be."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from treadle.core.errors import RequestError
from treadle.data.fields.base import BadValue
from treadle.data.steps.redact import Moves, redact
from treadle.data.targets.tags import moved_spans, parse_spans
from treadle.model.sampling import Sampling
from treadle.serve.writer import Answer, Piece, Settings, Writer
from treadle.spec.heads import SpanKeys
from treadle.store.ledger import Ledger

Policy = Literal["consent", "always", "never"]


def may_store(policy: Policy, asked: bool | None) -> bool:
    """Whether the text of a request with ``"store": asked`` may be kept."""
    return policy == "always" or (policy == "consent" and asked is True)


def redact_pair(prompt: str, text: str) -> tuple[str, str, Counter[str]]:
    """Both with secrets and personal data replaced, also where one begins in the prompt and ends in its continuation: its
    placeholder then opens the text, and the prompt ends before it."""
    before, _ = redact(_clean(prompt), secrets=True, pii=True)
    whole, found = redact(_clean(prompt + text), secrets=True, pii=True)
    at = next((index for index, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole)))
    opened = re.search("<[A-Z_]*$", whole[:at])
    if opened and at < len(before):  # two placeholders that begin alike: not between their letters
        at = opened.start()
    return whole[:at], whole[at:], found


def _clean(text: str) -> str:
    """PostgreSQL keeps no NUL characters."""
    return text.replace("\0", "�")


@dataclass(frozen=True)
class Finished:
    """What the ledger needs to know of an answer, however it ended."""

    id: str
    engine: Writer
    answer: Answer
    prompt: str
    """As it was sent."""
    stored: bool
    """Whether its text may be kept."""
    rollout: int | None = None
    """Under which it was drawn who answers."""
    again: Callable[[Writer, Callable[[Piece], None]], Answer] | None = None
    """Prepares the same for another version."""


def answer_row(finished: Finished) -> dict[str, Any]:
    """The answer as the ledger keeps it: its text, redacted, only where ``stored``; the rest always."""
    answer, how = finished.answer, finished.answer.settings
    settings: dict[str, Any] = {
        "max_tokens": how.max_tokens, **_told(how), "seed": answer.seed,
        "truncated_prompt_tokens": answer.dropped,
    }
    version = finished.engine.version
    if how.adapter is not None:
        settings["adapter"] = {"name": how.adapter, "sha256": finished.engine.adapters[how.adapter].digest}
    prompt = text = None
    if finished.stored:
        prompt, text, found = redact_pair(finished.prompt, answer.stream.text)
        settings |= {"stop": [redact(_clean(stop), secrets=True, pii=True)[0] for stop in how.stops], "redacted": dict(found)}
    return {
        "id": finished.id, "version": version.number, "package": version.package, "stored": finished.stored, "prompt": prompt,
        "text": text, "settings": settings, "prompt_tokens": len(answer.prompt), "answer_tokens": answer.tokens,
        "seconds": time.monotonic() - answer.started, "finish_reason": answer.finish_reason or "cancelled",
        "rollout": finished.rollout,
    }


def _told(how: Settings) -> dict[str, Any]:
    """How was drawn: temperature and ``top_p`` always, the rest where it is another than the usual."""
    usual, given = asdict(Sampling()), asdict(how.sampling)
    found = {name: value for name, value in given.items() if name in ("temperature", "top_p") or value != usual[name]}
    return found | ({"form": how.form.kind} if how.form else {})


def record_feedback(
    ledger: Ledger, policy: Policy, answer_id: str, rating: str | None, edited: str | dict[str, Any] | None, key: str | None = None
) -> tuple[str | None, Counter[str]]:
    """File what a user said of an answer, by the key of this name; gives the edited text as it was kept, and what was redacted in
    it. Blocks.

    Raises ``RequestError``: 404 for an answer that the ledger does not know, 409 for edited text without consent.
    """
    row = ledger.answer(answer_id)
    if row is None:
        cure = "send the 'id' that came with the answer"
        raise RequestError(f"there is no answer {answer_id!r}", status=404, field="answer_id", cure=cure)
    found: Counter[str] = Counter()
    if edited is not None:
        if not row["stored"] or policy == "never":
            cure = "this server keeps no text; send the rating alone" if policy == "never" else (
                "ask with \"store\": true, and then edit that answer; a rating needs no consent"
            )
            message = "the text of that answer was not kept, so an edited one has nothing to stand beside"
            raise RequestError(message, status=409, field="edited", cure=cure)
        if row["settings"].get("kind") == "prediction":
            edited, found = _right_answers(row, edited)
        elif isinstance(edited, str):
            _, edited, joint = redact_pair(row["prompt"] or "", edited)
            found = joint - redact(row["prompt"] or "", secrets=True, pii=True)[1]
        else:
            raise RequestError("edited: must be text", field="edited", cure="send the whole answer as it should have been")
    ledger.record_feedback(answer_id, rating, edited, key)
    return edited, found


def _spans(given: Any, moves: Moves) -> Any:
    """A user's spans, which count characters of the text as it was asked about, in the text as it is kept. Raises
    ``RequestError``."""
    try:
        return moved_spans(parse_spans(given, SpanKeys()) or [], moves)
    except BadValue as error:
        cure = 'send a list such as [{"start": 0, "end": 4, "label": "PERSON"}], or [] where there is nothing'
        raise RequestError(f"edited: {error}", field="edited", cure=cure) from None


def _right_answers(row: Any, edited: str | dict[str, Any]) -> tuple[str, Counter[str]]:
    """What the heads should have answered, as JSON; of a model of one head the bare answer is enough. Raises ``RequestError``."""
    heads = list(json.loads(row["text"]))
    given = edited if isinstance(edited, dict) else {heads[0]: edited}
    unknown = sorted(set(given) - set(heads))
    if unknown or (len(heads) > 1 and not isinstance(edited, dict)):
        cure = f"heads: {', '.join(heads)}; write {{\"{heads[0]}\": ...}}"
        raise RequestError(f"edited: {unknown[0]!r} is no head" if unknown else "edited: say which head", field="edited", cure=cure)
    for name, moves in row["settings"].get("moves", {}).items():
        if name in given:
            given = given | {name: _spans(given[name], moves)}
    text, found = redact(_clean(json.dumps(given, ensure_ascii=False)), secrets=True, pii=True)
    return text, found
