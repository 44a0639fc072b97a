"""The classifier against its definition: 1x1 convolution, pooling, standardised features, prior-matched bias."""

import pytest
import timm
import torch

from truetag.backbones import load_backbone
from truetag.classifier import Classifier
from truetag.pooling import noisy_or

B, R, D, K = 3, 9, 5, 4


def make_classifier(pooling="mean", **settings) -> Classifier:
    torch.manual_seed(0)
    classifier = Classifier(torch.nn.Identity(), D, K, pooling, **settings)
    torch.nn.init.normal_(classifier.head.weight)
    torch.nn.init.normal_(classifier.head.bias)
    return classifier.eval()


def test_head_is_a_1x1_convolution():
    classifier = make_classifier("noisy-or")
    regions = torch.randn(B, R, D)
    convolution = torch.nn.Conv2d(D, K, 1)
    convolution.load_state_dict({"weight": classifier.head.weight.view(K, D, 1, 1), "bias": classifier.head.bias})
    feature_map = classifier.standardise(regions).transpose(1, 2).unflatten(2, (3, 3))
    expected = noisy_or(convolution(feature_map).flatten(2), dim=2)
    assert torch.allclose(classifier(regions)[0], expected, atol=1e-5)


def test_mean_pooling_pools_features_first():
    classifier = make_classifier("mean")
    regions = torch.randn(B, R, D)
    logits, h = classifier(regions)
    assert torch.allclose(h, classifier.standardise(regions.mean(1, keepdim=True)).squeeze(1), atol=1e-6)
    assert torch.allclose(logits, classifier.head(h), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "noisy-or"])
def test_padding_changes_nothing(pooling):
    classifier = make_classifier(pooling)
    regions = torch.randn(B, R, D)
    padded = torch.cat([regions, torch.randn(B, 4, D)], dim=1)
    mask = torch.arange(R + 4).expand(B, -1) < R
    for got, expected in zip(classifier(padded, mask), classifier(regions), strict=True):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "noisy-or"])
@pytest.mark.parametrize("num_regions", [1, 49, 144])
def test_prior_gives_a_bag_the_labels_frequency(pooling, num_regions):
    classifier = Classifier(torch.nn.Identity(), D, K, pooling)
    frequencies = torch.tensor([0.5, 0.1, 0.01, 0.001])
    classifier.set_prior(frequencies, num_regions)
    logits, _ = classifier(torch.randn(B, num_regions, D))
    assert torch.allclose(logits.sigmoid(), frequencies.expand(B, K), rtol=1e-4)


def test_feature_statistics_standardise_the_training_features():
    classifier = make_classifier("noisy-or")
    batches = [3 * torch.randn(8, R, D) + torch.arange(D) for _ in range(10)]
    classifier.set_feature_statistics(batches)
    standard = classifier.standardise(torch.cat(batches)).flatten(0, 1)
    assert torch.allclose(standard.mean(0), torch.zeros(D), atol=1e-5)
    assert torch.allclose(standard.std(0), torch.ones(D), atol=1e-2)


def test_dropout_acts_in_training_only():
    classifier = make_classifier(dropout=0.9)
    regions = torch.randn(B, R, D)
    assert torch.equal(classifier(regions)[0], classifier(regions)[0])
    classifier.train()
    assert not torch.equal(classifier(regions)[0], classifier(regions)[0])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_any_timm_layout_is_a_bag_of_regions(name):
    backbone, preprocessing = load_backbone(name, "none", 64)
    num_features = backbone.num_features
    classifier = Classifier(backbone, num_features, K, "noisy-or").eval()
    with torch.inference_mode():
        logits, h = classifier(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, K)
    assert h.shape == (2, num_features)
    assert preprocessing.resolution == 64


def test_mean_feature_is_timms_pooled_feature():
    backbone, _ = load_backbone("test_resnet", "none", 64)
    pooled = timm.create_model("test_resnet", num_classes=0)
    pooled.load_state_dict(backbone.state_dict())
    photos = torch.randn(2, 3, 64, 64)
    classifier = Classifier(backbone, backbone.num_features, K).eval()
    with torch.inference_mode():
        expected = pooled.eval()(photos)
        assert torch.allclose(classifier.pool_features(classifier.extract(photos)).squeeze(1), expected, atol=1e-5)
