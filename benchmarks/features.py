"""Feature extraction against a bare timm loop on the same photos, in turn, in one process.

    python benchmarks/features.py --photos FLICKR8K/images

The bare loop decodes, resizes, normalises and runs the same network in batches of the same size, and keeps the results
in memory; ours also digests the files, skips broken ones and writes the cache. Aim: at most 1.3 times the bare loop.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from truetag.media.files import MediaFiles, SkipList
from truetag.models.backbones import digest_weights, load_backbone
from truetag.models.classifier import Classifier
from truetag.models.features import BATCH_SIZE, cached_features, feature_spec


@dataclass(frozen=True)
class Benchmark:
    """Which photos, and how often each side runs."""

    photos: Path
    num_photos: int = 512
    rounds: int = 3


def main(benchmark: Benchmark) -> None:
    paths = sorted(benchmark.photos.glob("*.jpg"))[: benchmark.num_photos]
    backbone, preprocessing = load_backbone("tf_efficientnet_lite0", "offline", 224)
    classifier = Classifier(backbone, 1280, 1).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))

    def bare() -> np.ndarray:
        features = []
        with torch.inference_mode():
            for start in range(0, len(paths), BATCH_SIZE):
                photos = []
                for path in paths[start : start + BATCH_SIZE]:
                    photo = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
                    photos.append((torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255 - mean) / std)
                features.append(backbone.forward_features(torch.stack(photos)).mean((2, 3)))  # pyright: ignore
        return torch.cat(features).numpy()

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            spec = feature_spec(classifier, "tf_efficientnet_lite0", digest_weights(backbone), preprocessing)
            photos = MediaFiles([path.name for path in paths], paths, [None] * len(paths))
            cached = cached_features(photos, classifier, spec, SkipList(), Path(folder))
            return np.array(cached.array[cached.rows, 0])

    difference = np.abs(ours() - bare()).max()
    ratios = []
    for number in range(benchmark.rounds):
        seconds = {}
        for name, side in (("bare", bare), ("ours", ours)) if number % 2 else (("ours", ours), ("bare", bare)):
            started = time.perf_counter()
            side()
            seconds[name] = time.perf_counter() - started
        ratios.append(seconds["ours"] / seconds["bare"])
        speeds = ", ".join(f"{name} {len(paths) / value:.1f} photos/s" for name, value in seconds.items())
        print(f"round {number + 1}: {speeds}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio of times, ours / bare: {statistics.median(ratios):.3f}; largest difference {difference:.1e}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
