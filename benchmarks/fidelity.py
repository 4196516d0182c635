"""Largest differences between semantoks and the released architecture, as a table.

Golden inputs, outputs and weights are in a folder with checkpoint.pth and golden.npz, by default
the shared one beside the repository. Exits with 1 if a difference is beyond its tolerance.

Example:
    python benchmarks/fidelity.py ../shared/golden
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semantoks.model.checkpoint import load_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.importing import import_checkpoint, read_checkpoint
from semantoks.objective.distillation import Branch, Distillation, LossTerms
from semantoks.training.config import ObjectiveConfig, OptimizationConfig
from semantoks.training.optimization import make_optimizer, optimizer_step, schedule

TRAJECTORY = ("cls", "network", "mask", "total", "norm", "rate", "decay", "weight")


class Row(NamedTuple):
    """One line of the table."""

    quantity: str
    difference: float
    tolerance: float
    kind: str


class Golden:
    """Golden numbers, and student and teacher with the golden weights."""

    def __init__(self, folder: Path) -> None:
        self.numbers: Any = np.load(folder / "golden.npz")
        self.checkpoint = folder / "checkpoint.pth"

    def tensor(self, name: str) -> Tensor:
        """Return golden numbers as a tensor."""
        return torch.from_numpy(self.numbers[name])

    def pair(self, name: str, dim: int = 1) -> Tensor:
        """Return what is given for both views, the views along one axis."""
        return torch.stack([self.tensor(f"{name}{i}") for i in (1, 2)], dim=dim)

    def model(self) -> Distillation:
        """Return fresh student and teacher."""
        student = read_checkpoint(self.checkpoint, branch="student")
        teacher = read_checkpoint(self.checkpoint, branch="teacher")
        model = Distillation(student.encoder, student.head)
        branch: Branch = model.teacher
        branch.encoder.load_state_dict(teacher.encoder.state_dict())
        branch.head.load_state_dict(teacher.head.state_dict())
        return model.eval()

    def absolute(self, what: str, found: Tensor, name: str, tolerance: float = 1e-5) -> Row:
        """Compare numbers of one size."""
        difference = float((found.detach() - self.tensor(name)).abs().max())
        return Row(what, difference, tolerance, "absolute")

    def relative(self, what: str, found: float, name: str, tolerance: float = 1e-5) -> Row:
        """Compare one number."""
        expected = float(self.numbers[name])
        difference = abs(found - expected) / max(abs(expected), 1e-12)
        return Row(what, difference, tolerance, "relative")


def all_tokens(encoder: SemantoksEncoder, view: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the summary and all tokens, (batch, 1 + network * patch, dim)."""
    summary, tokens = encoder(view, mask)
    return torch.cat([summary[:, None], tokens.flatten(1, 2)], dim=1)


def features(encoder: SemantoksEncoder, view: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return [mean of tokens, CLS]."""
    summary, tokens = encoder(view, mask)
    return torch.cat([tokens.mean((1, 2)), summary], dim=1)


@torch.no_grad()
def forward_rows(golden: Golden) -> Iterator[Row]:
    """Compare what tokenizer, encoder and head return."""
    model = golden.model()
    view, mask = golden.tensor("view1"), golden.tensor("mask1")
    teacher: Branch = model.teacher
    student: Branch = model.student
    found = teacher.encoder.tokenizer(view)
    yield golden.absolute("tokenizer output", found, "teacher_semantic_tokens")
    for name, branch in (("teacher", teacher), ("student", student)):
        found = all_tokens(branch.encoder, view)
        yield golden.absolute(f"{name}: CLS and tokens", found, f"{name}_tokens")
        found = all_tokens(branch.encoder, view, mask)
        yield golden.absolute(f"{name}: the same, masked", found, f"{name}_tokens_masked")
    yield golden.absolute(
        "features of a window", features(teacher.encoder, view), "teacher_cls_avg"
    )
    for network in (0, 8):
        alone = torch.ones_like(mask)
        alone[:, network] = False
        found = features(teacher.encoder, view, alone)
        key = f"teacher_cls_avg_only_network_{network}"
        yield golden.absolute(f"features, network {network} alone", found, key)
    projected = teacher.head(all_tokens(teacher.encoder, view))
    yield golden.absolute("projections", projected, "teacher_projection")
    with tempfile.TemporaryDirectory() as folder:
        import_checkpoint(golden.checkpoint, Path(folder) / "model")
        found = features(load_encoder(Path(folder) / "model"), view)
    yield golden.absolute("features after import-checkpoint", found, "teacher_cls_avg")


def number(value: Tensor | None) -> float:
    """Return a term, 0 where it was not computed."""
    return 0.0 if value is None else float(value.detach())


def weighted(terms: LossTerms, curriculum: float) -> dict[str, float]:
    """Return the terms of the loss as the golden numbers have them."""
    return {
        "cls": -number(terms.compression) - number(terms.expansion),
        "network": 0.5 * curriculum * number(terms.summary),
        "mask": 0.5 * number(terms.token),
        "total": number(terms.total),
    }


def loss_rows(golden: Golden) -> Iterator[Row]:
    """Compare the terms of the loss and the norm of the gradient."""
    names = {"cls": "CLS term", "network": "summary term", "mask": "token term", "total": "total"}
    for kind in ("masked", "unmasked"):
        model = golden.model()
        masks = golden.pair("mask") if kind == "masked" else None
        terms = model(golden.pair("view"), masks, curriculum=1.0)
        terms.total.backward()
        for name, value in weighted(terms, 1.0).items():
            if name == "mask" and masks is None:
                continue
            key = f"loss_{kind}_{name}_loss"
            yield golden.relative(f"{kind} step: {names[name]}", value, key)
        gradients = [p.grad for p in model.student.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        yield golden.relative(f"{kind} step: norm of the gradient", norm, f"gradnorm_{kind}", 1e-4)


def trajectory_rows(golden: Golden) -> Iterator[Row]:
    """Compare six steps of training, and the features after them."""
    model = golden.model()
    optimization = OptimizationConfig(learning_rate=1e-3 * 256 / 6, warmup_epochs=3)
    optimizer = make_optimizer(model.student, optimization)
    views = golden.pair("trajectory_view", 2).float()
    masks = golden.pair("trajectory_mask", 2)
    worst = dict.fromkeys(TRAJECTORY, 0.0)
    for step, expected in enumerate(golden.numbers["trajectory"]):
        now = schedule(
            step,
            steps=60,
            steps_an_epoch=1,
            batch_size=6,
            optimization=optimization,
            objective=ObjectiveConfig(summary_share=0.1),
        )
        seen = masks[step] if golden.numbers["trajectory_masked"][step] else None
        terms = model(views[step], seen, curriculum=now.curriculum)
        terms.total.backward()
        norm = optimizer_step(optimizer, now, clip=1.0)
        model.update_teacher(now.momentum)
        found = [*weighted(terms, now.curriculum).values(), norm]
        found += [now.learning_rate, now.weight_decay, 0.5 * now.curriculum]
        for name, value, golden_value in zip(TRAJECTORY, found, expected, strict=True):
            difference = abs(value - golden_value) / max(abs(golden_value), 1e-12)
            worst[name] = float(np.maximum(worst[name], difference))  # keeps what is no number
    losses = float(np.max([worst[name] for name in ("cls", "network", "mask", "total")]))
    yield Row("six steps: losses", losses, 1e-4, "relative")
    yield Row("six steps: norm of the gradient", worst["norm"], 1e-4, "relative")
    schedules = float(np.max([worst[name] for name in ("rate", "decay", "weight")]))
    yield Row("six steps: schedules", schedules, 1e-4, "relative")
    with torch.no_grad():
        branch: Branch = model.teacher
        found = features(branch.encoder, golden.tensor("view1"))
    yield golden.absolute("features after six steps", found, "teacher_cls_avg_after", 5e-5)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    beside = Path(__file__).resolve().parents[2] / "shared" / "golden"
    parser.add_argument(
        "golden", type=Path, nargs="?", default=beside, help="folder of the numbers"
    )
    parser.add_argument("--json", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    if not (arguments.golden / "golden.npz").is_file():
        parser.error(f"{arguments.golden} holds no golden.npz")
    golden = Golden(arguments.golden)
    rows = [*forward_rows(golden), *loss_rows(golden), *trajectory_rows(golden)]
    print("| quantity | largest difference | | tolerance |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.quantity} | {row.difference:.1e} | {row.kind} | {row.tolerance:.0e} |")
    if arguments.json:
        arguments.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    beyond = [row.quantity for row in rows if not row.difference <= row.tolerance]
    print(f"\nBeyond tolerance: {', '.join(beyond) or 'none'}.")
    return int(bool(beyond))


if __name__ == "__main__":
    sys.exit(main())
