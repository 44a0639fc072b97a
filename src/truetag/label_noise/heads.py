"""A linear head trained on features in memory, in seconds: what the estimator, cross-fits and selection are made of.

The composition is that of `training` (objective o observe o noise model o head) with the same regularisation; only the
features never move. Labels may be soft (between 0 and 1) or unknown.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from truetag.latent import known, observe, reduce
from truetag.losses import q_likelihood
from truetag.noise_models import FeatureDependentNoise, SharedFeatureNoise
from truetag.runs.config import NoiseModel
from truetag.training.observed_tagger import make_noise_model

EMBEDDING_WIDTH = 64
# regularisation was chosen at this width; Adam moves each weight alike, so a logit moves with their number
_REFERENCE_WIDTH, _REFERENCE_RATE, _REFERENCE_DROPOUT = 1280, 6e-4, 0.6
_HIGHEST_RATE = 0.1
_SMALLEST_FREQUENCY = 1e-4
_SMALLEST_DEVIATION = 1e-2
_SMALLEST_WEIGHT = 1e-30
_ROUNDING = 1e-6
_FEWEST_STEPS = 400

Objective = Callable[[Float[Tensor, "B K"], Float[Tensor, "B K"], float], Float[Tensor, "B K"]]


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained."""

    noise_model: NoiseModel = "none"
    q: float = 0.0
    """q-likelihood of the observed label; 0 is the likelihood."""
    relabel: bool = False
    """Train on p(y=1|z,x) instead of z: see `relabelling.fit_calibrated`, `fit_head` alone cannot."""
    missing_rate: float = 0.1
    """Where q01 starts."""
    incorrect_rate: float = 0.01
    """Where q10 starts."""
    epochs: int = 15
    """More on small data: at least 400 steps."""
    batch_size: int = 128
    learning_rate: float | None = None
    """Of the classifier, at its highest; None: 6e-4 at 1,280 features and more with fewer of them, so that a step moves
    a logit as far."""
    weight_decay: float | None = None
    """Of the classifier's weights, decoupled (AdamW); None: a step takes 6e-4 of them, whatever the learning rate."""
    dropout: float | None = None
    """Of the features; None: 0.6 from 1,280 of them on, and less with fewer, by the root of their number."""
    noise_learning_rate: float = 1e-2
    noise_weight_learning_rate: float = 1e-5
    noise_weight_decay: float = 3.0
    layer_norm: bool | None = None
    """Normalise each example over its features first, as suits embeddings; None: from 64 features on."""

    def step_sizes(self, num_features: int) -> tuple[float, float, float]:
        """Learning rate, weight decay and dropout for so many features."""
        share = num_features / _REFERENCE_WIDTH
        rate = min(_REFERENCE_RATE / share, _HIGHEST_RATE) if self.learning_rate is None else self.learning_rate
        decay = _REFERENCE_RATE / max(rate, _REFERENCE_RATE / 100) if self.weight_decay is None else self.weight_decay
        dropout = _REFERENCE_DROPOUT * min(share, 1) ** 0.5 if self.dropout is None else self.dropout
        return rate, decay, dropout


@dataclass(frozen=True)
class Head:
    """p(y|x) as a logit: a linear layer on standardised features."""

    mean: Float[Tensor, "D"]
    deviation: Float[Tensor, "D"]
    weight: Float[Tensor, "K D"]
    bias: Float[Tensor, "K"]
    layer_norm: bool
    noise_model: nn.Module | None = field(default=None, repr=False)

    def __call__(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """True logits."""
        return linear(self.standardise(features), self.weight, self.bias)

    def standardise(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """What the layer sees, and the noise model: h(I)."""
        if self.layer_norm:
            features = layer_norm(features, features.shape[-1:])
        return (features - self.mean) / self.deviation

    @torch.no_grad()
    def log_q(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "*Q K 2 2"] | None:
        """The noise model's transitions; None where there is none."""
        return None if self.noise_model is None else self.noise_model(self.standardise(features))


def fit_head(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings = HeadSettings(),
    weights: Float[Tensor, "N"] | None = None,
    objective: Objective | None = None,
    seed: int = 0,
) -> Head:
    """Train a head.

    Args:
        features: of each example.
        labels: observed: 1, 0, anything between, NaN or -1 for unknown.
        settings: the method and its rates.
        weights: of each example, in any unit; one of weight 0 is as one whose labels are unknown.
        objective: a loss of each label from observed logits, labels and the share of training that is done, instead of
            the q-likelihood; 0 at unknown labels.
        seed: of the order of examples and of dropout.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fit(features, labels.to(features.dtype), settings, weights, objective)


def out_of_sample_logits(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings = HeadSettings(),
    weights: Float[Tensor, "N"] | None = None,
    num_folds: int = 4,
    seed: int = 0,
) -> Float[Tensor, "N K"]:
    """True logits of each example from a head that was trained on the other folds."""
    num_folds = min(num_folds, len(features))
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    logits = features.new_zeros(labels.shape)
    for fold in range(num_folds):
        held_out = torch.zeros(len(features), dtype=torch.bool)
        held_out[order[fold::num_folds]] = True
        kept = None if weights is None else weights[~held_out]
        head = fit_head(features[~held_out], labels[~held_out], settings, kept, seed=seed)
        logits[held_out] = head(features[held_out])
    return logits


def _fit(
    features: Tensor,
    labels: Tensor,
    settings: HeadSettings,
    weights: Tensor | None,
    objective: Objective | None,
) -> Head:
    head = _start(features, labels, settings, weights)
    inputs = head.standardise(features)
    weight, bias = head.weight.requires_grad_(), head.bias.requires_grad_()
    learning_rate, weight_decay, dropout = settings.step_sizes(inputs.shape[1])
    groups: list[dict] = [{"params": [weight], "weight_decay": weight_decay}, {"params": [bias]}]
    noise_model = head.noise_model
    if isinstance(noise_model, FeatureDependentNoise):
        rate, decay = settings.noise_weight_learning_rate, settings.noise_weight_decay
        groups.append({"params": [noise_model.weights], "lr": rate, "weight_decay": decay})
    elif isinstance(noise_model, SharedFeatureNoise):  # a step of v . h is about one of a bias
        groups.append({"params": [noise_model.weights], "lr": settings.noise_learning_rate / inputs.shape[1] ** 0.5})
    if noise_model is not None:
        groups.append({"params": [noise_model.biases], "lr": settings.noise_learning_rate})
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0, fused=True)
    steps_an_epoch = math.ceil(len(inputs) / settings.batch_size)
    num_epochs = max(settings.epochs, math.ceil(_FEWEST_STEPS / steps_an_epoch)) if settings.epochs else 0
    num_steps, step = num_epochs * steps_an_epoch, 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate_share(step / max(num_steps, 1)))
    for _ in range(num_epochs):
        for picks in torch.randperm(len(inputs)).split(settings.batch_size):
            h, observed = inputs[picks], labels[picks]
            # what torch's dropout does, in a third of the time on a CPU: this and the optimiser were half of a step
            kept = torch.rand_like(h) >= dropout
            logits = linear(h * kept / (1 - dropout), weight, bias)
            if noise_model is not None:
                logits = observe(logits, noise_model(h))
            if objective is None:
                losses = q_likelihood(logits, observed, settings.q, "none")
            else:
                losses = objective(logits, observed, step / num_steps)
            if weights is None:
                loss = reduce(losses, known(observed), "mean")
            else:
                of_labels = known(observed) * weights[picks].unsqueeze(-1)
                loss = (losses * of_labels).sum() / of_labels.sum().clamp(min=_SMALLEST_WEIGHT)
            loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            step += 1
    if noise_model is not None:
        noise_model.requires_grad_(False)
    return Head(head.mean, head.deviation, weight.detach(), bias.detach(), head.layer_norm, noise_model)


def _start(features: Tensor, labels: Tensor, settings: HeadSettings, weights: Tensor | None) -> Head:
    """Statistics of the features, the labels' frequencies as the first prediction, the noise model at its start."""
    num_features, num_labels = features.shape[1], labels.shape[1]
    normalised = settings.layer_norm if settings.layer_norm is not None else num_features >= EMBEDDING_WIDTH
    values = layer_norm(features, features.shape[-1:]) if normalised else features
    mean, deviation = values.mean(0), values.std(0, correction=0)
    if normalised:
        deviation = deviation.clamp(min=_SMALLEST_DEVIATION)
    else:  # in any unit; what is constant but for rounding is not looked at
        deviation = torch.where(deviation > _ROUNDING * mean.abs(), deviation, torch.inf)
    of_labels = known(labels).to(labels.dtype) if weights is None else known(labels) * weights.unsqueeze(-1)
    frequencies = (of_labels * labels.nan_to_num()).sum(0) / of_labels.sum(0).clamp(min=_SMALLEST_WEIGHT)
    bias = torch.logit(frequencies.clamp(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY))
    rates = (settings.missing_rate, settings.incorrect_rate)
    noise_model = make_noise_model(settings.noise_model, num_features, num_labels, *rates)
    if noise_model is not None:
        noise_model.to(features.dtype)
    return Head(mean, deviation, features.new_zeros(num_labels, num_features), bias, normalised, noise_model)


def _rate_share(done: float, warmup: float = 0.1) -> float:
    """Linear warm-up, then a cosine to zero."""
    if done < warmup:
        return (done + 0.01) / (warmup + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
