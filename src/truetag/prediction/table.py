"""The table of predictions: grown line by line beside its place, so that a stopped command goes on, written at the end.

OUT.SUFFIX.partial.jsonl holds a line that says what is being predicted, then one line a batch of bags in their order:
how many they are, the tags of those that have some, and the photos that could not be used.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from truetag.io.files import claim, naming, readable, replacing
from truetag.media.files import Skipped

OUTPUT_SUFFIXES = (".parquet", ".csv", ".json", ".jsonl")
ROWS_PER_WRITE = 1000
Tagged = dict[str, Any]

_SCHEMA = pa.schema(
    {"id": pa.string(), "path": pa.string(), "tags": pa.list_(pa.string()), "probabilities": pa.list_(pa.float32())}
)


class PartialTable:
    """The batches that are done; what is left of another plan, or of a torn batch, is cut off."""

    def __init__(self, out: Path, plan: str) -> None:
        self.path = out.with_name(f"{out.name}.partial.jsonl")
        self.num_done = 0
        self.skipped: list[Skipped] = []
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+b")
        claim(self.file, f"out: {out} is being written")
        self.file.seek(0)
        length = 0
        if self.file.readline() == _line({"plan": plan}):
            length = self.file.tell()
            for line in self.file:
                try:
                    self._count(json.loads(line))
                except (ValueError, TypeError, KeyError):  # torn
                    break
                length += len(line)
        self.file.truncate(length)
        self.file.seek(length)
        if not length:
            self.file.write(_line({"plan": plan}))
            self.flush()

    def __enter__(self) -> "PartialTable":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def add(self, num_bags: int, rows: list[Tagged], skipped: list[Skipped]) -> None:
        """Add a batch."""
        listed = [[entry.id, readable(str(entry.path)), entry.reason] for entry in skipped]
        batch = {"num_bags": num_bags, "rows": rows, "skipped": listed}
        with naming(self.path):
            self.file.write(_line(batch))
        self._count(batch)

    def flush(self) -> None:
        """Bring all that was added to disk."""
        with naming(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())

    def rows(self) -> Iterator[Tagged]:
        """The bags that have tags, in order."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                yield from json.loads(line)["rows"]

    def _count(self, batch: dict[str, Any]) -> None:
        self.num_done += batch["num_bags"]
        self.skipped += [Skipped(name, Path(path), reason) for name, path, reason in batch["skipped"]]


def write_table(path: Path, rows: Iterable[Tagged]) -> int:
    """Write rows into the table, whole or not at all; the suffix names its kind. Returns how many there were."""
    count = 0

    def counted() -> Iterator[Tagged]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, counted())
            return count
        with temporary.open("w", encoding="utf-8", newline="") as file:
            match path.suffix:
                case ".csv":
                    table = csv.writer(file)
                    table.writerow(_SCHEMA.names)
                    for row in counted():
                        lists = (";".join(row["tags"]), ";".join(map(str, row["probabilities"])))
                        table.writerow([row["id"], row["path"], *lists])
                case ".jsonl":
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in counted())
                case _:
                    file.write("[")
                    for row in counted():
                        file.write((",\n " if count > 1 else "\n ") + json.dumps(row, ensure_ascii=False))
                    file.write("\n]\n")
    return count


def _write_parquet(path: Path, rows: Iterator[Tagged]) -> None:
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        while chunk := list(islice(rows, ROWS_PER_WRITE)):
            writer.write_table(pa.Table.from_pylist(chunk, _SCHEMA))


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
