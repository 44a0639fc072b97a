"""Corruption: wrong and missing labels injected on purpose, once, into a file that says how and how much.

Three kinds: captions swapped between photos (the paper's way), labels flipped at given rates, and all positives but one
removed. The realised rates go to the header of the manifest, the truth to `true_captions` and `true_tags`.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float64, Int8, Shaped
from torch import Tensor

from truetag.data.labels import observed_labels
from truetag.data.manifest import FIELDS, Manifest, Row, read_manifest, relative_root, stream_rows, write_manifest
from truetag.data.vocabulary import Vocabulary, read_vocabulary
from truetag.errors import InputError
from truetag.io.files import refuse_existing
from truetag.io.paths import takes_paths
from truetag.io.text import shown

REDRAWS = 20

Rate = float | Sequence[float] | Tensor


def swap_captions(
    captions: list[list[str]], num_swapped: int, generator: torch.Generator
) -> tuple[list[list[str]], list[list[bool]]]:
    """Exchange `num_swapped` random captions of every image (all of them where it has fewer) with other images.

    No image gets a caption of its own back, nor one with the text of any of its own.

    Returns:
        The captions, and for each whether it was swapped.

    Raises:
        InputError: `num_swapped` is negative, or there is no such exchange (a single image, or all say the same).
    """
    if num_swapped < 0:
        raise InputError(f"swap_captions: expected 0 or more captions an image, got {num_swapped}")
    own = [set(texts) for texts in captions]
    positions: list[tuple[int, int]] = []
    for _ in range(REDRAWS):  # which captions are drawn can decide whether they can be exchanged
        positions = _draw_positions(captions, num_swapped, generator)
        received = _exchange(positions, [captions[i][j] for i, j in positions], own, generator)
        if received is not None:
            break
    else:
        image, most = Counter(i for i, _ in positions).most_common(1)[0]
        raise InputError(
            f"swap_captions: found no way to give each of the {len(positions)} drawn captions to an image that does "
            f"not have its text; {most} of them are of image {image}, and {sum(map(bool, captions))} images have any"
        )
    swapped = [list(texts) for texts in captions]
    mask = [[False] * len(texts) for texts in captions]
    for (i, j), text in zip(positions, received, strict=True):
        from_image, from_index = positions[text]
        swapped[i][j] = captions[from_image][from_index]
        mask[i][j] = True
    return swapped, mask


def flip_labels(
    labels: Shaped[Tensor, "N K"], missing_rate: Rate, incorrect_rate: Rate, generator: torch.Generator
) -> Shaped[Tensor, "N K"]:
    """Turn 1 into 0 with probability `missing_rate` and 0 into 1 with `incorrect_rate`; unknown labels stay.

    Args:
        labels: 1, 0 and -1 or NaN for unknown.
        missing_rate: q01, one probability or one for each label.
        incorrect_rate: q10, one probability or one for each label.
        generator: where the chance comes from; one seed with higher rates flips the same labels and more.

    Raises:
        InputError: a rate is not a probability, or there are not K of them.
    """
    missing = _per_label("missing_rate", missing_rate, labels)
    incorrect = _per_label("incorrect_rate", incorrect_rate, labels)
    chance = torch.rand(labels.shape, generator=generator, device=generator.device, dtype=torch.float64)
    chance = chance.to(labels.device)
    flipped = labels.clone()
    flipped[(labels == 1) & (chance < missing)] = 0
    flipped[(labels == 0) & (chance < incorrect)] = 1
    return flipped


def keep_single_positive(labels: Shaped[Tensor, "N K"], generator: torch.Generator) -> Shaped[Tensor, "N K"]:
    """Keep one positive of every example, drawn at random, and turn its others into 0; unknown labels stay."""
    chance = torch.rand(labels.shape, generator=generator, device=generator.device, dtype=torch.float64)
    positive = labels == 1
    if not positive.any():
        return labels.clone()
    kept = chance.to(labels.device).masked_fill(~positive, -1).argmax(1, keepdim=True)
    single = labels.clone()
    single[positive.scatter(1, kept, False)] = 0
    return single


def label_rates(
    true_labels: Shaped[Tensor, "N K"], observed_labels: Shaped[Tensor, "N K"]
) -> tuple[Float64[Tensor, " K"], Float64[Tensor, " K"]]:
    """The share of present labels observed absent (q01) and of absent labels observed present (q10), label by label.

    Pairs with an unknown label are left out; a rate is NaN where nothing is left.
    """
    observed = (observed_labels == 1).double()
    known = (observed_labels == 0) | (observed_labels == 1)
    present, absent = ((true_labels == value) & known for value in (1, 0))
    missing = ((1 - observed) * present).sum(0) / present.sum(0)
    incorrect = (observed * absent).sum(0) / absent.sum(0)
    return missing, incorrect


@takes_paths
def corrupt(
    manifest: Path,
    out: Path,
    *,
    swap_captions: int | None = None,
    missing_rate: float | None = None,
    incorrect_rate: float | None = None,
    single_positive: bool = False,
    vocabulary: Path | None = None,
    splits: tuple[str, ...] = ("train", "validation"),
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, float | None]:
    """Write a corrupted copy of a manifest; exactly one kind of corruption.

    Swaps stay within a split and keep the originals in `true_captions`. Flips and single positives turn the rows into
    tags of the vocabulary: `tags` and `unknown_tags` are what is observed, `true_tags` what was observed before (unless
    the row has some); the captions move to `true_captions`. The header tells the kind, parameters, seed, splits and the
    realised rates.

    Args:
        manifest: the manifest to corrupt.
        out: the manifest to write.
        swap_captions: how many captions of each photo to exchange with other photos.
        missing_rate: share of the present labels to remove.
        incorrect_rate: share of the absent labels to add.
        single_positive: keep one label of each photo.
        vocabulary: the labels; needed unless captions are swapped.
        splits: the splits to corrupt; a row without a split counts as train.
        seed: of the random numbers.
        overwrite: replace `out` if it exists.

    Returns:
        The realised rates: over captions, and over all pairs of a photo and a vocabulary word (None where undefined).

    Raises:
        InputError: not exactly one kind is asked for, the manifest is already corrupted, it lacks what is needed, or
            `out` exists.
    """
    refuse_existing(out, overwrite)
    kind = _choose_kind(swap_captions, missing_rate, incorrect_rate, single_positive)
    content = read_manifest(manifest)
    if "corruption" in content.header:
        raise InputError(
            f"{manifest}: is already corrupted ({shown(content.header['corruption'])}); start from its original"
        )
    words = None if vocabulary is None else read_vocabulary(vocabulary)
    groups = _rows_by_split(content, splits)
    rows = sorted(row for group in groups for row in group)
    before = None if words is None else observed_labels(content.rows.select(rows), words)
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, Any] = {} if vocabulary is None else {"vocabulary": vocabulary.name}
    realised: dict[str, float | None] = {}
    if swap_captions is not None:
        parameters["swap_captions"] = swap_captions
        changes, realised["captions_swapped"] = _swap_rows(content, groups, swap_captions, generator)
    elif words is None or before is None:
        raise InputError(f"vocabulary: {kind} works on the labels of a vocabulary; none was given")
    else:
        if kind == "flip_labels":
            rates = {"missing_rate": missing_rate or 0.0, "incorrect_rate": incorrect_rate or 0.0}
            parameters |= rates
            after = flip_labels(before, **rates, generator=generator)
        else:
            after = keep_single_positive(before, generator)
        changes = _tagged_rows(rows, before, after, words)

    def changed_rows() -> Iterator[Row]:
        for index, row in enumerate(stream_rows(content.rows, FIELDS)):
            if index in changes:
                # truth that somebody gave is better than what was observed
                given = {name: row[name] for name in ("true_captions", "true_tags") if row[name] is not None}
                row |= {"true_captions": row["captions"]} | changes[index] | given
            yield row

    if words is not None and before is not None:
        # what a reader of the new file will see; as one column, so the rates are over all pairs
        after = observed_labels((row for index, row in enumerate(changed_rows()) if index in changes), words)
        rates = label_rates(before.reshape(-1, 1), after.reshape(-1, 1))
        for name, rate in zip(("missing_rate", "incorrect_rate"), rates, strict=True):
            realised[name] = None if rate.isnan() else float(rate)
    record = {"kind": kind, "parameters": parameters, "seed": seed, "splits": list(splits), "realised": realised}
    header = content.header | {"media_root": relative_root(content.media_root, out), "corruption": record}
    write_manifest(out, changed_rows(), header)
    return realised


def _draw_positions(captions: list[list[str]], num_swapped: int, generator: torch.Generator) -> list[tuple[int, int]]:
    device = generator.device
    draws = (torch.randperm(len(texts), generator=generator, device=device)[:num_swapped] for texts in captions)
    return [(image, index) for image, drawn in enumerate(draws) for index in sorted(drawn.tolist())]


def _exchange(
    positions: list[tuple[int, int]], texts: list[str], own: list[set[str]], generator: torch.Generator
) -> list[int] | None:
    """For each position the number of the text that it receives; None if there is no such exchange.

    A random permutation. Positions that would receive a text of their own image are freed, and matched again one by one
    along augmenting paths, which move as few of the others as possible.

    Args:
        positions: image and caption of each text.
        texts: what is exchanged.
        own: the texts of each image, which it must not receive.
        generator: decides the permutation.
    """
    device = generator.device
    permutation: list[int] = torch.randperm(len(texts), generator=generator, device=device).tolist()
    order: list[int] = torch.randperm(len(texts), generator=generator, device=device).tolist()

    def is_own(position: int, text: int) -> bool:
        return texts[text] in own[positions[position][0]]

    received: list[int | None] = [None if is_own(*pair) else pair[1] for pair in enumerate(permutation)]
    receiver: list[int | None] = [None] * len(texts)
    for position, text in enumerate(received):
        if text is not None:
            receiver[text] = position
    for start in [position for position, text in enumerate(received) if text is None]:
        path = _augmenting_path(start, received, receiver, order, is_own)
        if path is None:
            return None
        for position, text in path:
            received[position], receiver[text] = text, position
    return [text for text in received if text is not None]


def _augmenting_path(
    start: int,
    received: list[int | None],
    receiver: list[int | None],
    order: list[int],
    is_own: Callable[[int, int], bool],
) -> list[tuple[int, int]] | None:
    """What each position on the shortest path from a freed position to a free text receives instead; None without one.

    Args:
        start: a position that has received no text.
        received: the text of each position.
        receiver: the position of each text.
        order: in which texts are tried.
        is_own: whether a position must not receive a text.
    """
    reached_from: dict[int, int] = {}
    queue, unreached = deque([start]), order
    while queue:
        position = queue.popleft()
        own_texts: list[int] = []
        for text in unreached:
            if is_own(position, text):
                own_texts.append(text)
                continue
            reached_from[text] = position
            next_position = receiver[text]
            if next_position is None:
                return _walk_back(text, reached_from, received)
            queue.append(next_position)
        unreached = own_texts
    return None


def _walk_back(free_text: int, reached_from: dict[int, int], received: list[int | None]) -> list[tuple[int, int]]:
    """The path from its end: each position takes the text that was found from it, and passes its own one on."""
    path: list[tuple[int, int]] = []
    text: int | None = free_text
    while text is not None:
        position = reached_from[text]
        path.append((position, text))
        text = received[position]
    return path


def _per_label(name: str, rate: Rate, labels: Tensor) -> Tensor:
    rates = torch.as_tensor(rate, dtype=torch.float64, device=labels.device)
    if rates.shape not in (torch.Size([]), labels.shape[1:]):
        raise InputError(f"{name}: expected one rate or {labels.shape[1]}, got shape {list(rates.shape)}")
    if not bool(((rates >= 0) & (rates <= 1)).all()):
        raise InputError(f"{name}: expected probabilities in 0..1, got {rates.min().item()} to {rates.max().item()}")
    return rates


def _choose_kind(
    swap: int | None, missing_rate: float | None, incorrect_rate: float | None, single_positive: bool
) -> Literal["swap_captions", "flip_labels", "single_positive"]:
    flip = missing_rate is not None or incorrect_rate is not None
    kinds = {"swap_captions": swap is not None, "flip_labels": flip, "single_positive": single_positive}
    match [kind for kind, asked in kinds.items() if asked]:
        case ["swap_captions" | "flip_labels" | "single_positive" as kind]:
            return kind
        case asked:
            got = " and ".join(asked) or "none"
            raise InputError(
                f"expected exactly one of swap_captions, missing_rate/incorrect_rate, single_positive; got {got}"
            )


def _rows_by_split(content: Manifest, splits: tuple[str, ...]) -> list[list[int]]:
    """The row numbers of each split; splits that no row belongs to are left out."""
    names = [name or "train" for name in content.rows["split"]]
    groups = [[row for row, name in enumerate(names) if name == split] for split in dict.fromkeys(splits)]
    if not any(groups):
        raise InputError(f"{content.path}: no row has a split of {', '.join(splits)}; has {shown(sorted(set(names)))}")
    return [group for group in groups if group]


def _swap_rows(
    content: Manifest, groups: list[list[int]], num_swapped: int, generator: torch.Generator
) -> tuple[dict[int, Row], float]:
    """The new captions of each row, exchanged within its split, and the share of captions that is swapped."""
    changes: dict[int, Row] = {}
    moved: list[bool] = []
    for row_numbers in groups:
        rows = list(stream_rows(content.rows.select(row_numbers), ("id", "captions", "true_captions")))
        for row in rows:
            if not row["captions"] or row["true_captions"]:
                problem = "has no captions to swap" if not row["captions"] else "already has true_captions"
                raise InputError(f"{content.path}: row {shown(row['id'])} {problem}")
        swapped, mask = swap_captions([row["captions"] for row in rows], num_swapped, generator)
        changes |= {row: {"captions": captions} for row, captions in zip(row_numbers, swapped, strict=True)}
        moved += [value for values in mask for value in values]
    return changes, sum(moved) / len(moved)


def _tagged_rows(
    rows: list[int], before: Int8[Tensor, "N K"], after: Int8[Tensor, "N K"], vocabulary: Vocabulary
) -> dict[int, Row]:
    """The rows as tags of the vocabulary; their captions go, or the labels could still be read from them."""

    def words_with(labels: Tensor, value: int) -> Iterator[list[str]]:
        for row in labels == value:
            yield [vocabulary.words[index] for index in row.nonzero().flatten().tolist()]

    columns = zip(rows, words_with(after, 1), words_with(after, -1), words_with(before, 1), strict=True)
    return {
        row: {
            "captions": None,
            "tags": tags,
            "unknown_tags": unknown or None,
            "rejected_tags": None,
            "true_tags": true_tags,
        }
        for row, tags, unknown, true_tags in columns
    }
