# Figures of one kind each. `make bench` is in the Makefile.

$(BUILD)/bench-sse: tests/bench/sse.c
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -o $@ $<

bench-sse: packages-check all $(BUILD)/quern-upstream $(BUILD)/bench-sse ## READERS=10000 of event streams: memory by role while idle, fan-out latency, CPU per delivery; OUT=file keeps it
	QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/bench/sse.py $(if $(READERS),--readers $(READERS)) $(if $(OUT),--out $(OUT))

.PHONY: bench-sse
