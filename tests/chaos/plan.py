"""What a job of the load is, and what may become of it: pure, from a seeded generator."""

FAST = {"base_ms": 20, "cap_ms": 200}
LATENCIES_MS = ([0, 20, 100, 300, 700, 1500], [1, 1, 2, 3, 3, 1])

# How often, out of a hundred. What all but plain ones do beside being submitted and read is in load.py.
KINDS = {
    "plain": 56, "stream": 12, "passing": 8, "delayed": 6, "twice": 4, "other": 3, "hasty": 3,  # completed in the end
    "forgotten": 2, "brief": 2,  # completed, then gone
    "cancelled": 2, "left": 1, "failing": 0.5, "final": 0.5,  # not to be completed
}
PASSING = ("status_503", "reset", "garbage", "early_close", "status_429")
ENDS = {"cancelled": ("completed", "cancelled"), "left": ("completed", "cancelled"), "failing": ("failed",), "final": ("failed",),
        "forgotten": ("completed", "gone"), "brief": ("completed", "gone")}


class Plan:
    def __init__(self, name, kind, prompt, more):
        self.name, self.kind, self.prompt = name, kind, prompt
        self.may = ENDS.get(kind, ("completed",))
        self.max_attempts = 3
        self.id = None
        self.body = {"prompt": prompt, "backoff": FAST, "idempotency_key": name, "metadata": {"name": name}, **more}


def plan_of(rng, name):
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    latency = rng.choices(*LATENCIES_MS)[0]
    prompt = f"{name} {kind} [[latency_ms={latency}]]"
    more = {"priority": rng.randrange(1, 11), "class": rng.choice(["interactive", "standard", "background"])}
    if kind == "stream":
        prompt, more["stream"] = f"{name} streams a few words that are worth to be heard [[tokens_per_s={rng.choice([20, 50, 200])}]]", True
    elif kind == "delayed":
        more["delay_ms"] = rng.randrange(1, 3000)
    elif kind == "passing":
        prompt = f"{name} passing [[fault={rng.choice(PASSING)} fail_first={rng.choice([1, 2])} latency_ms={latency // 3}]]"
    elif kind == "failing":
        prompt = f"{name} failing [[fault=status_500]]"
    elif kind == "final":
        prompt = f"{name} final [[fault=status_400]]"
    elif kind == "brief":
        more["result_ttl_s"] = 1
    elif kind == "left":
        more["on_disconnect"] = "cancel"
    return Plan(name, kind, prompt, more)
