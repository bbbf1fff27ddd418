# Every command a developer needs. `make help` lists them.
# Sources are found, not listed: a new file in a folder is part of that folder's program.

BUILD ?= build
CC    ?= gcc
SAN   ?=

CFLAGS_STRICT := -std=gnu17 -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wvla \
                 -Wno-unused-parameter $(if $(CI),-Werror)
CFLAGS ?= -O2 -g
HARDEN := -fstack-protector-strong -fPIE -D_FORTIFY_SOURCE=2
LDHARDEN := -pie -Wl,-z,relro,-z,now

# make SAN=1: address and undefined behaviour sanitizers, in a tree of their own
ifneq ($(SAN),)
BUILD    := build-asan
CFLAGS   := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
HARDEN   := -fPIE
LDHARDEN := -pie -fsanitize=address,undefined
endif

LIBS := libzmq libczmq hiredis libcurl msgpack libevent libevent_openssl libcjson libcyaml openssl libsystemd
VERSION := $(shell sed -n 's/^\#\# \([0-9][0-9.]*\).*/\1/p' CHANGELOG.md 2>/dev/null | head -n 1)

# Looked up only when something is compiled, so that `make up` can install what is missing first.
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(LIBS)))$(PKG_CFLAGS)
# libwslay is packaged without a .pc file.
PKG_LIBS   = $(eval PKG_LIBS := $$(shell pkg-config --libs $(LIBS)) -lwslay -lm)$(PKG_LIBS)

COMPILE = $(CC) $(CFLAGS_STRICT) $(CFLAGS) $(HARDEN) $(PKG_CFLAGS) -D_GNU_SOURCE -I. -DQUERN_VERSION='"$(or $(VERSION),0)"' -MMD -MP
LINK    = $(CC) $(CFLAGS) $(LDHARDEN)

objects = $(patsubst %.c,$(BUILD)/%.o,$(1))

COMMON   := $(call objects,$(wildcard common/*.c))
PROTO    := $(call objects,$(wildcard proto/*.c))
CORE     := $(call objects,$(wildcard broker/core/*.c))
BROKER   := $(call objects,$(filter-out broker/main.c broker/quernctl.c broker/run.c,$(wildcard broker/*.c)))
CTL      := $(call objects,$(wildcard broker/quernctl.c broker/run.c))
WORKER   := $(call objects,$(filter-out worker/main.c,$(wildcard worker/*.c worker/providers/*.c)))
API      := $(call objects,$(filter-out api/main.c,$(wildcard api/*.c api/handlers/*.c api/dialects/*.c)))
UPSTREAM := $(call objects,$(wildcard tests/upstream/*.c))
UNITS    := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
TRACES   := $(patsubst tests/trace/%.c,$(BUILD)/tests/%,$(wildcard tests/trace/test_*.c))
TESTLIB  := $(call objects,$(wildcard tests/lib/*.c))
FUZZERS  := $(patsubst tests/fuzz/%.c,build-fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
PROGRAMS := $(addprefix $(BUILD)/,quern-broker quern-worker quern-api quernctl)

all: $(PROGRAMS) ## build every program into build/

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<

$(BUILD)/libcommon.a: $(COMMON)
$(BUILD)/libproto.a:  $(PROTO)
$(BUILD)/libcore.a:   $(CORE)
$(BUILD)/libbroker.a: $(BROKER)
$(BUILD)/libworker.a: $(WORKER)
$(BUILD)/libapi.a:    $(API)
$(BUILD)/lib%.a:
	@mkdir -p $(@D)
	@rm -f $@
	ar rcs $@ $^

SHARED := $(BUILD)/libproto.a $(BUILD)/libcommon.a

$(BUILD)/quern-broker: $(BUILD)/broker/main.o $(BUILD)/libbroker.a $(BUILD)/libcore.a $(SHARED)
$(BUILD)/quern-worker: $(BUILD)/worker/main.o $(BUILD)/libworker.a $(SHARED)
$(BUILD)/quern-api:    $(BUILD)/api/main.o $(BUILD)/libapi.a $(SHARED)
$(BUILD)/quernctl:     $(CTL) $(SHARED)
$(PROGRAMS):
	$(LINK) -o $@ $^ $(PKG_LIBS)

$(BUILD)/quern-upstream: $(UPSTREAM)
	$(LINK) -o $@ $^ -levent -lcjson

# One program per test file; a test links the library it is about and what that stands on.
$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(TESTLIB) $(BUILD)/libbroker.a $(BUILD)/libcore.a $(BUILD)/libworker.a $(BUILD)/libapi.a $(SHARED)
	$(LINK) -o $@ $^ $(PKG_LIBS) -lcmocka
$(BUILD)/tests/%: $(BUILD)/tests/trace/%.o $(TESTLIB) $(BUILD)/libcore.a $(SHARED)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(PKG_LIBS) -lcmocka

build-fuzz/%: tests/fuzz/%.c
	@mkdir -p $(@D)
	clang -std=gnu17 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined $(PKG_CFLAGS) -I. -DQUERN_VERSION='"fuzz"' \
	  -o $@ $< $(wildcard common/*.c proto/*.c) $(PKG_LIBS)

units: $(UNITS) $(TRACES)

test: units ## unit tests and traces: fast, needs nothing running
	@set -e; for t in $(sort $(UNITS) $(TRACES)); do echo "== $$t"; timeout 120 $$t; done

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 22

clean: ## remove what was built
	rm -rf build build-asan build-fuzz compile_commands.json

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.PHONY: all units test help clean
.DELETE_ON_ERROR:
.SECONDARY:
