"""The paper's network against timm's VGG16, and its sizes against Fang et al. 2015."""

import pytest
import timm
import torch
from torch import nn

from truetag.errors import InputError
from truetag.models.backbones import FullyConvolutionalVGG16, load_backbone


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return timm.create_model("vgg16", pretrained=False).eval()


@torch.inference_mode()
def test_at_224_pixels_it_is_timms_vgg16(vgg):
    photo = torch.randn(1, 3, 224, 224)
    pool5 = vgg.forward_features(photo)
    fc7 = vgg.pre_logits(pool5)
    features = FullyConvolutionalVGG16(vgg).forward_features(photo)
    assert features.shape == (1, 4096 + 512, 1, 1)
    torch.testing.assert_close(features[:, :4096], fc7, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features[:, 4096:, 0, 0], pool5.mean((2, 3)), rtol=1e-5, atol=1e-5)


def test_it_has_15_convolutions_and_5_pools(vgg):
    layers = list(FullyConvolutionalVGG16(vgg).modules())
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == 15
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in layers) == 5


@pytest.mark.parametrize(("side", "regions"), [(224, 1), (320, 4), (565, 12)])
def test_regions_of_a_photo(side, regions):
    """On the device that computes shapes alone: 565 pixels give 12 x 12 regions."""
    with torch.device("meta"):
        network = FullyConvolutionalVGG16(timm.create_model("vgg16", pretrained=False))
        assert network.forward_features(torch.empty(1, 3, side, side)).shape == (1, 4608, regions, regions)


def test_it_is_a_backbone_with_weights_from_a_file(vgg, tmp_path):
    torch.save(vgg.state_dict(), tmp_path / "vgg16.pth")
    backbone, preprocessing = load_backbone("vgg16_fcn", str(tmp_path / "vgg16.pth"), 224)
    assert isinstance(backbone, FullyConvolutionalVGG16)
    assert preprocessing.resolution == 224
    assert torch.equal(backbone.features[0].weight, vgg.features[0].weight)
    assert torch.equal(backbone.pre_logits.fc1.weight, vgg.pre_logits.fc1.weight)
    with pytest.raises(InputError, match="resolution must be at least 224"):
        load_backbone("vgg16_fcn", "none", 100)
