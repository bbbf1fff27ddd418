# Want of memory: each program refuses the allocations of its part's entry points one after another and tells how many.
FAULTS := $(patsubst tests/fault/%.c,$(BUILD)/tests/%,$(wildcard tests/fault/fault_*.c))

$(BUILD)/tests/fault_%: $(BUILD)/tests/fault/fault_%.o $(TESTLIB) $(BUILD)/libbroker.a $(BUILD)/libcore.a $(BUILD)/libworker.a $(BUILD)/libapi.a $(SHARED)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(PKG_LIBS) -lcmocka

faults: $(FAULTS)
	@set -e; for t in $(sort $(FAULTS)); do echo "== $$t"; timeout 300 $$t; done

check-fault: ## memory refused at every allocation of every entry point, without and with the sanitizers
	$(MAKE) faults
	$(MAKE) SAN=1 faults

.PHONY: faults check-fault
CHECKS += check-fault
