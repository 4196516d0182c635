"""The command line: a verb a stage, a file a verb."""

from semantoks.cli import demo, embed, info, models, prepare, pretrain, probe, quality, report
from semantoks.cli.application import app, main, run

__all__ = [
    "app",
    "demo",
    "embed",
    "info",
    "main",
    "models",
    "prepare",
    "pretrain",
    "probe",
    "quality",
    "report",
    "run",
]
