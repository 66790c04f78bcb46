import json

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpo.jobs import events
from tests import synthetic


@pytest.fixture
def run(tmp_path):
    study = synthetic.plan(environments=1, seeds=1)
    synthetic.write_runs(study, tmp_path)
    return tmp_path / study.runs[0].directory


def test_tensorboard_reads_what_the_run_has_recorded(run, tmp_path):
    events.write(run, tmp_path / "board" / "events.out.tfevents.run")
    found = EventAccumulator(str(tmp_path / "board"), size_guidance={"scalars": 0}).Reload()
    metrics = pd.read_parquet(run / "train.parquet")
    tags = set(found.Tags()["scalars"])
    assert tags == {f"train/{name}" for name in metrics.columns.drop("env_step")} | {
        "evaluation/return"
    }
    loss = metrics.dropna(subset="critic_loss")
    shown = [(event.step, event.value) for event in found.Scalars("train/critic_loss")]
    assert [step for step, _ in shown] == loss["env_step"].tolist()
    assert [value for _, value in shown] == pytest.approx(loss["critic_loss"].tolist())
    evals = pd.read_parquet(run / "evals.parquet").query("phase == 'online' and policy == 'mode'")
    means = evals.groupby("env_step")["return"].mean()
    shown = {event.step: event.value for event in found.Scalars("evaluation/return")}
    assert shown == pytest.approx(means.to_dict())


def test_times_are_those_of_the_training(run, tmp_path):
    output = tmp_path / "events.out.tfevents.run"
    events.write(run, output)
    found = EventAccumulator(str(tmp_path)).Reload()
    started = json.loads((run / "run.json").read_text())["provenance"]["started"]
    first = pd.Timestamp(started).timestamp()
    metrics = pd.read_parquet(run / "train.parquet")
    times = [event.wall_time for event in found.Scalars("train/updates")]
    assert times == pytest.approx((first + metrics["wall_s"]).tolist())
    before = output.read_bytes()
    events.write(run, output)
    assert output.read_bytes() == before
