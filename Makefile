# `make demo` runs the main job, `make test` the tests that a change needs. The first use of either makes .venv.
# DEMO are the overrides of the demo, for example: make demo DEMO="dataset=digits seed=3"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= labelled.count=5 labelled.folds=0 mixture.compare_random=true
# Options of `make torture`, for example: make torture TORTURE="--parts kills --minutes 20"
TORTURE ?=

.PHONY: demo test test-all lint types pytest slow torture notebooks builtin clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	$(BIN)/python train_ppo.py $(DEMO)

test: lint types pytest

# The slow tests too: whole commands, trainings, benchmarks.
test-all: test slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

pytest: $(VENV)/ready
	$(BIN)/python -m pytest -n auto -m "not slow"

slow: $(VENV)/ready
	$(BIN)/python -m pytest -n auto -m slow

# Kills, damaged files, crowds, full disks and mistakes: an hour on two idle cores (docs/reliability.md).
torture: $(VENV)/ready
	$(BIN)/python -m benchmarks.torture $(TORTURE)

# Executes the notebooks of results-ipynb/ in place (some minutes): do it when what they show has changed.
notebooks: $(VENV)/ready
	$(BIN)/python -m benchmarks.notebooks

# Retrains the two small worlds that ship inside the package, and the critics of digits (some minutes).
builtin: $(VENV)/ready
	$(BIN)/python train_detector.py dataset=digits device=cpu detector.num_start_images=256 export=latent_env/builtin/digits
	$(BIN)/python train_detector.py dataset=phantom device=cpu detector.num_start_images=128 export=latent_env/builtin/phantom
	$(BIN)/python train_ppo.py env=latent_denoise env.artifacts=digits dataset=digits device=cpu export=latent_env/builtin/digits
	$(BIN)/python train_ppo.py env=latent_denoise env.space=pixel dataset=digits device=cpu export=latent_env/builtin/digits
	$(BIN)/python -m latent_env.worlds.half_precision latent_env/builtin/digits latent_env/builtin/phantom
	$(BIN)/python -m stages.export.test_images latent_env/builtin/digits latent_env/builtin/phantom
	$(BIN)/python -m stages.export.copied_anomalies latent_env/builtin/phantom

clean:
	rm -rf $(VENV) runs prepared build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "LatentAug needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): PyTorch is large, the first time takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
