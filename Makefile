# The one place for commands; CI runs the same ones (.ci/run). Everything is installed into .venv by the first that needs it.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What tests compare with. sam2 declares torchvision, which its predictor does without; vos-benchmark an OpenCV with windows.
PEERS := transformers pyyaml opencv-python-headless scikit-image
PEERS_WITHOUT_THEIR_DEPENDENCIES := sam2 iopath hydra-core omegaconf antlr4-python3-runtime portalocker vos-benchmark

.PHONY: demo test check parity bench docs clean

demo: .venv/installed  ## segment the example clip with the embedded model
	$(BIN)/masklet segment examples/bunny.mp4 \
	    --click-coordinates "[245,60],[510,190]" --click-object-ids bunny,rock \
	    --mask-type highlighted --output-video --per-object

test: .venv/installed-dev  ## every test; the parity tests at reduced size
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/installed-dev  ## format, lint, types, import floors
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

parity: .venv/installed-dev  ## every parity test, all sizes at full resolution (two to three hours on two cores)
	$(BIN)/python -m pytest -m "full or not full" tests/parity

bench: .venv/installed-dev  ## speed and memory beside Meta's package and transformers
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/memory.py

docs: .venv/installed-dev  ## write the pages that are made from code
	$(BIN)/python scripts/make_docs.py

clean:
	rm -rf .venv build dist

.venv/made:
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/made pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]' $(PEERS)
	$(PIP) --no-deps $(PEERS_WITHOUT_THEIR_DEPENDENCIES)
	touch $@
