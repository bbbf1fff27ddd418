# The units, installed and run by a systemd of their own (README.md here). Needs root: a booted systemd-nspawn.
CHECKS += check-systemd

check-systemd: all ## the units in a booted systemd: install, kill, hang, reload, upgrade under load (as root)
	systemd-analyze --version >/dev/null
	$(PYTEST) tests/systemd
.PHONY: check-systemd
