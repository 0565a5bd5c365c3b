"""The data that a project names, looked at without reading it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from treadle.core.errors import SourceError
from treadle.core.project import Project
from treadle.data.sources.globs import glob_regex, parse_pattern, walk
from treadle.spec.data import FilesSource, source_name


def check_data(project: Project) -> dict[str, Any]:
    """Files and bytes of each source. Raises ``SourceError`` with every source that is missing or empty, at once."""
    found, problems = [], []
    for number, source in enumerate(project.spec.data.sources):
        key = f"data.sources.{number}"
        if not isinstance(source, FilesSource):
            found.append({"files": source_name(source), "count": 0, "bytes": 0, "excluded": 0})
            continue
        try:
            pattern = parse_pattern(source.files, project.folder, key)
        except SourceError as error:
            problems.append(error)
            continue
        excluded = [glob_regex(glob) for globs in source.exclude.values() for glob in globs]
        sizes, left_out = [], 0
        for item in walk(pattern):
            if item.problem or any(glob.match(item.relative) for glob in excluded):
                left_out += 1
            else:
                sizes.append(Path(item.path).lstat().st_size)
        if not sizes:
            cure = "mend the pattern or its exclude globs, or put files there"
            problems.append(SourceError(f"{key}.files: {source.files!r} leaves no file to read ({left_out} excluded)", cure=cure))
        found.append({"files": source.files, "count": len(sizes), "bytes": sum(sizes), "excluded": left_out})
    if problems:
        raise SourceError("\n".join(error.message for error in problems), cure="; ".join(error.cure for error in problems))
    derived = [{"key": d.key, "value": str(d.value), "reason": d.reason} for d in project.resolved.reasons]
    shape = project.resolved.shape
    return {"name": project.spec.name, "sources": found, "derived": derived, "parameters": shape.parameters if shape else None}
