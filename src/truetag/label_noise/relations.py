"""Label relations: what the other observed tags of an example say of a tag, learnt from noisy tags alone.

A classifier sees the image; somebody who tagged it saw more, and tags go together. Let e_d = p(y_d=1|z_d,x) -
p(y_d=1|x) be how much the observation of tag d has changed our mind. Then

    logit p(y_c=1 | x, z_-c) = o_c + sum over d != c of W_cd e_d        W = U V^T of low rank, without its diagonal

so a tag never vouches for itself, and Bayes with its own z_c comes last, as ever [Appendix Eq. 2]. W maximises the
pseudo-likelihood, sum over c of log p(z_c | x, z_-c), through the transitions of Eq. 5: no true tag is needed. The
logits and the rates come from `rates.calibrate`, out of sample. It is the paper's future work; it serves the posterior,
for at test time there are no tags.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.data.stratify import grouped_folds
from truetag.latent import known, negative_log_likelihood, observe

RANK = 32
NUM_FOLDS = 4
NUM_EPOCHS = 20
BATCH_SIZE = 256
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1.0


@dataclass(frozen=True)
class Relations:
    """W = left right^T without its diagonal."""

    left: Float[Tensor, "K R"]
    right: Float[Tensor, "K R"]

    def __call__(self, true_logits: Float[Tensor, "N K"], surprise: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Logit of p(y_c=1 | x, z_-c); the observation of c itself is still to be added (`latent.posterior_logits`)."""
        return true_logits + _evidence(surprise, self.left, self.right)


def surprise_of(
    true_logits: Float[Tensor, "N K"], posterior: Float[Tensor, "N K"], labels: Shaped[Tensor, "N K"]
) -> Float[Tensor, "N K"]:
    """e: how much the observation of each label has changed our mind; 0 where it is unknown."""
    return torch.where(known(labels), posterior - true_logits.sigmoid(), 0)


def fit_relations(
    true_logits: Float[Tensor, "N K"],
    surprise: Float[Tensor, "N K"],
    log_q: Float[Tensor, "K 2 2"],
    labels: Shaped[Tensor, "N K"],
    weights: Float[Tensor, "N"] | None = None,
    rank: int = RANK,
    seed: int = 0,
) -> Relations:
    """Relations with the highest pseudo-likelihood of the observed labels.

    Args:
        true_logits: calibrated, of models that did not see the example.
        surprise: e, as of `surprise_of`.
        log_q: transitions of each label.
        labels: observed: 1, 0, anything between, NaN or -1 for unknown.
        weights: of each example, in units of examples.
        rank: of W.
        seed: of the start and the order of examples.

    Two tags that are always true together; the image says nothing, and of the second tag half is missing:

        >>> from truetag.latent import posterior_logits
        >>> generator = torch.Generator().manual_seed(0)
        >>> true = (torch.rand(4000, 1, generator=generator) < 0.5).expand(-1, 2)
        >>> observed = (true & (torch.rand(4000, 2, generator=generator) < torch.tensor([1.0, 0.5]))).float()
        >>> log_q = torch.tensor([[[0.98, 0.02], [0.02, 0.98]], [[0.98, 0.5], [0.02, 0.5]]]).log()
        >>> logits = torch.zeros(4000, 2)
        >>> surprise = surprise_of(logits, posterior_logits(logits, log_q, observed).sigmoid(), observed)
        >>> relations = fit_relations(logits, surprise, log_q, observed)
        >>> rows = torch.tensor([observed[:, 0].argmax(), observed[:, 0].argmin()])  # with and without the first tag
        >>> relations(logits, surprise)[rows, 1].sigmoid().round(decimals=1)  # is the second true?
        tensor([0.9000, 0.1000])
    """
    num_examples, num_labels = true_logits.shape
    true_logits, surprise, log_q = true_logits.detach(), surprise.detach(), log_q.detach()
    generator = torch.Generator().manual_seed(seed)
    scale = 1 / math.sqrt(rank)
    left = torch.zeros(num_labels, rank, requires_grad=True)
    right = (scale * torch.randn(num_labels, rank, generator=generator)).requires_grad_()
    optimiser = torch.optim.AdamW([left, right], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with torch.enable_grad():
        for _ in range(NUM_EPOCHS):
            for picks in torch.randperm(num_examples, generator=generator).split(BATCH_SIZE):
                logits = true_logits[picks] + _evidence(surprise[picks], left, right)
                losses = negative_log_likelihood(observe(logits, log_q), labels[picks], "none").sum(1)
                (losses if weights is None else losses * weights[picks]).mean().backward()
                optimiser.step()
                optimiser.zero_grad()
    return Relations(left.detach(), right.detach())


def related_logits(
    true_logits: Float[Tensor, "N K"],
    surprise: Float[Tensor, "N K"],
    log_q: Float[Tensor, "K 2 2"],
    labels: Shaped[Tensor, "N K"],
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Float[Tensor, "N K"]:
    """Logit of p(y_c=1 | x, z_-c) of each example, by relations that were learnt from other examples.

    Relations that have seen an example fit its mistakes, and are confident of the most unusual ones.

    Args:
        true_logits: calibrated, of models that did not see the example.
        surprise: e, as of `surprise_of`.
        log_q: transitions of each label.
        labels: observed.
        weights: of each example, in units of examples.
        groups: near-duplicates, which share a fold.
        seed: decides the folds and the training.
    """
    folds = torch.from_numpy(grouped_folds(len(labels), NUM_FOLDS, torch.Generator().manual_seed(seed), groups))
    logits = true_logits.clone()
    for fold in folds.unique() if folds.any() else ():  # relations that saw no other example say nothing
        rest, held_out = folds != fold, folds == fold
        relations = fit_relations(
            true_logits[rest],
            surprise[rest],
            log_q,
            labels[rest],
            None if weights is None else weights[rest],
            seed=seed,
        )
        logits[held_out] = relations(true_logits[held_out], surprise[held_out])
    return logits


def _evidence(surprise: Tensor, left: Tensor, right: Tensor) -> Float[Tensor, "N K"]:
    """What all tags say of each, less what it says of itself."""
    return (surprise @ right) @ left.T - surprise * (left * right).sum(1)
