"""What is trained: objective o observe o noise model o classifier, all but the objective as one network."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from truetag.latent import observe
from truetag.models.classifier import Classifier
from truetag.noise_models import FeatureDependentNoise, FeatureIndependentNoise, SharedFeatureNoise
from truetag.runs.config import NoiseModel


class ObservedTagger(nn.Module):
    """observe o noise model o classifier: inputs to observed logits; without a noise model, to the true ones."""

    def __init__(self, classifier: Classifier, noise_model: nn.Module | None, detach_features: bool) -> None:
        super().__init__()
        self.classifier, self.noise_model, self.detach_features = classifier, noise_model, detach_features

    def forward(
        self, inputs: Float[Tensor, "B T ..."], mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B K"]:
        """Logits of p(z=1|I) for bags of photos or features."""
        logits, h = self.classifier(inputs, mask)
        if self.noise_model is None:
            return logits.float()
        return observe(logits.float(), self.noise_model((h.detach() if self.detach_features else h).float()))


def make_noise_model(
    name: NoiseModel, num_features: int, num_labels: int, missing_rate: float, incorrect_rate: float
) -> nn.Module | None:
    """The noise model of this name, at its start."""
    match name:
        case "none":
            return None
        case "fi":
            return FeatureIndependentNoise(num_labels, missing_rate, incorrect_rate)
        case "fd":
            return FeatureDependentNoise(num_features, num_labels, missing_rate, incorrect_rate)
        case "fd-shared":
            return SharedFeatureNoise(num_features, num_labels, missing_rate, incorrect_rate)
