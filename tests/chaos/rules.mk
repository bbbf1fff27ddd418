# Chaos on real processes: README.md here. SECONDS, SEED and KILLS say how long, which schedule, how many.
CHAOS := QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/chaos

chaos: all $(BUILD)/quern-upstream ## SECONDS=60 SEED=n: 1 000 jobs under way while every role is killed, held, ended and cut off; then judged
	$(CHAOS)/chaos.py --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

chaos-kills: all $(BUILD)/quern-upstream ## KILLS=1000 SEED=n: kill -9 of every role under load, and what it cost
	$(CHAOS)/kills.py --kills $(or $(KILLS),1000) $(if $(SEED),--seed $(SEED))

chaos-check: all $(BUILD)/quern-upstream ## the checker's own tests, and ten seconds of chaos
	$(PYTEST) tests/chaos
	$(CHAOS)/chaos.py --seconds 10 $(if $(SEED),--seed $(SEED))

CHECKS += chaos-check
.PHONY: chaos chaos-kills chaos-check
