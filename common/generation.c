#include "common/generation.h"

#include <getopt.h>

#include "common/prefork.h"

bool generation_start(struct generation *g, int *ret_status)
{
    return conf_main(g->argc, g->argv, g->program, &g->conf, ret_status);
}

void generation_done(struct generation *g)
{
    conf_free(&g->conf);
}

/* As at the start. */
static enum err read_again(const struct generation *g, struct conf **ret_conf)
{
    int status;
    optind = 0; /* getopt begins anew */
    return conf_main(g->argc, g->argv, g->program, ret_conf, &status) ? ERR_OK : ERR_SETTINGS;
}

enum err generation_reload(struct generation *g)
{
    struct conf *conf = NULL;
    enum err e = read_again(g, &conf);
    if (e)
        return e;
    conf_free(&g->conf);
    g->conf = conf;
    return ERR_OK;
}

enum err generation_ask_reload(const struct generation *g)
{
    AUTO(conf_free) struct conf *conf = NULL;
    enum err e = read_again(g, &conf);
    if (!e && g->index == 0)
        prefork_reload();
    return e;
}
