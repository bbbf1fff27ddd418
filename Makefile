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

# The programs allocate with jemalloc (broker/README, Decisions); the sanitizers bring an allocator of their own, and so does ALLOC=.
ALLOC ?= $(if $(SAN),,-ljemalloc)

COMPILE_FLAGS = $(CFLAGS_STRICT) $(CFLAGS) $(HARDEN) $(PKG_CFLAGS) -D_GNU_SOURCE -I. -DQUERN_VERSION='"$(or $(VERSION),0)"'
COMPILE = $(CC) $(COMPILE_FLAGS) -MMD -MP
LINK    = $(CC) $(CFLAGS) $(LDHARDEN)

objects = $(patsubst %.c,$(BUILD)/%.o,$(1))

COMMON   := $(call objects,$(wildcard common/*.c))
PROTO    := $(call objects,$(wildcard proto/*.c))
CORE     := $(call objects,$(wildcard broker/core/*.c))
BROKER   := $(call objects,$(filter-out broker/main.c broker/quernctl%.c broker/run%.c,$(wildcard broker/*.c)))
CTL      := $(call objects,$(wildcard broker/quernctl*.c broker/run*.c))
WORKER   := $(call objects,$(filter-out worker/main.c,$(wildcard worker/*.c worker/providers/*.c)))
API      := $(call objects,$(filter-out api/main.c,$(wildcard api/*.c api/handlers/*.c api/dialects/*.c)))
UPSTREAM := $(call objects,$(wildcard tests/upstream/*.c))
UNITS    := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
TRACES   := $(patsubst tests/trace/%.c,$(BUILD)/tests/%,$(wildcard tests/trace/test_*.c))
TESTLIB  := $(call objects,$(wildcard tests/lib/*.c))
PROGRAMS := $(addprefix $(BUILD)/,quern-broker quern-worker quern-api quernctl)

all: $(PROGRAMS) compile_commands.json ## build every program into build/

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<

# The scripts are copied into the object by the assembler.
$(BUILD)/broker/script.o: broker/store.lua broker/leader.lua

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
	$(LINK) -o $@ $^ $(PKG_LIBS) $(ALLOC)

$(BUILD)/quern-upstream: $(UPSTREAM)
	$(LINK) -o $@ $^ -levent -lcjson

# One program per test file; a test links the library it is about and what that stands on.
$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(TESTLIB) $(BUILD)/libbroker.a $(BUILD)/libcore.a $(BUILD)/libworker.a $(BUILD)/libapi.a $(SHARED)
	$(LINK) -o $@ $^ $(PKG_LIBS) -lcmocka
$(BUILD)/tests/%: $(BUILD)/tests/trace/%.o $(TESTLIB) $(BUILD)/libcore.a $(SHARED)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(PKG_LIBS) -lcmocka

$(BUILD)/bench-core: $(BUILD)/tests/bench/core.o $(BUILD)/libcore.a $(SHARED)
	$(LINK) -o $@ $^ $(PKG_LIBS)

$(BUILD)/bench-load: tests/bench/load.c
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -o $@ $<

# A kind of test with rules of its own keeps them in its folder, and adds its short form to CHECKS.
CHECKS :=
include $(wildcard tests/*/rules.mk)

units: $(UNITS) $(TRACES) ## build every unit and trace test

# Two at a time for each processor, since most of their time they wait; each with its output in one piece.
EACH = @$(MAKE) --no-print-directory -j$$((2 * $$(nproc))) -O
RUNS := $(patsubst $(BUILD)/tests/%,run-%,$(sort $(UNITS) $(TRACES)))

test: units ## unit tests and traces: fast, needs nothing running
	$(EACH) $(RUNS)

$(RUNS): run-%: $(BUILD)/tests/%
	@echo "== $<"; timeout 300 $<

PYTEST = QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -m pytest -q -p no:cacheprovider

# A file stays in one process, since its tests share a system.
e2e: all $(BUILD)/quern-upstream ## real processes, a real Redis and the scripted provider
	$(PYTEST) -n $$(nproc) --dist loadfile -m 'not heavy' tests/upstream/selftest.py tests/e2e $(E2E)
	$(if $(SAN),,$(PYTEST) -m heavy tests/e2e $(E2E) || [ $$? = 5 ]) # 5: E2E chose none of these

check-asan: ## units, traces and end to end under the address and undefined behaviour sanitizers
	$(MAKE) SAN=1 test
	$(MAKE) SAN=1 e2e

check: packages-check ## install what the tests need, build, run every test
	$(MAKE) -j$$(nproc) CI=1 all units fuzzers $(BUILD)/quern-upstream
	$(MAKE) -j$$(nproc) SAN=1 units
	$(MAKE) purity
	$(MAKE) test
	$(MAKE) -j$$(nproc) fuzz FUZZ_SECONDS=3
	$(MAKE) e2e
	$(MAKE) SAN=1 test
	@set -e; for t in $(CHECKS); do $(MAKE) $$t; done

bench: packages-bench all $(BUILD)/quern-upstream $(BUILD)/bench-load ## CPU per job by role on the full path, beside nginx; OUT=file keeps it
	QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/bench/bench.py $(if $(OUT),--out $(OUT))

# For editors and analysers; a folder changes when a file comes or goes.
SOURCES := $(wildcard */*.c */*/*.c)
compile_commands.json: Makefile $(sort $(dir $(SOURCES)))
	@for f in $(SOURCES); do \
	  printf '%s\n{"directory":"%s","file":"%s","command":"%s -c %s"}' "$${next-[}" '$(CURDIR)' $$f '$(subst ','\'',$(subst ",\",$(COMPILE)))' $$f; \
	  next=,; done >$@; echo ']' >>$@

FORMATTED = $(wildcard */*.[ch] */*/*.[ch] */*/*/*.[ch] */*/*/*/*.[ch])
format: ## every C file in the house's layout
	clang-format -i $(FORMATTED)

format-check: ## says which files are not
	@clang-format --dry-run -Werror $(FORMATTED)

packages: packages-run ## install the Debian packages that building and running need (as root)
packages-run:
	@sh systemd/packages.sh run
packages-check packages-bench packages-lint: packages-%:
	@sh systemd/packages.sh run $(sort check $*)

PREFIX     ?= /usr
UNIT_FILES := $(addprefix systemd/,quern.target quern-redis@.service quern-broker@.service quern-worker@.service quern-api.socket quern-api.service)
at          = $(DESTDIR)$(1)

install: all ## DESTDIR= PREFIX=/usr: programs, units, accounts, settings; what is in /etc/quern stays
	install -d $(call at,$(PREFIX)/bin) $(call at,$(PREFIX)/lib/systemd/system/quern-.service.d) $(call at,$(PREFIX)/lib/sysusers.d) \
	  $(call at,$(PREFIX)/lib/tmpfiles.d) $(call at,$(PREFIX)/share/doc/quern) $(call at,/etc/quern)
	install $(PROGRAMS) $(call at,$(PREFIX)/bin)
	install -m 644 $(UNIT_FILES) $(call at,$(PREFIX)/lib/systemd/system)
	install -m 644 systemd/quern-.service.d/hardening.conf $(call at,$(PREFIX)/lib/systemd/system/quern-.service.d)
	install -m 644 systemd/quern.sysusers $(call at,$(PREFIX)/lib/sysusers.d/quern.conf)
	install -m 644 systemd/quern.tmpfiles $(call at,$(PREFIX)/lib/tmpfiles.d/quern.conf)
	install -m 644 README.md CHANGELOG.md systemd/quern.yaml $(call at,$(PREFIX)/share/doc/quern)
	test -e $(call at,/etc/quern/quern.yaml) || install -m 644 systemd/etc.yaml $(call at,/etc/quern/quern.yaml)
	@echo "now: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl enable --now quern.target"

up: export BUILD := $(BUILD)
up: packages-run ## PORT= STATE=var WORKERS= API_CHILDREN= SETTINGS=: install what is missing, build, start or heal, run a first job
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@sh systemd/up.sh

down: export BUILD := $(BUILD)
down: ## STATE=var: stop that instance, return when it is gone
	@sh systemd/down.sh

help: ## this list
	@cat $(filter-out %.d,$(MAKEFILE_LIST)) | sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' | expand -t 22

clean: ## remove what was built
	rm -rf build build-asan build-coverage build-tsan build-fuzz build-fuzz-coverage build-msan build-mutants compile_commands.json

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.PHONY: all install packages packages-run packages-check packages-bench packages-lint up down units test e2e check check-asan bench format format-check help clean $(RUNS)
.DELETE_ON_ERROR:
.SECONDARY:
