"""The verbs that rules call: `python -m mpo VERB --help` describes each.

Imports are late: a verb pays only for what it needs.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpo.config import ConfigError, EvaluationSpec, RunSpec
from mpo.study import Study

if TYPE_CHECKING:
    import torch


def train(args: argparse.Namespace) -> None:
    """Trains one run to its budget."""
    spec = RunSpec.parse(args.spec.read_text())

    import torch

    from mpo.trainer import MPOTrainer

    torch.set_num_threads(args.threads)
    values = spec.training.model_dump()
    loop = {key: values.pop(key) for key in ("update_after", "batch_size", "m_steps")}
    trainer = MPOTrainer(
        spec.env_id,
        spec.seed,
        _device(args.device),
        use_retrace=values.pop("retrace"),
        optimizer_type=values.pop("optimizer"),
        **values,
    )
    trainer.train(
        args.total_steps,
        out_dir=str(args.out),
        snapshot_interval=spec.snapshot_interval,
        log_interval=spec.log_interval,
        **loop,
    )


def evaluate(args: argparse.Namespace) -> None:
    """Evaluates the policy snapshots of a finished run."""
    config = EvaluationSpec.parse(args.config)

    import torch

    from mpo import files, records
    from mpo.evaluate import evaluate as roll_out

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    start = time.perf_counter()
    run = json.loads((args.run / files.RUN).read_text())
    spec = RunSpec.model_validate(run["spec"])
    rows = roll_out(spec, records.read_policies(args.run / files.POLICIES), config)
    records.write_rows(args.run / files.EVALUATIONS, rows)
    seconds = time.perf_counter() - start
    records.write_json(args.run / files.EVALUATION_COST, {"eval_s": seconds})


def collect(args: argparse.Namespace) -> None:
    """Gathers every run of a study into tables."""
    from mpo import tables

    tables.write(tables.collect(_study(args.study), Path()), args.out)


def figure(args: argparse.Namespace) -> None:
    """Draws one figure from the tables."""
    from mpo import figures

    figures.draw(args.name, _study(args.study), args.tables, args.out)


def summary(args: argparse.Namespace) -> None:
    """Writes the study's page: what it is, its figures and its tables."""
    from mpo import summary as page

    page.write(_study(args.study), args.tables, args.figures, args.out)


def _study(path: Path) -> Study:
    return Study.parse(json.loads(path.read_text()))


def _device(name: str) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("execution.device: no CUDA device for 'cuda'; choose from auto, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mpo", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    sub = {}
    for function in (train, evaluate, collect, figure, summary):
        name, text = function.__name__, function.__doc__
        sub[name] = verbs.add_parser(name, help=text, description=text)
        sub[name].set_defaults(function=function)
        sub[name].add_argument("--log", type=Path, help="write progress and errors here too")

    sub["train"].add_argument("--spec", type=Path, required=True, help="the run's spec.json")
    sub["train"].add_argument("--total-steps", type=int, required=True, help="environment steps")
    sub["train"].add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    sub["train"].add_argument("--threads", type=int, default=1, help="CPU threads of the networks")
    sub["train"].add_argument("--out", type=Path, required=True, help="the run's directory")

    sub["evaluate"].add_argument("--run", type=Path, required=True, help="a trained run")
    sub["evaluate"].add_argument("--config", required=True, help="an EvaluationSpec as JSON")

    for name in ("collect", "figure", "summary"):
        sub[name].add_argument("--study", type=Path, required=True, help="the study's study.json")
    for name in ("figure", "summary"):
        sub[name].add_argument("--tables", type=Path, required=True, help="the tables' directory")
    sub["collect"].add_argument("--out", type=Path, required=True, help="the tables' directory")
    sub["figure"].add_argument("--name", required=True, help="which figure")
    sub["figure"].add_argument("--out", type=Path, nargs="+", required=True, help="image files")
    sub["summary"].add_argument("--figures", type=Path, nargs="+", required=True, help="PNG files")
    sub["summary"].add_argument("--out", type=Path, required=True, help="the page")
    return parser


def _log_to(path: Path | None) -> None:
    """Sends the log to stderr, and to a file if there is one."""
    handlers: list[logging.Handler] = []
    if path is not None or not sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w"))
    logger = logging.getLogger("mpo")
    logger.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; 2 where the config is at fault, 1 where anything else is."""
    args = _parser().parse_args(argv)
    _log_to(args.log)
    try:
        args.function(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:
        logging.getLogger("mpo").exception("failed")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # All is written. Python would take over a second to take torch's modules down, in every job.
    os._exit(code)
