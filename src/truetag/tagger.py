"""`Tagger`: a run as a function of batches, for Ray Data, `datasets`, Spark and Daft (docs/scale.md); it needs none."""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from truetag.data.words import normalise
from truetag.errors import InputError
from truetag.io.terminal import tell
from truetag.label_noise.settings import MIN_PROBABILITY
from truetag.latent import posterior_logits
from truetag.media.files import Reading
from truetag.models.building import load_classifier
from truetag.models.classifier import Classifier
from truetag.noise_models import NoiseModel
from truetag.prediction.choice import make_choice
from truetag.prediction.columns import Column, find_source, read_errors, read_features, read_photos, read_tags
from truetag.prediction.inference import BATCH_SIZE, FeatureBatch, extract_batches
from truetag.runs.config import EMBEDDINGS
from truetag.runs.folder import Run, open_run
from truetag.runs.noise_model import load_noise_model

Batch = TypeVar("Batch")
_TEXTS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.float32())
_TYPES = {
    **{"tags": _TEXTS, "probabilities": _NUMBERS, "features": _NUMBERS},
    **{"given_tags": _TEXTS, "posterior": _NUMBERS, "missing_tags": _TEXTS, "missing_posterior": _NUMBERS},
    "error": pa.string(),
}
_NOT_GIVEN_BACK = ("image", "features")
_LOADING = threading.Lock()


@final
class Tagger:
    """The classifier of a run, called with batches of photos.

    It can be pickled, and holds no weights: these are loaded with the first batch, once per process, whichever threads
    and copies ask for them.

    Args:
        run: the run folder, at the same place on every machine.
        threshold: give the tags with at least this probability; by default the one of `truetag predict`.
        top_k: give at most this many tags per photo.
        function_words: give articles, pronouns, prepositions and the like, too.
        device: where to compute: as torch names it ("cpu", "cuda", "cuda:1"), or "auto", a GPU where there is one.
        media_root: where relative paths begin; by default the working directory of whoever makes the tagger.
        reading: where the frames of clips are cached.

    Raises:
        InputError: it is no finished run, or an option is out of range.
    """

    def __init__(
        self,
        run: Path | str,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        function_words: bool = False,
        device: str = "auto",
        media_root: Path | str = ".",
        reading: Reading = Reading(),
    ) -> None:
        opened = open_run(Path(run).absolute())
        opened.require_finished()
        self.choice = make_choice(opened, threshold, top_k, function_words)
        self.run_folder, self.device, self.reading = opened.folder, device, reading
        self.media_root = Path(media_root).absolute()
        self._digest = opened.digest

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its tags.

        Args:
            batch: columns by name, or a pyarrow Table. One of these is tagged, the first of them that is there:
                `features` ([D] numbers, from `features`), `image` (bytes, a dict of bytes or path, a PIL image, or
                uint8 pixels [H, W, 3]), `path` or `video` (of a photo or clip: the suffix decides).

        Returns:
            A dict of arrays, or a Table, whose types do not depend on its rows. All columns but `features` and `image`
            come back, and `tags` as `given_tags`; a row that has an `error` keeps it and gets no tags. Added are

                tags, probabilities    as `truetag predict` gives them, the likeliest first; None beside an error
                error                  why a photo cannot be used, or None

            and, if the batch has `tags` and the run a noise model,

                posterior              p(y=1|z,x) of each of `given_tags`: low where a tag is wrong; NaN for a tag that
                                       the run does not know
                missing_tags, missing_posterior    the tags that are not given, but true with at least 0.5

        Raises:
            InputError: a mistake of the job, not of one photo: no column to tag, a column that would be overwritten, a
                value of a wrong kind, or a run that is not the one of the start any more.
        """
        return self._answer(batch, self._tag)

    def features(self, batch: Batch) -> Batch:
        """The batch with the `features` of its photos, for later calls: the regions' [D] numbers, one after the other.

        Args:
            batch: as for a call, with `image` or `path`. A clip gets an `error`.

        Returns:
            As for a call, with `features` and `error` only.

        Raises:
            InputError: as for a call.
        """
        return self._answer(batch, self._extract)

    def _answer(self, batch: Any, work: Callable[[dict[str, Any]], dict[str, list[Any]]]) -> Any:
        """The batch with the columns that `work` adds to it."""
        if isinstance(batch, pa.Table):
            columns = {name: _values(batch[name], name) for name in batch.column_names}
        elif isinstance(batch, Mapping):
            columns = dict(batch)
        else:
            raise InputError(f"batch: expected a dict of columns or a pyarrow Table, got {type(batch).__name__}")
        added = work(columns)
        replaced = {*_NOT_GIVEN_BACK, "error", *(("tags",) if "given_tags" in added else ())}
        kept = [name for name in columns if name not in replaced]
        if taken := [name for name in kept if name in added]:
            raise InputError(f"batch: expected no column {taken[0]!r}, which the tagger adds, got one; rename it")
        if isinstance(batch, pa.Table):
            typed = {name: pa.array(values, _TYPES[name]) for name, values in added.items()}
            return pa.table({name: batch[name] for name in kept} | typed)
        arrays = {name: _as_array(values, name) for name, values in added.items()}
        return {name: columns[name] for name in kept} | arrays

    def _tag(self, columns: dict[str, Any]) -> dict[str, list[Any]]:
        """The columns that a call adds."""
        given = read_tags(columns["tags"]) if "tags" in columns else None
        loaded = self._loaded()
        words = loaded.run.vocabulary.words
        source, num_rows = find_source(columns)
        errors = read_errors(columns.get("error", ()))
        judges = given is not None and loaded.noise_model is not None
        if given is not None and not judges:
            _tell_once(f"{self.run_folder}: the run has no noise model, so the given tags get no posterior")
        names = ["tags", "probabilities", *(("posterior", "missing_tags", "missing_posterior") if judges else ())]
        added: dict[str, list[Any]] = {name: [None] * num_rows for name in names}
        with torch.inference_mode():
            for batch, rows in self._batches(loaded, columns[source], source, errors):
                logits, h = loaded.classifier(batch.features, batch.mask)  # [B, K], [B, D]
                for row, (labels, values) in zip(rows, self.choice.indices(logits.sigmoid().cpu()), strict=True):
                    added["tags"][row] = [words[label] for label in labels]
                    added["probabilities"][row] = values
                if given is not None and loaded.noise_model is not None:
                    present, absent = _posteriors(logits, h, loaded.noise_model)
                    for row, if_present, if_absent in zip(rows, present, absent, strict=True):
                        judged = self._judge(loaded.run, given[row], if_present, if_absent)
                        for name, values in zip(names[2:], judged, strict=True):
                            added[name][row] = values
        added["error"] = [errors.get(row) for row in range(num_rows)]
        return added if given is None else {"given_tags": given} | added

    def _extract(self, columns: dict[str, Any]) -> dict[str, list[Any]]:
        """The columns that `features` adds."""
        loaded = self._loaded()
        source, num_rows = find_source({name: column for name, column in columns.items() if name != "features"})
        errors = read_errors(columns.get("error", ()))
        features: list[Any] = [None] * num_rows
        with torch.inference_mode():
            for batch, rows in self._batches(loaded, columns[source], source, errors):
                assert batch.features is not None
                is_clip = batch.features.shape[1] > 1
                for row, values in zip(rows, batch.features.flatten(1).cpu().numpy(), strict=True):
                    features[row] = None if is_clip else values
                    if is_clip:
                        errors[row] = "a clip: features are of photos alone"
        return {"features": features, "error": [errors.get(row) for row in range(num_rows)]}

    def _batches(
        self, loaded: "_Loaded", column: Column, source: str, errors: dict[int, str]
    ) -> Iterator[tuple[FeatureBatch, list[int]]]:
        """The features of what can be used, with the rows.

        Args:
            loaded: the classifier.
            column: what is tagged.
            source: the name of this column.
            errors: the rows to leave out; gets the reason of each further row that cannot be used.
        """
        column = [None if row in errors else value for row, value in enumerate(column)]
        is_embedded = loaded.run.config.backbone == EMBEDDINGS
        if source == "features":
            vectors = read_features(column, loaded.classifier.num_features, is_embedded)
            errors.update(vectors.errors | errors)
            device = loaded.classifier.head.weight.device
            for group in _alike([len(regions) for regions in vectors.features]):
                features = torch.stack([vectors.features[index] for index in group]).unsqueeze(1).to(device)
                yield FeatureBatch(len(group), group, features, None, []), [vectors.rows[index] for index in group]
            return
        if is_embedded:
            raise InputError(
                f"batch: expected a column features, as {self.run_folder} was trained on embeddings, got {source}"
            )
        config = loaded.run.config
        photos = read_photos(source, column, self.media_root, config.num_frames, self.reading)
        reasons = dict(photos.errors)
        done: set[int] = set()
        for batch in extract_batches(loaded.classifier, loaded.run.preprocessing, photos.bags):
            for entry in batch.skipped:
                reasons.setdefault(int(entry.id), entry.reason)
            rows = [photos.rows[index] for index in batch.indices]
            done.update(rows)
            if rows:
                yield batch, rows
        errors.update({row: reason for row, reason in reasons.items() if row not in done} | errors)

    def _judge(
        self, run: Run, given: Sequence[str], if_present: Float[Tensor, "K"], if_absent: Float[Tensor, "K"]
    ) -> tuple[list[float], list[str], list[float]]:
        """What the posterior says of one row's tags.

        Args:
            run: its vocabulary.
            given: the tags of the row.
            if_present: p(y=1|z=1,x).
            if_absent: p(y=1|z=0,x).

        Returns:
            The posterior of the given tags, the tags that are missing, and their posterior.
        """
        labels_of_name = run.vocabulary.labels_of_name
        labels = [list(labels_of_name.get(normalise(name), ())) for name in given]
        posterior = [float(if_present[some].min()) if some else float("nan") for some in labels]
        absent = torch.tensor(sorted({*self.choice.labels}.difference(*labels)), dtype=torch.int64)
        missing = absent[if_absent[absent] >= MIN_PROBABILITY]
        missing = missing[if_absent[missing].argsort(descending=True, stable=True)]
        return posterior, [run.vocabulary.words[label] for label in missing.tolist()], if_absent[missing].tolist()

    def _loaded(self) -> "_Loaded":
        with _LOADING:
            return _load(self.run_folder, self._digest, self.device)


class _Loaded(NamedTuple):
    """A run in memory."""

    run: Run
    classifier: Classifier
    noise_model: NoiseModel | None


@functools.lru_cache(maxsize=2)
def _load(folder: Path, digest: str, device: str) -> _Loaded:
    """The run of a tagger.

    Raises:
        InputError: it cannot be loaded, or its files are not those that the tagger was made from.
    """
    run = open_run(folder)
    run.require_finished()
    if run.digest != digest:
        raise InputError(f"{folder}: expected the run that the tagger was made from, got another one in its place")
    classifier, noise_model = load_classifier(run, device), load_noise_model(run)
    if noise_model is not None:
        noise_model = noise_model.to(classifier.head.weight.device)
    return _Loaded(run, classifier, noise_model)


_tell_once = functools.cache(tell)


def _posteriors(
    logits: Float[Tensor, "B K"], h: Float[Tensor, "B D"], noise_model: NoiseModel
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """p(y=1|z=1,x) and p(y=1|z=0,x)."""
    log_q = noise_model(h)
    present, absent = (
        posterior_logits(logits, log_q, torch.full_like(logits, value)).sigmoid().cpu() for value in (1, 0)
    )
    return present, absent


def _alike(numbers: Sequence[int]) -> Iterator[list[int]]:
    """The indices of equal numbers, at most `BATCH_SIZE` at a time."""
    for number in sorted(set(numbers)):
        indices = [index for index, other in enumerate(numbers) if other == number]
        yield from (indices[start : start + BATCH_SIZE] for start in range(0, len(indices), BATCH_SIZE))


def _values(column: pa.ChunkedArray, name: str) -> Column:
    """The values of a column as Python has them; numbers stay in arrays."""
    return column.to_numpy(zero_copy_only=False) if name == "features" else column.to_pylist()


def _as_array(values: list[Any], name: str) -> np.ndarray:
    """One object per row: text, a list of texts, float32 numbers, or None."""
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        array[row] = np.asarray(value, np.float32) if _TYPES[name] == _NUMBERS and value is not None else value
    return array
