# `make demo` and `make test` are all a newcomer needs; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := flashvid pipeline jobs

.DEFAULT_GOAL := help
.PHONY: help install demo check format cluster-up cluster-down test test-slow gpu-check chaos fuzz lock tiny-random tiny-model

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## the virtual environment in .venv, pinned by constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## the main job on sample videos with the embedded model, into ./demo-output
	$(BIN)/flashvid demo --output demo-output

check: install  ## ruff, formatting, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install  ## rewrite the sources as `make check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cluster-up: install  ## S3, a Ray head and two workers on this machine, and the demo job on them, in ./stand-in
	$(BIN)/python infra/local/stand_in.py up

cluster-down: install  ## end and delete all of that
	$(BIN)/python infra/local/stand_in.py down

test: install  ## the fast tests, about 5 minutes on two cores
	$(BIN)/python -m pytest

test-slow: install $(VENV)/torchvision  ## every test, the slow ones included
	FLASHVID_TORCHVISION=$(CURDIR)/$(VENV)/torchvision $(BIN)/python -m pytest -m 'slow or not slow'

# Hugging Face's own video processors need it, to compare ours with; without it those tests are skipped and say so.
$(VENV)/torchvision: | $(VENV)/.installed
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ torchvision==0.28.0

gpu-check: install  ## what needs a GPU to be seen; says why it skips where there is none
	$(BIN)/python -m tests.gpu_check

chaos: install  ## kills, stops, full disks, bit flips, a bad network: the tables of undisturbed runs, in 35 minutes
	$(BIN)/python -m tests.chaos --clips 200 --kills 30 --seed 1

fuzz: install  ## hostile job files, tables, command lines, videos, objects: one message each, in at most 10 minutes
	$(BIN)/python -m tests.fuzz --minutes 10

lock: install  ## write constraints.txt from what is installed
	@(sed -n '/^#/p' constraints.txt; echo 'torch==2.13.0'; \
	  $(BIN)/pip list --format=freeze --exclude-editable | grep -v -e '^pip=' -e '^torch=') > constraints.tmp
	@mv constraints.tmp constraints.txt

tiny-random: install  ## rebuild the embedded random-weight model (byte for byte the committed one)
	$(BIN)/python -m jobs.lab.tiny_model.tiny_random flashvid/models/embedded/tiny-random

tiny-model: install  ## train the embedded model from nothing, in ./tiny-work: 3 hours on two cores; goes on if stopped
	$(BIN)/python -m jobs.lab.tiny_model.train --work-dir tiny-work --processes 2
