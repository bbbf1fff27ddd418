# What disks do to a shard: power cuts, damage, no room, no fsync. Needs root, loop devices and /dev/fuse.

$(BUILD)/platter: tests/disk/platter.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_STRICT) -O2 -g -D_GNU_SOURCE $$(pkg-config --cflags fuse3) -o $@ $< -lfuse3
$(BUILD)/lint/tests/disk/platter.ok: LINT_CFLAGS = $$(pkg-config --cflags fuse3)

# In `make check` each kind of cut is made once, and what takes long is left out.
CHECKS += check-disk-short
check-disk-short: all $(BUILD)/quern-upstream $(BUILD)/platter
	$(PYTEST) -s -m "not long" tests/disk $(DISK)

check-disk: all $(BUILD)/quern-upstream $(BUILD)/platter ## power cuts, damaged and full disks, slow and failing fsync under Redis (root)
	QUERN_CUTS=5 $(PYTEST) -s tests/disk $(DISK)

CUTS ?= 10
disk-figures: all $(BUILD)/quern-upstream $(BUILD)/platter ## jobs lost and loss window per ack mode over CUTS=10 power cuts each (root)
	QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/disk/power.py --cuts $(CUTS) $(if $(OUT),--json $(OUT))

.PHONY: check-disk check-disk-short disk-figures
