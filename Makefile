# make demo    train on scikit-learn's digits and name the digits on held-out pictures
# make test    run the tests        make lint    check style and types
# make bench   run the benchmarks   make clean   remove the environment and caches, never runs/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
PICTURES := runs/held-out

# What an installation is made of: the Python code is used where it stands.
INSTALLED := pyproject.toml setup.py $(wildcard native/*)

# What the tests need from the system: a data set that is a package, and a browser to open the report in.
DEBIAN_PACKAGES := dataset-fashion-mnist chromium

.PHONY: demo test lint bench clean debian-packages
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@echo "== Training Xception on scikit-learn's digits: 1437 pictures of 8x8 pixels. An earlier $(DEMO) is replaced."
	$(BIN)/depthwise train --data digits --model xception --recipe small --out $(DEMO) --force
	@echo "== Writing eight pictures that the training has not seen, each in the folder of its true class."
	$(BIN)/depthwise data export digits --split test --limit 8 --out $(PICTURES) --force
	@echo "== What the trained network says they are:"
	$(BIN)/depthwise predict $(DEMO) $(PICTURES) --topk 2
	@echo "== Done. Next:"
	@echo "   open $(DEMO)/report.html in a browser: curves, confusion matrix, the network's mistakes"
	@echo "   train on your own pictures, one folder a class:"
	@echo "   $(BIN)/depthwise train --data FOLDER --model xception --out runs/mine"

test: $(VENV)/installed-dev debian-packages
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/installed-dev
	@for script in benchmarks/*.py; do echo "== $$script" && $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache

# The two files are written last, so that an interrupted installation is taken up again.
$(VENV)/installed: $(INSTALLED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/installed-dev: $(INSTALLED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $(VENV)/installed $@

debian-packages:
	@missing=; \
	for package in $(DEBIAN_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "The tests need these Debian packages: run 'sudo apt-get install$$missing', then make test again." >&2; exit 1; \
	fi; \
	apt-get update -qq </dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing </dev/null
