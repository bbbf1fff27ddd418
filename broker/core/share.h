/* Start-time fair queueing (Goyal, Vin, Cheng 1996), used for service classes and for tenants within a class. Whoever has the
 * smallest start tag goes next and then pays cost / weight. Virtual time is the start tag last served; a tag that lies behind
 * counts as virtual time, so that idling earns nothing. Tags are fixed point, SHARE_ONE per unit of cost at weight 1. */
#pragma once

#include "common/base.h"

#define SHARE_ONE (1u << 16)

struct share_account {
    uint64_t start; /* tag of its next service */
    uint64_t turn;  /* decides between equal tags: who was served longer ago */
    uint32_t weight;
};

/* One set of accounts that compete. */
struct share {
    uint64_t virtual_time;
    uint64_t turns;
};

static inline bool share_before(const struct share_account *a, const struct share_account *b)
{
    return a->start != b->start ? a->start < b->start : a->turn < b->turn;
}

/* `account` is served now. */
static inline void share_charge(struct share *share, struct share_account *account, uint64_t cost)
{
    uint64_t start = MAX(account->start, share->virtual_time);
    share->virtual_time = start;
    account->start = start + cost * SHARE_ONE / MAX(account->weight, 1u);
    account->turn = ++share->turns;
}

/* The service turned out to cost `actual` instead of `charged`: the next tag moves, never behind virtual time. */
static inline void share_correct(struct share *share, struct share_account *account, uint64_t charged, uint64_t actual)
{
    uint64_t weight = MAX(account->weight, 1u);
    if (actual >= charged) {
        account->start += (actual - charged) * SHARE_ONE / weight;
        return;
    }
    uint64_t back = (charged - actual) * SHARE_ONE / weight;
    uint64_t start = account->start > back ? account->start - back : 0;
    account->start = MAX(start, MIN(account->start, share->virtual_time));
}
