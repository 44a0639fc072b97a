"""Folders for hubs: timm, transformers, PyTorchModelHubMixin and truetag agree; and the hub gets what was written."""

import inspect
import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch

import truetag
from truetag.errors import InputError
from truetag.export import hub
from truetag.export.export import export
from truetag.media.photos import read_photo
from truetag.prediction import predict
from truetag.runs.folder import open_run


@pytest.fixture(scope="module")
def timm_folder(plain_run, tmp_path_factory):
    return export(plain_run.folder, tmp_path_factory.mktemp("timm") / "out", "timm")


@pytest.fixture(scope="module")
def any_folder(noisy_or_run, tmp_path_factory):
    return export(noisy_or_run.folder, tmp_path_factory.mktemp("any") / "out", "safetensors")


@pytest.fixture(scope="module")
def photos(tiny):
    return [read_photo(path) for path in sorted((tiny / "photos").glob("test-*.jpg"))[:5]]


def logits_of(run, photos):
    classifier, preprocessing, _ = truetag.load(run)
    with torch.inference_mode():
        return classifier.cpu()(torch.stack([preprocessing(photo) for photo in photos]).unsqueeze(1))[0]


def test_timm_opens_it_with_the_same_pixels_and_logits(timm_folder, plain_run, photos):
    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    wide = photos[0].resize((90, 40))  # of another shape than the square: squeezed, not cropped
    pixels = torch.stack([transform(photo) for photo in [*photos, wide]])
    expected = torch.stack([plain_run.preprocessing(photo) for photo in [*photos, wide]])
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), logits_of(plain_run.folder, [*photos, wide]), rtol=0, atol=1e-4)


def test_a_transformer_is_pooled_over_its_patches(make_run, tmp_path, photos):
    run = make_run(backbone="test_vit", layer_norm=False)
    folder = export(run.folder, tmp_path / "out", "timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = torch.stack([run.preprocessing(photo) for photo in photos])
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), logits_of(run.folder, photos), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits_of(folder, photos), logits_of(run.folder, photos), rtol=0, atol=1e-4)


def test_config_is_what_timm_and_transformers_need(timm_folder, plain_run):
    config = json.loads((timm_folder / "config.json").read_text())
    assert config["label_names"] == list(plain_run.vocabulary.words)
    assert config["problem_type"] == "multi_label_classification"
    assert set(config["thresholds"].values()) == {0.4}
    assert "num_classes" not in config.get("model_args", {})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"pooling": "noisy-or", "layer_norm": False}, "pools regions by noisy-or"),
        ({"layer_norm": True}, "layer norm"),
        ({"backbone": "test_convnext", "layer_norm": False}, "does more in timm"),
    ],
)
def test_what_timm_cannot_rebuild_is_refused(make_run, tmp_path, settings, reason):
    with pytest.raises(InputError, match=rf"format: timm cannot rebuild .*{reason}.*--format safetensors"):
        export(make_run(**settings).folder, tmp_path / "out", "timm")
    assert list(tmp_path.iterdir()) == []


def test_transformers_opens_both(timm_folder, any_folder, plain_run, noisy_or_run, photos, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    transformers.utils.logging.disable_progress_bar()
    for folder, run, trust in ((timm_folder, plain_run, False), (any_folder, noisy_or_run, True)):
        model = transformers.AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=trust).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust)
        with torch.inference_mode():
            logits = model(processor(photos, return_tensors="pt")["pixel_values"]).logits
        expected = logits_of(run.folder, photos)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
        classify = transformers.pipeline("image-classification", model=model, image_processor=processor, top_k=3)
        tags = classify(photos[0])
        best = expected[0].sigmoid().topk(3)  # a sigmoid, not a softmax
        assert [tag["label"] for tag in tags] == [run.vocabulary.words[index] for index in best.indices]
        assert [tag["score"] for tag in tags] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("settings", [{"pooling": "lse"}, {"pooling": "max", "level": "frame"}, {"layer_norm": True}])
def test_the_code_for_transformers_pools_clips_as_we_do(make_run, tmp_path, monkeypatch, settings):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    transformers.utils.logging.disable_progress_bar()
    run = make_run(**settings)
    folder = export(run.folder, tmp_path / "out", "safetensors")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    clips = torch.randn(2, 3, 3, 32, 32)
    with torch.inference_mode():
        expected = truetag.load(run.folder).classifier.cpu()(clips)[0]
        torch.testing.assert_close(model(clips).logits, expected, rtol=0, atol=1e-4)


def test_the_hub_mixin_opens_any_classifier(any_folder, noisy_or_run, photos):
    model = hub.HubClassifier.from_pretrained(any_folder)
    pixels = torch.stack([noisy_or_run.preprocessing(photo) for photo in photos])
    assert model.label_names == list(noisy_or_run.vocabulary.words)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), logits_of(noisy_or_run.folder, photos), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["timm", "safetensors"])
def test_predict_reads_the_folder_like_the_run(kind, request, tiny, tmp_path):
    run = request.getfixturevalue("plain_run" if kind == "timm" else "noisy_or_run")
    folder = request.getfixturevalue("timm_folder" if kind == "timm" else "any_folder")
    rows = []
    for number, source in enumerate((run.folder, folder)):
        out = tmp_path / f"{number}.jsonl"
        predict(source, [tiny / "photos"], out)  # with the threshold of each
        rows.append([json.loads(line) for line in out.read_text().splitlines()])
    assert any(row["tags"] for row in rows[0])
    for before, after in zip(*rows, strict=True):
        assert before["tags"] == after["tags"]
        assert before["probabilities"] == pytest.approx(after["probabilities"], abs=1e-5)


def test_no_path_of_this_machine_leaves_it(make_run, tmp_path):
    run = make_run(weights=str(tmp_path / "secret" / "weights.pth"))
    folder = export(run.folder, tmp_path / "out", "safetensors")
    for path in folder.iterdir():
        assert b"secret" not in path.read_bytes(), path


def test_a_foreign_config_is_refused(any_folder, tmp_path):
    (tmp_path / "config.json").write_text('{"truetag": 3}')
    with pytest.raises(InputError, match="truetag: expected the settings of a run, got 3"):
        open_run(tmp_path)


class FakeHub:
    """Takes the place of HfApi, with its signatures, and keeps what it gets."""

    def __init__(self, private: bool = True) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.private = private

    def __call__(self, **arguments):
        self.calls.append(("HfApi", arguments))
        return self

    def __getattr__(self, name):
        signature = inspect.signature(getattr(huggingface_hub.HfApi, name))

        def call(*arguments, **named):
            self.calls.append((name, dict(signature.bind(self, *arguments, **named).arguments)))
            return SimpleNamespace(private=self.private) if name == "repo_info" else "https://hub/owner/name"

        return call

    def arguments(self, name: str) -> dict:
        return dict(self.calls)[name]


@pytest.mark.parametrize("public", [False, True])
def test_push(plain_run, tmp_path, monkeypatch, capsys, public):
    fake = FakeHub(private=not public)
    monkeypatch.setattr(hub, "HfApi", fake)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    export(plain_run.folder, tmp_path / "out", "timm", push_to_hub="owner/name", public=public)
    assert fake.arguments("HfApi") == {"token": "hf_of_a_test"}
    assert fake.arguments("create_repo")["private"] is not public
    upload = fake.arguments("upload_folder")
    assert (upload["repo_id"], upload["folder_path"]) == ("owner/name", tmp_path / "out")
    assert "https://hub/owner/name" in (error := capsys.readouterr().err)
    assert "hf_of_a_test" not in error


def test_nothing_is_pushed_where_everybody_sees_it(plain_run, tmp_path, monkeypatch):
    fake = FakeHub(private=False)
    monkeypatch.setattr(hub, "HfApi", fake)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    with pytest.raises(InputError, match="owner/name is public already; add --public"):
        export(plain_run.folder, tmp_path / "out", "timm", push_to_hub="owner/name")
    assert "upload_folder" not in dict(fake.calls)


def test_a_hub_out_of_reach_leaves_the_folder(plain_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")  # the tests have HF_HUB_OFFLINE
    with pytest.raises(InputError, match=r"push_to_hub: owner/name: .*; the folder is written: `hf upload"):
        export(plain_run.folder, tmp_path / "out", "timm", push_to_hub="owner/name")
    assert open_run(tmp_path / "out").is_finished


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        ("owner/name", "", "expected a token in the environment variable HF_TOKEN"),
        ("name", "hf_x", "expected OWNER/NAME, got 'name'"),
        ("owner/na me", "hf_x", "expected OWNER/NAME"),
        ("a/b/c", "hf_x", "expected OWNER/NAME"),
    ],
)
def test_a_push_that_cannot_work_ends_before_any_work(plain_run, tmp_path, monkeypatch, repository, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=f"push_to_hub: {message}"):
        export(plain_run.folder, tmp_path / "out", "timm", push_to_hub=repository)
    assert list(tmp_path.iterdir()) == []
