"""Writes a run's metrics and evaluations as a TensorBoard event file."""

from datetime import datetime
from pathlib import Path

import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from mpo.study.checksums import intact, read_evaluation, read_record, reading
from mpo.study.files import EVALUATIONS, METRICS, RUN, replacing

_VERSION = "brain.Event:2"  # the first event of a file names its format


def write(run_directory: Path, output: Path) -> None:
    """Writes `train/METRIC` of each logging interval and `evaluation/return` of each snapshot.

    Equal runs give equal bytes, except for the clocks.

    Args:
        run_directory: the directory of a trained and evaluated run.
        output: the event file; TensorBoard ignores it unless its name contains `tfevents`.

    Raises:
        Damaged: a file of the run cannot be read, or its job did not write it.
    """
    run = read_record(run_directory / RUN)
    with reading(run_directory / RUN):
        started = datetime.fromisoformat(run["provenance"]["started"]).timestamp()
    path = intact(run_directory / METRICS, run)
    with reading(path):
        metrics = pd.read_parquet(path).set_index("env_step").add_prefix("train/")
        seconds = metrics["train/wall_s"]
    path = intact(run_directory / EVALUATIONS, read_evaluation(run_directory, run))
    with reading(path):
        evals = pd.read_parquet(path)
        shown = evals[(evals["phase"] == "online") & (evals["policy"] == "mode")]
        returns = shown.groupby("env_step")["return"].mean().rename("evaluation/return")
    rows = metrics.join(returns, how="outer")
    # Evaluations have no clock of their own: they get the time at which training was at that step.
    clock = seconds.reindex(rows.index).interpolate().fillna(0.0) + started
    with replacing(output) as temporary, temporary.open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=started, file_version=_VERSION).SerializeToString())
        for (step, row), wall_time in zip(rows.iterrows(), clock, strict=True):
            values = [Summary.Value(tag=k, simple_value=v) for k, v in row.dropna().items()]
            event = Event(wall_time=wall_time, step=step, summary=Summary(value=values))
            records.write(event.SerializeToString())
        records.flush()
