"""Size and shape of the source: lines, files, docstrings, bodies of functions, and flows of verbs.

A flow counts the files of the package that a verb enters, and how often a call goes back into a
file that was entered before the caller's. Run: python benchmarks/house.py [--flows]
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

SOURCE = Path(__file__).resolve().parents[1] / "src" / "semantoks"
ARRAYS = ("NDArray", "ndarray", "Tensor", "Matrix", "Vector", "ArrayLike")
SHAPES = ("Float", "Int", "Bool", "Shaped", "Integer", "Inexact")


def body_length(node: ast.FunctionDef) -> int:
    """Count the lines of a function below its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return int((body[-1].end_lineno or 0) - body[0].lineno + 1) if body else 0


def size() -> dict[str, float]:
    """Count files, lines, docstrings, long functions and arrays without a shape."""
    lines, quoted, bodies, bare = 0, 0, [], 0
    files = sorted(SOURCE.rglob("*.py"))
    for file in files:
        text = file.read_text()
        lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                bodies.append(body_length(node))
                bare += sum(without_shape(argument) for argument in arguments_of(node))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
                first = node.body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    quoted += (first.end_lineno or 0) - first.lineno + 1
    return {
        "files": len(files),
        "lines": lines,
        "docstrings (%)": round(100 * quoted / lines, 1),
        "body, 90th percentile": float(np.percentile(bodies, 90)),
        "body, longest": max(bodies),
        "array parameters without a shape": bare,
    }


def arguments_of(node: ast.FunctionDef) -> list[ast.arg]:
    """List the arguments of a function."""
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def without_shape(argument: ast.arg) -> bool:
    """Tell whether an annotation names an array and no shape."""
    text = ast.unparse(argument.annotation) if argument.annotation else ""
    return any(name in text for name in ARRAYS) and not any(f"{x}[" in text for x in SHAPES)


def is_ours(frame: FrameType) -> bool:
    """Tell whether a frame is a function of the package."""
    code = frame.f_code
    named = not code.co_name.startswith("<") and code.co_name != "__getattr__"
    return named and code.co_flags & 2 > 0 and code.co_filename.startswith(str(SOURCE))


class Flow:
    """Files that calls enter, in their order, and calls that go back."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.calls: set[tuple[str, str, str, str]] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Note a call; the profiler of `sys` calls this."""
        code = frame.f_code
        if event != "call" or not is_ours(frame):
            return
        self.first.setdefault(code.co_filename, len(self.first))
        back = frame.f_back
        while back is not None:
            caller = back.f_code
            if is_ours(back):
                edge = (caller.co_filename, caller.co_qualname, code.co_filename, code.co_qualname)
                self.calls.add(edge)
                return
            back = back.f_back

    def counts(self) -> tuple[int, int]:
        """Return files entered and calls back into earlier files."""
        return len(self.first), sum(self.first[c[2]] < self.first[c[0]] for c in self.calls)


FLOWS = {
    "prepare": "prepare in --atlas atlas.tsv --out store2 --quiet",
    "pretrain": "pretrain --data store --recipe tiny --set optimization.epochs=3 "
    "--set optimization.warmup_epochs=1 --out run2 --quiet",
    "probe": "probe --data store --embeddings run/features.parquet --target diagnosis "
    "--folds 3 --repeats 1 --out probe --quiet",
    "evaluate": "evaluate plan.yaml --out study --quiet",
    "load_encoder": "",
    "embed SOURCE": "embed in --model run --atlas atlas.tsv --out features --quiet",
}
PLAN = """\
store: store
targets: [diagnosis]
splits: [{kind: random, repeats: 2}]
models: {ours: {model: run, probes: [ridge]}}
baselines: [connectivity, dummy]
"""


def trace(verb: str) -> None:
    """Run one verb in this process and print its flow; the working directory holds its inputs."""
    from semantoks.cli.application import call

    flow, words = Flow(), FLOWS[verb].split()
    if verb == "load_encoder":
        import torch

        import semantoks as sk

        sys.setprofile(flow)
        encoder = sk.load_encoder("run")
        encoder(torch.zeros(2, len(encoder.atlas), encoder.window))
    else:
        sys.setprofile(flow)
        call(words)
    sys.setprofile(None)
    print(f"{verb:<14}{flow.counts()[0]:>4} files {flow.counts()[1]:>4} calls back")


def flows() -> None:
    """Trace every verb in a process of its own, on 24 simulated scans."""
    prepare = (
        "import semantoks as sk; scans = sk.simulate_cohort(24, seed=3); "
        "sk.write_cohort(scans, 'in', atlas_file='atlas.tsv')"
    )
    command = [sys.executable, "-m", "semantoks"]
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"cwd": folder, "check": True}
        subprocess.run([sys.executable, "-c", prepare], **options)
        subprocess.run([*command, *FLOWS["prepare"].replace("store2", "store").split()], **options)
        subprocess.run([*command, *FLOWS["pretrain"].replace("run2", "run").split()], **options)
        embed = "embed --data store --model run --out run/features.parquet --quiet"
        subprocess.run([*command, *embed.split()], **options)
        Path(folder, "plan.yaml").write_text(PLAN)
        for verb in FLOWS:
            subprocess.run([sys.executable, __file__, "--trace", verb], **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", action="store_true", help="trace the verbs as well")
    parser.add_argument("--trace", choices=FLOWS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.trace:
        trace(chosen.trace)
    else:
        for name, value in size().items():
            print(f"{name:<34}{value:>8g}")
        if chosen.flows:
            flows()
