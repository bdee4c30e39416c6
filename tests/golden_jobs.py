"""Jobs of every kind that decides a key, and the keys that a run gives their rows, read from the tables it leaves.

Rule: only public faces are used (job keys, the run, table columns), so that the golden vectors outlive any change of
the code between them.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq

from batchvision import Job, run
from batchvision.commands.pilot import pilot, settings

KEY = "golden-provider-key"
ENVIRON = {"XAI_API_KEY": KEY, "OPENROUTER_API_KEY": KEY, "OPENAI_API_KEY": KEY}
#: Stands in the stamps of local files.
MODIFIED_AT = 1_700_000_000

#: 64 x 48 pixels of one colour, byte for byte.
PICTURES = {
    "red.png": "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwCAIAAAAuKetIAAAAQElEQVR42u3PQQ0AAAgEoNP+nbWCXzdoQE1+6wgICA"
    "gICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIHC36dwFfYw5C7wAAAABJRU5ErkJggg==",
    "green.png": "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwCAIAAAAuKetIAAAAQUlEQVR42u3PQQ0AAAgEoNPkRreCXzdoQGXyWicCAg"
    "ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAjcLBacA4M1KY0YAAAAASUVORK5CYII=",
    "größe blau.png": "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwCAIAAAAuKetIAAAAQUlEQVR42u3PAQkAAAgDsGv/ztpCELYGq2TyWec5AQ"
    "EBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBgTsL+HkBX30suLUAAAAASUVORK5CYII=",
}
SIGNED = "https://bucket.s3.amazonaws.com/{}.jpg?X-Amz-Credential=AKIA{}&X-Amz-Signature={}&size=2"
Rows = list[dict[str, Any]]


def picture(name: str) -> bytes:
    return b64decode(PICTURES[name])


def lay_out(folder: Path) -> None:
    """The images, all with the same time of change."""
    for name in PICTURES:
        (folder / name).write_bytes(picture(name))
        os.utime(folder / name, (MODIFIED_AT, MODIFIED_AT))
    (folder / "labels.csv").write_text("value,description\nshoe,worn on a foot\nbag,\n", encoding="utf-8")


def _job(rows: Rows, **sections: Any) -> dict[str, Any]:
    """``rows``: those of the manifest; other keys are the job's, over a plain one."""
    manifest = {name: value for name, value in {"id": "id", **sections.pop("manifest", {})}.items() if value}
    provider = {"name": "xai", "model": "grok-4.3", **sections.pop("provider", {})}
    prompt = sections.pop("prompt", {"user": "Describe {title}."})
    return {"rows": rows, "manifest": manifest, "provider": provider, "prompt": prompt, **sections}


def _plain_rows() -> Rows:
    return [
        {"id": "1", "image": "red.png", "title": "Boot", "back": "green.png", "shop": "a|b"},
        {"id": "2", "image": "größe blau.png", "title": "", "back": None, "shop": "a"},
        {"id": "ü 3", "image": "https://images.example/x.jpg", "title": "Größe – {x}", "back": "red.png", "shop": "\\"},
        {"id": "4", "image": SIGNED.format("p", 1, "aa" * 20), "title": "T", "back": "red.png", "shop": "b"},
    ]


def _data_uri(name: str) -> str:
    return f"data:image/png;base64,{PICTURES[name]}"


def _schema() -> dict[str, Any]:
    size = {"type": ["string", "null"], "enum": ["S", "L", None]}
    properties = {"size": {"$ref": "#/$defs/size"}, "price": {"type": "number", "description": "In USD."}}
    return {"type": "object", "properties": properties, "required": ["size"], "$defs": {"size": size}}


_FRONT_AND_BACK = {"images": ["image", "back"]}
_EXAMPLE = {"user": "A shoe?", "images": ["red.png", "green.png"], "answer": '{"label": "shoe"}'}

JOBS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: _job(_plain_rows()),
    "no column in the prompt": lambda: _job(_plain_rows(), prompt={"user": "Describe it."}),
    "prompt column": lambda: _job(
        [*_plain_rows(), {"id": "5", "image": "red.png", "title": None}], prompt={"column": "title"}
    ),
    "image placed": lambda: _job(_plain_rows(), prompt={"user": "Before {image} after {title}"}),
    "images placed by column": lambda: _job(
        _plain_rows(), manifest=_FRONT_AND_BACK, prompt={"user": "{title}: {image:image} and {image:back}."}
    ),
    "one image placed by column": lambda: _job(
        _plain_rows(), manifest=_FRONT_AND_BACK, prompt={"user": "The back {image:back} of {title}, then {image}"}
    ),
    "several images": lambda: _job(_plain_rows(), manifest=_FRONT_AND_BACK),
    "images first": lambda: _job(_plain_rows(), prompt={"user": "{title}", "images_first": True}),
    "several images in a cell": lambda: _job(
        [
            {"id": "a", "image": "red.png|green.png", "title": "t"},
            {"id": "b", "image": '["red.png", "https://images.example/y.jpg?v=2"]', "title": "t"},
            {"id": "c", "image": "green.png|red.png", "title": "t"},
        ],
        manifest={"image_separator": "|"},
    ),
    "bytes in parquet": lambda: _job(
        [{"id": 1, "image": picture("red.png"), "title": "t"}, {"id": 2, "image": picture("green.png"), "title": "t"}],
        form="parquet",
    ),
    "lists in parquet": lambda: _job(
        [{"id": 1, "image": ["red.png", "green.png"], "title": ["a", "b"]}, {"id": 2, "image": ["red.png"]}],
        form="parquet",
    ),
    "data URIs": lambda: _job([{"id": "d", "image": _data_uri("red.png"), "title": "t"}]),
    "masked ids": lambda: _job(
        [
            {"id": SIGNED.format("q", 7, "bb" * 20), "image": "red.png", "title": "t"},
            {"id": f"sku {KEY} 9", "image": "green.png", "title": "t"},
            {"id": "https://user:password@images.example/z.jpg", "image": "red.png", "title": "u"},
        ]
    ),
    "masked ids of two columns": lambda: _job(
        [{"id": f"{KEY}", "shop": SIGNED.format("q", 7, "bb" * 20), "image": "red.png", "title": "t"}],
        manifest={"id": ["shop", "id"]},
    ),
    "list of id columns": lambda: _job(_plain_rows(), manifest={"id": ["shop", "id"]}),
    "no id": lambda: _job([*_plain_rows(), *_plain_rows()[:1]], manifest={"id": []}),
    "no id, several columns": lambda: _job(
        _plain_rows(),
        manifest={"id": [], **_FRONT_AND_BACK},
        prompt={"user": "{title} {shop} {image:back} {image:image}"},
    ),
    "identity by reference": lambda: _job(_plain_rows(), manifest={"image_identity": "ref"}),
    "version column": lambda: _job(_plain_rows(), manifest={"image_version": "shop"}),
    "labels": lambda: _job(_plain_rows(), answer={"labels": ["shoe", "bag"]}),
    "labels of a file": lambda: _job(
        _plain_rows(),
        answer={"labels_file": "labels.csv", "labels_many": True, "labels_confidence": True, "labels_fallback": "no"},
    ),
    "schema": lambda: _job(_plain_rows(), answer={"schema": "answer.json"}),
    "schema and labels": lambda: _job(_plain_rows(), answer={"schema": "answer.json", "labels": ["shoe", "bag"]}),
    "examples": lambda: _job(
        _plain_rows(),
        prompt={"system": "You label.", "user": "{title}?", "example": [_EXAMPLE, {"user": "And?", "answer": "no"}]},
    ),
    "parameters": lambda: _job(
        _plain_rows(),
        provider={"detail": "high", "parameters": {"temperature": 0, "max_tokens": 300, "seed": 4}},
        images={"max_side": 48, "max_bytes": 100_000, "max_pixels": 1_000_000, "strip_metadata": True},
    ),
    "another provider": lambda: _job(
        _plain_rows(), provider={"name": "openrouter", "model": "x-ai/grok-4.3", "parameters": {"max_tokens": 5000}}
    ),
    "openai": lambda: _job(_plain_rows()[:2], provider={"name": "openai", "model": "gpt-5-mini"}),
    "what decides no key": lambda: _job(
        _plain_rows(),
        manifest={"keep": ["shop"], "on_bad_image": "skip_image"},
        provider={"image_mode": "auto", "prompt_cache": "auto"},
        delivery={"stream": True},
        limits={"max_attempts": 7, "max_runtime_seconds": 600, "deduplicate": False},
        output={"keep_raw_answers": False},
    ),
    "skipped images": lambda: _job(
        [{"id": "s", "image": "red.png|gone.png|green.png", "title": "t"}],
        manifest={"image_separator": "|", "on_bad_image": "skip_image"},
    ),
    "invalid rows": lambda: _job(
        [
            {"id": "n", "image": None, "title": "t"},
            {"id": "n", "image": "red.png", "title": "t"},
            {"id": "", "image": "red.png", "title": "t"},
            {"id": "ok", "image": "red.png", "title": "t"},
            {"id": "gone", "image": "gone.png", "title": "t"},
        ]
    ),
}
SWEPT = ("detail=low,high", "max_side=32,64")
SWEEP = "pilot with a sweep"


def job_of(name: str, folder: Path, emulator_url: str) -> Job:
    """The job and all its files, in ``folder``."""
    lay_out(folder)
    document = JOBS["plain" if name == SWEEP else name]()
    rows = document.pop("rows")
    form = document.pop("form", "jsonl")
    path = folder / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (folder / "answer.json").write_text(json.dumps(_schema()), encoding="utf-8")
    faces = {"xai": "/xai/v1", "openrouter": "/openrouter/api/v1", "openai": "/openai/v1"}
    document["provider"]["base_url"] = emulator_url + faces[document["provider"]["name"]]
    document["manifest"]["path"] = path.name
    document["output"] = {"path": "out", **document.get("output", {})}
    return Job.from_mapping({"name": "golden", **document}, folder)


def keys_of(name: str, folder: Path, emulator_url: str) -> list[list[str]]:
    """Of each row that was sent: row_id, recipe_id, request_key, skip_key. Of a sweep, the first three, for each
    setting."""
    job = job_of(name, folder, emulator_url)
    if name == SWEEP:
        return _swept(job, folder, emulator_url)
    run(job, environ=ENVIRON)
    assert (folder / "out" / "recipes" / f"{job.recipe.recipe_id}.json").exists()
    return sorted(_sent(folder / "out"))


def _sent(output: Path) -> Iterator[list[str]]:
    for table in ("results", "failures"):
        for row in table_rows(output, table):
            if row["request_key"]:
                yield [row[name] for name in ("row_id", "recipe_id", "request_key", "skip_key")]


def _swept(job: Job, folder: Path, emulator_url: str) -> list[list[str]]:
    def remake(more: Mapping[str, object]) -> Job:
        return Job.from_mapping(json.loads(stored), folder, overrides=dict(more))

    document = JOBS["plain"]()
    document.pop("rows")
    document["manifest"]["path"] = "rows.jsonl"
    document["provider"]["base_url"] = f"{emulator_url}/xai/v1"
    stored = json.dumps({"name": "golden", **document, "output": {"path": "out"}})
    anyio.run(partial(pilot, job, 4, remake=remake, sweep=settings(SWEPT), environ=ENVIRON))
    rows = table_rows(folder / "out", "attempts")
    return sorted([row["row_id"], row["recipe_id"], row["request_key"]] for row in rows)


def table_rows(output: Path, table: str) -> Rows:
    """All rows of a table of an output, part by part."""
    paths = sorted((output / table).rglob("part-*.parquet"))
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
