# On a fresh machine: `make train` or `make test`. Dependencies are installed into .venv, once.
#
#   ARGS="..."       arguments of the command, e.g. make train ARGS="algo=dqn seed=1"
#   EXTRAS=a,b       optional packages to install too: atari box2d minatar mujoco supervised sweep bench
#   PYTHON=...       the interpreter for a new .venv (3.11 or newer; found automatically)
#   WORKERS=n        test processes (0: run in pytest's own process, for --pdb)
#   TORCH=...        the torch requirement for pip. Default: the CUDA build if `nvidia-smi` finds a GPU, otherwise a
#                    CPU build if pip can find one, otherwise what the package registry has.
#                    To point pip at a CPU build, set PIP_FIND_LINKS to a folder with its wheel, or
#                    PIP_EXTRA_INDEX_URL to an index that has it (PyTorch's installation page names one per platform).
#                    Examples: TORCH=torch==2.13.0+cpu; TORCH=torch===2.13.0 (only the registry's build).

.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow lint format bench clean distclean FORCE

comma := ,
empty :=
space := $(empty) $(empty)

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
WORKERS ?= logical

# A stamp records what has been installed. It is written last, so an interrupted set-up leaves none.
STAMPS := $(VENV)/.stamps
EXTRA_LIST := $(sort $(subst $(comma),$(space),$(EXTRAS)))
extras = $(if $(strip $1),[$(subst $(space),$(comma),$(strip $1))])
stamp = $(STAMPS)/$(subst $(space),-,$(strip $1 $(EXTRA_LIST)))
TORCH_STAMP := $(STAMPS)/torch$(if $(TORCH),-$(subst /,_,$(subst =,_,$(subst :,_,$(subst $(space),_,$(TORCH))))))
TRAIN_STAMP := $(call stamp,train)
DEV_STAMP := $(call stamp,dev)
BENCH_STAMP := $(call stamp,bench)
install = $(PIP) install -c constraints.txt -e ".$(call extras,$1 $(EXTRA_LIST))"

# A .venv whose interpreter no longer exists is created again.
MISSING := $(shell $(PY) -c "" 2>/dev/null || echo FORCE)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
	    printf '%-16s %s\n' "$$target" "$$text"; done
	@echo
	@sed -n '3,/^$$/s/^# \{0,3\}//p' Makefile

setup: $(TRAIN_STAMP) ## install what training needs into .venv

train: $(TRAIN_STAMP) ## train (Double DQN on CartPole by default)
	@exec $(PY) src/train.py $(or $(value ARGS),experiment=double_dqn_cartpole)

pytest = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} exec $(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

test: $(DEV_STAMP) ## run the fast tests
	@$(pytest) -m "not slow" $(value ARGS)

test-slow: $(DEV_STAMP) ## run the slow tests: studies, killed processes, sweeps
	@$(pytest) -m slow $(value ARGS)

lint: $(DEV_STAMP) ## check style, formatting and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: $(DEV_STAMP) ## fix style and formatting automatically
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: $(BENCH_STAMP) ## measure speed against bare loops and other libraries
	@exec $(PY) benchmarks/run.py $(value ARGS)

clean: ## remove caches and build artifacts (never outputs/)
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## also remove .venv
	rm -rf $(VENV)

FORCE:

$(STAMPS)/venv: $(MISSING)
	@set -eu; \
	fits='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(PY) -c "import pip; $$fits" 2>/dev/null; then \
	    if [ -n "$${PYTHON:-}" ]; then set -- "$$PYTHON"; \
	    else set -- python3 python3.13 python3.12 python3.11 python; fi; \
	    found=; \
	    for candidate; do \
	        if "$$candidate" -c "$$fits" 2>/dev/null; then found=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "Python 3.11 or newer is needed. Tried: $$*. Set one with: make PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "Setting up $(VENV) with $$("$$found" --version) ($$found). This is done once."; \
	    if "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	        "$$found" -m venv --clear $(VENV); \
	    elif "$$found" -c 'import pip, venv' 2>/dev/null; then \
	        "$$found" -m venv --clear --without-pip $(VENV); \
	        "$$found" -m pip --python $(PY) install --quiet -c constraints.txt pip; \
	    else \
	        echo "$$found has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; \
	        exit 1; \
	    fi; \
	fi; \
	mkdir -p $(STAMPS); \
	$(PIP) install --quiet -c constraints.txt pip setuptools; \
	touch $@

$(TORCH_STAMP): $(STAMPS)/venv constraints.txt
	@set -eu; \
	rm -f $(STAMPS)/torch*; \
	torch="$${TORCH:-}"; \
	if [ -n "$$torch" ]; then \
	    :; \
	elif $(PIP) list 2>/dev/null | grep -Eq '^torch +$(subst .,[.],$(TORCH_VERSION))([+].*)?$$'; then \
	    torch="torch==$(TORCH_VERSION)"; \
	elif nvidia-smi -L >/dev/null 2>&1; then \
	    torch="torch===$(TORCH_VERSION)"; \
	elif $(PIP) install --quiet --dry-run --no-deps "torch==$(TORCH_VERSION)+cpu" >/dev/null 2>&1; then \
	    torch="torch==$(TORCH_VERSION)+cpu"; \
	else \
	    torch="torch==$(TORCH_VERSION)"; \
	    if [ "$$(uname -s)" = Linux ]; then \
	        echo "No GPU found, and pip finds no CPU build of torch: installing the registry's build, which may take several GB."; \
	        echo "To avoid this, stop and see TORCH in 'make help'."; \
	    fi; \
	fi; \
	$(PIP) install -c constraints.txt "$$torch"; \
	touch $(STAMPS)/torch $@

$(TRAIN_STAMP): $(TORCH_STAMP) pyproject.toml constraints.txt
	$(call install)
	@touch $@

$(DEV_STAMP): $(TORCH_STAMP) pyproject.toml constraints.txt
	$(call install,dev)
	@touch $(TRAIN_STAMP) $@

$(BENCH_STAMP): $(TORCH_STAMP) pyproject.toml constraints.txt
	$(call install,bench)
	@touch $(TRAIN_STAMP) $@
