#!/usr/bin/env bash
# Trains as many runs of a study as fit into some seconds, for instance on a GPU machine that is lent for that long.
#
#   workflow/scripts/part_of_study.sh SECONDS OUT.tar.gz ARGUMENT_OF_SNAKEMAKE...
#
# When the time is over, Snakemake and its jobs are stopped. OUT.tar.gz then holds what tables are made of, of all runs
# that are trained and evaluated, as results/STUDY. `mpo merge` takes it in elsewhere. Another call here goes on where
# this one was stopped.
set -euo pipefail
if [ "$#" -lt 3 ] || ! [[ "$1" =~ ^[1-9][0-9]*$ ]] || [[ "$2" != *.tar.gz ]]; then
    echo "usage: $0 SECONDS OUT.tar.gz ARGUMENT_OF_SNAKEMAKE..., received: $*" >&2
    exit 2
fi
seconds=$1 out=$2
shift 2

# Trainings that are told to stop save their state; a minute is enough for the largest.
stopped=0 failed=0
timeout --kill-after=60 "$seconds" snakemake "$@" || stopped=$?
case $stopped in
    0) echo "All of the study is done." ;;
    124 | 137) echo "The time is over." ;;
    *)
        echo "Snakemake ended with exit status $stopped. What is finished is packed." >&2
        failed=1
        ;;
esac

pack=$(mktemp -d)
trap 'rm -rf "$pack"' EXIT
mkdir "$pack/results"
for study in results/*/; do
    [ -d "$study/runs" ] || continue
    python -m mpo merge "$study" --into "$pack/results/$(basename "$study")" --without-policies
done
tar -czf "$out" -C "$pack" results
echo "$out: $(find "$pack" -name evals.json | wc -l) runs"
exit $failed
