"""The classifier against its definition: 1x1 convolution, pooling, standardised features, prior-matched bias."""

import pytest
import timm
import torch

from truetag.models.backbones import load_backbone
from truetag.models.classifier import Classifier
from truetag.pooling import noisy_or

B, T, R, D, K = 3, 2, 9, 5, 4


def make_classifier(pooling="mean", **settings) -> Classifier:
    torch.manual_seed(0)
    classifier = Classifier(torch.nn.Identity(), D, K, pooling, **settings)
    torch.nn.init.normal_(classifier.head.weight)
    torch.nn.init.normal_(classifier.head.bias)
    return classifier.eval()


def test_head_is_a_1x1_convolution():
    classifier = make_classifier("noisy-or")
    regions = torch.randn(B, 1, R, D)
    convolution = torch.nn.Conv2d(D, K, 1)
    convolution.load_state_dict({"weight": classifier.head.weight.view(K, D, 1, 1), "bias": classifier.head.bias})
    feature_map = classifier.head.standardise(regions.squeeze(1)).transpose(1, 2).unflatten(2, (3, 3))
    expected = noisy_or(convolution(feature_map).flatten(2), dim=2)
    assert torch.allclose(classifier(regions)[0], expected, atol=1e-5)


def test_mean_pooling_pools_features_first():
    classifier = make_classifier("mean")
    regions = torch.randn(B, 1, R, D)
    logits, h = classifier(regions)
    assert torch.allclose(h, classifier.head.standardise(regions.mean(2)).squeeze(1), atol=1e-6)
    assert torch.allclose(logits, classifier.head.logits(h), atol=1e-6)


POOLINGS = ["mean", "noisy-or", "max", "lse"]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("max_over_frames", [False, True])
def test_padding_contributes_nothing(pooling, max_over_frames):
    """To logits, to h, and to gradients, whatever it holds."""
    classifier = make_classifier(pooling, max_over_frames=max_over_frames)
    frames = torch.randn(B, T, R, D, requires_grad=True)
    rubbish = torch.full((B, 3, R, D), torch.nan)
    mask = torch.arange(T + 3).expand(B, -1) < T
    outputs = classifier(torch.cat([frames, rubbish], dim=1), mask), classifier(frames)
    gradients = [torch.autograd.grad(sum(part.sum() for part in output), frames)[0] for output in outputs]
    for got, expected in zip([*outputs[0], gradients[0]], [*outputs[1], gradients[1]], strict=True):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_ragged_bags_are_as_they_are_alone(pooling):
    classifier = make_classifier(pooling)
    lengths = [1, 3, 2]
    frames = torch.randn(3, 3, R, D)
    mask = torch.arange(3) < torch.tensor(lengths).unsqueeze(1)
    logits, h = classifier(frames, mask)
    for bag, length in enumerate(lengths):
        alone = classifier(frames[bag : bag + 1, :length])
        assert torch.allclose(logits[bag], alone[0][0], atol=1e-5)
        assert torch.allclose(h[bag], alone[1][0], atol=1e-5)


def test_frames_and_regions_are_pooled_alike_or_frames_by_their_largest():
    frames = torch.randn(B, T, R, D)
    classifier = make_classifier("noisy-or")
    logits = classifier.head(frames.flatten(0, 1)).unflatten(0, (B, T))
    assert torch.allclose(classifier(frames)[0], noisy_or(logits.flatten(1, 2), 1), atol=1e-5)
    classifier = make_classifier("noisy-or", max_over_frames=True)
    assert torch.allclose(classifier(frames)[0], noisy_or(logits, 2).amax(1), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("num_regions", [1, 49, 144])
@pytest.mark.parametrize("num_frames", [1, 26])
def test_prior_gives_a_bag_the_labels_frequency(pooling, num_regions, num_frames):
    classifier = Classifier(torch.nn.Identity(), D, K, pooling)
    frequencies = torch.tensor([0.5, 0.1, 0.01, 0.001])
    classifier.set_prior(frequencies, num_regions * num_frames)
    logits, _ = classifier(torch.randn(B, num_frames, num_regions, D))
    assert torch.allclose(logits.sigmoid(), frequencies.expand(B, K), rtol=1e-4)


def test_features_for_the_noise_model_alone_do_not_reach_the_head():
    class Backbone(torch.nn.Identity):
        num_noise_features = 2

    classifier = Classifier(Backbone(), D, K, "noisy-or").eval()
    torch.nn.init.normal_(classifier.head.weight)
    assert classifier.head.weight.shape[1] == D - 2
    frames = torch.randn(B, T, R, D)
    other = torch.cat([frames[..., :-2], torch.randn(B, T, R, 2)], dim=-1)
    assert torch.equal(classifier(frames)[0], classifier(other)[0])
    assert classifier(frames)[1].shape == (B, 2)
    assert not torch.equal(classifier(frames)[1], classifier(other)[1])


def test_frames_a_few_at_a_time_give_the_gradients_of_all_at_once():
    """Micro-batches over frames, activations computed twice: the same numbers, in less memory."""
    photos = torch.randn(2, 5, 3, 32, 32, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    gradients = []
    for frames_at_a_time in (0, 2, 3):
        torch.manual_seed(0)
        backbone, _ = load_backbone("test_resnet", "none", 32)
        classifier = Classifier(backbone, backbone.num_features, K, "noisy-or", frames_at_a_time=frames_at_a_time)
        torch.nn.init.normal_(classifier.head.weight)
        classifier.double().eval()  # batch statistics would differ with the batch
        classifier(photos, mask)[0].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in classifier.named_parameters()})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-9, atol=1e-11)


def test_region_logits_pool_to_the_bags_logit():
    backbone, _ = load_backbone("test_resnet", "none", 64)
    classifier = Classifier(backbone, backbone.num_features, K, "noisy-or").eval()
    torch.nn.init.normal_(classifier.head.weight)
    photos = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        regions = classifier.region_logits(photos)
        assert regions.shape[1] > 1
        assert torch.allclose(noisy_or(regions, 1), classifier(photos.unsqueeze(1))[0], atol=1e-5)


def test_feature_statistics_standardise_the_training_features():
    classifier = make_classifier("noisy-or")
    batches = [3 * torch.randn(8, R, D) + torch.arange(D) for _ in range(10)]
    classifier.set_feature_statistics(batches)
    standard = classifier.head.standardise(torch.cat(batches)).flatten(0, 1)
    assert torch.allclose(standard.mean(0), torch.zeros(D), atol=1e-5)
    assert torch.allclose(standard.std(0), torch.ones(D), atol=1e-2)


def test_dropout_acts_in_training_only():
    classifier = make_classifier(dropout=0.9)
    regions = torch.randn(B, T, R, D)
    assert torch.equal(classifier(regions)[0], classifier(regions)[0])
    classifier.train()
    assert not torch.equal(classifier(regions)[0], classifier(regions)[0])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_any_timm_layout_is_a_bag_of_regions(name):
    backbone, preprocessing = load_backbone(name, "none", 64)
    num_features = backbone.num_features
    classifier = Classifier(backbone, num_features, K, "noisy-or").eval()
    with torch.inference_mode():
        logits, h = classifier(torch.randn(2, 1, 3, 64, 64))
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
