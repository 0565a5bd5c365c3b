"""The real vLLM, where ``TREADLE_VLLM`` or PATH has it: its answers beside those of our own engine, of the same package."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sites import Running, Site, running

from treadle.core.errors import UserError
from treadle.core.project import load_project
from treadle.data.shards import END_ID
from treadle.data.tokenizer import train_tokenizer
from treadle.model.hub import save_model
from treadle.model.model import make_model
from treadle.serve.child import find_program
from treadle.store.artifacts import Store
from treadle.store.ledger import Ledger

SPEC = """
name: tiny
data: {sources: [{files: "*.py", licence: PSF-2.0}]}
model:
  inputs: {text: {tokenizer: {bpe: 320}, context: 256}}
  trunk: {transformer: {depth: 2, width: 64, heads: 2, kv_heads: 1, hidden: 128}}
serve: {slots: 3, queue: 8, max_tokens: 300}
"""
PROMPTS = ["def f(x):\n", "class JSONDecoder(json):\n    def raw", "import re\n" * 20, "return", "x = [1, 2"]


def test_vllm_is_here() -> None:
    """So that a run says by name whether the tests below were run."""
    try:
        find_program()
    except UserError:
        pytest.skip("needs vLLM: TREADLE_VLLM or PATH names its program")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """One server with vLLM and one without, of copies of the same project."""
    with contextlib.ExitStack() as stack:
        try:
            find_program()
        except UserError:
            pytest.skip("needs vLLM: TREADLE_VLLM or PATH names its program")
        sites = [make_site(tmp_path_factory.mktemp(name)) for name in ("vllm", "own")]
        for site in sites:
            stack.callback(site.ledger.close)
        options = ('serve.engine_options=["--enforce-eager"]',)  # nothing is compiled: it starts sooner
        yield (
            stack.enter_context(running(sites[0], ("serve.engine=vllm", *options), "127.0.0.1")),
            stack.enter_context(running(sites[1], (), "127.0.0.1")),
        )


def make_site(folder: Path) -> Site:
    (folder / "treadle.yaml").write_text(SPEC)
    project = load_project(folder)
    store, ids = Store(project.store), []
    tokenizer = train_tokenizer([Path(json.__file__).with_name("decoder.py").read_text()], project.resolved.shape.vocabulary)
    for seed in range(2):
        id = store.identify("package", [], {"seed": seed}, 1)
        with store.create(id, parents=[], config={"seed": seed}, version=1, seed=seed) as draft:
            model = make_model(project.resolved.shape, seed=seed)
            with torch.no_grad():  # sure enough that no rounding decides, and not of one token alone
                model.trunk.norm.weight.mul_(12)
                model.embedding.weight[END_ID] *= 0.01
            save_model(model, draft.path)
            tokenizer.save(str(draft.path / "tokenizer.json"))
            (draft.path / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
        ids.append(id)
    ledger = Ledger(project.store)
    ledger.promote(ids[0], "test")
    return Site(project, store, ledger, (ids[0], ids[1], ids[0]))


def both(pair: tuple[Running, Running], prompt: str, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first choice and the usage from each server."""
    found = []
    for server in pair:
        response = server.complete(prompt, **fields)
        assert response.status_code == 200, response.text
        body = response.json()
        found.append(body["choices"][0] | {"tokens": body["usage"]["completion_tokens"]})
    return found[0], found[1]


SAME: list[dict[str, Any]] = [
    {}, {"stop": ["e", "\n\n"]}, {"max_tokens": 300}, {"max_tokens": 1},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": -0.25}, {"logit_bias": {"70": 60.0}},
    {"temperature": 1.7, "top_k": 1, "seed": 3}, {"temperature": 0.9, "min_p": 1.0}, {"temperature": 0.9, "top_p": 1e-9},
    {"structured_outputs": {"regex": "[a-z]{2,6}[0-9]+x"}}, {"structured_outputs": {"choice": ["no way", "yes", "nothing"]}},
]


@pytest.mark.parametrize("fields", SAME, ids=lambda fields: "-".join(fields) or "greedy")
def test_where_nothing_is_left_to_chance_the_texts_are_the_same(pair: tuple[Running, Running], fields: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        theirs, own = both(pair, prompt, **{"temperature": 0, "max_tokens": 60, **fields})
        if theirs["text"] != own["text"]:
            assert fields.get("max_tokens") == 300
        assert theirs["text"] == own["text"][: len(theirs["text"])]
        if fields.get("max_tokens") != 300:  # there vLLM keeps a place for the last token
            assert (theirs["finish_reason"], theirs["tokens"]) == (own["finish_reason"], own["tokens"])


def test_keys_share_nothing_of_what_was_read(pair: tuple[Running, Running]) -> None:
    theirs, prompt = pair[0], PROMPTS[0] * 40
    keys = [theirs.site.ledger.add_key(name) for name in ("alice", "bob@example.org")]

    def known(key: str) -> int:
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "truncate_prompt_tokens": -1}
        told = theirs.client.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60)
        assert told.status_code == 200, told.text
        return int(told.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [known(key) for key in keys] == [0, 0]
    assert all(known(key) > 0 for key in keys)


def test_logprobs_are_the_same_but_for_rounding(pair: tuple[Running, Running]) -> None:
    values: list[float] = []
    for prompt in PROMPTS:
        theirs, own = (one["logprobs"] for one in both(pair, prompt, temperature=0, max_tokens=40, logprobs=3))
        assert (theirs["tokens"], theirs["text_offset"]) == (own["tokens"], own["text_offset"])
        assert theirs["token_logprobs"] == pytest.approx(own["token_logprobs"], abs=1e-3)
        values += own["token_logprobs"]
        for one, other in zip(theirs["top_logprobs"], own["top_logprobs"], strict=True):
            assert sorted(one.values()) == pytest.approx(sorted(other.values()), abs=1e-2)
    assert min(values) < -0.5  # it was not sure of everything


def test_logprobs_are_before_temperature_and_bias(pair: tuple[Running, Running]) -> None:
    fields = {"max_tokens": 8, "logprobs": 1, "logit_bias": {"70": 80.0}, "temperature": 0}
    theirs, own = both(pair, "def f", **fields)
    assert theirs["logprobs"]["token_logprobs"] == pytest.approx(own["logprobs"]["token_logprobs"], abs=1e-2)
    assert max(own["logprobs"]["token_logprobs"]) < -1


def test_the_same_seed_gives_the_same_answer_and_n_have_the_next_ones(pair: tuple[Running, Running]) -> None:
    server, fields = pair[0], {"max_tokens": 40, "temperature": 1.2}
    one = server.complete("def f", seed=5, **fields).json()["choices"][0]["text"]
    assert server.complete("def f", seed=5, **fields).json()["choices"][0]["text"] == one
    several = [choice["text"] for choice in server.complete("def f", seed=4, n=3, **fields).json()["choices"]]
    assert (several[1], len(set(several))) == (one, 3)


def test_the_draw_follows_the_models_probabilities(pair: tuple[Running, Running]) -> None:
    """40 x 8 first tokens against their probabilities, by chi-squared, with a bound that chance passes once in 10,000."""
    server, prompt = pair[0], "self.x"  # what may follow are texts that are told apart
    told = server.complete(prompt, max_tokens=1, logprobs=5, temperature=0).json()["choices"][0]["logprobs"]["top_logprobs"][0]
    share = {text: math.exp(value) for text, value in told.items() if math.exp(value) > 0.02}
    seen: dict[str, int] = {}
    for block in range(40):
        answer = server.complete(prompt, max_tokens=1, logprobs=0, temperature=1.0, seed=1000 * block, n=8).json()
        for choice in answer["choices"]:
            (text,) = choice["logprobs"]["tokens"]
            seen[text] = seen.get(text, 0) + 1
    statistic = sum((seen.get(text, 0) - 320 * p) ** 2 / (320 * p) for text, p in share.items())
    assert len(share) == 5
    assert statistic < 25.8


def test_json_is_held_to_its_schema(pair: tuple[Running, Running]) -> None:
    schema = {
        "type": "object", "properties": {"a": {"type": "integer", "minimum": 10, "maximum": 99}, "b": {"enum": ["x", "yy"]}},
        "required": ["a", "b"], "additionalProperties": False,
    }
    for seed in range(5):
        answer = pair[0].complete("def f", max_tokens=150, temperature=1.5, seed=seed, structured_outputs={"json": schema}).json()
        (choice,) = answer["choices"]
        found = json.loads(choice["text"])
        assert choice["finish_reason"] == "stop"
        assert 10 <= found["a"] <= 99
        assert found["b"] in ("x", "yy")


def test_streams_and_chat_and_what_was_known(pair: tuple[Running, Running]) -> None:
    server, long = pair[0], "import re\n" * 20
    body = {"model": "tiny", "messages": [{"role": "user", "content": long}], "max_tokens": 8, "temperature": 0}
    whole = server.client.post("/v1/chat/completions", json=body).json()
    again = server.client.post("/v1/chat/completions", json=body).json()
    assert again["choices"][0]["message"]["content"] == whole["choices"][0]["message"]["content"]
    assert 128 <= again["usage"]["prompt_tokens_details"]["cached_tokens"] < again["usage"]["prompt_tokens"]
    with server.client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]


def test_another_version_takes_over(pair: tuple[Running, Running], until: Callable[..., None]) -> None:
    """The last test: it leaves version 2 behind."""
    for server in pair:
        server.site.ledger.promote(server.site.packages[1], "test")
    for server in pair:
        until(lambda server=server: server.live.version.number == 2, 300)
    theirs, own = both(pair, "def f", temperature=0, max_tokens=60)
    assert theirs["text"] == own["text"]
    assert pair[0].complete("x", max_tokens=2).json()["version"] == 2
