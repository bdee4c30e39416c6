"""The exception tree: its messages, its kinds, and its drawing in the module docstring."""

import re
from collections.abc import Iterator

from batchvision import errors
from batchvision.errors import AuthenticationFailed, BatchvisionError, CheckpointDamaged, SpendCapReached, StopRun


def classes(of: type[BatchvisionError]) -> Iterator[type[BatchvisionError]]:
    for sub in of.__subclasses__():
        yield sub
        yield from classes(sub)


def test_an_error_keeps_what_happened_and_the_next_step_apart() -> None:
    refused = AuthenticationFailed("xai answered 401: bad key", next_step="check XAI_API_KEY")
    assert (refused.what, refused.next_step) == ("xai answered 401: bad key", "check XAI_API_KEY")
    assert refused.message == str(refused) == "xai answered 401: bad key; check XAI_API_KEY"
    damaged = CheckpointDamaged("columns.json is damaged", next_step="restore it")
    assert damaged.what == "columns.json is damaged"
    assert damaged.message.endswith(". Nothing was changed and nothing was sent. Next: restore it")


def test_an_error_without_a_next_step_is_what_happened() -> None:
    assert AuthenticationFailed("bad key").message == "bad key"


def test_a_stop_names_the_key_whose_limit_was_reached() -> None:
    assert SpendCapReached("no money left", key="limits.max_cost_usd_per_day").key == "limits.max_cost_usd_per_day"
    assert SpendCapReached("no money left").key is None


def test_each_kind_belongs_to_one_class() -> None:
    kinds = [each.kind for each in classes(BatchvisionError) if "kind" in vars(each)]
    assert len(kinds) == len(set(kinds))
    assert {*errors.ROW_FAULTS, *errors.TRANSIENTS, *errors.RUN_STOPS} == set(kinds)


def test_the_docstring_draws_every_class_with_its_exit_code() -> None:
    drawn = dict(re.findall(r"── (\w+)(?: +exit (\d+))?", errors.__doc__ or ""))
    own = {each.__name__: each for each in classes(BatchvisionError) if each.__module__ == errors.__name__}
    assert drawn.keys() == own.keys()
    stops = {name: each for name, each in own.items() if issubclass(each, StopRun) and "kind" in vars(each)}
    assert {name: drawn[name] for name in stops} == {name: str(each.exit_code) for name, each in stops.items()}
