"""Ratios of times, each of two or more ways to do the same, measured in turns in one process.

    python benchmarks/speed.py pooling                                              (a minute on 2 cores)
    python benchmarks/speed.py likelihood                                           (two minutes, one thread)
    python benchmarks/speed.py features --photos FLICKR8K/images                    (two minutes)
    python benchmarks/speed.py tagging --photos FLICKR8K/images --run RUN           (with Ray, if it is here)
    python benchmarks/speed.py decoding --clips CLIPS/clips                         (clips of make_clips.py; a minute)
    python benchmarks/speed.py checkpoints --data MANIFEST --vocabulary V.tsv --work WORK     (ten minutes)
    python benchmarks/speed.py clip-memory                                          (peak memory of a step; ten minutes)
    python benchmarks/speed.py captions                                             (five minutes)
    python benchmarks/speed.py issues --work WORK                  (needs cleanlab, 3 GB of disk; five minutes)

Expected: speed.md.
"""

import importlib.util
import itertools
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import torch
import tyro
from av.video.reformatter import VideoReformatter
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from truetag import Tagger, load
from truetag import pooling as poolings
from truetag.captioning.decode import Decoding, write_sentences
from truetag.issues import count_label_issues, find_label_issues
from truetag.latent import observe
from truetag.losses import q_likelihood
from truetag.media.clips import NUM_FRAMES, sample_frames
from truetag.media.files import MediaFiles, SkipList
from truetag.models.backbones import digest_weights, load_backbone
from truetag.models.captioner import Captioner
from truetag.models.classifier import Classifier
from truetag.models.features import BATCH_SIZE, cached_features, feature_spec
from truetag.noise_models import FeatureDependentNoise, FeatureIndependentNoise
from truetag.training.recipes import recipe
from truetag.training.train import train

NUM_REGIONS, NUM_LABELS, RESOLUTION = 144, 1000, 565
"""Of the paper's network on a frame."""


def compare(
    contestants: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Print the median seconds of each contestant, and their ratio to the first one's; the order rotates."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = clock()
            contestants[name]()
            if number:  # the first round fills caches
                seconds[name].append(clock() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"| way | seconds (median of {rounds}) | ratio to {names[0]} |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.4g} | {value / medians[names[0]]:.3f} |")


def captions(num_clips: int = 1000, alone: int = 20, rounds: int = 5) -> None:
    """S2VT of the paper's size: a training step against two bare LSTMs and a layer; beams of many clips at a time."""
    torch.manual_seed(0)
    num_words, length, batch = 23_647, 10, 16
    captioner = Captioner(1087, num_words, dropout=0.0)
    first, second, output = nn.LSTM(700, 700), nn.LSTM(1000, 700), nn.Linear(700, num_words)
    embed = nn.Linear(1087, 700)
    lengths, of_clips = torch.full((batch,), NUM_FRAMES), torch.arange(batch)
    frames = torch.rand(batch, NUM_FRAMES, 1087)

    for per_clip in (1, 20):
        words = torch.randint(2, num_words, (batch * per_clip, length))
        wanted = torch.ones_like(words, dtype=torch.bool)
        clips = of_clips.repeat_interleave(per_clip)

        def ours(words: Tensor = words, wanted: Tensor = wanted, clips: Tensor = clips) -> None:
            logits = captioner(frames, lengths, clips, words, wanted)
            functional.cross_entropy(logits, words[wanted]).backward()

        def bare(words: Tensor = words, clips: Tensor = clips) -> None:
            steps = embed(frames[clips]).transpose(0, 1)  # T N E: every caption reads its clip
            steps = torch.cat([steps, steps.new_zeros(length, *steps.shape[1:])])
            h1, _ = first(steps)
            embedded = captioner.embed_word(words.T)
            before = torch.cat([embedded.new_zeros(NUM_FRAMES, *embedded.shape[1:]), embedded])
            h2, _ = second(torch.cat([before, h1], 2))
            functional.cross_entropy(output(h2[NUM_FRAMES:].flatten(0, 1)), words.T.flatten()).backward()

        print(f"\nA training step, {batch} clips with {per_clip} captions each:\n")
        compare({"two bare LSTMs and a layer": bare, "ours": ours}, rounds)

    captioner.eval()
    frames, lengths = torch.rand(num_clips, NUM_FRAMES, 1087), torch.full((num_clips,), NUM_FRAMES)
    decoding = Decoding(beam=5)

    def write(at_a_time: int, count: int) -> float:
        started = time.perf_counter()
        for start in range(0, count, at_a_time):
            write_sentences(captioner, frames[start : start + at_a_time], lengths[start : start + at_a_time], decoding)
        return (time.perf_counter() - started) / count * num_clips

    write(64, 64)
    together, one_by_one = write(64, num_clips), write(1, alone)
    print(
        f"\nBeam 5, up to 30 words, {num_clips} clips: {together:.0f} s, 64 at a time; one by one {one_by_one:.0f} s "
    )
    print(f"(from {alone} of them): {one_by_one / together:.1f} times as long")


def pooling(rounds: int = 15) -> None:
    """A clip's logit and its gradient: noisy-OR and other poolings against the mean."""
    logits = torch.randn(1, NUM_FRAMES * NUM_REGIONS, NUM_LABELS) - 7
    labels = (torch.rand(1, NUM_LABELS) < 0.02).float()
    sharpness = torch.ones(NUM_LABELS)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda o: poolings.mean(o, 1),
        "noisy-OR": lambda o: poolings.noisy_or(o, 1),
        "max": lambda o: poolings.maximum(o, 1),
        "log-mean-exp": lambda o: poolings.log_mean_exp(o, 1, sharpness),
        # Sec. 2.4 word for word, which loses small and large probabilities: for its time only
        "noisy-OR in probabilities": lambda o: torch.logit(1 - (1 - o.sigmoid()).prod(1), eps=1e-6),
    }

    def step(pool: Callable[[Tensor], Tensor]) -> None:
        q_likelihood(pool(logits.clone().requires_grad_()), labels, 0.0).backward()

    compare({name: lambda pool=pool: step(pool) for name, pool in ways.items()}, rounds)


def likelihood(rounds: int = 15, num_features: int = 1280) -> None:
    """Loss and gradients of Eq. 3 to 5 and 2: in one pass, as readable code, and with arrays [B, K, 2, 2]; against BCE.

    Seconds are those of the thread, which another process beside it lengthens less than those of the clock. Memory is
    the highest sum of what torch has allocated in a step and not freed, gradients included.
    """
    torch.set_num_threads(1)

    def by_bce(o: Tensor, z: Tensor, scores: Tensor | None = None) -> Tensor:
        loss = functional.binary_cross_entropy_with_logits(o, z)
        return loss if scores is None else loss + scores.mean()

    def literally(o: Tensor, z: Tensor, scores: Tensor) -> Tensor:
        log_q = functional.log_softmax(scores.expand(*o.shape, 2, 2), -2)  # B K 2 2, Eq. 3 and 4
        log_y = torch.stack([functional.logsigmoid(-o), functional.logsigmoid(o)], -1)  # B K 2
        log_z = torch.logsumexp(log_q + log_y.unsqueeze(-2), -1)  # B K 2, Eq. 5
        return -(z * log_z[..., 1] + (1 - z) * log_z[..., 0]).mean()  # Eq. 2

    def readably(o: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
        return q_likelihood(observe(o, log_q), z, 0.0)

    for num_bags, num_labels in ((256, 1000), (64, 20_000)):
        o = (3 * torch.randn(num_bags, num_labels) - 4).requires_grad_()
        z = (torch.rand(num_bags, num_labels) < 0.02).float()
        h = torch.randn(num_bags, num_features)
        fi, fd = FeatureIndependentNoise(num_labels), FeatureDependentNoise(num_features, num_labels)
        half = nn.Linear(num_features, 2 * num_labels)

        def layer(h: Tensor = h, fd: FeatureDependentNoise = fd) -> Tensor:
            """The scores of Eq. 3."""
            scores = functional.linear(h, fd.weights.flatten(0, 2), fd.biases.flatten())
            return scores.unflatten(-1, fd.biases.shape)

        for kind, ways in (
            (
                "FI",
                {
                    "BCE": lambda o=o, z=z: by_bce(o, z),
                    "one pass": lambda o=o, z=z, fi=fi: q_likelihood(o, z, 0.0, "mean", fi.transition_logits()),
                    "readable": lambda o=o, z=z, fi=fi: readably(o, z, fi()),
                    "literal": lambda o=o, z=z, fi=fi: literally(o, z, fi.biases),
                },
            ),
            (
                "FD",
                {
                    "BCE and a layer of 4K outputs": lambda o=o, z=z, layer=layer: by_bce(o, z, layer()),
                    "BCE and a layer of 2K outputs": lambda o=o, z=z, h=h, half=half: by_bce(o, z, half(h)),
                    "one pass": lambda o=o, z=z, h=h, fd=fd: q_likelihood(o, z, 0.0, "mean", fd.transition_logits(h)),
                    "readable": lambda o=o, z=z, h=h, fd=fd: readably(o, z, fd(h)),
                    "literal": lambda o=o, z=z, layer=layer: literally(o, z, layer()),
                },
            ),
        ):
            parameters = [o, *fi.parameters(), *fd.parameters(), *half.parameters()]

            def clear(parameters: list[Tensor] = parameters) -> None:
                for parameter in parameters:
                    parameter.grad = None

            def step(way: Callable[[], Tensor], clear: Callable[[], None] = clear) -> None:
                clear()
                way().backward()

            print(f"\n{kind}, {num_bags} x {num_labels}:\n")
            steps = {name: lambda way=way, step=step: step(way) for name, way in ways.items()}
            compare(steps, rounds, time.thread_time)
            for name, run in steps.items():
                clear()
                print(f"peak memory, {name}: {_peak_memory(run) / 1e6:.1f} MB")


def _peak_memory(run: Callable[[], object]) -> float:
    """The highest sum of bytes that torch has allocated in a call and not freed yet."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events: list[Any] = profile.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    events = sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def features(photos: Path, num_photos: int = 384, rounds: int = 3) -> None:
    """Feature extraction against a bare timm loop, which keeps its results in memory."""
    paths = sorted(photos.glob("*.jpg"))[:num_photos]
    backbone, preprocessing = load_backbone("tf_efficientnet_lite0", "offline", 224)
    classifier = Classifier(backbone, 1280, 1).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))

    def bare() -> np.ndarray:
        batches = []
        with torch.inference_mode():
            for start in range(0, len(paths), BATCH_SIZE):
                pixels = []
                for path in paths[start : start + BATCH_SIZE]:
                    photo = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
                    pixels.append((torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255 - mean) / std)
                batches.append(backbone.forward_features(torch.stack(pixels)).mean((2, 3)))  # pyright: ignore
        return torch.cat(batches).numpy()

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            spec = feature_spec(classifier, "tf_efficientnet_lite0", digest_weights(backbone), preprocessing)
            files = MediaFiles([path.name for path in paths], paths, [None] * len(paths))
            cached = cached_features(files, classifier, spec, SkipList(), Path(folder))
            return np.array(cached.array[cached.rows, 0])

    compare({"bare loop": bare, "truetag": ours}, rounds)
    print(f"largest difference of a feature: {np.abs(ours() - bare()).max():.1e}")


def tagging(photos: Path, run: Path, num_photos: int = 384, rounds: int = 3) -> None:
    """A `Tagger` against a bare loop over the same photos with the same weights; and Ray Data, if it is installed."""
    paths = sorted(map(str, photos.glob("*.jpg")))[:num_photos]
    tagger, loaded = Tagger(run, device="cpu"), load(run)
    classifier, side = loaded.classifier.cpu(), loaded.preprocessing.resolution
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (loaded.preprocessing.mean, loaded.preprocessing.std))
    filter_ = Image.Resampling[loaded.preprocessing.interpolation.upper()]

    def bare() -> Tensor:
        batches = []
        with torch.inference_mode():
            for start in range(0, len(paths), BATCH_SIZE):
                pixels = []
                for path in paths[start : start + BATCH_SIZE]:
                    photo = Image.open(path).convert("RGB").resize((side, side), filter_)
                    pixels.append((torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255 - mean) / std)
                batches.append(classifier(torch.stack(pixels).unsqueeze(1))[0].sigmoid())
        return torch.cat(batches)

    contents = [Path(path).read_bytes() for path in paths]
    ways: dict[str, Callable[[], object]] = {
        "bare loop": bare,
        "Tagger, paths": lambda: tagger({"path": paths}),
        "Tagger, bytes": lambda: tagger({"image": contents}),
    }
    if importlib.util.find_spec("ray"):
        import ray  # pyright: ignore[reportMissingImports]

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        rows = ray.data.from_arrow(pa.table({"path": paths})).repartition(len(paths) // BATCH_SIZE).materialize()
        ways["Tagger, Ray Data on two workers"] = lambda: rows.map_batches(tagger, batch_format="pyarrow").materialize()
    compare(ways, rounds)
    top = bare().max(1).values.numpy()
    tagged = tagger({"path": paths})
    pairs = [(values[0], best) for values, best in zip(tagged["probabilities"], top, strict=True) if len(values)]
    print(f"largest difference of a photo's best tag: {max(abs(a - b) for a, b in pairs):.1e}")


def decoding(clips: Path, num_clips: int = 100, rounds: int = 5) -> None:
    """Frames of clips against bare PyAV loops that are given the numbers of the wanted frames."""
    paths = sorted(clips.glob("*.mp4"))[:num_clips]

    def wanted(path: Path) -> set[int]:
        with av.open(str(path)) as container:
            count = container.streams.video[0].frames
        middles = ((2 * part + 1) * count // (2 * NUM_FRAMES) for part in range(NUM_FRAMES))
        return set(range(count)) if count <= NUM_FRAMES else set(middles)

    def plain(path: Path, numbers: set[int]) -> list[Image.Image]:
        with av.open(str(path)) as container:
            return [frame.to_image() for number, frame in enumerate(container.decode(video=0)) if number in numbers]

    def tuned(path: Path, numbers: set[int]) -> list[Image.Image]:
        """One thread and one converter per clip, and no frame decoded after the last wanted one."""
        reformatter, frames = VideoReformatter(), []
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(video=0)):
                if number in numbers:
                    frames.append(reformatter.reformat(frame, format="rgb24").to_image())
                if len(frames) == len(numbers):
                    break
        return frames

    numbers = {path: wanted(path) for path in paths}
    compare(
        {
            "tuned loop": lambda: [tuned(path, numbers[path]) for path in paths],
            "truetag": lambda: [sample_frames(path) for path in paths],
            "plain loop": lambda: [plain(path, numbers[path]) for path in paths],
        },
        rounds,
    )


def issues(work: Path, rounds: int = 5, num_streamed: int = 1_000_000) -> None:
    """Listing and counting label issues against cleanlab's multi-label filter; and a million examples from disk."""
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class  # pyright: ignore[reportMissingImports]

    def judged(num_examples: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of rare labels, and labels of which some are wrong."""
        rng = np.random.default_rng(0)
        posterior = rng.beta(0.05, 1.2, (num_examples, num_labels)).astype(np.float32)
        truth = rng.random(posterior.shape, dtype=np.float32) < posterior
        return posterior, np.where(rng.random(posterior.shape, dtype=np.float32) < 0.02, ~truth, truth)

    for num_labels in (100, 1000):
        posterior, labels = judged(20_000, num_labels)
        lists = [row.nonzero()[0].tolist() for row in labels]

        def ours(posterior: np.ndarray = posterior, labels: np.ndarray = labels) -> None:
            find_label_issues(posterior, labels)
            count_label_issues(posterior, labels)

        def cleanlab(posterior: np.ndarray = posterior, lists: list[list[int]] = lists) -> None:
            find_multilabel_issues_per_class(lists, posterior, n_jobs=1, return_indices_ranked_by="self_confidence")

        print(f"\n20,000 examples, {num_labels} labels:\n")
        compare({"cleanlab, filter and rank": cleanlab, "find_label_issues and count_label_issues": ours}, rounds)

    work.mkdir(parents=True, exist_ok=True)
    paths = work / "posterior.npy", work / "labels.npy"
    part = 20_000
    arrays = [
        np.lib.format.open_memmap(path, "w+", kind, (num_streamed, 1000))
        for path, kind in zip(paths, (np.float16, np.int8), strict=True)
    ]
    posterior, labels = judged(part, 1000)
    for start in range(0, num_streamed, part):
        for array, values in zip(arrays, (posterior, labels), strict=True):
            array[start : start + part] = np.roll(values, start // part, 1)
    for array in arrays:
        array.flush()
    program = (
        "import sys, time, resource, numpy as np; from truetag import find_label_issues;"
        "started = time.perf_counter();"
        "found = find_label_issues(*(np.load(p, mmap_mode='r') for p in sys.argv[1:]), max_issues=100_000);"
        "print(f'{len(found)} issues of {sys.argv[1]} in {time.perf_counter() - started:.0f} s, peak memory '"
        "f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB')"
    )
    print(f"\n{num_streamed:,} examples, 1,000 labels, from disk:\n", flush=True)
    subprocess.run([sys.executable, "-c", program, *map(str, paths)], check=True)


def checkpoints(data: Path, vocabulary: Path, work: Path, epochs: int = 90, rounds: int = 3) -> None:
    """Training a head on cached features, whose steps take milliseconds, with checkpoints at several intervals."""
    config = replace(recipe("mlcn"), freeze_backbone=True, weights="offline", stage1_epochs=epochs)

    def run(seconds: float) -> None:
        shutil.rmtree(work / "run", ignore_errors=True)
        train(replace(config, checkpoint_seconds=seconds), data, vocabulary, work / "run")

    intervals = {"none but the first": 1e9, "every 60 s": 60.0, "every second": 1.0}
    compare({name: lambda seconds=seconds: run(seconds) for name, seconds in intervals.items()}, rounds)


def clip_memory(frames_at_a_time: int = 2) -> None:
    """Peak memory of one step of the paper's network on a clip of the paper's size, in this process."""
    backbone, _ = load_backbone("vgg16_fcn", "none", RESOLUTION)
    classifier = Classifier(
        backbone, 4096 + 512, NUM_LABELS, "noisy-or", dropout=0.5, frames_at_a_time=frames_at_a_time
    )
    clip = torch.randn(1, NUM_FRAMES, 3, RESOLUTION, RESOLUTION)
    q_likelihood(classifier(clip)[0], torch.zeros(1, NUM_LABELS), 0.0, "sum_labels").backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{NUM_FRAMES} frames of {RESOLUTION} x {RESOLUTION}, {frames_at_a_time} at a time: {peak / 1e9:.1f} GB")


if __name__ == "__main__":
    measurements = (
        *(captions, issues, pooling, likelihood, features, tagging),
        *(decoding, checkpoints, clip_memory),
    )
    tyro.extras.subcommand_cli_from_dict({measure.__name__.replace("_", "-"): measure for measure in measurements})
