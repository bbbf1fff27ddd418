# ThreadSanitizer, where threads meet: our resolver's (common/resolve.c), libzmq's, curl's. The kernel's spread of addresses is turned
# off, since gcc 12's runtime cannot live with all of it.

TSAN       = $(MAKE) BUILD=build-tsan ALLOC= CFLAGS='-O1 -g -fsanitize=thread' HARDEN=-fPIE LDHARDEN='-pie -fsanitize=thread -Wl,--wrap=zmq_msg_init_data build-tsan/tests/tsan/handover.o'
TSAN_UNITS := $(addprefix build-tsan/tests/test_,wire link transfer transfer_tls worker redis store)
TSAN_ENV   := TSAN_OPTIONS="suppressions=$(CURDIR)/tests/tsan/tsan.supp die_after_fork=0 second_deadlock_stack=1"

check-tsan: ## units with threads in them under the thread sanitizer
	$(TSAN) build-tsan/tests/tsan/handover.o
	$(TSAN) -j$$(nproc) $(TSAN_UNITS)
	@set -e; for t in $(TSAN_UNITS); do echo "== $$t"; $(TSAN_ENV) setarch -R timeout 300 $$t; done

.PHONY: check-tsan
