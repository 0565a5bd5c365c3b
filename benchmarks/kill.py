"""How often a training of each kind that is killed at random ends as if it had not been: ``python benchmarks/kill.py --kills 200``.

Each kind is trained once undisturbed, then again and again under SIGKILL, SIGTERM, and SIGKILL with its newest checkpoint cut off
after it. Every finished model is compared bit for bit, with all losses on the way.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kills import KINDS, Disturber, starter

WAYS = ("SIGKILL", "SIGTERM", "cut")
PER_RUN = 8  # kills of one training


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=200, help="how many in all")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    chance, begun = random.Random(given.seed), time.monotonic()
    kills: Counter[tuple[str, str]] = Counter()
    runs: Counter[str] = Counter()
    same: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, starter() as trainings:
        root = Path(name)
        whole = {}
        for kind, project in KINDS.items():
            project.write(root / kind)
            whole[kind] = Disturber(trainings, root / kind, project.overrides, chance).finish()
        while kills.total() < given.kills:
            kind = list(KINDS)[runs.total() % len(KINDS)]
            folder = root / f"{kind}-{runs[kind]}"
            KINDS[kind].write(folder)
            disturber = Disturber(trainings, folder, KINDS[kind].overrides, chance)
            for _ in range(min(PER_RUN, given.kills - kills.total())):
                disturber.kill(chance.choice(WAYS), most=4)
            runs[kind] += 1
            same[kind] += disturber.finish().is_that_of(whole[kind])
            kills.update((kind, way) for way in disturber.kills)
    print(f"{kills.total()} kills in {time.monotonic() - begun:.0f} s\n")
    print("| kind | " + " | ".join(WAYS) + " | trainings | the same bit for bit |")
    print("|---|" + "---|" * (len(WAYS) + 2))
    for kind in KINDS:
        print(f"| {kind} | " + " | ".join(str(kills[kind, way]) for way in WAYS) + f" | {runs[kind]} | {same[kind]} |")
    raise SystemExit(same.total() != runs.total())


if __name__ == "__main__":
    main()
