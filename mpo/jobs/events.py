"""A run's metrics and evaluations as a TensorBoard event file."""

import json
from datetime import datetime
from pathlib import Path

import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from mpo.study.files import EVALUATIONS, METRICS, RUN, replacing

_VERSION = "brain.Event:2"  # the first event of a file names its format


def write(run_directory: Path, output: Path) -> None:
    """Writes `train/METRIC` of each logging interval and `evaluation/return` of each snapshot.

    Args:
        run_directory: what training and evaluation left.
        output: a file with `tfevents` in its name, or TensorBoard passes it by. Equal runs give
            equal bytes but for the clocks.
    """
    record = json.loads((run_directory / RUN).read_text())
    started = datetime.fromisoformat(record["provenance"]["started"]).timestamp()
    metrics = pd.read_parquet(run_directory / METRICS).set_index("env_step")
    evals = pd.read_parquet(run_directory / EVALUATIONS)
    shown = evals[(evals["phase"] == "online") & (evals["policy"] == "mode")]
    rows = metrics.add_prefix("train/").join(
        shown.groupby("env_step")["return"].mean().rename("evaluation/return"), how="outer"
    )
    # An evaluation has no clock of its own: it shows the policy as it was at that time.
    clock = rows["train/wall_s"].interpolate().fillna(0.0) + started
    with replacing(output) as temporary, temporary.open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=started, file_version=_VERSION).SerializeToString())
        for (step, row), wall_time in zip(rows.iterrows(), clock, strict=True):
            values = [Summary.Value(tag=k, simple_value=v) for k, v in row.dropna().items()]
            event = Event(wall_time=wall_time, step=step, summary=Summary(value=values))
            records.write(event.SerializeToString())
        records.flush()
