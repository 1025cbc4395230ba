# make demo    train on scikit-learn's digits, then name the digits on pictures that the training has not seen
# make test    run the tests          make lint    check style and types
# make fuzz    run the tests that draw their cases, with new ones
# make sanitize  test the kernels in a build that watches over memory and undefined behaviour
# make gpu     measure what only a GPU can show; without one it says so
# make bench   run the benchmarks     make clean   remove the environment and the caches, never runs/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
PICTURES := runs/held-out

# What an installation is made of. The Python code is used where it stands.
INSTALLED := pyproject.toml setup.py $(wildcard native/* native/jpeg/*)

.PHONY: demo test fuzz lint sanitize gpu bench clean
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

# Threads that wait leave the core to the other processes.
test: $(VENV)/installed-dev
	@.ci/debian-packages dataset-fashion-mnist chromium g++ libjpeg-dev openssl strace
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --fuzz-seed new

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The folder of these kernels; the tests that are quick in them and start no other program. What runs on AVX-512 alone
# runs with bfloat16 too, and tiles (AMX) are emulated.
SANITIZED := build/sanitize
SANITIZED_TESTS := tests/test_native.py tests/test_native_backward.py tests/test_native_products.py tests/test_native_averages.py tests/test_native_update.py tests/train/test_update.py tests/data/test_region.py tests/infer/test_compiled.py tests/infer/test_quantize.py tests/infer/test_shapes.py \
	tests/infer/test_concatenations.py tests/infer/test_windows.py tests/infer/test_pointwise.py tests/infer/test_ops.py
NOT_SANITIZED := 299 or whole_networks or is_native or environment or another_version or allocator or compiles or exported or fault or avx512- or [avx512]

# A process a core, and threads where a test asks for them: more that spin for each other would only stand in the way.
# First of all, the kernels of this build are there to be tested: without kernels most tests would have nothing to do.
sanitize: $(VENV)/installed-dev
	DEPTHWISE_CFLAGS="-O1 -g1 -fsanitize=address,undefined -fno-omit-frame-pointer -w -DNATIVE_AMX_EMULATED" \
		$(BIN)/python setup.py --quiet build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	@export DEPTHWISE_KERNELS="$(CURDIR)/$(SANITIZED)/depthwise/native" \
		LD_PRELOAD="$$(for name in asan ubsan stdc++; do $(CXX) -print-file-name=lib$$name.so; done | xargs)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 OMP_NUM_THREADS=1; \
	$(BIN)/python -c "from depthwise import native; native.use('portable')" && \
	$(BIN)/python -m pytest --numprocesses 2 $(SANITIZED_TESTS) -k "not ($(NOT_SANITIZED))"

# NVIDIA's devices, AMD's, and those of Windows' Linux: without one nothing is installed for it.
gpu:
	@if ls /dev | grep -qE '^(nvidia[0-9]|kfd|dxg)'; then \
		$(MAKE) $(VENV)/installed-dev && $(BIN)/python benchmarks/gpu.py; \
	else \
		echo "There is no CUDA device here, so nothing was measured: run this where PyTorch finds one."; \
	fi

bench: $(VENV)/installed-dev
	@for script in benchmarks/*.py; do echo "== $$script" && $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache

# Each file is written last, so that an interrupted installation is taken up again.
$(VENV)/installed: $(INSTALLED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	@touch $@

# Without a compiler and libjpeg-turbo the package works, but its kernels are neither built nor tested.
$(VENV)/installed-dev: $(INSTALLED)
	@.ci/debian-packages g++ libjpeg-dev || echo "Going on without the native kernels."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $(VENV)/installed $@
