"""What a run needs before its first step: steps, model and device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semantoks.errors import ConfigurationError, InputError
from semantoks.model.components import check_enough
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.model.tokenizer import token_atlas
from semantoks.objective.distillation import Distillation
from semantoks.objective.prototypes import PrototypeDistillation, PrototypeHead
from semantoks.training.config import Configuration, ModelConfig
from semantoks.training.views import check_masks

if TYPE_CHECKING:
    from semantoks.data.store import Store


class Plan(NamedTuple):
    """How a cohort is cut into steps."""

    subjects: int
    batch_size: int
    steps_an_epoch: int
    steps: int


def make_plan(store: Store, configuration: Configuration) -> Plan:
    """Cut a cohort into steps."""
    subjects = len(np.unique(store.subject_codes))
    if subjects < 2:
        raise InputError(
            f"store {store.path} holds {subjects} subject; pretraining tells subjects apart and "
            "needs at least two."
        )
    window = configuration.model.window
    short = int((store.lengths < window).sum())
    if short:
        raise InputError(
            f"{short} scan(s) of store {store.path} are shorter than a window of {window} samples "
            f"(the shortest has {int(store.lengths.min())}). Prepare with --min-samples {window}, "
            "or set model.window to a smaller multiple of model.patch."
        )
    if configuration.model.components:
        check_enough(len(store))
    patches = window // configuration.model.patch
    lattice = token_atlas(store.atlas, configuration.model.spatial)
    check_masks(len(lattice.network_names), patches, configuration.masks)
    batch_size = min(configuration.optimization.batch_size, subjects)
    steps_an_epoch = subjects // batch_size
    steps = steps_an_epoch * configuration.optimization.epochs
    return Plan(subjects, batch_size, steps_an_epoch, steps)


def make_model(store: Store, configuration: Configuration) -> Distillation:
    """Make student and teacher for a cohort."""
    sizes: ModelConfig = configuration.model
    widths: dict[str, int] = {
        "hidden_dim": sizes.projection_hidden_dim,
        "output_dim": sizes.projection_dim,
        "hidden_layers": sizes.projection_hidden_layers,
    }
    objective = configuration.objective
    head: Head
    if objective.kind == "simdino":
        head = Head(sizes.dim, **widths)
    else:
        head = PrototypeHead(
            sizes.dim,
            prototypes=objective.prototypes,
            gains="learned" if objective.kind == "dinov2" else "one",
            **widths,
        )
    encoder = SemantoksEncoder(store.atlas, **sizes.encoder_arguments())
    if encoder.synchrony is not None and sizes.time_course_start == "principal":
        encoder.synchrony.start_principal(mean_correlation(store))
    weights: dict[str, float] = {
        "cls_weight": objective.cls_weight,
        "token_weight": objective.token_weight,
        "summary_weight": objective.summary_weight,
    }
    if objective.kind == "simdino" or not isinstance(head, PrototypeHead):
        return Distillation(encoder, head, epsilon=objective.epsilon, **weights)
    return PrototypeDistillation(
        encoder,
        head,
        kind=objective.kind,
        centring=objective.centring,
        centre_momentum=objective.centre_momentum,
        koleo_weight=objective.koleo_weight,
        **weights,
    )


def mean_correlation(store: Store, *, scans: int = 1000) -> Tensor:
    """Average the correlation of ROIs over scans."""
    chosen = np.unique(np.linspace(0, len(store) - 1, min(scans, len(store))).astype(int))
    total = np.zeros((len(store.atlas), len(store.atlas)))
    for scan in chosen:
        series = store.series(int(scan)).astype(np.float64)
        total += series @ series.T / series.shape[1]
    return torch.from_numpy(total / len(chosen))


def choose_device(name: str) -> torch.device:
    """Find the device to compute on.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"device {name!r} cannot be used here ({reason}); try --device cpu."
        ) from error
    return device
