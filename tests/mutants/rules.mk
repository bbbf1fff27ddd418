# Planted bugs: README.md. A scratch tree per job is in $(BUILD)-mutants and goes when all are through.
ONLY ?=
JOBS ?= 2
SIM  ?=

MUTANTS = /usr/bin/python3 tests/mutants/run.py --build $(BUILD) --only '$(ONLY)' --jobs $(JOBS) $(if $(SIM),--sim $(SIM))

mutants: all units $(BUILD)/quern-upstream $(BUILD)/quern-sim ## plant every known bug in a copy, show that its test notices; ONLY=name JOBS=2
	$(MUTANTS)

mutants-check: ## every planted bug still applies, and its catcher exists
	$(MUTANTS) --check

.PHONY: mutants mutants-check
CHECKS += mutants-check
