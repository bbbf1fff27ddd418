/* What the ports and the monitor ask the broker: its facts, who is there, every number. */
#include "broker/broker_private.h"

#include <inttypes.h>

#include "common/log.h"

const char *const port_roles[PORTS] = {"api", "worker", "monitor"};

struct loop *broker_loop(struct broker *b)
{
    return b->loop;
}
const struct broker_facts *broker_facts(const struct broker *b)
{
    return &b->facts;
}
enum ack broker_ack(const struct broker *b)
{
    return b->ack;
}
struct store *broker_store(struct broker *b)
{
    return b->store;
}
const struct sched *broker_sched(const struct broker *b)
{
    return b->sched;
}
const struct conf *broker_conf(const struct broker *b)
{
    return b->conf;
}
msec broker_now(const struct broker *b)
{
    return b->axis.base + (loop_now(b->loop) - b->axis.mono_at);
}

/* ---- peers ---- */

peer_number broker_add_peer(struct broker *b, struct peer *peer)
{
    peer->number = ++b->peers_made;
    HASH_ADD(by_number, b->peers, number, sizeof peer->number, peer);
    return peer->number;
}

void broker_remove_peer(struct broker *b, struct peer *peer)
{
    HASH_DELETE(by_number, b->peers, peer);
    stats_gone(b->stats, peer);
}

struct peer *broker_peer(struct broker *b, peer_number number)
{
    struct peer *peer;
    HASH_FIND(by_number, b->peers, &number, sizeof number, peer);
    return peer;
}

static const char *role_of(const struct broker *b, const struct peer *peer)
{
    for (unsigned i = 0; i < PORTS; i++)
        if (peer->port == ports(b, i))
            return port_roles[i];
    return "";
}

void broker_each_peer(struct broker *b, bool (*each)(void *arg, const struct peer *peer, const char *role), void *arg)
{
    for (unsigned i = 0; i < PORTS; i++) {
        struct list *node;
        LIST_EACH (node, port_list(ports(b, i)))
            if (!each(arg, CONTAINER_OF(node, struct peer, node), port_roles[i]))
                return;
    }
}

void broker_count_peer(struct broker *b, const struct peer *peer, const struct msg_heartbeat *heartbeat)
{
    stats_heartbeat(b->stats, peer, role_of(b, peer), heartbeat);
}

void broker_peer_reloaded(struct broker *b, const struct peer *peer, const struct msg_reloaded *reloaded)
{
    log_event(LOG_PEER_RELOADED, "peer=%s as=%s revision=%" PRIu64 " error=%s detail=%s", log_str(span_str(peer->name)),
              role_of(b, peer), reloaded->revision, err_known(reloaded->error) ? err_name(reloaded->error) : "unknown_error",
              log_str(reloaded->detail));
}

static void count_gauges(struct broker *b)
{
    struct shell_stats *shell = stats_shell(b->stats);
    shell->uptime_ms = (uint64_t)(loop_now(b->loop) - b->serving_at);
    shell->peers_api = port_peers(ports(b, 0));
    shell->peers_worker = port_peers(ports(b, 1));
    shell->peers_monitor = port_peers(ports(b, 2));
}

uint32_t broker_counters(struct broker *b, struct span tenant, struct rec_counter *out, uint32_t max)
{
    count_gauges(b);
    return tenant.len ? stats_tenant(b->stats, b->sched, tenant, out, max) : stats_all(b->stats, b->sched, b->store, out, max);
}
