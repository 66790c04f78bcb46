"""Whether a study learns as before: the same runs, made by two versions of the code.

    python -m benchmarks.versions OLD NEW

Each is the folder of a finished study, such as results/default. Seeds pair: a difference is of one
seed, new minus old. Prints, for each environment and arm, the mean difference of the final returns
and of the mean returns over the learning curve with their 95 % t intervals, and how many of these
exclude zero; of intervals of equal learners one in twenty does.
"""

import argparse
from pathlib import Path

import pandas as pd

from mpo.analysis.intervals import t_interval

MEASURES = {"final": "final return", "online": "mean return over the learning curve"}


def seed_means(study: Path) -> pd.DataFrame:
    """Returns of the mean action, a row an environment, arm and seed, a column a phase."""
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
    """A table of the differences, and what they amount to."""
    before, after = seed_means(old), seed_means(new)
    both = before.index.intersection(after.index)
    differences = (after - before).loc[both]
    rows, excluded = [], 0
    for (env, arm), group in differences.groupby(["env", "arm"], sort=False):
        row = {"environment": env, "arm": arm, "seeds": len(group)}
        for phase, name in MEASURES.items():
            found = t_interval(group[phase].to_numpy())
            row[name] = f"{found.mean:.4g} [{found.lo:.4g}, {found.hi:.4g}]"
            excluded += not found.lo <= 0 <= found.hi
        rows.append(row)
    table = pd.DataFrame(rows)
    return table, f"{excluded} of {len(MEASURES) * len(table)} intervals exclude zero."


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a finished study")
    parser.add_argument("new", type=Path, help="the same study, made by another version")
    arguments = parser.parse_args()
    table, verdict = compare(arguments.old, arguments.new)
    print(table.to_markdown(index=False), verdict, sep="\n\n")


if __name__ == "__main__":
    main()
