PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test

# The default study, from training to figures. CONFIG=config/x.yaml runs another one.
study: .venv/installed
	$(BIN)/snakemake --cores all $(if $(CONFIG),--configfile $(CONFIG))

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/pytest

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
