"""A checked schema, compiled: the only importer of jsonschema-rs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_MAX_MESSAGE = 300

#: The first thing wrong with a value, as a sentence, or None.
Validator = Callable[[Any], str | None]


def compile_schema(schema: Mapping[str, Any]) -> Validator:
    """Draft 2020-12 with formats asserted. Raises ValueError where the schema itself is wrong (a bad pattern)."""
    import jsonschema_rs  # the native library loads only where answers are checked

    validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True)

    def first_error(value: Any) -> str | None:
        try:
            for error in validator.iter_errors(value):
                place = ".".join(str(step) for step in error.instance_path)
                message = error.message if len(error.message) <= _MAX_MESSAGE else error.message[:_MAX_MESSAGE] + "..."
                return f"at {place}: {message}" if place else message
        except ValueError as error:  # what the library cannot take in, such as a list nested hundreds deep
            return f"it cannot be checked: {error}"
        return None

    return first_error
