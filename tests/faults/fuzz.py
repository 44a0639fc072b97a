"""Fuzz every reader of tables, guided by coverage: `python tests/faults/fuzz.py [seconds]`. Needs `atheris`.

A reader may return, or raise an InputError with a clear message. Anything else stops the run and is printed with the
bytes that led to it.
"""

import sys
import tempfile
from pathlib import Path


def main(seconds: int = 60) -> None:
    """Start from all the valid and malformed tables, and go on for so many seconds."""
    try:
        import atheris
    except ImportError:
        sys.exit("fuzz: needs atheris (Linux, Python 3.11 or later): pip install atheris")
    with atheris.instrument_imports(include=["truetag.data", "truetag.io.text", "json", "csv"]):
        from malformed_tables import GOOD, GOOD_PARQUET, READERS, assert_clear, malformed_tables

        from truetag.errors import InputError

    parquet_targets = [("manifest", "m.parquet"), ("header", "m.parquet")]
    targets = [(reader, name) for reader, (name, _) in GOOD.items()] + parquet_targets
    seeds = [(reader, name, content) for reader, name, content, _ in malformed_tables() if len(content) < 4000]
    seeds += [(reader, name, content) for reader, (name, content) in GOOD.items()]
    seeds += [(reader, name, GOOD_PARQUET) for reader, name in parquet_targets]

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, (reader, name, content) in enumerate(seeds):
            if (reader, name) in targets:
                # the first byte chooses the reader
                (corpus / str(number)).write_bytes(bytes([targets.index((reader, name))]) + content)

        def read_one(data: bytes) -> None:
            if not data:
                return
            reader, name = targets[data[0] % len(targets)]
            path = Path(folder) / name
            path.write_bytes(data[1:])
            try:
                READERS[reader](path)
            except InputError as error:
                assert_clear(str(error), name)
            except BaseException:
                print(f"{reader} {name}: {data[1:]!r}", file=sys.stderr)
                raise

        options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(corpus)], read_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
