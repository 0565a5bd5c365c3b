"""What all tests share: few threads, few and repeatable examples, real data, a real PostgreSQL, a browser."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

# Before torch is imported anywhere, here or in a test's subprocess: workers share the cores, and results depend on the count.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("few", deadline=None, derandomize=True, max_examples=30, database=None)
hypothesis.settings.register_profile("many", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One file's tests go to one worker, for they share what is slow to make; but each recipe's to whichever is free."""
    for item in items:
        if item.path.name != "test_recipes.py":
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))


def lacking(what: str) -> NoReturn:
    """Skip by name; where everything must be there (CI=true), fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"needs {what}: scripts/test-dependencies installs it")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """``data_folder("sst2")``: that folder of ``$TREADLE_DATA`` (default ``../shared/data``); skips by name where it is absent."""
    root = Path(os.environ.get("TREADLE_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"needs the data set {name} in {root}")
        return root / name

    return find


@pytest.fixture(scope="session")
def browser() -> str:
    """Path of a Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    lacking("Chromium")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of this session's own, without a database's name at its end."""
    commands = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(commands[-1]) if commands else shutil.which("initdb")
    if not found:
        lacking("PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="treadle-postgres-", dir="/tmp"))
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        runuser = shutil.which("runuser", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        as_user = [runuser or lacking("runuser"), "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    bin, data = Path(found).parent, folder / "data"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    control = [*as_user, str(bin / "pg_ctl"), "--pgdata", str(data), "--wait", "--timeout=60"]
    initdb = [*as_user, found, "--pgdata", str(data), "--username=treadle", "--auth=trust", "--encoding=UTF8", "--no-sync"]
    settings = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    try:
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        start = [*control, "--options", settings, "--log", str(folder / "log"), "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
        yield f"postgresql+psycopg://treadle@127.0.0.1:{port}"
    finally:
        if (data / "postmaster.pid").exists():
            subprocess.run([*control, "--mode=fast", "stop"], check=False, stdout=subprocess.DEVNULL, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """URL of an empty database of a real PostgreSQL, this test's own."""
    import sqlalchemy as sa

    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(f"{postgres_server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield f"{postgres_server}/{name}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers and losses are computed by torch's operations, as where there is no compiler."""
    from treadle.core import native

    monkeypatch.setattr(native, "kernels", lambda: None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes 256 KiB: a file system of that size where we may mount one, else a limit on each file's size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.getuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty ledger can be made: a file, and a real PostgreSQL."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres"))
    (tmp_path / "store").mkdir()
    return f"sqlite:///{tmp_path / 'store' / 'ledger.db'}"


@pytest.fixture
def open_ledger(ledger_url: str, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Opens the same ledger, as often as it is called."""
    from treadle.store.ledger import Ledger

    opened: list[Ledger] = []

    def open_it() -> Ledger:
        opened.append(Ledger(tmp_path / "store", ledger_url))
        return opened[-1]

    yield open_it
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[[], Any]) -> Any:
    return open_ledger()


@pytest.fixture(params=["kernels", "torch"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer is read by the compiled kernels, and once more by torch's operations."""
    from treadle.core import native

    if request.param == "torch":
        monkeypatch.setattr(native, "kernels", lambda: None)
    elif native.compiler() is None:
        pytest.skip("needs a C compiler")
