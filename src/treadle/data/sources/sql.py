"""The rows of a query, through SQLAlchemy. The database is only read, and its password is neither shown nor kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import SourceError
from treadle.core.project import filled
from treadle.data.sources.base import Place, Rows
from treadle.spec.data import SqlSource

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_AT_ONCE = 1000  # rows in memory at a time


def sql_rows(spec: SqlSource, place: Place) -> Rows:
    """(the query's row number, the row) in the query's order, streamed. Raises ``SourceError``."""
    import sqlalchemy as sa  # here, so that checking files never waits for it
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    url = _url(spec, place)
    label = url.database or url.get_backend_name()
    label = Path(label).name if url.get_backend_name() == "sqlite" else label
    try:
        engine = sa.create_engine(url)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        cure = "pip install 'treadle[postgres]' for PostgreSQL; SQLite needs nothing more"
        raise SourceError(f"{place.key}.sql: no driver for {url.drivername}: {error}", cure=cure) from None
    options: dict[str, Any] = {"stream_results": True, "yield_per": _AT_ONCE, "no_parameters": True}
    if url.get_backend_name() == "postgresql":
        options["postgresql_readonly"] = True
    try:
        with engine.connect().execution_options(**options) as connection:
            found = connection.exec_driver_sql(spec.query)
            if not found.returns_rows:
                raise SourceError(f"{place.key}.query: gives no rows", cure="write a SELECT")
            names = list(found.keys())
            if twice := sorted({name for name in names if names.count(name) > 1}):
                cure = "rename one: SELECT a.id AS a_id, b.id AS b_id ..."
                raise SourceError(f"{place.key}.query: gives the column {twice[0]!r} more than once", cure=cure)
            for number, row in enumerate(found, 1):
                yield f"{label}:{number}", dict(zip(names, row, strict=True))
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if url.password:
            said = said.replace(str(url.password), "***")
        at = url.render_as_string(hide_password=True)
        raise SourceError(f"{place.key}.sql: {at}: {said}", cure="check the URL, the query, and that the server runs") from None
    finally:
        engine.dispose()


def _url(spec: SqlSource, place: Place) -> URL:
    """The URL with names from the environment; an SQLite file relative to the project's folder, opened only to be read."""
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError

    try:
        url = sa.make_url(filled(spec.sql, f"{place.key}.sql"))
    except (ArgumentError, ValueError):
        cure = "write it like 'sqlite:///file.db' or 'postgresql+psycopg://$USER:$PASSWORD@host/db'"
        raise SourceError(f"{place.key}.sql: is no database URL", cure=cure) from None
    if url.get_backend_name() != "sqlite":
        return url
    path = place.folder / (url.database or "")
    if not path.is_file():
        raise SourceError(f"{place.key}.sql: there is no database {path}", cure="mend the path; it starts at the project's folder")
    return url.set(database=f"{path.resolve().as_uri()}", query={"mode": "ro", "uri": "true"})
