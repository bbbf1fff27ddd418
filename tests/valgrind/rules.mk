# Every role as valgrind's guest.

check-valgrind: all $(BUILD)/quern-upstream ## every role under valgrind from start to SIGTERM: nothing leaks, no invalid access
	$(PYTEST) tests/valgrind

.PHONY: check-valgrind
