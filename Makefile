# Needs make and Python 3.11 or later, nothing else: what is missing is installed into .venv, once.
# Another Python than the first that is found: make PYTHON=/path/to/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:

PYTHON ?=
ARGS ?=
PINNED ?=
BIN := .venv/bin

# FORCE where .venv cannot be used: its Python is gone, another PYTHON is asked for, or the checkout was moved or copied,
# so that the packages in it are still imported from the old place.
REMAKE := $(shell { sed -n 1p .venv/.made | grep -Fqx "$$(pwd -P)" \
	&& { [ -z '$(PYTHON)' ] || sed -n 2p .venv/.made | grep -Fqx -e '$(PYTHON)'; } \
	&& $(BIN)/python -c ''; } >/dev/null 2>&1 || echo FORCE)

# FORCE where the packages in .venv are not those of this checkout, as after `pip install .` in it.
REINSTALL := $(shell $(BIN)/python -I -c 'import importlib.util, os, sys; found = importlib.util.find_spec("redis_store"); \
	sys.exit(found is None or not os.path.samefile(os.path.dirname(found.origin), "redis_store"))' >/dev/null 2>&1 || echo FORCE)

# Installs an extra of frameworks and runs its tests, in an environment of its own, so that .venv has only what the store needs. ADK
# needs older packages than the others. uv takes seconds, pip most of a minute; but pip alone reads pip's configuration, which may
# name a mirror, so it is tried where uv fails. With ARGS, a run in which no test is selected has not failed.
define test_frameworks
	@[ -x .venv/$(1)/bin/python ] || { echo "Making .venv/$(1) ..." && $(BIN)/python -m venv .venv/$(1); }
	@[ -x .venv/$(1)/bin/uv ] || .venv/$(1)/bin/python -m pip install --quiet --disable-pip-version-check uv || :
	@echo "Installing the frameworks of [$(1)] into .venv/$(1) ..."
	@wanted="--quiet --editable .[$(1),test] $(if $(PINNED),--constraint tests/integrations/$(1).pinned.txt,--upgrade)"; \
		VIRTUAL_ENV=.venv/$(1) .venv/$(1)/bin/uv pip install $$wanted || \
		.venv/$(1)/bin/python -m pip install --disable-pip-version-check $$wanted
	INTEGRATIONS=1 .venv/$(1)/bin/python -m pytest $(2) $(ARGS)$(if $(ARGS), || [ $$? -eq 5 ])
endef

.PHONY: help demo check test lint format coverage picture bench bench-quick bench-watch bench-sandbox bench-harm bench-memory bench-charges test-integrations pin-integrations soak services histories fuzz fuzz-values bench-operators bench-console cluster docs plots recordings screenshots clean distclean FORCE

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1:/p' Makefile | while IFS=: read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: .venv/.demo ## agents at work on Python's standard library, with an embedded server
	@$(BIN)/python examples/demo.py $(ARGS)

test: lint ## all checks and all tests; ARGS="-k name" for some of them
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: lint ## style, types, and the tests that need no server, in under a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not server" $(ARGS)

coverage: .venv/.test ## branch coverage of all tests, by package
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report= $(ARGS)
	@$(BIN)/python -m tests.support.coverage_by_package

lint: .venv/.test ## style, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: .venv/.test ## put the code into shape
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: .venv/.bench ## every figure beside its aim, on Redis 7, Redis 8 and Valkey; memory, other libraries, growth; in a quarter of an hour
	@$(BIN)/python -m benchmarks.full $(ARGS)

bench-quick: .venv/.test ## get, set and batches of real documents beside redis-py, on the three servers; ARGS="--rows set /path/to/redis-server"
	@$(BIN)/python -m benchmarks.quick $(ARGS)

bench-watch: .venv/.test ## from a write to who watches, beside pub/sub and XREAD BLOCK
	@$(BIN)/python -m benchmarks.watching $(ARGS)

test-integrations: .venv/.made ## the suites of the frameworks that the store stands behind, in their newest versions; PINNED=1 for CI's
	$(call test_frameworks,integrations,tests/integrations --ignore=tests/integrations/test_adk.py -n 2 --dist loadfile)
	$(call test_frameworks,adk,tests/integrations/test_adk.py)

pin-integrations: test-integrations ## test the frameworks, and let CI use these versions from now on
	for extra in integrations adk; do .venv/$$extra/bin/python -m pip freeze --exclude-editable \
		> tests/integrations/$$extra.pinned.txt || exit 1; done

soak: .venv/.test ## watching put through faults, for ten minutes; ARGS=60 for an hour
	@$(BIN)/python -m tests.support.soak $(ARGS)

services: .venv/.test ## the contract and the watch suite on each managed service, played by access lists
	for service in elasticache elasticache-serverless memorydb redis-cloud upstash memorystore; do \
		echo "$$service:"; SERVICE=$$service $(BIN)/python -m pytest -q -n 2 tests/contract tests/redis_store/watch $(ARGS) || exit 1; done

cluster: .venv/.test ## the contract suite on three primaries with replicas, and nodes that move slots and die, on Valkey and Redis 7
	SERVICE=cluster $(BIN)/python -m pytest -q -n 2 tests/contract $(ARGS)
	for kind in valkey9 redis7 redis8; do CLUSTER=$$kind $(BIN)/python -m pytest -q tests/redis_store/services/test_cluster_moves.py \
		$(ARGS) || exit 1; done

histories: .venv/.test ## random histories under faults, checked, for ten minutes; ARGS="--seconds 3600 --seed N"
	@$(BIN)/python -m tests.support.histories $(ARGS)

fuzz: .venv/.test ## random requests under random permissions, judged, for ten minutes; ARGS="--seconds 3600 --seed N"
	@$(BIN)/python -m tests.support.rights_fuzz $(ARGS)

fuzz-values: .venv/.test ## a million random values and texts, here and in the sandbox, judged; ARGS="--count N --seed N"
	@$(BIN)/python -m tests.support.values_fuzz $(ARGS)

bench-sandbox: .venv/.test ## what isolation costs: runs beside a bare interpreter, calls beside redis-py
	@$(BIN)/python -m benchmarks.sandbox $(ARGS)

bench-harm: .venv/.test ## for how long a call of an agent keeps the server from others; ARGS="/path/to/redis-server ..."
	@$(BIN)/python -m benchmarks.harm $(ARGS)

bench-memory: .venv/.test ## the peak of memory of the biggest calls, in the host and in an agent
	@$(BIN)/python -m benchmarks.memory $(ARGS)

bench-charges: .venv/.test ## the server's memory for each byte that an agent is charged for; ARGS="/path/to/redis-server ..."
	@$(BIN)/python -m benchmarks.charges $(ARGS)

bench-console: .venv/.test ## the console's pages on 3 million keys, and how long others wait; ARGS="--keys 200000 --big 100000"
	@$(BIN)/python -m benchmarks.console $(ARGS)

bench-operators: .venv/.test ## operators' commands on 2 million keys, and how long others wait; ARGS="--keys 200000 /path/to/redis-server"
	@$(BIN)/python -m benchmarks.operators $(ARGS)

docs: .venv/.docs ## the documentation as a site, in build/site; a broken link is an error
	@$(BIN)/python -m docs.site.build

plots: .venv/.demo ## the plots of docs/benchmarks.md, from its tables
	@$(BIN)/python -m benchmarks.plots

recordings: .venv/.test ## the terminals of docs/images, from the commands of docs/ as they really run
	@$(BIN)/python -m docs.site.recordings

picture: ## docs/images/architecture.svg from its source (needs graphviz)
	dot -Tsvg docs/images/architecture.dot -o docs/images/architecture.svg

screenshots: .venv/.test ## every page of the console, in both themes, wide and narrow; those of the documentation (needs chromium)
	@$(BIN)/python -m tests.support.screenshots $(ARGS)

clean: ## remove the demo's data, the benchmarks' and the caches
	@if [ -d .demo ] && [ -x $(BIN)/redis-store ]; then \
		$(BIN)/redis-store server destroy --data-dir .demo --yes --force || :; fi
	rm -rf .demo .bench .coverage build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf .venv

.venv/.demo: .venv/.made pyproject.toml $(REINSTALL)
	@echo "Installing the packages into .venv (once; up to a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.test: .venv/.made pyproject.toml $(REINSTALL)
	@echo "Installing the packages and what tests them into .venv (once; up to two minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch .venv/.demo $@

.venv/.bench: .venv/.made pyproject.toml $(REINSTALL)
	@echo "Installing the packages and what they are compared with into .venv (once; up to two minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch .venv/.demo $@

.venv/.docs: .venv/.made pyproject.toml $(REINSTALL)
	@echo "Installing the packages and what makes the site into .venv (once; up to a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch .venv/.demo $@

.venv/.made: $(REMAKE)
	@is_new_enough() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	is_python() { "$$1" -c '' 2>/dev/null; }; \
	wanted='$(PYTHON)'; found=; \
	if [ -e .venv/pyvenv.cfg ] && [ ! -e $@ ]; then \
		if [ -z "$$wanted" ] && is_new_enough $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
			echo "Using the .venv that is here, with $$($(BIN)/python -V) ..."; \
			{ pwd -P; echo; } > $@; exit 0; \
		else \
			echo "make did not make the .venv that is here, and cannot use it: move it away." >&2; exit 1; fi; fi; \
	if [ -n "$$wanted" ]; then \
		if is_new_enough "$$wanted"; then found=$$wanted; \
		elif is_python "$$wanted"; then \
			echo "PYTHON=$$wanted is $$("$$wanted" -V 2>&1), and Python 3.11 or later is needed." >&2; exit 1; \
		else echo "PYTHON=$$wanted is no Python that can be run." >&2; exit 1; fi; \
	else \
		for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
			if is_new_enough "$$python"; then found=$$python; break; fi; done; \
		if [ -z "$$found" ]; then \
			is_python python3 && old=" (python3 is $$(python3 -V 2>&1))" || old=; \
			echo "Python 3.11 or later is needed, and none is on the PATH$$old:" \
				"install one, or say where it is with make PYTHON=/path/to/python3" >&2; exit 1; fi; fi; \
	echo "Making .venv with $$("$$found" -V) ..."; \
	"$$found" -m venv --clear .venv || { \
		echo "No .venv could be made, see above (Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; }; \
	{ pwd -P; printf '%s\n' "$$wanted"; } > $@
