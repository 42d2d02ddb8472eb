# The words of this project; CI calls the same ones.
.DEFAULT_GOAL := help
PY := .venv/bin/python
STAMP := .venv/.offhook-installed

help:  ## list the words
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP)  ## make .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml deploy/install.sh
	@deploy/install.sh
	@touch $(STAMP)

lock: $(STAMP)  ## resolve the dependencies again, newer ones too with UPGRADE=1
	deploy/requirements/lock.sh $(if $(UPGRADE),--upgrade)

format: $(STAMP)  ## format the code
	.venv/bin/ruff check --fix-only -q .
	.venv/bin/ruff format .

check: $(STAMP)  ## style, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy router worker shared tests deploy
	.venv/bin/lint-imports

# a machine that others share stands still now and then: what fails is done once more, and the summary counts it
test: $(STAMP)  ## all tests, three files at a time (ARGS are given to pytest)
	$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --reruns 1 $(ARGS)

containers: $(STAMP)  ## build the images, and test an installation in containers; skipped where none can run
	$(PY) -m pytest -s -rfE tests/containers $(ARGS)

chaos: $(STAMP)  ## kill and stop everything, and fuzz, for long; SEEDS=<how many>, SEED=<the first>
	TEST_EFFORT=long SEEDS=$(or $(SEEDS),20) SEED=$(or $(SEED),12) $(PY) -m pytest tests/chaos tests/fuzz tests/system $(ARGS)

coverage: $(STAMP)  ## all tests with branch coverage
	$(PY) -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

demo: $(STAMP)  ## answer calls on embedded parts; KEEP=1 keeps serving
	@$(PY) -m deploy.demo

bench: $(STAMP)  ## measure, beside stock Pipecat; ten minutes, QUICK=1 one
	@$(PY) -m tests.bench

bench-own: $(STAMP)  ## measure this project alone, in long series
	@$(PY) -m tests.bench own

bench-faults: $(STAMP)  ## measure kills, restarts and bursts
	@$(PY) -m tests.bench faults

doctor: $(STAMP)  ## check this installation before the first caller does (ARGS as in offhook-doctor --help)
	@.venv/bin/offhook-doctor $(ARGS)

run: $(STAMP)  ## router, pool and prefetchers with the settings of .env
	@$(PY) -m deploy.run

clean:  ## remove what the words above made
	rm -rf .venv .run .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage

.PHONY: help install lock format check test containers chaos coverage demo bench bench-own bench-faults doctor run clean
