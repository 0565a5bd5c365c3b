"""Every problem of a file at once: where it stands, what is wrong, what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Union

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import treadle
from treadle.spec.document import parse
from treadle.spec.explain import file_location
from treadle.spec.fields import Section
from treadle.spec.load import json_schema, read, read_file
from treadle.spec.problem import Problem
from treadle.spec.project import ProjectSpec

BASE = """\
name: demo
data:
  sources: [{files: "*.py", licence: MIT}]
model:
  trunk: {transformer: {depth: 2}}
"""

MEND = "mend the YAML at this place"
AGREE = "give values that agree, or leave one out"
AS_MAPPING = "write it as {key: value} or as indented lines 'key: value'"


def problems(text: str, *overrides: str) -> list[Problem]:
    outcome = read(text, "treadle.yaml", overrides)
    assert isinstance(outcome, list), "was accepted"
    return outcome


def spec(text: str, *overrides: str) -> ProjectSpec:
    outcome = read(text, "treadle.yaml", overrides)
    assert isinstance(outcome, ProjectSpec), "\n".join(map(str, outcome))
    return outcome


def only(text: str, *overrides: str) -> tuple[str, str]:
    """The one problem as (place, key, what is wrong and the value; cure)."""
    found = problems(text, *overrides)
    assert len(found) == 1, "\n".join(map(str, found))
    (problem,) = found
    place = f"{problem.line}:{problem.column}" if problem.line else problem.file
    value = f" (is {problem.value})" if problem.value else ""
    return f"{place} {problem.key}: {problem.message}{value}", problem.cure


def test_the_smallest_file_is_enough() -> None:
    assert spec(BASE).train.schedule.kind == "linear"


EACH = [
    # unknown keys, with the nearest that is known
    ("trian: {}", "6:1 trian: is not a known key", "did you mean 'train'?"),
    ("train: {lr: 1}", "6:9 train.lr: is not a known key", "say train.learning_rate"),
    ("serve:\n  prot: 1", "7:3 serve.prot: is not a known key", "did you mean 'port'?"),
    ("compress: {zzz: 1}", "6:12 compress.zzz: is not a known key", "allowed here: quantize, max_drift"),
    ("evaluate: {gate: {bits: '<= 2'}}",
     "6:25 evaluate.gate.bits: no head has the figure 'bits'; known: accuracy, bits_per_byte, loss, perplexity",
     "give values that agree, or leave one out"),
    ("serve: {limits: {money_per_day: 1}}",
     "6:8 serve: limits.money_per_day counts what answers cost: say what they do, as in 'price: {tokens: 0.02}' "
     '(is {"limits": {"money_per_day": 1}})', "write it in that form"),
    ("serve: {engine: vlm}", "6:17 serve.engine: must be 'treadle' or 'vllm' (is \"vlm\")", "did you mean 'vllm'?"),
    ("serve: {engine_options: [--x]}", "6:8 serve: engine_options are for 'engine: vllm' "
     '(is {"engine_options": ["--x"]})', "write it in that form"),
    ("serve: {engine: vllm, engine_options: ['--api_key=x']}", "6:8 serve: engine_options: --api_key is set by the server "
     '(is {"engine": "vllm", "engine_options": ["--api_key=x"]})', "write it in that form"),
    ("compress: {quantize: int8}\nserve: {engine: vllm}", "6:22 compress.quantize: vLLM, which serve.engine names, cannot open "
     "int8 weights: leave it out", AGREE),
    ("compress: {quantize: int4}\nserve: {engine: vllm}", "6:22 compress.quantize: vLLM, which serve.engine names, cannot open "
     "int4 weights: leave it out", AGREE),
    ("serve: {proxies: [10.0.0.0/8, nginx]}", "6:31 serve.proxies.1: an address or a network is wanted, as in '10.0.0.7' or "
     "'10.0.0.0/8' (is \"nginx\")", "write it in that form"),
    # wrong types and values
    ("seed: two", '6:7 seed: must be a whole number (is "two")', "write it without quotes, like 4"),
    ("seed: '2'", '6:7 seed: must be a whole number (is "2")', "write it without quotes, like 4"),
    ("seed: true", "6:7 seed: must be a whole number (is true)", "write it without quotes, like 4"),
    ("seed: 1.5", "6:7 seed: must be a whole number (is 1.5)", "write it without quotes, like 4"),
    ("seed: -1", "6:7 seed: must be at least 0 (is -1)", "give a larger one"),
    ("seed:", "6:1 seed: must be a whole number (is null)", "write it without quotes, like 4"),
    ("serve: {port: 70000}", "6:15 serve.port: must be at most 65535 (is 70000)", "give a smaller one"),
    ("train: {learning_rate: 0}", "6:24 train.learning_rate: must be more than 0 (is 0)", "give a larger one"),
    ("train: {learning_rate: fast}", '6:24 train.learning_rate: must be a number (is "fast")', "write it without quotes, like 0.5"),
    ("train: {batch: 0}", "6:16 train.batch: must be at least 1 (is 0)", "give a larger one"),
    ("train: {clip: .nan}", "6:15 train.clip: must be a finite number (is NaN)", "write a number, like 0.5"),
    ("train: {clip: big}", '6:15 train.clip: must be a number (is "big")', "write it without quotes, like 0.5"),
    ("train: {optimizer: {adam: {betas: [0.9]}}}", "6:28 train.optimizer.adam.betas.1: is missing from the list", "add it"),
    ("train: {optimizer: {adam: {betas: [0.9, 1]}}}", "6:41 train.optimizer.adam.betas.1: must be less than 1 (is 1)",
     "give a smaller one"),
    ("train: {optimizer: {adam: {betas: 3}}}", "6:35 train.optimizer.adam.betas: must be a list (is 3)", "write it as [...]"),
    ("train: {schedule: liner}", '6:19 train.schedule: is not a kind of schedule (is "liner")', "did you mean 'linear'?"),
    ("train: {precision: x}", """6:20 train.precision: must be 'auto', 'float32', 'bf16', 'fp16' or 'fp8' (is "x")""",
     "write one of: auto, float32, bf16, fp16, fp8"),
    ("train: {budget: 3}",
     "6:17 train.budget: a budget is written like '500 steps', '2M tokens', '3 epochs' or '3 min' (is 3)", "write it in that form"),
    ("train: 2024-01-01", '6:8 train: must be a mapping (is "2024-01-01")', AS_MAPPING),
    ("model: {inputs: {a: text, b: text}}", "6:1 model: stands twice, first in line 4", "keep one of them"),
    ("store: 3", "6:8 store: must be text (is 3)", "write it in quotes"),
    # YAML's own pitfalls
    ("name: other", "6:1 name: stands twice, first in line 1", "keep one of them"),
    ("1: x", "6:1 file: a key is text, not int 1", "quote it"),
    ("{a: b}: x", "6:1 file: a key is text, not map", "quote it"),
    ("store: !python/x y", "6:8 store: the tag !python/x is not known here", "write a plain value"),
    ("seed: !!int x", "6:7 seed: is not what !!int takes", "leave the tag out"),
    ("serve:\n\tport: 1",
     "7:1 YAML: while scanning for the next token: found character '\\t' that cannot start any token", MEND),
    ("train: [1", "7:1 YAML: while parsing a flow sequence: expected ',' or ']', but got '<stream end>'", MEND),
    ("train: *nothing", "6:8 YAML: found undefined alias 'nothing'", MEND),
    ("store: a\x00b", "6:9 YAML: holds the character '\\x00', which YAML does not allow", "remove it"),
    ("train: &a {budget: *a}", "6:8 train.budget: the alias *a stands inside what it names", "write the value out"),
    ("train: &a {<<: *a}", "6:8 train: '<<' takes another mapping's alias", "as in '<<: *defaults'"),
    # values that contradict each other
    ("train: {batch: 7, accumulate: 3}", "6:16 train.batch: batch 7 is not a multiple of accumulate 3", AGREE),
]


@pytest.mark.parametrize(("text", "said", "cure"), EACH, ids=[text for text, _, _ in EACH])
def test_each_kind_of_problem(text: str, said: str, cure: str) -> None:
    assert only(f"{BASE}{text}\n") == (said, cure)


START = "start from one that 'treadle init' makes"
FILES = (
    "add 'files:' - Glob, relative to the project folder; ``**`` crosses folders, ``{stdlib}`` is this Python's standard library, "
    "``{data}`` the folder of the environment variable TREADLE_DATA"
)


@pytest.mark.parametrize(
    ("text", "said", "cure"),
    [
        ("", "1:1 file: is empty", START),
        ("# only a comment\n", "1:1 file: is empty", START),
        ("- a\n- b\n", "1:1 file: is not a mapping of sections such as 'data:' and 'model:'", START),
        (BASE + "---\nname: b\n", "6:1 YAML: expected a single document in the stream: but found another document", MEND),
        ("[" * 3000, "1:1 YAML: is nested too deeply, or holds more than 100000 values", "write it out plainly"),
        (BASE.replace("demo", "My Model"), '1:7 name: must match ^[a-z0-9][a-z0-9._-]{0,62}$ (is "My Model")',
         "give a lower-case name of the model, as API clients say it"),
        (BASE.replace('files: "*.py", ', ""), "3:13 data.sources.0.files: is missing", FILES),
        (BASE.replace('"*.py"', '""'), '3:21 data.sources.0.files: must not be empty (is "")', "write something"),
        (BASE.replace('[{files: "*.py", licence: MIT}]', "[]"), "3:12 data.sources: needs at least 1, has 0 (is [])", "add one"),
        (BASE.replace("model:\n", "model:\n  inputs: {a: text, b: text}\n"),
         "4:1 model.heads.next: next_token needs exactly one input of kind text", AGREE),
        (BASE.replace("model:\n", "model:\n  inputs: {a: text, b: number}\n"),
         "4:1 model.heads.next: next_token learns from running text: it needs one text alone, and no other head", AGREE),
        (BASE.replace("transformer: {depth: 2}", "mlp"),
         "4:1 model.heads.next: next_token needs a trunk with an output at every position: transformer or recurrent", AGREE),
        (BASE.replace("transformer: {depth: 2}", "recurrent: {directions: 2}"),
         "5:35 model.trunk.recurrent.directions: a net that reads backward too would see the token that it is to predict: set "
         "directions to 1", AGREE),
        (BASE + "  inputs: {a: {tokenizer: {file: vocab.txt}}}\n",
         "6:15 model.inputs.a: a language model learns its own tokens: give bpe, words or characters", AGREE),
        (BASE + "  inputs: {a: {tokenizer: {words: 100000}}}\n",
         "6:15 model.inputs.a: a language model knows 65536 tokens at most", AGREE),
        (BASE.replace("{depth: 2}", "{depth: 2, causal: true}") + "  heads: {a: masked_token}\n",
         "5:43 model.trunk.transformer.causal: what was hidden is found from both sides: leave causal out", AGREE),
        (BASE.replace("model:\n", "model:\n  inputs: {a: txet}\n"),
         '5:15 model.inputs.a: is not a kind of input (is "txet")', "did you mean 'text'?"),
        (BASE.replace("model:\n", "model:\n  inputs: {a: {text: {}, number: {}}}\n"),
         '5:15 model.inputs.a: must name one input, not text and number (is {"text": {}, "number": {}})',
         "write it like 'age: number'"),
        (BASE.replace("model:\n", "model:\n  inputs: {a: {tokenizer: {bpe: 3}}}\n"),
         "5:33 model.inputs.a.tokenizer.bpe: must be at least 260 (is 3)", "give a larger one"),
        (BASE.replace('{files: "*.py", licence: MIT}', '{table: a.csv, licence: MIT, delimter: ";"}'),
         "3:42 data.sources.0.delimter: is not a known key", "did you mean 'delimiter'?"),
        (BASE.replace("{transformer: {depth: 2}}", "conv")
         .replace("model:\n", "model:\n  inputs: {a: number}\n  heads: {b: binary}\n"),
         "5:15 model.inputs.a: trunk conv does not read number; mlp and transformer read all kinds",
         "give values that agree, or leave one out"),
        (BASE.replace("model:\n", "model:\n  inputs: {a: number}\n  heads: {a: binary}\n"),
         "6:14 model.heads.a: the field 'a' is an input too, so the answer would be given away",
         "give values that agree, or leave one out"),
        (BASE.replace("{transformer: {depth: 2}}", ""),
         "5:3 model.trunk: must name one trunk (is null)", "write it like 'transformer: {depth: 4}'"),
        (BASE.replace('  sources: [{files: "*.py", licence: MIT}]\n', ""),
         "2:1 data.sources: is missing", "add 'sources:' - Where records come from, in order"),
        (BASE.replace("depth: 2", "depth: 2, width: 100, heads: 3"),
         "5:42 model.trunk.transformer.width: width 100 is not an even multiple of heads 3", AGREE),
    ],
)
def test_whole_files(text: str, said: str, cure: str) -> None:
    assert only(text) == (said, cure)


def test_a_problem_is_printed_with_place_key_value_and_cure() -> None:
    (problem,) = problems(BASE + "seed: two\n")
    assert str(problem) == (
        'treadle.yaml:6:7: seed: must be a whole number (is "two")\n    cure: write it without quotes, like 4'
    )


def test_aliases_of_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "holds more than 100000 values" in only("\n".join(lines))[0]


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    text = """\
name: Bad Name
name: again
data:
  sources: [{files: "*.py"}]
  split: {test: 200%}
model:
  trunk: {transformer: {dept: 2}}
serve: {port: x}
serv: {}
"""
    found = problems(text)
    assert [(p.line, p.column, p.key) for p in found] == [
        (1, 7, "name"), (2, 1, "name"), (4, 13, "data.sources.0.licence"), (5, 17, "data.split.test"),
        (7, 11, "model.trunk.transformer.depth"), (7, 25, "model.trunk.transformer.dept"), (8, 15, "serve.port"), (9, 1, "serv"),
    ]
    assert all(problem.cure for problem in found)


def test_a_section_with_nothing_under_it_means_its_defaults() -> None:
    assert spec(BASE + "train:\nserve: ~\n") == spec(BASE)


def test_anchors_and_merges_are_read_as_yaml_says() -> None:
    merged = """\
name: demo
data: {sources: [&one {files: "*.py", licence: MIT}, {<<: *one, files: "*.txt"}, {<<: [{encoding: utf-16}, *one]}]}
model: {trunk: {transformer: {depth: 2}}}
"""
    first, second, third = spec(merged).data.sources
    assert (first.files, second.files, third.files) == ("*.py", "*.txt", "*.py")
    assert (second.licence, third.licence, third.encoding) == ("MIT", "MIT", "utf-16")


def test_an_unknown_key_that_is_merged_in_points_to_where_it_is_written() -> None:
    found = problems(BASE + "train: &a {batch: 2}\nimprove: {<<: *a}\n")
    assert [(p.line, p.column, p.key) for p in found] == [(6, 12, "improve.batch")]


@pytest.mark.parametrize("name", ["str", "int", "function-x", "literal[a]", "[key]x"])
def test_a_key_named_like_a_type_is_a_key(name: str) -> None:
    text = BASE.replace("model:\n", f"model:\n  inputs: {{{name!r}: {{tokenizer: {{bpe: 1}}}}}}\n")
    said, _ = only(text)
    assert said.startswith("5:")
    assert f" model.inputs.{name}.tokenizer.bpe: must be at least 260" in said


@pytest.mark.parametrize("trunk", ["mlp: {width: 0}", "mlp: {width: [8, 0]}", "mlp: {width: []}", "conv: {channels: [0]}"])
def test_a_layer_has_a_width(trunk: str) -> None:
    text = BASE.replace("transformer: {depth: 2}", trunk) + "  inputs: {a: image}\n  heads: {b: binary}\n"
    said = {problem.message for problem in problems(text)}
    assert said & {"must be at least 1", "needs at least 1, has 0"}
    assert all(problem.key.startswith("model.trunk.") for problem in problems(text))


def test_the_tried_member_of_a_union_is_no_key() -> None:
    class Inner(Section):
        size: int

    class Outer(Section):
        either: Union[int, Inner]  # noqa: UP007 - both spellings of a union
        other: int | Inner | None = None
        listed: list[Inner | str]

    assert file_location(Outer, ("either", "Inner", "size")) == ("either", "size")
    assert file_location(Outer, ("other", "Inner", "size")) == ("other", "size")
    assert file_location(Outer, ("listed", 3, "str")) == ("listed", 3)
    assert file_location(Outer, ("listed", 3, "Inner", "size")) == ("listed", 3, "size")


def test_overrides_win_over_the_file() -> None:
    changed = spec(
        BASE + "train: {batch: 3}\n", "train.batch=8", "train.budget=500 steps", "data.sources.0.licence=PSF-2.0",
        "serve={port: 0}", "model.inputs.text.context=64", "train.optimizer={adam: {betas: [0.8, 0.9]}}",
    )
    assert (changed.train.batch, str(changed.train.budget), changed.data.sources[0].licence) == (8, "500 steps", "PSF-2.0")
    assert (changed.serve.port, changed.model.text.context, changed.train.optimizer.settings.betas) == (0, 64, (0.8, 0.9))
    assert spec(BASE + "train: {batch: 3}\n", "train.batch=").train.batch is None
    assert spec(BASE + "train: {batch: 3}\n", "train.batch=1", "train.batch=2").train.batch == 2
    assert spec(BASE.replace("depth: 2", "depth: x"), "model.trunk.transformer.depth=3").model.trunk.transformer.depth == 3


@pytest.mark.parametrize(
    ("given", "said", "cure"),
    [
        ("foo", "foo: is not of the form key=value", "as in --set train.budget='500 steps'"),
        ("=1", "key: is not of the form key=value", "as in --set train.budget='500 steps'"),
        ("a..b=1", "a..b: is not of the form key=value", "as in --set train.budget='500 steps'"),
        ("seed=[1",
         "seed: the value is not YAML: while parsing a flow sequence: expected ',' or ']', but got '<stream end>'", "quote it"),
        ("data.sources.1.files=x", "data.sources.1.files: data.sources is a list of 1, counted from 0, so it has no 1",
         "set it as a whole: --set data.sources=..."),
        ("name.x=1", "name.x: name is not a mapping, so it has no 'x'", "set it as a whole: --set name=..."),
        ("seed=-1", "seed: must be at least 0 (is -1)", "give a larger one"),
        ("train.lr=3", "train.lr: is not a known key", "say train.learning_rate"),
        ("train={batch: 0}", "train.batch: must be at least 1 (is 0)", "give a larger one"),
        ("a.b.c=1", "a: is not a known key", f"allowed here: {', '.join(ProjectSpec.model_fields)}"),
    ],
)
def test_overrides_that_are_wrong(given: str, said: str, cure: str) -> None:
    assert only(BASE, given) == (f"--set {given} {said}", cure)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "treadle.yaml"

    def said() -> str:
        outcome = read_file(file)
        assert isinstance(outcome, list)
        (problem,) = outcome
        return str(problem).replace(str(file), "FILE")

    assert said().startswith("FILE:1:1: file: there is no such file\n    cure: run 'treadle init'")
    file.write_bytes(BASE.encode() + b"store: caf\xe9\n")
    assert said() == "FILE:6:11: file: is not UTF-8 text: byte 0xe9\n    cure: save it as UTF-8"
    file.unlink()
    file.mkdir()
    assert said() == "FILE:1:1: file: cannot be read: Is a directory\n    cure: give a readable text file"
    file.rmdir()
    file.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())  # as Windows editors save it
    assert read_file(file) == spec(BASE)


@given(st.text(alphabet=st.sampled_from("abn:-[]{}&*!#|>'\"%@`,? \n\t<~01.")))
def test_any_text_is_a_spec_or_a_list_of_problems(text: str) -> None:
    outcome = read(text, "treadle.yaml")
    assert isinstance(outcome, ProjectSpec) or outcome


@given(st.binary(max_size=40), st.integers(0, len(BASE)))
def test_any_damage_is_a_spec_or_a_list_of_problems(damage: bytes, place: int) -> None:
    outcome = read(BASE[:place] + damage.decode("latin-1") + BASE[place:], "treadle.yaml")
    assert isinstance(outcome, ProjectSpec) or all(problem.message for problem in outcome)


def test_the_written_out_spec_reads_back_unchanged() -> None:
    full = spec(BASE + "train: {budget: 123457 tokens, validate_every: 3%}\nevaluate: {gate: {bits_per_byte: '<= 2.0000001'}}\n")
    assert ProjectSpec.model_validate(full.model_dump(mode="json")) == full


def test_the_json_schema_takes_what_we_take() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = {
        "name": "demo", "data": {"sources": [{"files": "*.py", "licence": "MIT"}], "split": {"test": "5%"}},
        "model": {"trunk": {"transformer": {"depth": 2}}}, "train": {"budget": "3 min"},
        "evaluate": {"gate": {"bits_per_byte": "<= 2.0"}},
    }
    validator.validate(good)
    assert [e.message for e in validator.iter_errors({**good, "trian": {}})] == [
        "Additional properties are not allowed ('trian' was unexpected)"
    ]
    assert not validator.is_valid({**good, "seed": "x"})
    assert not validator.is_valid({**good, "evaluate": {"gate": {"bits_per_byte": ["<= 2.0"]}}})
    assert not validator.is_valid({key: value for key, value in good.items() if key != "data"})


def test_every_field_says_what_it_means() -> None:
    def undescribed(model: type[Section], path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            kinds = [k for k in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(k, type)]
            inner = [k for k in kinds if issubclass(k, Section)]
            found += [hit for k in inner for hit in undescribed(k, f"{path}{name}.")]
            if not inner and not field.description:
                found.append(path + name)
        return found

    assert undescribed(ProjectSpec, "") == []


RECIPES = sorted((Path(treadle.__file__).parent / "recipes").glob("*/treadle.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.parent.name)
def test_every_recipe_is_right_by_spec_and_by_schema(file: Path) -> None:
    assert isinstance(read_file(file), ProjectSpec)
    jsonschema.Draft202012Validator(json_schema()).validate(parse(file.read_text(encoding="utf-8"), str(file)).value)
