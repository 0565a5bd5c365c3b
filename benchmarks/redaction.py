"""Recall and false alarms of redaction on two labelled sets, false alarms on Python source, and speed: one command.

    python benchmarks/redaction.py [--data FOLDER]

The sets are ``synth_dataset_v2.json`` and ``generated_large.json`` of microsoft/presidio-research (MIT): sentences made from
templates with invented identities. A labelled span counts as found when none of its letters and digits is left outside a
placeholder; a placeholder that touches no label of its kind is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import os
import sysconfig
import time
from collections import Counter
from pathlib import Path

from treadle.data.steps.redact import PERSONAL, SECRETS, redact

SETS = ("pii-presidio-synth/synth_dataset_v2.json", "pii-presidio-generated-large/generated_large.json")
KINDS = {"EMAIL_ADDRESS": "EMAIL", "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN", "PHONE_NUMBER": "PHONE"}


def score(examples: list[dict], show: bool) -> dict[str, Counter[str]]:
    """Per kind: labelled, found, and placeholders that touch no label of the kind."""
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS.values()}
    for example in examples:
        text = example["full_text"]
        spans = [span for finder in SECRETS + PERSONAL for span in finder(text)]
        known = [label for label in example["spans"] if label["entity_type"] in KINDS]
        labels = [(label["start_position"], label["end_position"], KINDS[label["entity_type"]]) for label in known]
        for start, end, kind in labels:
            covered = all(any(a <= i < b for a, b, _ in spans) for i in range(start, end) if text[i].isalnum())
            totals[kind] += Counter(labelled=1, found=int(covered))
            if show and not covered:
                print(f"  missed {kind}: {text[max(0, start - 30) : end + 10]!r}")
        for a, b, kind in spans:
            if kind in totals and not any(k == kind and a < end and start < b for start, end, k in labels):
                totals[kind]["false"] += 1
                if show:
                    print(f"  false {kind}: {text[max(0, a - 30) : b + 10]!r}")
    return totals


def source_files(tests: bool) -> list[str]:
    """The standard library's own modules, or its test suite, as far as they are UTF-8."""
    texts, root = [], Path(sysconfig.get_path("stdlib"))
    for path in sorted((root / "test" if tests else root).rglob("*.py")):
        if tests or not {"site-packages", "test", "tests", "lib2to3", "idlelib"} & set(path.relative_to(root).parts):
            try:
                texts.append(path.read_text("utf-8"))
            except UnicodeDecodeError:
                continue
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TREADLE_DATA", "../shared/data")))
    parser.add_argument("--show", action="store_true", help="print every miss and every false alarm")
    given = parser.parse_args()
    print("set | kind | labelled | found | recall | false alarms")
    for name in SETS:
        examples = json.loads((given.data / name).read_text(encoding="utf-8"))
        for kind, count in score(examples, given.show).items():
            recall = count["found"] / max(1, count["labelled"])
            print(f"{name.split('/')[0]} | {kind} | {count['labelled']} | {count['found']} | {recall:.1%} | {count['false']}")
    for name, texts in (("standard library", source_files(False)), ("its test suite", source_files(True))):
        size = sum(len(text) for text in texts) / 1e6
        start, counts = time.process_time(), Counter[str]()
        for text in texts:
            counts += redact(text)[1]
        speed = size / (time.process_time() - start)
        print(f"{name}: {len(texts)} files, {size:.1f} MB, {speed:.0f} MB/s of one core, replaced {dict(counts)}")


if __name__ == "__main__":
    main()
