# make demo    train on scikit-learn's digits, then name the digits on pictures that the training has not seen
# make test    run the tests          make lint    check style and types
# make bench   run the benchmarks     make clean   remove the environment and the caches, never runs/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
PICTURES := runs/held-out

# What an installation is made of. The Python code is used where it stands.
INSTALLED := pyproject.toml setup.py $(wildcard native/*)

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@echo "== Training Xception on scikit-learn's digits, 1437 pictures of 8x8 pixels. An earlier $(DEMO) is replaced."
	$(BIN)/depthwise train --data digits --model xception --recipe small --out $(DEMO) --force
	@echo "== Writing eight pictures that the training has not seen, each into the folder of its true class."
	$(BIN)/depthwise data export digits --split test --limit 8 --out $(PICTURES) --force
	@echo "== What the trained network says they are:"
	$(BIN)/depthwise predict $(DEMO) $(PICTURES) --topk 2
	@echo "== Done. Next:"
	@echo "   open $(DEMO)/report.html in a browser: the curves, the confusion matrix, the network's mistakes"
	@echo "   train on your own pictures, one folder a class:"
	@echo "   $(BIN)/depthwise train --data FOLDER --model xception --out runs/mine"

test: $(VENV)/installed-dev
	@.ci/debian-packages dataset-fashion-mnist chromium g++
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/installed-dev
	@for script in benchmarks/*.py; do echo "== $$script" && $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache

# Each file is written last, so that an interrupted installation is taken up again.
$(VENV)/installed: $(INSTALLED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	@touch $@

# Without a compiler the package works, but its kernels are neither built nor tested.
$(VENV)/installed-dev: $(INSTALLED)
	@.ci/debian-packages g++ || echo "Going on without a C++ compiler."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $(VENV)/installed $@
