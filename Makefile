PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test bench docs reference

# The default study, from training to figures. CONFIG=config/x.yaml runs another one.
study: .venv/installed
	$(BIN)/snakemake --cores all $(if $(CONFIG),--configfile $(CONFIG))

# Linters, types and tests. With MPO_REQUIRE_ALL=1 also the slow tests, and nothing may be skipped.
test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/lint-imports
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(if $(MPO_REQUIRE_ALL),,-m "not slow")

# How fast it is, on an idle machine, in half an hour to three quarters; PART=update measures that alone.
bench: .venv/installed
	$(BIN)/python -m benchmarks $(or $(PART),--out benchmarks/results)

# The documentation as a site that needs no network: open site/index.html.
SITE ?= site
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(abspath $(SITE))

# Keeps a finished study, and each rung of its tuning, with the code: the small tables, the pictures, and of each run all
# that they were made of. STUDY=small keeps another one.
STUDY ?= default
KEPT := results/reference/$(STUDY)
reference:
	mkdir -p $(KEPT)/figures $(KEPT)/tables
	cp results/$(STUDY)/summary.md $(KEPT)/
	cp -r results/$(STUDY)/typeset $(KEPT)/
	cp results/$(STUDY)/figures/*.png $(KEPT)/figures/
	for table in $$($(BIN)/python -c 'from mpo.study.files import KEPT; print(*KEPT)'); do \
	  cp results/$(STUDY)/tables/$$table.csv $(KEPT)/tables/ || exit 1; \
	done
	$(BIN)/python -m mpo merge results/$(STUDY) --into $(KEPT) --without-policies
	set -e; for stage in results/$(STUDY)-tuning results/$(STUDY)-tuning-rung*; do \
	  [ -d $$stage ] || continue; \
	  kept=results/reference/$$(basename $$stage); mkdir -p $$kept/tables; \
	  if [ -d $$stage/figures ]; then mkdir -p $$kept/figures; cp $$stage/figures/*.png $$kept/figures/; fi; \
	  for table in $$($(BIN)/python -c 'from mpo.study.files import TUNED; print(*TUNED)'); do \
	    cp $$stage/tables/$$table.csv $$kept/tables/; \
	  done; \
	  $(BIN)/python -m mpo merge $$stage --into $$kept --without-policies; \
	done

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
