# HTTP framing against nginx and HAProxy: README.md.

CASES ?= 3000

framing: $(BUILD)/quern-api ## CASES= SEED= CASE=: the same bytes to Quern, nginx and HAProxy, which must see the same requests
	QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/framing/framing.py --cases $(CASES) --seed $(or $(SEED),1) $(if $(CASE),--case $(CASE))

check-framing: ## the short form
	$(MAKE) framing CASES=1500
CHECKS += check-framing

.PHONY: framing check-framing
