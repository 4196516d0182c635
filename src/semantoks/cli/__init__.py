"""The command line: a verb a stage, a file a verb."""

from semantoks.cli import demo, embed, explain, models, prepare, pretrain, probe, study
from semantoks.cli.application import app, main, run

__all__ = [
    "app",
    "demo",
    "embed",
    "explain",
    "main",
    "models",
    "prepare",
    "pretrain",
    "probe",
    "run",
    "study",
]
