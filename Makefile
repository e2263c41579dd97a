# Everything sets itself up in .venvs/: Python (3.10 to 3.13, with venv) and make are all it needs.
PYTHON ?= python3
AIRFLOW ?= 3.3
ALL_AIRFLOWS = 2.11 3.0 3.1 3.2 3.3

SLOW = slow
VENV = .venvs/$(AIRFLOW)
UV = .venvs/uv/bin/uv

.PHONY: help demo airflow test test-slow coverage test-all test-pythons lint bench bench-routing constraints clean
help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/ready ## Run a shift hand-over against a local Splashify, and print who got what
	$(VENV)/bin/python dags/demo/run.py

airflow: $(VENV)/ready ## The same in Airflow's UI, with the inbox page beside it (ports: AIRFLOW_PORT, SANDBOX_PORT)
	$(VENV)/bin/python dags/demo/ui.py

test: $(VENV)/ready ## Run the fast tests on Airflow 3.3 (AIRFLOW=2.11 for another)
	$(VENV)/bin/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/ready ## Run the tests that install wheels and run whole DAGs
	$(VENV)/bin/python -m pytest -m $(SLOW)

coverage: $(VENV)/ready ## Run the fast tests and list the branches that they don't reach; below 95 % it fails
	$(VENV)/bin/python -m pytest -n auto -m "not slow" --cov

test-all: ## Run the fast tests and whole hand-overs on every Airflow minor version, the slow ones on the oldest and the newest
	set -e; for version in $(ALL_AIRFLOWS); do \
	  echo "== Airflow $$version"; $(MAKE) --no-print-directory test AIRFLOW=$$version; done
	set -e; for version in 3.0 3.1 3.2; do \
	  $(MAKE) --no-print-directory test-slow SLOW=every_airflow AIRFLOW=$$version; done
	$(MAKE) --no-print-directory test-slow AIRFLOW=2.11
	$(MAKE) --no-print-directory test-slow AIRFLOW=3.3

test-pythons: $(UV) ## Run the fast tests on every other Python that is installed here
	set -e; for version in 3.10 3.12 3.13; do \
	  if python=$$($(UV) python find --system --no-managed-python $$version 2>/dev/null); then \
	    echo "== Python $$version"; \
	    $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venvs/python-$$version; \
	  else echo "== Python $$version is not installed here"; fi; done

lint: $(VENV)/ready ## Check style, types and declared dependencies
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/deptry .

bench: $(VENV)/ready ## Measure speed, pacing, memory and parse time beside what one would use instead
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --compile-bytecode -c constraints/airflow-$(AIRFLOW).txt --group bench
	PYTHONPATH=. PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python benchmarks/run.py $(PARTS)

bench-routing: $(VENV)/ready ## Compare plans with round robin and hash modulo, and write benchmarks/ROUTING.md
	$(VENV)/bin/python benchmarks/routing.py

constraints: $(UV) ## Renew the pins in constraints/
	set -e; for version in $(ALL_AIRFLOWS); do \
	  $(UV) pip compile --quiet --universal --python-version 3.10 --upgrade --no-header --no-annotate \
	    --no-emit-package airflow-provider-splashify --group dev --group bench --extra ical \
	    -o constraints/airflow-$$version.txt pyproject.toml constraints/airflow-$$version.in; done

clean: ## Remove everything that was set up
	rm -rf .venvs .demo dist .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(UV):
	@$(PYTHON) -m venv .venvs/uv || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)"; exit 1; }
	@.venvs/uv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints/uv.txt uv

$(VENV)/ready: pyproject.toml constraints/airflow-$(AIRFLOW).txt | $(UV)
	@echo "Setting up Airflow $(AIRFLOW) in $(VENV) ..."
	@$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --compile-bytecode -c constraints/airflow-$(AIRFLOW).txt \
	  "apache-airflow==$(AIRFLOW).*" --group dev -e ".[ical]"
	@touch $@
