# Which branches of the core and of the parsers no test takes.

COVERAGE_SEEDS ?= 100
COVERAGE = $(MAKE) BUILD=build-coverage CFLAGS='-O0 -g --coverage' HARDEN=-fPIE LDHARDEN='-pie --coverage' ALLOC=

coverage: ## branches that units, traces, refused memory and the simulation take; the gaps in build-coverage/gaps.txt
	@mkdir -p build-coverage && find build-coverage -name '*.gcda' -delete
	$(COVERAGE) -j$$(nproc) units
	$(COVERAGE) test
	$(COVERAGE) faults
	$(COVERAGE) sim SEEDS=$(COVERAGE_SEEDS)
	@/usr/bin/python3 tests/coverage/coverage.py build-coverage

.PHONY: coverage
