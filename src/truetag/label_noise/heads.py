"""Training a linear head on features in memory, in seconds: what the estimator, cross-fits and choices are made of.

With the other solvers nothing is trained: heads are solved for (`label_noise.solved_heads`).

The other loop, `training.stage`, reads batches, saves checkpoints and trains backbones. Both have the same two stages,
the same composition (objective o observe o noise model o head), the same parts and the same defaults. Labels may be
soft (between 0 and 1) or unknown.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag import optimisation
from truetag.data.stratify import grouped_folds
from truetag.label_noise.linear_head import Head, label_frequencies, uses_layer_norm
from truetag.label_noise.settings import HeadSettings
from truetag.label_noise.solved_heads import SolvedHeads
from truetag.latent import known, reduce
from truetag.likelihood import observed_loss
from truetag.losses import q_likelihood
from truetag.noise_models import NoiseModel, make_noise_model, observed_logits

FEWEST_STEPS = 400
"""Small data are passed over more often, until both stages together have this many steps."""
_SMALLEST_WEIGHT = 1e-30

Objective = Callable[[Float[Tensor, "B K"], Float[Tensor, "B K"], float], Float[Tensor, "B K"]]


NUM_FOLDS = 4
"""Heads that are trained for out-of-sample logits."""


@dataclass(frozen=True)
class FittedHead:
    """A trained head, and the noise model that it was trained with."""

    head: Head
    noise_model: NoiseModel | None
    thresholds: Float[Tensor, "K"] | None = None
    """The probability from which each label counts as present, where one was found; else one half."""

    def __call__(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """True logits: the head alone."""
        return self.head(features)

    @torch.no_grad()
    def log_q(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "*Q K 2 2"] | None:
        """The transitions of the noise model; None where there is none."""
        return None if self.noise_model is None else self.noise_model(self.head.standardise(features))


def fit_head(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings = HeadSettings(),
    weights: Float[Tensor, "N"] | None = None,
    objective: Objective | None = None,
    seed: int = 0,
    solved: SolvedHeads | None = None,
) -> FittedHead:
    """Train a head: stage 1 alone, stage 2 with the noise model of the settings, if they name one.

    Args:
        features: one row per example, on any device.
        labels: observed: 1, 0, anything between, NaN or -1 for unknown.
        settings: the method and its step sizes.
        weights: one per example, in any unit; an example of weight 0 counts as one whose labels are unknown.
        objective: a loss per label, from observed logits, labels and the share of training that is done, instead of the
            q-likelihood; it is 0 at unknown labels.
        seed: decides the order of examples and dropout.
        solved: heads of these examples, where some were solved for before.
    """
    if settings.solver != "adamw":
        solved = solved or SolvedHeads(features, labels, settings.layer_norm, weights)
        return FittedHead(solved.fit(settings).head, None)
    num_features, num_labels = features.shape[1], labels.shape[1]
    sizes = optimisation.step_sizes(num_features, settings.learning_rate, settings.weight_decay, settings.dropout)
    normalised = uses_layer_norm(num_features, settings.layer_norm)
    head = Head(num_features, num_labels, normalised, sizes.dropout).to(features)
    head.standardise.set_statistics([features])
    head.set_prior(label_frequencies(labels, weights))
    noise_model = make_noise_model(
        settings.noise_model,
        num_features,
        num_labels,
        settings.initial_missing_rate,
        settings.initial_incorrect_rate,
    )
    if noise_model is not None:
        noise_model.to(features)
    data = _Data(
        head.standardise(features),
        labels.to(features),
        None if weights is None else weights.to(features),
        torch.Generator(features.device).manual_seed(seed),
    )
    stages = _plan_stages(settings, len(features), sizes.learning_rate)
    num_steps, num_done = sum(stage.num_steps for stage in stages), 0
    head.train()
    with torch.enable_grad():
        for stage in stages:
            in_stage = noise_model if stage.with_noise_model else None
            groups = optimisation.parameter_groups(head.parameters(), stage.learning_rate, sizes.weight_decay)
            if in_stage is not None:
                groups += in_stage.parameter_groups(
                    settings.noise_learning_rate, settings.noise_weight_learning_rate, settings.noise_weight_decay
                )
            optimiser = optimisation.make_optimiser(groups, [head] if in_stage is None else [head, in_stage])
            schedule = optimisation.make_schedule(optimiser, stage.num_steps)
            for _ in range(stage.num_epochs):
                for h, observed, batch_weights in data.batches(settings.batch_size):
                    true_logits = head.logits(h, data.generator)
                    if objective is None:
                        loss = _q_likelihood(true_logits, h, in_stage, observed, batch_weights, settings.q)
                    else:
                        logits = observed_logits(true_logits, h, in_stage)
                        losses = objective(logits, observed, num_done / num_steps)
                        loss = _weighted_mean(losses, observed, batch_weights)
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                    optimiser.zero_grad()
                    num_done += 1
    if noise_model is not None:
        noise_model.requires_grad_(False)
    return FittedHead(head.eval().requires_grad_(False), noise_model)


def out_of_sample_logits(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings = HeadSettings(),
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
    on_fold: Callable[[int], None] | None = None,
    solved: SolvedHeads | None = None,
) -> Float[Tensor, "N K"]:
    """True logits of each example from a head that was trained on the other folds.

    Args:
        features: one row per example.
        labels: observed: 1, 0, anything between, NaN or -1 for unknown.
        settings: of the heads.
        weights: one per example, in any unit.
        groups: near-duplicates, which share a fold; an example whose group is None stands alone.
        num_folds: how many heads are trained.
        seed: decides the folds and the training.
        on_fold: called with 1 after each fold.
        solved: heads of these examples, where some were solved for before.
    """
    if settings.solver != "adamw":  # every example is a fold
        solved = solved or SolvedHeads(features, labels, settings.layer_norm, weights, groups)
        return solved.left_out(settings)
    folds = torch.from_numpy(grouped_folds(len(features), num_folds, torch.Generator().manual_seed(seed), groups))
    logits = features.new_zeros(labels.shape)
    for fold in folds.unique():
        held_out = folds == fold
        kept_weights = None if weights is None else weights[~held_out]
        head = fit_head(features[~held_out], labels[~held_out], settings, kept_weights, seed=seed)
        logits[held_out] = head(features[held_out])
        if on_fold is not None:
            on_fold(1)
    return logits


@dataclass(frozen=True)
class _Data:
    """Standardised features, labels and weights of all examples, drawn in a new order each epoch."""

    h: Float[Tensor, "N D"]
    labels: Float[Tensor, "N K"]
    weights: Float[Tensor, "N"] | None
    generator: torch.Generator

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        order = torch.randperm(len(self.h), generator=self.generator, device=self.h.device)
        for rows in order.split(size):
            yield self.h[rows], self.labels[rows], None if self.weights is None else self.weights[rows]


@dataclass(frozen=True)
class _StagePlan:
    num_epochs: int
    num_steps: int
    learning_rate: float
    with_noise_model: bool


def _plan_stages(settings: HeadSettings, num_examples: int, learning_rate: float) -> list[_StagePlan]:
    """The stages that have any epochs, lengthened on small data so that they have `FEWEST_STEPS` together."""
    steps_per_epoch = math.ceil(num_examples / settings.batch_size)
    num_epochs = settings.stage1_epochs + settings.stage2_epochs
    factor = max(FEWEST_STEPS / (num_epochs * steps_per_epoch), 1) if num_epochs else 1
    stage2_rate = optimisation.stage2_learning_rate(
        learning_rate, settings.stage2_learning_rate, settings.stage1_epochs
    )
    plans = []
    for epochs, rate, with_noise_model in (
        (settings.stage1_epochs, learning_rate, False),
        (settings.stage2_epochs, stage2_rate, True),
    ):
        epochs = math.ceil(epochs * factor)
        if epochs:
            plans.append(_StagePlan(epochs, epochs * steps_per_epoch, rate, with_noise_model))
    return plans


def _q_likelihood(
    true_logits: Float[Tensor, "B K"],
    h: Float[Tensor, "B D"],
    noise_model: NoiseModel | None,
    labels: Float[Tensor, "B K"],
    weights: Float[Tensor, "B"] | None,
    q: float,
) -> Float[Tensor, ""]:
    """The mean q-likelihood of the observed labels, each example counting by its weight."""
    if noise_model is None:
        return _weighted_mean(q_likelihood(true_logits, labels, q, "none"), labels, weights)
    total, count = observed_loss(true_logits, noise_model.transition_logits(h), labels, q, weights)
    return total / count.clamp(min=_SMALLEST_WEIGHT)


def _weighted_mean(
    losses: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], weights: Float[Tensor, "B"] | None
) -> Float[Tensor, ""]:
    """The mean loss over known labels, each example counting by its weight."""
    if weights is None:
        return reduce(losses, known(labels), "mean")
    counted = known(labels) * weights.unsqueeze(-1)
    return (losses * counted).sum() / counted.sum().clamp(min=_SMALLEST_WEIGHT)
