/* Deployments from settings: which are served, which left out, and the hash that broker and worker must agree on. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "worker/deployment.h"

static char dir[] = "/tmp/quern-deployment-XXXXXX";
static char key[64];

static int make_key(void **state)
{
    assert_non_null(mkdtemp(dir));
    snprintf(key, sizeof key, "%s/key", dir);
    int fd = open(key, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_int_equal(write(fd, "sk-1\n", 5), 5);
    return close(fd);
}

static int remove_key(void **state)
{
    unlink(key);
    return rmdir(dir);
}

/* One deployment on one credential. */
static size_t served(const char *provider, const char *base_url, const char *key_file, bool http, struct deployments *ret)
{
    struct conf_deployment deployment = {
        .name = (char *)"d", .provider = (char *)provider, .model = (char *)"m", .credential = (char *)"c"};
    struct conf_credential credential = {.name = (char *)"c", .base_url = (char *)base_url, .key_file = (char *)key_file};
    struct conf conf = {.deployments = &deployment, .deployments_count = 1, .credentials = &credential, .credentials_count = 1};
    struct deployments deployments;
    conf.worker.http = http;
    assert_int_equal(deployments_load(&conf, &deployments), ERR_OK);
    size_t count = deployments.count;
    if (ret)
        *ret = deployments;
    else
        deployments_free(&deployments);
    return count;
}

static void one_that_is_whole(void **state)
{
    struct deployments deployments;
    assert_int_equal(served("openai", "https://api.example/v1//", key, false, &deployments), 1);
    const struct deployment *deployment = deployments_find(&deployments, span_str("d"));
    assert_non_null(deployment);
    assert_null(deployments_find(&deployments, span_str("")));
    assert_string_equal(deployment->base_url, "https://api.example/v1");
    assert_string_equal(secret_text(deployment->key_header), "Authorization: Bearer sk-1");
    deployments_free(&deployments);
    assert_int_equal(served("openai", "https://api.example/v1", "", false, &deployments), 1);
    assert_null(deployments.list[0].key_header); /* no key is sent */
    deployments_free(&deployments);
    assert_int_equal(served("echo", "", "", false, NULL), 1);
}

static void what_lacks_something_is_left_out(void **state)
{
    assert_int_equal(served("nobody", "https://x/", "", true, NULL), 0);
    assert_int_equal(served("openai", "http://x/", "", true, NULL), 1);
    assert_int_equal(served("openai", "http://x/", "", false, NULL), 0);
    assert_int_equal(served("openai", "ftp://x/", "", true, NULL), 0);
    assert_int_equal(served("openai", "", "", true, NULL), 0);
    assert_int_equal(served("openai", "https://user:word@x/", "", true, NULL), 0);
    assert_int_equal(served("openai", "https://x/?a=b", "", true, NULL), 0);
    assert_int_equal(served("openai", "https://x/", "/nowhere/key", true, NULL), 0);
    assert_int_equal(chmod(key, 0644), 0);
    assert_int_equal(served("openai", "https://x/", key, true, NULL), 0);
    assert_int_equal(chmod(key, 0600), 0);
    struct conf_deployment lost = {
        .name = (char *)"d", .provider = (char *)"openai", .model = (char *)"", .credential = (char *)"c"};
    struct conf conf = {.deployments = &lost, .deployments_count = 1};
    struct deployments deployments;
    assert_int_equal(deployments_load(&conf, &deployments), ERR_OK);
    assert_int_equal(deployments.count, 0);
    deployments_free(&deployments);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_is_whole),
        cmocka_unit_test(what_lacks_something_is_left_out),
    };
    log_start("test");
    return cmocka_run_group_tests(tests, make_key, remove_key);
}
