# Chaos on real processes: README.md here. SECONDS, SEED and KILLS say how long, which schedule, how many.
CHAOS := QUERN_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/chaos

chaos: all $(BUILD)/quern-upstream ## SECONDS=60 SEED=n: 1 000 jobs under way while every role is killed, held, ended and cut off; then judged
	$(CHAOS)/chaos.py --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

chaos-kills: all $(BUILD)/quern-upstream ## KILLS=1000 SEED=n: kill -9 of every role under load, and what it cost
	$(CHAOS)/kills.py --kills $(or $(KILLS),1000) $(if $(SEED),--seed $(SEED))

chaos-syscalls: all $(BUILD)/quern-upstream ## ROLE= LIFE=plain PART=1/1 AT=site: a process dies at every system call of one job's life
	$(CHAOS)/syscalls.py --life $(or $(LIFE),plain) --part $(or $(PART),1/1) $(if $(ROLE),--role $(ROLE)) $(if $(AT),--at $(AT))

chaos-figures: all $(BUILD)/quern-upstream ## FIGURES=redelivery dispatch cuts calm: what deaths and cuts cost, each beside its bound
	$(CHAOS)/figures.py $(FIGURES)

chaos-check: all $(BUILD)/quern-upstream ## the checker's own tests, eight seconds of chaos, a few of the system calls
	$(PYTEST) tests/chaos
	$(CHAOS)/chaos.py --seconds 8 $(if $(SEED),--seed $(SEED))
	$(CHAOS)/syscalls.py --part $$(($$(date +%j) % 45 + 1))/45

CHECKS += chaos-check
.PHONY: chaos chaos-kills chaos-syscalls chaos-figures chaos-check
