"""The command line: a verb a stage, a file a verb."""

<<<<<<< HEAD
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
    reliability,
    report,
    scale,
)
=======
from semantoks.cli import demo, embed, info, models, prepare, pretrain, probe, quality, report
>>>>>>> in
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
<<<<<<< HEAD
    "reliability",
=======
    "quality",
>>>>>>> in
    "report",
    "run",
    "scale",
]
