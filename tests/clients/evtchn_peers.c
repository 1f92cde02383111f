/* Programs on libxenevtchn, one by name: evtchn_peers NAME [ARGUMENT…]. Each says what it found, a line at a time. */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xenevtchn.h>

static xenevtchn_handle *xce;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static unsigned must(int result, const char *what)
{
    if (result < 0)
        fail(what);
    return (unsigned)result;
}

/* Wait up to 10 s for an event; the port, unmasked again. */
static unsigned next(void)
{
    struct pollfd p = {.fd = xenevtchn_fd(xce), .events = POLLIN};
    if (poll(&p, 1, 10000) != 1)
        fail("no event in 10 s");
    unsigned port = must(xenevtchn_pending(xce), "pending");
    must(xenevtchn_unmask(xce, port), "unmask");
    return port;
}

/* server CLIENT ROUNDS: answer each event of a client domain that binds to our port. */
static int server(unsigned client, int rounds)
{
    unsigned port = must(xenevtchn_bind_unbound_port(xce, client), "bind_unbound_port");
    printf("%u\n", port);
    fflush(stdout);
    for (int i = 0; i < rounds; i++) {
        if (next() != port)
            fail("another port");
        must(xenevtchn_notify(xce, port), "notify");
    }
    return 0;
}

/* client SERVER PORT ROUNDS: send, and wait for the answer. */
static int client(unsigned domid, unsigned remote, int rounds)
{
    unsigned port = must(xenevtchn_bind_interdomain(xce, domid, remote), "bind_interdomain");
    if (next() != port)  /* binding raises an event on the binder */
        fail("another port");
    for (int i = 0; i < rounds; i++) {
        must(xenevtchn_notify(xce, port), "notify");
        if (next() != port)
            fail("another port");
    }
    printf("%d rounds\n", rounds);
    return 0;
}

/* many COUNT: as many channels to oneself, all raised, all heard, each once. */
static int many(int count)
{
    unsigned *ports = calloc((size_t)count, sizeof *ports), heard = 0;
    for (int i = 0; i < count; i++) {
        unsigned other = must(xenevtchn_bind_unbound_port(xce, 0x7ff0), "bind_unbound_port");
        ports[i] = must(xenevtchn_bind_interdomain(xce, 0x7ff0, other), "bind_interdomain");
    }
    for (int i = 0; i < count; i++)
        next(); /* of the binds */
    for (int i = count; i-- > 0;)
        must(xenevtchn_notify(xce, ports[i]), "notify");
    for (int i = 0; i < count; i++)
        heard += next() != 0;
    struct pollfd p = {.fd = xenevtchn_fd(xce), .events = POLLIN};
    printf("%u heard, %d left\n", heard, poll(&p, 1, 0));
    for (int i = 0; i < count; i++)
        must(xenevtchn_unbind(xce, ports[i]), "unbind");
    free(ports);
    return 0;
}

/* timeout: poll comes back when nothing happens, and a closed channel is silent. */
static int timeout(void)
{
    unsigned a = must(xenevtchn_bind_unbound_port(xce, 0x7ff0), "bind_unbound_port");
    unsigned b = must(xenevtchn_bind_interdomain(xce, 0x7ff0, a), "bind_interdomain");
    next();
    struct pollfd p = {.fd = xenevtchn_fd(xce), .events = POLLIN};
    printf("nothing: %d\n", poll(&p, 1, 50));
    must(xenevtchn_unbind(xce, b), "unbind");
    must(xenevtchn_notify(xce, a), "notify of an unbound port");
    printf("closed: %d\n", poll(&p, 1, 50));
    printf("unbound twice: %s\n", xenevtchn_unbind(xce, b) < 0 ? strerror(errno) : "fine");
    return 0;
}

/* restrict DOMID: only channels to that domain from now on. */
static int restricted(unsigned domid)
{
    must(xenevtchn_restrict(xce, domid), "restrict");
    printf("unbound: %s\n", xenevtchn_bind_unbound_port(xce, domid) < 0 ? strerror(errno) : "fine");
    printf("virq: %s\n", xenevtchn_bind_virq(xce, 4) < 0 ? strerror(errno) : "fine");
    printf("other: %s\n", xenevtchn_bind_interdomain(xce, domid + 1, 1) < 0 ? strerror(errno) : "fine");
    printf("no such port: %s\n", xenevtchn_bind_interdomain(xce, domid, 99) < 0 ? strerror(errno) : "fine");
    printf("again: %s\n", xenevtchn_restrict(xce, domid) < 0 ? strerror(errno) : "fine");
    return 0;
}

/* fork: a child uses the parent's channel, and its end closes nothing. */
static int forked(void)
{
    unsigned a = must(xenevtchn_bind_unbound_port(xce, 0x7ff0), "bind_unbound_port");
    unsigned b = must(xenevtchn_bind_interdomain(xce, 0x7ff0, a), "bind_interdomain");
    next();
    pid_t child = fork();
    if (child == 0) {
        must(xenevtchn_notify(xce, a), "notify in the child");
        _exit(0);
    }
    waitpid(child, NULL, 0);
    printf("of the child: %d\n", next() == b);
    must(xenevtchn_notify(xce, a), "notify");
    printf("of the parent: %d\n", next() == b);
    return 0;
}

/* dup: a duplicate of the descriptor keeps the ports when the first is closed. */
static int duplicated(void)
{
    unsigned a = must(xenevtchn_bind_unbound_port(xce, 0x7ff0), "bind_unbound_port");
    unsigned b = must(xenevtchn_bind_interdomain(xce, 0x7ff0, a), "bind_interdomain");
    next();
    int copy = dup(xenevtchn_fd(xce));
    must(xenevtchn_notify(xce, a), "notify");
    must(xenevtchn_close(xce), "close");
    unsigned port = 0;
    if (read(copy, &port, sizeof port) != sizeof port)
        fail("read of the duplicate");
    printf("heard: %d\n", port == b);
    xce = xenevtchn_fdopen(NULL, copy, 0);
    must(xenevtchn_unmask(xce, port), "unmask");
    must(xenevtchn_notify(xce, a), "notify through the duplicate");
    printf("heard: %d\n", next() == b);
    return 0;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    unsigned arguments[3] = {0};
    for (int i = 2; i < argc && i < 5; i++)
        arguments[i - 2] = (unsigned)atoi(argv[i]);
    xce = xenevtchn_open(NULL, 0);
    if (!xce)
        fail("open");
    if (!strcmp(name, "server"))
        return server(arguments[0], (int)arguments[1]);
    if (!strcmp(name, "client"))
        return client(arguments[0], arguments[1], (int)arguments[2]);
    if (!strcmp(name, "many"))
        return many((int)arguments[0]);
    if (!strcmp(name, "timeout"))
        return timeout();
    if (!strcmp(name, "restrict"))
        return restricted(arguments[0]);
    if (!strcmp(name, "fork"))
        return forked();
    if (!strcmp(name, "dup"))
        return duplicated();
    fprintf(stderr, "no such program: %s\n", name);
    return 2;
}
