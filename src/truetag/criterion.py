"""A criterion for other people's training loops: the loss of true logits and noisy labels, with its noise model."""

from numbers import Integral, Real

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from truetag.errors import InputError
from truetag.latent import Reduction, posterior_logits
from truetag.losses import q_likelihood
from truetag.noise_models import ParameterGroup, Rate, make_noise_model
from truetag.optimisation import INITIAL_INCORRECT_RATE, INITIAL_MISSING_RATE

_READS_FEATURES = ("fd", "fd-shared")


class NoisyLabelLoss(nn.Module):
    """The q-likelihood of noisy labels, seen through a noise model that is learnt along with the classifier.

    The noise models, their starting rates and their learning rates are those of `truetag train` and
    `NoisyLabelClassifier`: "fi" is what the recipe `nmn-fi` trains in its second stage.

    Its parameters belong in the optimiser (`parameter_groups`). At test time it is not needed: the classifier's logits
    are those of the true labels.

    Args:
        num_labels: K.
        noise: "fi" (rates per label, Eq. 4), "fd" (rates that also depend on the features, Eq. 3), "fd-shared" (the
            same, with what the features add shared by all labels), or "none".
        q: robustness, 0 (the likelihood) to 1 (the mean absolute error).
        num_features: D, which "fd" and "fd-shared" need.
        reduction: "mean" over the known labels, "sum" over them, or "sum_labels", the paper's: summed over labels,
            averaged over the batch.
        detach_features: whether the noise model's gradient stops at the features instead of reaching the backbone.
        initial_missing_rate: q01 before training, one for all labels or one for each.
        initial_incorrect_rate: q10 before training, likewise.

    Raises:
        InputError: a value is not as described.

    >>> criterion = NoisyLabelLoss(2, noise="fi")
    >>> criterion(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]])).detach()  # p(z=1) = (0.7 + 0.03) / 2
    tensor(1.0079)
    """

    def __init__(
        self,
        num_labels: int,
        noise: str = "fi",
        q: float = 0.0,
        num_features: int | None = None,
        *,
        reduction: Reduction = "mean",
        detach_features: bool = True,
        initial_missing_rate: Rate = INITIAL_MISSING_RATE,
        initial_incorrect_rate: Rate = INITIAL_INCORRECT_RATE,
    ) -> None:
        super().__init__()
        _check_size("num_labels", num_labels)
        if not isinstance(q, Real) or not 0 <= q <= 1:
            raise InputError(f"q: expected a number from 0 to 1, got {q!r}")
        if reduction not in ("mean", "sum", "sum_labels"):
            raise InputError(f"reduction: expected mean, sum or sum_labels, got {reduction!r}")
        if noise in _READS_FEATURES:
            _check_size(f"num_features of {noise}", num_features)
        elif noise not in ("none", "fi"):
            raise InputError(f"noise: expected none, fi, fd or fd-shared, got {noise!r}")
        self.num_labels, self.noise, self.q, self.num_features = num_labels, noise, float(q), num_features
        self.reduction: Reduction = reduction
        self.detach_features = detach_features
        for name, rate in (("missing", initial_missing_rate), ("incorrect", initial_incorrect_rate)):
            if (shape := torch.as_tensor(rate).shape) not in ((), (num_labels,)):
                raise InputError(f"initial_{name}_rate: expected one number or {num_labels}, got shape {_shown(shape)}")
        rates = initial_missing_rate, initial_incorrect_rate
        try:
            self.noise_model = make_noise_model(noise, num_features or 0, num_labels, *rates)
        except ValueError as error:
            raise InputError(f"initial_{error}") from None

    def forward(
        self,
        true_logits: Shaped[Tensor, "..."],
        labels: Shaped[Tensor, "..."],
        features: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss in nats, in float32 (float64 for such logits).

        Args:
            true_logits: [*B, K], of p(y=1|I): what the classifier predicts and what is kept of it.
            labels: [*B, K], observed: 1, 0, anything between, NaN or -1 for unknown; of any dtype.
            features: [*B, D], pooled features h(I), for "fd" and "fd-shared"; their learning rates suit features with a
                deviation of about 1.

        Raises:
            InputError: shapes disagree, features are missing, or a label is none of these.
        """
        true_logits = self._checked(true_logits, labels)
        if self.noise_model is None:
            return q_likelihood(true_logits, labels, self.q, self.reduction)
        h = self._features(features, true_logits.shape[:-1])
        return q_likelihood(true_logits, labels, self.q, self.reduction, self.noise_model.transition_logits(h))

    @torch.no_grad()
    def posterior(
        self,
        true_logits: Shaped[Tensor, "..."],
        labels: Shaped[Tensor, "..."],
        features: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*B K"]:
        """p(y=1 | z, I) [Appendix Eq. 2]: low where a present tag is wrong, high where one is missing.

        At unknown labels, p(y=1 | I). Without a noise model labels are believed: known ones come back as they are.

        Args:
            true_logits: [*B, K], of p(y=1|I), best from a classifier that was not trained on these labels.
            labels: [*B, K]: 1, 0, anything between (then it is the expectation), NaN or -1 for unknown.
            features: as of `forward`.

        Raises:
            InputError: as of `forward`.
        """
        o = self._checked(true_logits, labels)
        z = labels.to(o.dtype)
        is_known = z >= 0
        if self.noise_model is None:
            return torch.where(is_known, z, o.sigmoid())
        log_q = self.noise_model(self._features(features, o.shape[:-1])).to(o.dtype)
        absent, present = (posterior_logits(o, log_q, torch.full_like(z, value)).sigmoid() for value in (0, 1))
        return torch.where(is_known, torch.lerp(absent, present, z.clamp(0, 1)), o.sigmoid())

    @torch.no_grad()
    def rates(self, features: Shaped[Tensor, "..."] | None = None) -> Float[Tensor, "*R K 2"]:
        """Estimated rates per label: the first column is the missing rate, the second the incorrect rate.

        "fd" and "fd-shared" give one table per bag where features are given, else that at h = 0. "none" gives zeros.
        """
        if self.noise_model is None:
            return torch.zeros(self.num_labels, 2)
        if features is not None:
            features = self._features(features, features.shape[:-1])
        return torch.stack([self.noise_model.missing_rate(features), self.noise_model.incorrect_rate(features)], dim=-1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The noise model's parameters for an AdamW, each with its own learning rate and decoupled weight decay."""
        return [] if self.noise_model is None else self.noise_model.parameter_groups()

    def _checked(self, true_logits: Tensor, labels: Tensor) -> Tensor:
        """The logits in float32 (float64 stays), once they and the labels are what they should be."""
        _check_logits(true_logits, self.num_labels)
        _check_labels(labels, true_logits)
        return true_logits.to(torch.promote_types(true_logits.dtype, torch.float32))

    def _features(self, features: Tensor | None, leading: tuple[int, ...]) -> Tensor | None:
        """Features for the noise model, in its dtype; None where it reads none."""
        if self.noise_model is None or self.noise not in _READS_FEATURES:
            return None
        shape = (*leading, self.num_features)
        if features is None:
            raise InputError(f"features: expected shape {_shown(shape)}, as {self.noise} reads them, got None")
        if features.shape != shape:
            raise InputError(f"features: expected shape {_shown(shape)}, got {_shown(features.shape)}")
        features = features.to(next(iter(self.noise_model.parameters())).dtype)
        return features.detach() if self.detach_features else features

    def extra_repr(self) -> str:
        """Its settings, in the form of the constructor."""
        return f"{self.num_labels}, noise={self.noise!r}, q={self.q:g}, reduction={self.reduction!r}"


def _check_size(name: str, value: int | None) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name}: expected a whole number of 1 or more, got {value!r}")


def _check_logits(true_logits: Tensor, num_labels: int) -> None:
    if not true_logits.is_floating_point():
        raise InputError(f"true_logits: expected floating-point numbers, got {true_logits.dtype}")
    if true_logits.shape[-1:] != (num_labels,):
        raise InputError(f"true_logits: expected shape [.., {num_labels}], got {_shown(true_logits.shape)}")


def _check_labels(labels: Tensor, true_logits: Tensor) -> None:
    if labels.shape != true_logits.shape:
        expected = f"the shape of the logits, {_shown(true_logits.shape)}"
        raise InputError(f"labels: expected {expected}, got {_shown(labels.shape)}")
    values = labels.nan_to_num(nan=0.0) if labels.is_floating_point() else labels
    if not values.numel() or (values.min() >= 0 and values.max() <= 1):  # on a CPU far quicker than the masks below
        return
    is_wrong = (values > 1) | ((values < 0) & (values != -1))
    if is_wrong.any():
        expected = "1, 0, a number between them, or NaN or -1 for unknown"
        raise InputError(f"labels: expected {expected}, got {values[is_wrong][0].item():g}")


def _shown(shape: tuple[object, ...] | torch.Size) -> str:
    return f"[{', '.join(map(str, shape))}]"
