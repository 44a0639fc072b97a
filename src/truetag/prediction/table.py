"""The table of predictions: it grows in a file beside OUT, so that a stopped command can continue, and ends up in OUT.

OUT.partial.jsonl holds a line with the fingerprint of what is being predicted, then one line per batch of bags, in
order: the number of bags, the rows of those that can be used, and the photos that cannot.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from truetag.io.files import claimed, naming, replacing
from truetag.media.files import SkipList, Skipped, entries_to_json

OUTPUT_SUFFIXES = (".parquet", ".csv", ".json", ".jsonl")
ROWS_PER_WRITE = 1000
Tagged = dict[str, Any]

_SCHEMA = pa.schema(
    {"id": pa.string(), "path": pa.string(), "tags": pa.list_(pa.string()), "probabilities": pa.list_(pa.float32())}
)


class PartialTable:
    """The batches that are done. Those of another prediction are dropped, and so is a batch that a crash has torn.

    Args:
        out: the table in the end.
        fingerprint: of all that the table depends on.
        skips: gets the photos that cannot be used, also those of the batches that are done already.
    """

    def __init__(self, out: Path, fingerprint: str, skips: SkipList) -> None:
        self.path = out.with_name(f"{out.name}.partial.jsonl")
        self.num_done = 0
        self.skips = skips
        self._out, self._first_line = out, _line({"fingerprint": fingerprint})

    def __enter__(self) -> "PartialTable":
        with naming(self.path), ExitStack() as stack:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(f".{self.path.name}.lock")
            stack.enter_context(claimed(lock, f"out: {self._out} is being written"))
            self.file = stack.enter_context(self.path.open("a+b"))
            self._read_batches()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def add(self, num_bags: int, rows: list[Tagged], skipped: list[Skipped]) -> None:
        """Add a batch.

        Raises:
            InputError: too many photos cannot be used.
        """
        batch = {"num_bags": num_bags, "rows": rows, "skipped": entries_to_json(skipped)}
        with naming(self.path):
            self.file.write(_line(batch))
        self._count(batch)

    def flush(self) -> None:
        """Bring all batches to disk."""
        with naming(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())

    def rows(self) -> Iterator[Tagged]:
        """The rows of all batches, in order."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                yield from json.loads(line)["rows"]

    def remove(self) -> None:
        """Remove the file: its table is written."""
        self.path.unlink()

    def _read_batches(self) -> None:
        """Count the batches that are done, and cut off the rest of the file."""
        self.file.seek(0)
        length = 0
        if self.file.readline() == self._first_line:
            length = self.file.tell()
            for line in self.file:
                if not line.endswith(b"\n"):  # torn
                    break
                try:
                    batch = json.loads(line)
                except ValueError:  # torn by a crash of the machine
                    break
                self._count(batch)
                length += len(line)
        self.file.truncate(length)
        self.file.seek(length)
        if not length:
            self.file.write(self._first_line)
            self.flush()

    def _count(self, batch: dict[str, Any]) -> None:
        self.num_done += batch["num_bags"]
        self.skips.restore(batch["skipped"])


def write_table(path: Path, rows: Iterable[Tagged]) -> int:
    """Write the table in the format of its suffix, whole or not at all, and return the number of rows."""
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
