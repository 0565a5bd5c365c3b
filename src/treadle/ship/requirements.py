"""The exact versions of the packages that serve here, so that the same ones serve elsewhere."""

from __future__ import annotations

from importlib import metadata
from typing import cast

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from treadle.core.errors import WorkError

# What torch's builds for GPUs ask for besides; a folder that serves on a processor has the build without.
_GPU = ("nvidia-", "cuda-", "triton")


def pins(root: str = "treadle") -> dict[str, str]:
    """Name to installed version of everything that ``root`` needs on Linux with this Python, with the extras that it names and
    without itself.

    Raises ``WorkError`` where something is not installed."""
    found: dict[str, str] = {}
    waiting = [(Requirement(root), root)]
    seen: set[str] = set()
    while waiting:
        wanted, asker = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        name = canonicalize_name(wanted.name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            cure = f"install {wanted}, or install Treadle anew with pip, so that its packages can be pinned"
            raise WorkError(f"{name}, which {asker} needs, is not installed", cure=cure) from None
        found[name] = Version(distribution.version).public  # without the build, as in 2.13.0+cpu
        for line in distribution.requires or ():
            needed = Requirement(line)
            if _applies(needed, wanted.extras) and not canonicalize_name(needed.name).startswith(_GPU):
                waiting.append((needed, name))
    del found[canonicalize_name(Requirement(root).name)]
    return dict(sorted(found.items()))


def _applies(needed: Requirement, extras: set[str]) -> bool:
    """Whether ``needed`` is needed on Linux where its asker was asked for with ``extras``."""
    if needed.marker is None:
        return True
    system = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    environment = cast("dict[str, str]", default_environment()) | system
    return any(needed.marker.evaluate(environment | {"extra": extra}) for extra in ("", *extras))
