# The simulation: every object of the broker, of worker children and of the api's side of the link, on a virtual system.

SIM_OBJECTS := $(call objects,$(wildcard tests/sim/*.c))
SIM_WRAPS   := -Wl,--wrap=clock_gettime,--wrap=getrandom,--wrap=getpid,--wrap=gethostname,--wrap=conf_free
SEEDS       ?= 10000

# Objects come before archives: what they define is not taken from there.
$(BUILD)/quern-sim: $(SIM_OBJECTS) $(BUILD)/tests/lib/core_look.o $(BUILD)/libbroker.a $(BUILD)/libcore.a $(BUILD)/libworker.a $(BUILD)/libapi.a $(SHARED)
	$(LINK) $(SIM_WRAPS) -o $@ $^ $(PKG_LIBS) -llua5.1

SIM_RUN = $(BUILD)/quern-sim --seeds $(if $(SEED),1,$(1)) $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace 1)

sim: $(BUILD)/quern-sim ## SEEDS=10000 | SEED=n [TRACE=1]: the real roles in simulated worlds full of trouble
	$(call SIM_RUN,$(SEEDS))

sim-long: $(BUILD)/quern-sim ## the same, a million worlds
	$(call SIM_RUN,1000000)

CHECKS += sim

.PHONY: sim sim-long
