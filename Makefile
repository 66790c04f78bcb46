PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test bench reference

# The default study, from training to figures. CONFIG=config/x.yaml runs another one.
study: .venv/installed
	$(BIN)/snakemake --cores all $(if $(CONFIG),--configfile $(CONFIG))

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/pytest

# How fast it is, on an idle machine, in about half an hour; PART=update measures that alone.
bench: .venv/installed
	$(BIN)/python -m benchmarks $(or $(PART),--out benchmarks/results)

# Keeps the small tables and the pictures of the finished default study with the code.
reference:
	mkdir -p results/reference/default/figures results/reference/default/tables
	cp results/default/summary.md results/reference/default/
	cp -r results/default/typeset results/reference/default/
	cp results/default/figures/*.png results/reference/default/figures/
	cd results/default/tables && cp runs.csv curves.csv scores.csv finals.csv references.csv \
	  aggregates.csv improvements.csv effects.csv differences.csv efficiency.csv power.csv \
	  sample_efficiency.csv baselines.csv ../../reference/default/tables/

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
