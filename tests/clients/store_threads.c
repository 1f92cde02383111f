/* libxenstore from two threads: one watches while the other counts in transactions. store_threads ROUNDS */

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenstore.h>

#define COUNT "data/count"
#define TWIN "data/twin"

static struct xs_handle *xsh;
static int rounds;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static int number(xs_transaction_t t, const char *path)
{
    unsigned length;
    char *text = xs_read(xsh, t, path, &length);
    if (!text)
        fail(path);
    int value = atoi(text);
    free(text);
    return value;
}

static void put(xs_transaction_t t, const char *path, int value)
{
    char text[16];
    if (!xs_write(xsh, t, path, text, (unsigned)snprintf(text, sizeof text, "%d", value)))
        fail("xs_write");
}

/* Both nodes go up together, or neither. A node is in a transaction as it was when first looked at, so the two may
 * differ there; but then the transaction cannot be committed. */
static void *count(void *unused)
{
    (void)unused;
    for (int i = 0; i < rounds; i++) {
        for (;;) {
            xs_transaction_t t = xs_transaction_start(xsh);
            if (!t)
                fail("xs_transaction_start");
            int now = number(t, COUNT), twin = number(t, TWIN);
            put(t, COUNT, now + 1);
            put(t, TWIN, now + 1);
            if (xs_transaction_end(xsh, t, false)) {
                if (now != twin)
                    fail("half a transaction was seen");
                break;
            }
            if (errno != EAGAIN)
                fail("xs_transaction_end");
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    rounds = argc > 1 ? atoi(argv[1]) : 10;
    xsh = xs_open(0);
    if (!xsh)
        fail("xs_open");
    if (!xs_watch(xsh, COUNT, "token"))
        fail("xs_watch");
    pthread_t counter;
    pthread_create(&counter, NULL, count, NULL);
    int events = 0, goal = -1;
    while (goal < 0 || number(XBT_NULL, COUNT) < goal) {
        unsigned parts;
        char **event = xs_read_watch(xsh, &parts);
        if (!event)
            fail("xs_read_watch");
        if (strcmp(event[XS_WATCH_PATH], COUNT) || strcmp(event[XS_WATCH_TOKEN], "token"))
            fail("another event");
        free(event);
        events++;
        if (goal < 0)
            goal = argc > 2 ? atoi(argv[2]) : rounds;
    }
    pthread_join(counter, NULL);
    printf("%s\n", events > 1 ? "heard" : "deaf");
    if (!xs_unwatch(xsh, COUNT, "token"))
        fail("xs_unwatch");
    xs_close(xsh);
    return 0;
}
