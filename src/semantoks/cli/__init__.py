"""The command line: a verb a stage, a file a verb."""

from semantoks.cli import (
    ablate,
    audit,
    decode,
    demo,
    embed,
    evaluate,
    info,
    models,
    prepare,
    pretrain,
    probe,
    quality,
    reliability,
    report,
    scale,
)
from semantoks.cli.application import app, main, run

__all__ = [
    "ablate",
    "app",
    "audit",
    "decode",
    "demo",
    "embed",
    "evaluate",
    "info",
    "main",
    "models",
    "prepare",
    "pretrain",
    "probe",
    "quality",
    "reliability",
    "report",
    "run",
    "scale",
]
