# A shard on several hosts, in network namespaces. Needs root.

HOSTS_PYTEST = QUERN_HOSTS_JSON=$(OUT) sh tests/hosts/private.sh env $(PYTEST) -s tests/hosts

# In `make check` each way to cut each cable is tried once, and one takeover of each kind.
CHECKS += check-hosts-short
check-hosts-short: all $(BUILD)/quern-upstream
	$(HOSTS_PYTEST) -m brief $(HOSTS)

check-hosts: all $(BUILD)/quern-upstream ## partitions, standby, Sentinel: hosts in network namespaces (root); HOSTS='-k word', OUT=figures.json
	$(HOSTS_PYTEST) $(HOSTS)

.PHONY: check-hosts check-hosts-short
