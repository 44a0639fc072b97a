"""The feature cache: right, reused, resumed after a kill, never stale, and honest about files it cannot use."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from truetag.data.bags import read_bags
from truetag.data.manifest import read_manifest
from truetag.errors import InputError
from truetag.media.files import MediaFiles, SkipList
from truetag.media.photos import read_photo
from truetag.models import features
from truetag.models.backbones import digest_weights, load_backbone
from truetag.models.classifier import Classifier
from truetag.models.features import cached_features, feature_spec


@pytest.fixture
def network(tiny):
    torch.manual_seed(0)
    backbone, preprocessing = load_backbone("test_resnet", "none", 32)
    classifier = Classifier(backbone, backbone.num_features, 3)
    spec = feature_spec(classifier, "test_resnet", digest_weights(backbone), preprocessing)
    return classifier, spec, read_bags(read_manifest(tiny / "scenes.jsonl")).paths


def count_extractions(monkeypatch):
    calls = []
    original = features.stream_photos
    monkeypatch.setattr(
        features, "stream_photos", lambda photos, *rest: (calls.extend(photos.paths), original(photos, *rest))[1]
    )
    return calls


def named(paths):
    return MediaFiles([path.name for path in paths], paths, [None] * len(paths))


def direct(classifier, spec, paths):
    with torch.inference_mode():
        photos = torch.stack([spec.preprocessing(read_photo(path)) for path in paths])
        return classifier.pool_features(classifier.eval().extract(photos)).numpy()


def test_features_are_those_of_the_backbone(network, tmp_path):
    classifier, spec, paths = network
    skips = SkipList()
    cached = cached_features(named(paths), classifier, spec, skips, tmp_path)
    expected = direct(classifier, spec, paths)
    np.testing.assert_allclose(cached.array[cached.rows], expected, atol=1e-5)
    assert not len(skips)


def test_second_use_computes_nothing_and_new_photos_only_themselves(network, tmp_path, monkeypatch):
    classifier, spec, paths = network
    cached_features(named(paths[:10]), classifier, spec, SkipList(), tmp_path)
    calls = count_extractions(monkeypatch)
    cached_features(named(paths[:10]), classifier, spec, SkipList(), tmp_path)
    assert calls == []
    cached_features(named(paths[5:14]), classifier, spec, SkipList(), tmp_path)
    assert calls == paths[10:14]


def test_a_changed_photo_is_computed_again_even_if_its_times_are_put_back(network, tmp_path):
    classifier, spec, paths = network
    photo, other = tmp_path / "a.jpg", paths[1]
    photo.write_bytes(paths[0].read_bytes())
    status = photo.stat()
    before = cached_features(named([photo]), classifier, spec, SkipList(), tmp_path)
    photo.write_bytes(other.read_bytes())
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = cached_features(named([photo]), classifier, spec, SkipList(), tmp_path)
    np.testing.assert_allclose(after.array[after.rows], direct(classifier, spec, [other]), atol=1e-5)
    assert not np.allclose(after.array[after.rows], before.array[before.rows])


def test_other_weights_or_resolution_are_another_cache(network, tmp_path):
    classifier, spec, _ = network
    other, _ = load_backbone("test_resnet", "none", 32)
    assert feature_spec(classifier, "test_resnet", digest_weights(other), spec.preprocessing) != spec
    bigger = feature_spec(
        classifier,
        "test_resnet",
        spec.weights_digest,
        type(spec.preprocessing)(64, spec.preprocessing.mean, spec.preprocessing.std),
    )
    assert bigger.fingerprint() != spec.fingerprint()


@pytest.mark.parametrize("cut", ["features.bin", "batches.jsonl"])
def test_a_half_written_end_is_cut_off_and_computed_again(network, tmp_path, cut):
    classifier, spec, paths = network
    whole = cached_features(named(paths[:8]), classifier, spec, SkipList(), tmp_path)
    expected = np.array(whole.array[whole.rows])
    path = tmp_path / "features" / spec.fingerprint() / cut
    os.truncate(path, path.stat().st_size - 7)
    again = cached_features(named(paths[:8]), classifier, spec, SkipList(), tmp_path)
    np.testing.assert_allclose(again.array[again.rows], expected, atol=1e-6)


def test_a_torn_memo_is_mended(network, tmp_path):
    classifier, spec, paths = network
    cached_features(named(paths[:4]), classifier, spec, SkipList(), tmp_path)
    memo = tmp_path / "features" / spec.fingerprint() / "files.txt"
    memo.write_text(memo.read_text() + '["/some/photo.jpg", "12 3')
    for _ in range(2):
        skips = SkipList()
        cached = cached_features(named(paths[:6]), classifier, spec, skips, tmp_path)
        assert (cached.rows >= 0).all()
        assert not len(skips)


def test_unusable_files_are_skipped_with_their_reasons(network, tmp_path):
    classifier, spec, paths = network
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(b"not a photo")
    for _ in range(2):  # computed, then from the cache
        skips = SkipList(0.5, 4)
        cached = cached_features(named([paths[0], broken, missing, paths[1]]), classifier, spec, skips, tmp_path)
        assert (cached.rows >= 0).tolist() == [True, False, False, True]
        reasons = {entry.path: entry.reason.partition(",")[0] for entry in skips}
        assert reasons == {broken: "not a photo of a known kind", missing: "no such file"}


def test_too_many_unusable_files_stop_the_extraction(network, tmp_path):
    classifier, spec, paths = network
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    photos = named([*paths[:3], tmp_path / "broken.jpg"])
    for _ in range(2):  # computed, then from the cache
        with pytest.raises(InputError, match=r"more than the share 0\.2 of 4 photos cannot be used: 1 x not a photo"):
            cached_features(photos, classifier, spec, SkipList(0.2, 4), tmp_path)


def test_a_disk_that_is_too_small_is_said_before_the_start(network, tmp_path, monkeypatch):
    classifier, spec, paths = network
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(InputError, match=r"need 0\.1 MB"):
        cached_features(named(paths), classifier, spec, SkipList(), tmp_path)
