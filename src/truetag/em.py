"""The appendix's expectation-maximisation, to compare with end-to-end training [Appendix Eq. 1-12].

The E-step computes the posterior rho with the current parameters. The M-step first maximises sum_y rho log p(y|I) over
the classifier, then the likelihood of z over the noise model under the *new* classifier. On the true logits the
classifier's gradient, p(y=1|I) - rho, equals the end-to-end gradient; through a shared backbone the two agree only if
the noise model's features are detached.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.latent import known, negative_log_likelihood, observe, posterior_logits


def expected_truth(
    true_logits: Float[Tensor, "*B K"], log_q: Float[Tensor, "*Q K 2 2"], labels: Shaped[Tensor, "*B K"]
) -> Float[Tensor, "*B K"]:
    """E-step: rho = p(y=1 | z, I), a constant in the M-step; NaN where the label is unknown [Appendix Eq. 2]."""
    rho = posterior_logits(true_logits, log_q, labels).sigmoid().detach()
    return torch.where(known(labels), rho, torch.nan)


def classifier_loss(true_logits: Float[Tensor, "*B K"], rho: Float[Tensor, "*B K"]) -> Float[Tensor, ""]:
    """M-step of the classifier: -sum_y rho_y log p(y|I), summed over examples and labels [Appendix Eq. 4]."""
    return negative_log_likelihood(true_logits, rho, reduction="sum")


def noise_loss(
    true_logits: Float[Tensor, "*B K"], log_q: Float[Tensor, "*Q K 2 2"], labels: Shaped[Tensor, "*B K"]
) -> Float[Tensor, ""]:
    """M-step of the noise model: -log p(z|I), summed, with the new classifier held fixed [Appendix Eq. 5]."""
    return negative_log_likelihood(observe(true_logits.detach(), log_q), labels, reduction="sum")


def run_em(
    true_logits: Callable[[], Float[Tensor, "B K"]],
    log_q: Callable[[], Float[Tensor, "*Q K 2 2"]],
    labels: Shaped[Tensor, "B K"],
    classifier_parameters: Iterable[Tensor],
    noise_parameters: Iterable[Tensor],
    num_rounds: int,
    num_steps: int = 20,
) -> list[float]:
    """Full-batch EM: each round is an E-step followed by both M-steps; the parameters change in place.

    Args:
        true_logits: computes the true logits from the classifier's current parameters.
        log_q: computes the transitions from the noise model's current parameters.
        labels: the observed labels.
        classifier_parameters: what the first M-step optimises.
        noise_parameters: what the second M-step optimises.
        num_rounds: how many rounds.
        num_steps: L-BFGS iterations of each M-step, at most.

    Returns:
        -log p(z|I) in nats, summed, before the first round and after each round: it never rises.
    """
    classifier_parameters, noise_parameters = list(classifier_parameters), list(noise_parameters)

    def observed_loss() -> float:
        with torch.no_grad():
            return noise_loss(true_logits(), log_q(), labels).item()

    history = [observed_loss()]
    for _ in range(num_rounds):
        with torch.no_grad():
            rho = expected_truth(true_logits(), log_q(), labels)
        _minimise(lambda rho=rho: classifier_loss(true_logits(), rho), classifier_parameters, num_steps)
        _minimise(lambda: noise_loss(true_logits(), log_q(), labels), noise_parameters, num_steps)
        history.append(observed_loss())
    return history


def _minimise(loss: Callable[[], Float[Tensor, ""]], parameters: list[Tensor], num_steps: int) -> None:
    optimiser = torch.optim.LBFGS(parameters, max_iter=num_steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward(inputs=parameters)
        return value.item()

    optimiser.step(closure)
