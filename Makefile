# What people type. The work is in tools/setup.sh, lab/ and tests/; nothing here needs a fixed path.

PYTHON := .venv/bin/python
ARGS ?=
# A worker for each processor: with more, tests of what is promised within a second may be kept from
# theirs. Tests of one file share what is dear to make, and the order keeps the slow system tests from
# coming last.
SIDE_BY_SIDE = --numprocesses $$(nproc) --dist loadfile --no-loadscope-reorder

.PHONY: help demo demo-down test lint bench soak chaos fuzz interop lab-test page-test bpf deb deb-check docs venv clean

help:
	@echo "make demo          two sites become one LAN, shown in network namespaces (KEEP=1 leaves it up)"
	@echo "make demo-down     remove what make demo KEEP=1 left up"
	@echo "make test          the whole test suite, system tests included (ARGS='-k name' narrows it)"
	@echo "make lint          ruff, mypy --strict, and the eBPF object against its source"
	@echo "make bench         benchmarks: a table, and JSON in benchmarks/results"
	@echo "make soak          virtual days of faults, and whether memory stays flat (ARGS='--days 2 --seed 1')"
	@echo "make chaos         real daemons under all kinds of faults by chance, and what is promised"
	@echo "                   (ARGS='--seed 7 --minutes 5 --only \"clock|cable\"')"
	@echo "make fuzz          coverage-guided fuzzing (ARGS='--seconds 600' or '--runs 1000000')"
	@echo "make interop       FRR's nhrpd and ours together, in a user-mode-linux guest with GRE devices"
	@echo "make lab-test      README's ten-minute lab, word for word (half a minute)"
	@echo "make page-test     the status page in a browser (Debian package chromium; PICTURE=1 for docs)"
	@echo "make bpf           build the eBPF object anew (it is kept in git)"
	@echo "make deb           build the Debian package into dist"
	@echo "make deb-check     build it, and try it in a fresh Debian (minutes)"
	@echo "make docs          write the generated parts of documentation, manual and completion"
	@echo "make venv          only install what the others need"
	@echo "make clean         remove what these commands made in the checkout"

demo:
	@tools/setup.sh demo
	@$(PYTHON) -m lab.demo $(if $(filter-out 0 no,$(KEEP)),--keep)

demo-down:
	@tools/setup.sh demo
	@$(PYTHON) -m lab.demo --down

test:
	@tools/setup.sh test
	@$(PYTHON) -m pytest $(if $(ARGS),$(ARGS),$(SIDE_BY_SIDE))

lint:
	@tools/setup.sh test
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@tools/check_bpf.sh

fuzz:
	@tools/setup.sh fuzz
	@$(PYTHON) -m fuzz $(ARGS)

lab-test:
	@tools/setup.sh test
	@$(PYTHON) -m pytest labtest $(ARGS)

page-test:
	@tools/setup.sh page
	@$(PYTHON) -m pytest pagetest $(ARGS)

bench:
	@tools/setup.sh test
	@$(PYTHON) -m benchmarks $(ARGS)

interop:
	@[ "$$(id -u)" = 0 ] || { echo "interop: skipped: it needs root"; exit 0; }; \
		tools/setup.sh demo && $(PYTHON) -m interop $(ARGS)

soak:
	@tools/setup.sh test
	@$(PYTHON) -m tests.soak $(ARGS)

chaos:
	@tools/setup.sh chaos
	@$(PYTHON) -m lab.chaos $(ARGS)

bpf:
	@tools/setup.sh test
	@tools/build_bpf.sh

deb:
	@tools/build_deb.sh

deb-check: deb
	@tools/check_deb.sh dist/dmevpn_*.deb $(ROOT)

docs:
	@tools/setup.sh test
	@$(PYTHON) tools/generate_docs.py
	@$(PYTHON) -m dmevpn.admin.help >docs/admin.md

venv:
	@tools/setup.sh test

clean:
	rm -rf .venv .interop build dist dmevpn.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name dropin.cache -delete
