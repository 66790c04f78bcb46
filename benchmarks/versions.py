"""Compares the returns of the same study from two versions of the code.

    python -m benchmarks.versions OLD NEW

OLD and NEW are folders of finished studies, such as results/default. Differences are new minus old,
paired by seed. For each environment and arm it prints the mean difference of the final return and
of the mean return over the learning curve, with 95 % t intervals, and how many intervals exclude
zero. If both versions learn equally well, one interval in twenty does so by chance.
"""

import argparse
from pathlib import Path

import pandas as pd

from mpo.analysis.intervals import t_interval

MEASURES = {"final": "final return", "online": "mean return over the learning curve"}


def seed_means(study: Path) -> pd.DataFrame:
    """Returns of the mean action: one row per environment, arm and seed, one column per phase."""
    runs = pd.read_parquet(study / "tables" / "runs.parquet")
    evals = pd.read_parquet(study / "tables" / "evals.parquet")
    means = (
        evals[evals["policy"] == "mode"]
        .groupby(["run_id", "phase", "env_step"])["return"]
        .mean()
        .groupby(["run_id", "phase"])
        .mean()
        .unstack()
    )
    return runs.set_index("run_id").join(means).set_index(["env", "arm", "seed"])[[*MEASURES]]


def compare(old: Path, new: Path) -> tuple[pd.DataFrame, str]:
    """Returns a table of the differences, and a sentence that sums it up."""
    before, after = seed_means(old), seed_means(new)
    both = before.index.intersection(after.index)
    differences = (after - before).loc[both]
    rows, excluded = [], 0
    for (env, arm), group in differences.groupby(["env", "arm"], sort=False):
        row = {"environment": env, "arm": arm, "seeds": len(group)}
        for phase, name in MEASURES.items():
            found = t_interval(group[phase].to_numpy())
            row[name] = f"{found.mean:.4g} [{found.lo:.4g}, {found.hi:.4g}]"
            excluded += found.lo > 0 or found.hi < 0
        rows.append(row)
    table = pd.DataFrame(rows)
    return table, f"{excluded} of {len(MEASURES) * len(table)} intervals exclude zero."


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="folder of a finished study")
    parser.add_argument("new", type=Path, help="folder of the same study from another version")
    arguments = parser.parse_args()
    table, verdict = compare(arguments.old, arguments.new)
    print(table.to_markdown(index=False), verdict, sep="\n\n")


if __name__ == "__main__":
    main()
