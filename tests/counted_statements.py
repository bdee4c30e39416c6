"""Database drivers whose connections end at the Nth statement of a load."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

#: Methods of connections and cursors that send a statement.
_STATEMENTS = ("execute", "sql", "adbc_ingest", "commit")


class Killed(BaseException):
    """The process ended here."""


class Statements:
    """Counts the statements of all connections and raises Killed before statement ``last``."""

    def __init__(self, last: int | None = None, *, exits: bool = False) -> None:
        self.last = last
        self.exits = exits  #: end the process, without any clean-up
        self.count = 0

    def next(self) -> None:
        self.count += 1
        if self.count == self.last:
            if self.exits:
                os._exit(9)
            raise Killed

    def patch(self, module: ModuleType, set_attribute: Callable[[Any, str, Any], None]) -> None:
        """Count the statements of connections that ``module.connect`` opens."""
        connect = module.connect
        set_attribute(module, "connect", lambda *args, **options: _Counted(connect(*args, **options), self))


class _Counted:
    """A connection or a cursor with counted statements."""

    def __init__(self, inner: Any, statements: Statements) -> None:
        self._inner = inner
        self._statements = statements

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "cursor":
            return lambda: _Counted(found(), self._statements)
        if name not in _STATEMENTS:
            return found

        def counted(*args: Any, **options: Any) -> Any:
            self._statements.next()
            return found(*args, **options)

        return counted

    def __enter__(self) -> _Counted:
        self._inner.__enter__()
        return self

    def __exit__(self, *fault: object) -> Any:
        return self._inner.__exit__(*fault)
