# More than can be served: floods, slow and idle peers, want of descriptors and memory.

$(BUILD)/offer: tests/overload/offer.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_STRICT) -O2 -g -D_GNU_SOURCE -o $@ $< -lm

CHECKS += check-overload-short
check-overload-short: all $(BUILD)/quern-upstream $(BUILD)/offer
	$(PYTEST) -s -m "not long" tests/overload $(OVERLOAD)

check-overload: all $(BUILD)/quern-upstream $(BUILD)/offer ## floods of jobs, slow and idle clients, no descriptors, no memory
	$(PYTEST) -s tests/overload $(OVERLOAD)

overload-figures: all $(BUILD)/quern-upstream $(BUILD)/offer ## 1, 10 and 100 times the rated load: goodput, latency, sheds, Retry-After, recovery
	QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/overload/overload.py $(if $(OUT),--json $(OUT))

.PHONY: check-overload check-overload-short overload-figures
