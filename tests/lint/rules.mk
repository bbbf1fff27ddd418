# What can be said of the code without running it. Each file's verdict is kept until it, a header it includes or .clang-tidy changes.

LINTED := $(wildcard $(foreach part,common proto broker worker api tests,$(part)/*.c $(part)/*/*.c))

lint: packages-lint purity format-check ## clang-tidy, cppcheck, layout, and who may include whom: no findings
	@$(MAKE) --no-print-directory -j$$(nproc) -O lint-each lint-cppcheck

lint-each: $(LINTED:%.c=$(BUILD)/lint/%.ok)

# In place of libraries that no analyser sees through.
MODEL := -isystem tests/lint/model

# One file a process: see valist.Uninitialized in .clang-tidy.
$(BUILD)/lint/%.ok: %.c .clang-tidy tests/.clang-tidy $(wildcard tests/lint/model/*.h tests/lint/model/*/*.h)
	@mkdir -p $(@D)
	@$(CC) $(COMPILE_FLAGS) $(LINT_CFLAGS) -MM -MP -MT $@ -MF $(@:.ok=.d) $<
	@clang-tidy --quiet $< -- $(MODEL) $(COMPILE_FLAGS) $(LINT_CFLAGS) 2>$(@:.ok=.err) || { grep -v 'warnings generated' $(@:.ok=.err); exit 1; }
	@touch $@

# The product, the scripted provider and what tests share; tables of compound literals, as in tests, are beyond its parser.
lint-cppcheck:
	cppcheck --quiet -j $$(nproc) --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	  --suppress=missingIncludeSystem -Itests/lint/model -I. -D_GNU_SOURCE -DQUERN_VERSION='"lint"' \
	  common proto broker worker api tests/upstream tests/lib

purity: ## the core includes nothing from the shell, roles do not include each other
	@sh tests/lint/purity.sh

# That it notices a violation of each rule.
CHECKS += format-check check-purity
check-purity:
	@sh tests/lint/purity_test.sh

.PHONY: lint lint-each lint-cppcheck purity check-purity
