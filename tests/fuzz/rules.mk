# Fuzzing: README.md. The whole product is compiled once per sanitizer, in a tree of its own, and every driver links it; a
# driver that must reach a file's static functions includes that file, and the linker leaves the archive's copy alone.

comma := ,
FUZZ_SECONDS ?= 10
FUZZ_BUILD   ?= build-fuzz
FUZZ_SAN     ?= -fsanitize=address,undefined -fno-sanitize-recover=undefined
FUZZ_SKIP    ?=
FUZZ_LINK    ?=
FUZZ_NAMES   := $(filter-out $(FUZZ_SKIP),$(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c))))
FUZZERS      := $(addprefix $(FUZZ_BUILD)/fuzz_,$(FUZZ_NAMES))
FUZZ_PRODUCT := $(filter-out %/main.o $(FUZZ_BUILD)/broker/quernctl.o $(FUZZ_BUILD)/broker/quernctl_ask.o $(FUZZ_BUILD)/broker/run%, \
                  $(patsubst %.c,$(FUZZ_BUILD)/%.o,$(wildcard common/*.c proto/*.c broker/*.c broker/core/*.c worker/*.c worker/providers/*.c \
                                                              api/*.c api/handlers/*.c api/dialects/*.c)))
FUZZ_CC       = clang -std=gnu17 -D_GNU_SOURCE -g -O1 -fsanitize=$(1) $(FUZZ_SAN) $(PKG_CFLAGS) -I. -DQUERN_VERSION='"fuzz"' -MMD -MP

$(FUZZ_BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call FUZZ_CC,fuzzer-no-link) -c -o $@ $<

$(FUZZ_BUILD)/broker/script.o: broker/store.lua broker/leader.lua

$(FUZZ_BUILD)/libproduct.a: $(FUZZ_PRODUCT)
	@rm -f $@
	ar rcs $@ $^

$(FUZZ_BUILD)/fuzz_%: $(FUZZ_BUILD)/tests/fuzz/fuzz_%.o $(FUZZ_BUILD)/libproduct.a $(filter %.o,$(FUZZ_LINK))
	$(call FUZZ_CC,fuzzer) -Wl,--allow-multiple-definition -o $@ $^ $(filter-out %.o,$(FUZZ_LINK)) $(PKG_LIBS)

fuzzers: $(FUZZERS) ## build every fuzzer

$(addprefix fuzz-run-,$(FUZZ_NAMES)): fuzz-run-%: $(FUZZ_BUILD)/fuzz_%
	@sh tests/fuzz/run.sh $(FUZZ_BUILD) $* $(FUZZ_SECONDS)

fuzz: $(addprefix fuzz-run-,$(FUZZ_NAMES)) ## every parser of outside bytes for FUZZ_SECONDS each, from its corpus

# What libraries without MemorySanitizer's instrumentation write is unknown to it: msan.c says what of it is made known, README.md
# which drivers cannot do with that.
MSAN_WRAPPED := cJSON_ParseWithLength msgpack_unpack msgpack_unpack_next msgpack_zone_init zmq_z85_decode fstat64 SHA256 EVP_MAC_fetch EVP_MAC_final
MSAN_WITHOUT := conf settings redis store request notify
fuzz-msan: ## the same under MemorySanitizer, where the libraries allow
	$(MAKE) fuzz FUZZ_BUILD=build-msan FUZZ_SAN='-fsanitize=memory -fsanitize-memory-track-origins' FUZZ_SKIP='$(MSAN_WITHOUT)' \
	  FUZZ_LINK='build-msan/tests/fuzz/msan.o $(addprefix -Wl$(comma)--wrap=,$(MSAN_WRAPPED))'

fuzz-coverage: ## FUZZ_SECONDS of fuzzing each: which lines of its parser a fuzzer reaches, as a table
	$(MAKE) fuzz FUZZ_BUILD=build-fuzz-coverage FUZZ_SAN='-fprofile-instr-generate -fcoverage-mapping'
	@/usr/bin/python3 tests/fuzz/coverage.py build-fuzz-coverage $(FUZZ_NAMES)

-include $(shell find $(FUZZ_BUILD) -name '*.d' 2>/dev/null)
.PHONY: fuzz fuzzers fuzz-msan fuzz-coverage $(addprefix fuzz-run-,$(FUZZ_NAMES))
