"""Compare every file of this folder with its hash in manifest.json. A packaged folder has it as edge/verify.py: python verify.py.

It needs Python 3.8 or newer and nothing else. Exit code 0: whole; 1: not, and standard error says what."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

OWN = ("manifest.json", "verify.py")


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        for part in iter(lambda: stream.read(1 << 20), b""):
            found.update(part)
    return found.hexdigest()


def main(folder: Path) -> int:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    expected, wrong = manifest["files"], []
    for name, about in expected.items():
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif digest(folder / name) != about["sha256"]:
            wrong.append(f"{name} was changed (its sha256 differs)")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wrong += [f"{name} does not belong here" for name in sorted(present - {*expected, *OWN})]
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print("  cure: copy the folder again from where it was packaged", file=sys.stderr)
        return 1
    print(f"{manifest['project']} version {manifest['version']} ({manifest['package']}): {len(expected)} files are whole")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
