"""The words of the command line: parse, dispatch, print. A word's module is imported when the word is used, so that help and
checks never wait for torch."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import treadle
from treadle.core.errors import Interrupted, TreadleError

# What each word needs, beside what stands above.
_MODULES = {
    "check": "treadle.check", "config": "treadle.spec.load", "project": "treadle.core.project", "recipes": "treadle.scaffold",
    "starter": "treadle.starter",
    "pipeline": "treadle.pipeline", "predict": "treadle.serve.file", "serve": "treadle.serve.server",
    "trace": "treadle.report.trace",
    "report": "treadle.report.page", "ledger": "treadle.store.ledger", "artifacts": "treadle.store.artifacts",
    "rollout": "treadle.rollout", "seed": "treadle.store.seed", "ship": "treadle.ship.package",
    "watch": "treadle.report.watch", "compare": "treadle.report.compare",
    "keys": "treadle.store.keys", "console": "treadle.console.app",
    "show": "treadle.show", "tune": "treadle.tune", "plan": "treadle.plan.estimate",
}

app = typer.Typer(
    help="Your own data into your own model, in production, and better every week.", no_args_is_help=True, add_completion=False,
    rich_markup_mode=None, pretty_exceptions_enable=False,
)
key_app = typer.Typer(help="API keys, which a server beyond loopback demands. Only their hashes are kept.", no_args_is_help=True)
app.add_typer(key_app, name="key")
audit_app = typer.Typer()
app.add_typer(audit_app, name="audit")

File = Annotated[Path, typer.Option("--file", "-f", help="The project's treadle.yaml, or its folder.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a key of the file: --set train.budget='500 steps'.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output; messages go to standard error.")]
_HERE = Path("treadle.yaml")


def _use(name: str) -> Any:
    return importlib.import_module(_MODULES[name])


class _Output:
    """What a command gives: a JSON document, or lines for people."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def give(self, document: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
        if self.as_json:
            print(json.dumps(document, indent=2, default=str, ensure_ascii=False), flush=True)
        else:
            print("\n".join(lines))


@contextmanager
def _command(as_json: bool) -> Iterator[_Output]:
    """Turn what goes wrong into one message and an exit code: 1 the work failed or the gate refused, 2 the input is wrong, 75 it
    was stopped and goes on when it is given again."""
    output = _Output(as_json)
    try:
        yield output
    except TreadleError as error:
        if as_json:
            body = {"kind": type(error).__name__, "message": error.message, "cure": error.cure}
            problems = [vars(problem) for problem in getattr(error, "problems", ())]
            output.give({"error": body | ({"problems": problems} if problems else {}), **error.figures})
        elif error.figures.get("scorecard"):
            print("\n".join(_use("show").outcome(error.figures)))
        elif error.figures.get("trials"):
            print("\n".join(_use("show").tuned(error.figures)))
        print(f"treadle: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        print("treadle: stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reader of our output went away, as 'head' does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


@contextmanager
def _going_on() -> Iterator[None]:
    """SIGTERM, which a machine that is taken back sends, ends the work as Ctrl-C does; after both the same command goes on."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: the caller has the signals
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        cure = "run the same command again: it goes on from here"
        raise Interrupted("stopped; finished stages and checkpoints are kept", cure=cure) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _project(file: Path, overrides: list[str] | None) -> Any:
    return _use("project").load_project(file, overrides or [])


def _workshop(file: Path, overrides: list[str] | None) -> Any:
    return _use("pipeline").Workshop.open(_project(file, overrides))


def _ledger(project: Any) -> Any:
    return _use("ledger").Ledger(project.store, project.ledger_url)


def _served(project: Any) -> Any:
    return _use("serve").Served(project, _use("artifacts").Store(project.store), _ledger(project))


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(treadle.__version__)
        raise typer.Exit


@app.command()
def init(
    recipe: Annotated[
        str | None, typer.Argument(help="Which recipe to start from ('treadle recipes' lists them; default: pycode).")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="Where; default: a folder named like the recipe.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Start from this table, or folder of images, recordings or texts; FOLDER stands alone then."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="With --from: the column with the answer.")] = None, json: Json = False,
) -> None:
    """Make a project folder from a recipe, or from data of your own."""
    with _command(json) as output:
        if source is not None:
            made, starter = _use("starter").start(source, Path(recipe) if recipe else None, target)
            guesses = [{"what": what, "guess": guess, "reason": reason} for what, guess, reason in starter.guesses]
            output.give({"folder": str(made), "from": str(source), "guesses": guesses}, _use("show").started(made, guesses))
            return
        recipe = recipe or "pycode"
        made, missing = _use("recipes").init(recipe, folder)
        lines = [f"made {made} from recipe {recipe}"]
        if missing:
            lines.append(f"  {', '.join(missing)} is not on this machine: the recipe's small sample stands in, and its figures say")
            lines.append("  little. Set TREADLE_DATA to the folder that holds the real data, and run init again, for those")
        before = _use("recipes").steps(recipe)
        lines += ["next:", f"  cd {made}", *(f"  treadle run -f {step}" for step in before)]
        lines += ["  treadle plan", "  treadle run", "  treadle serve"]
        output.give({"folder": str(made), "recipe": recipe, "missing_data": missing, "steps": before}, lines)


@app.command()
def recipes(json: Json = False) -> None:
    """List the recipes."""
    with _command(json) as output:
        found = _use("recipes").recipes()
        lines = _use("show").recipes({name: vars(about) for name, about in found.items()})
        output.give({"recipes": {name: vars(about) for name, about in found.items()}}, lines)


@app.command()
def check(file: File = _HERE, set: Set = None, json: Json = False) -> None:
    """Validate the file and the data it names; every problem at once, with its line and cure."""
    with _command(json) as output:
        project = _project(file, set)
        found = _use("check").check_data(project)
        output.give(found, _use("show").checked(project, found))


@app.command()
def schema(json: Json = True) -> None:
    """Print the JSON Schema of treadle.yaml, for editors. It is one JSON document in any case."""
    with _command(True) as output:
        output.give(_use("config").json_schema())


@app.command()
def plan(file: File = _HERE, set: Set = None, json: Json = False) -> None:
    """Say what a run will take (parameters, memory, time, energy, money) before any is spent."""
    with _command(json) as output:
        workshop = _workshop(file, set)
        made = _use("pipeline").plan(workshop)
        output.give(made.as_dict(), made.lines())
        made.check()


@app.command()
def run(file: File = _HERE, set: Set = None, json: Json = False) -> None:
    """Build a version: collect, prepare, train, evaluate, compress; promote it if it is better. Cached and resumable.

    Ends with exit code 75 after SIGTERM or Ctrl-C, with a checkpoint written: the same command goes on from it.
    """
    with _command(json) as output, _going_on():
        workshop = _workshop(file, set)
        pipeline = _use("pipeline")
        made = pipeline.plan(workshop, only_new=True)
        if made is not None:
            made.check()
        outcome = pipeline.build(workshop, made).as_dict()
        output.give(outcome, _use("show").outcome(outcome, file))


@app.command()
def tune(file: File = _HERE, set: Set = None, json: Json = False) -> None:
    """Search for better settings, as 'tune:' says: trials of the train stage, judged on the validation part. Resumable."""
    with _command(json) as output, _going_on():
        found = _use("tune").Search(_project(file, set), set or []).run().as_dict()
        output.give(found, _use("show").tuned(found))


@app.command()
def improve(file: File = _HERE, set: Set = None, json: Json = False) -> None:
    """Turn users' feedback into a new version, and promote it only if it is measured to be better.

    Ends with exit code 75 after SIGTERM or Ctrl-C, with a checkpoint written: the same command goes on from it.
    """
    with _command(json) as output, _going_on():
        outcome = _use("pipeline").improve(_workshop(file, set)).as_dict()
        output.give(outcome, _use("show").outcome(outcome, file))


@app.command()
def rollback(
    file: File = _HERE, json: Json = False,
    to: Annotated[int | None, typer.Option(help="This version, earlier or later than the live one.", min=1)] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for on the command line",
) -> None:
    """Make the version live again that was live before."""
    with _command(json) as output:
        ledger = _ledger(_project(file, None))
        left = ledger.live()
        row = ledger.rollback(reason, to)
        found = {"version": row["version"], "package": row["package"], "before": left["version"]}
        output.give(found, _use("show").gone_back(found, file))


@app.command()
def rollout(
    word: Annotated[str, typer.Argument(
        help="canary, shadow or ab: begin with a candidate, or go on with it in another way; status; promote; stop."
    )] = "status",
    candidate: Annotated[
        str | None, typer.Argument(help="To begin with: a version such as v3, or a package's id. Default: the candidate there is.")
    ] = None,
    share: Annotated[str | None, typer.Option(help="Of requests, as 5%. Default: as 'serve.rollout' has it.")] = None,
    alpha: Annotated[str | None, typer.Option(help="Chance of a false winner. Default: as 'serve.rollout' has it.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for on the command line",
    file: File = _HERE, json: Json = False,
) -> None:
    """Let a candidate stand beside the live version: see it answer a share of requests, or copies of them, and which is better."""
    with _command(json) as output:
        project = _project(file, None)
        output.give(*_use("rollout").act(_ledger(project), project.spec.serve.rollout, word, candidate, share, alpha, reason))


@app.command()
def serve(
    file: File = _HERE, set: Set = None,
    host: Annotated[str | None, typer.Option(help="Address; any but loopback demands a key.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one.", min=0, max=65535)] = None,
    seed: Annotated[Path | None, typer.Option(help="Make the version live that this seed.json of a packaged folder names.")] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--with", help="Another project, served beside it under its own name; again for more.")
    ] = None,
    json: Json = False,
) -> None:
    """Serve the live version: an OpenAI-compatible API, a page with feedback, and the team's console at /console."""
    with _command(json) as output:
        project = _project(file, set)
        store, ledger = _use("artifacts").Store(project.store), _ledger(project)
        if seed is not None:
            _use("seed").Seed.read(seed).sow(ledger)
        ready, console = output.give if json else None, _use("console").add_console
        others = [_served(_project(path, None)) for path in (*project.beside, *(beside or ()))]
        _use("serve").run_server(project, store, ledger, host, port, ready, console, others)


@app.command()
def package(
    folder: Annotated[Path | None, typer.Argument(help="Where; it must not be there yet. Default: NAME-vVERSION.")] = None,
    file: File = _HERE, json: Json = False,
) -> None:
    """Write a folder that runs the live version elsewhere: container, cluster, service of systemd, and plain files."""
    with _command(json) as output:
        project = _project(file, None)
        made = _use("ship").ship(project, _use("artifacts").Store(project.store), _ledger(project), folder).as_dict()
        output.give(made, _use("show").packaged(made))


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="A table with the model's columns, or a folder of its images or recordings.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .csv or .jsonl; default: NAME.predictions.csv.")] = None,
    file: File = _HERE, json: Json = False,
) -> None:
    """Write the live version's answer to every row of a table beside it."""
    with _command(json) as output:
        project = _project(file, None)
        found = _use("predict").predict_file(project, _use("artifacts").Store(project.store), _ledger(project), source, out)
        document = found.as_dict()
        output.give(document, _use("show").predicted(document))


@app.command()
def trace(
    id: Annotated[str, typer.Argument(help="An answer's id, an artifact's id, or a version such as v2.")],
    file: File = _HERE, json: Json = False,
) -> None:
    """Follow an answer, a version or an artifact back to the data that it came from."""
    with _command(json) as output:
        project = _project(file, None)
        found = _use("trace").trace(_use("artifacts").Store(project.store), _ledger(project), id)
        output.give(found.as_dict(), found.lines())


@app.command()
def report(
    file: File = _HERE, json: Json = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it; default: report.html in the store.")] = None,
) -> None:
    """Write one self-contained HTML page: what happened, and is it good."""
    with _command(json) as output:
        project = _project(file, None)
        path = _use("report").write_report(project, _use("artifacts").Store(project.store), _ledger(project), out)
        output.give({"path": str(path)}, [f"wrote {path}"])


@app.command()
def watch(
    file: File = _HERE, json: Json = False,
    once: Annotated[bool, typer.Option("--once", help="One frame, for scripts; so too where no terminal is.")] = False,
) -> None:
    """Draw the curves of the training that is going on, from another terminal; or say what became of the last one."""
    with _command(json) as output:
        project, watch = _project(file, None), _use("watch")
        name = project.spec.name
        if once or json or not sys.stdout.isatty():
            seen = watch.Watcher(project.store).look()
            output.give(seen.as_dict(), seen.lines(name, watch.frame_width()))
        else:
            output.give({}, watch.after(watch.follow(project.store, name)))


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Versions (v1), models' ids, or folders of projects; the first is what the rest "
                                                   "are held against.")],
    file: File = _HERE, json: Json = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it; default: compare.html in the store.")] = None,
) -> None:
    """Lay the curves of several models over each other in one HTML page, with the settings that differ, figures, time and cost."""
    with _command(json) as output:
        document = _use("compare").compare(_project(file, None) if file.exists() else None, runs, out).as_dict()
        output.give(document, _use("show").compared(document))


@key_app.command("add")
def key_add(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What it opens: answer, feedback, metrics or console; again for more. "
                                        "Default: the first three.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is good ('30 days'), or its last day ('2027-01-31').")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Its own instead of that of 'serve.limits': concurrent=2, tokens_per_day=none.")
    ] = None,
    file: File = _HERE, json: Json = False,
) -> None:
    """Make a key. It is shown once."""
    with _command(json) as output:
        keys, project = _use("keys"), _project(file, None)
        until = keys.parse_expiry(expires) if expires is not None else None
        own = keys.parse_limits(limit or [], priced=project.spec.serve.price.known)
        made = _ledger(project).add_key(name, scope or keys.USUAL, until, own)
        output.give({"name": name, "key": made, "expires": until, "limits": own}, [made])


@key_app.command("revoke")
def key_revoke(name: Annotated[str, typer.Argument(help="Its name.")], file: File = _HERE, json: Json = False) -> None:
    """Take a key out of use."""
    with _command(json) as output:
        _ledger(_project(file, None)).revoke_key(name)
        output.give({"name": name, "revoked": True}, [f"{name} is revoked"])


@key_app.command("list")
def key_list(file: File = _HERE, json: Json = False) -> None:
    """List the keys: what each opens, until when it is good, its own limits, and what it has had today (UTC)."""
    with _command(json) as output:
        found = _ledger(_project(file, None)).list_keys()
        output.give({"keys": found}, _use("show").keys(found))


@audit_app.callback(invoke_without_command=True)
def audit(context: typer.Context, file: File = _HERE, json: Json = False) -> None:
    """Show the audit trail: promotions, rollbacks, keys, starts and stops of servers, lock-outs; oldest first."""
    if context.invoked_subcommand is None:
        with _command(json) as output:
            rows = [dict(row) for row in _ledger(_project(file, None)).audit()]
            output.give({"entries": rows}, _use("show").audit(rows))


@audit_app.command("verify")
def audit_verify(
    head: Annotated[str | None, typer.Option(help="A hash that was the last once; it must still be among the entries.")] = None,
    file: File = _HERE, json: Json = False,
) -> None:
    """Check that no entry was changed, left out or put in between; ends with 1 at the first that was."""
    with _command(json) as output:
        count, last = _ledger(_project(file, None)).check_audit(head)
        output.give({"entries": count, "head": last}, _use("show").audited(count, last))


def main() -> None:
    """The entry point of ``treadle``."""
    # Threads of a matrix product wait for each other in a loop that keeps the core busy. Where another program runs too, that loop
    # takes the core from the very thread it waits for: training was measured to be 5 to 10 times slower. So they give way soon.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    app()
