/*
 * One end of a shared ring, driven by the macros of xen/io/ring.h, in a page that another process holds too.
 *
 *   ring_peer front|back FORMAT FILE BYTES START
 *
 * maps FILE, takes that end with every index at START (a front end initialises the page first), prints its number of
 * slots, and then obeys one command per line of stdin with one line on stdout:
 *
 *   put HEX...    queue an entry per argument     how many more would fit
 *   publish       announce them                   1 if the peer is to be notified, else 0
 *   take LIMIT    consume at most LIMIT           the entries in hex, separated by blanks; - for none
 *   check         final check                     1 if work waits, else 0
 *   event N       ask for the Nth entry from now  1 if N wait already, else 0
 *
 * Entries are opaque bytes here: what is compared is the ring, not the device.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define xen_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)

#include <xen/xen.h>
#include <xen/io/ring.h>
#include <xen/io/netif.h>
#include <xen/io/blkif.h>
#include <xen/io/usbif.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static const char digits[] = "0123456789abcdef";

static int unhex(uint8_t *out, size_t size, const char *text)
{
    if (strspn(text, digits) != 2 * size || text[2 * size])
        return -1;
    for (size_t i = 0; i < size; i++, text += 2)
        out[i] = (strchr(digits, text[0]) - digits) << 4 | (strchr(digits, text[1]) - digits);
    return 0;
}

static void hex(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        putchar_unlocked(digits[data[i] >> 4]);
        putchar_unlocked(digits[data[i] & 15]);
    }
    putchar_unlocked(' ');
}

/* What each end of each format can do; `r` is its private ring structure. */
struct end {
    const char *side, *format;
    void *r;
    unsigned int (*open)(void *r, void *page, size_t bytes, RING_IDX start);
    unsigned int (*room)(void *r);
    int (*put)(void *r, const char *text);
    int (*publish)(void *r);
    unsigned int (*take)(void *r, unsigned int limit);
    int (*check)(void *r);
    int (*event)(void *r, unsigned int n);
};

/*
 * ring.h has no macro for an event several entries ahead; drivers write their own, after RING_FINAL_CHECK_FOR_*.
 */
#define REQUEST_EVENT(prod, event, cons, n) ({                          \
    int enough = (prod) - (cons) >= (n);                                \
    if (!enough) {                                                      \
        (event) = (cons) + (n);                                         \
        xen_mb();                                                       \
        enough = (prod) - (cons) >= (n);                                \
    }                                                                   \
    enough;                                                             \
})

#define FORMAT(tag, request_size, response_size)                                                                       \
struct tag##_req { uint8_t bytes[request_size]; };                                                                     \
struct tag##_rsp { uint8_t bytes[response_size]; };                                                                    \
DEFINE_RING_TYPES(tag, struct tag##_req, struct tag##_rsp);                                                            \
static tag##_front_ring_t tag##_f;                                                                                     \
static tag##_back_ring_t tag##_b;                                                                                      \
                                                                                                                       \
static unsigned int tag##_front_open(void *v, void *page, size_t bytes, RING_IDX start)                                \
{                                                                                                                      \
    tag##_front_ring_t *r = v;                                                                                         \
    tag##_sring_t *s = page;                                                                                           \
                                                                                                                       \
    SHARED_RING_INIT(s);                                                                                               \
    FRONT_RING_INIT(r, s, bytes);                                                                                      \
    s->req_prod = s->rsp_prod = start;                                                                                 \
    s->req_event = s->rsp_event = start + 1;                                                                           \
    r->req_prod_pvt = r->rsp_cons = start;                                                                             \
    return RING_SIZE(r);                                                                                               \
}                                                                                                                      \
                                                                                                                       \
static unsigned int tag##_back_open(void *v, void *page, size_t bytes, RING_IDX start)                                 \
{                                                                                                                      \
    tag##_back_ring_t *r = v;                                                                                          \
    tag##_sring_t *s = page;                                                                                           \
                                                                                                                       \
    BACK_RING_INIT(r, s, bytes);                                                                                       \
    r->rsp_prod_pvt = r->req_cons = start;                                                                             \
    return RING_SIZE(r);                                                                                               \
}                                                                                                                      \
                                                                                                                       \
static unsigned int tag##_front_room(void *v)                                                                          \
{                                                                                                                      \
    tag##_front_ring_t *r = v;                                                                                         \
                                                                                                                       \
    return RING_FREE_REQUESTS(r);                                                                                      \
}                                                                                                                      \
                                                                                                                       \
static unsigned int tag##_back_room(void *v)                                                                           \
{                                                                                                                      \
    tag##_back_ring_t *r = v;                                                                                          \
                                                                                                                       \
    return r->req_cons - r->rsp_prod_pvt;                                                                              \
}                                                                                                                      \
                                                                                                                       \
static int tag##_front_put(void *v, const char *text)                                                                  \
{                                                                                                                      \
    tag##_front_ring_t *r = v;                                                                                         \
    struct tag##_req entry;                                                                                            \
                                                                                                                       \
    if (RING_FULL(r) || unhex(entry.bytes, sizeof(entry), text))                                                       \
        return -1;                                                                                                     \
    *RING_GET_REQUEST(r, r->req_prod_pvt) = entry;                                                                     \
    r->req_prod_pvt++;                                                                                                 \
    return 0;                                                                                                          \
}                                                                                                                      \
                                                                                                                       \
static int tag##_back_put(void *v, const char *text)                                                                   \
{                                                                                                                      \
    tag##_back_ring_t *r = v;                                                                                          \
    struct tag##_rsp entry;                                                                                            \
                                                                                                                       \
    if (r->rsp_prod_pvt == r->req_cons || unhex(entry.bytes, sizeof(entry), text))                                     \
        return -1;                                                                                                     \
    *RING_GET_RESPONSE(r, r->rsp_prod_pvt) = entry;                                                                    \
    r->rsp_prod_pvt++;                                                                                                 \
    return 0;                                                                                                          \
}                                                                                                                      \
                                                                                                                       \
static int tag##_front_publish(void *v)                                                                                \
{                                                                                                                      \
    tag##_front_ring_t *r = v;                                                                                         \
    int notify;                                                                                                        \
                                                                                                                       \
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(r, notify);                                                                    \
    return notify;                                                                                                     \
}                                                                                                                      \
                                                                                                                       \
static int tag##_back_publish(void *v)                                                                                 \
{                                                                                                                      \
    tag##_back_ring_t *r = v;                                                                                          \
    int notify;                                                                                                        \
                                                                                                                       \
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(r, notify);                                                                   \
    return notify;                                                                                                     \
}                                                                                                                      \
                                                                                                                       \
static unsigned int tag##_front_take(void *v, unsigned int limit)                                                      \
{                                                                                                                      \
    tag##_front_ring_t *r = v;                                                                                         \
    RING_IDX prod = r->sring->rsp_prod;                                                                                \
    struct tag##_rsp entry;                                                                                            \
    unsigned int n = 0;                                                                                                \
                                                                                                                       \
    xen_rmb();                                                                                                         \
    for (; r->rsp_cons != prod && n < limit; r->rsp_cons++, n++) {                                                     \
        RING_COPY_RESPONSE(r, r->rsp_cons, &entry);                                                                    \
        hex(entry.bytes, sizeof(entry));                                                                               \
    }                                                                                                                  \
    return n;                                                                                                          \
}                                                                                                                      \
                                                                                                                       \
static unsigned int tag##_back_take(void *v, unsigned int limit)                                                       \
{                                                                                                                      \
    tag##_back_ring_t *r = v;                                                                                          \
    RING_IDX prod = r->sring->req_prod;                                                                                \
    struct tag##_req entry;                                                                                            \
    unsigned int n = 0;                                                                                                \
                                                                                                                       \
    xen_rmb();                                                                                                         \
    for (; r->req_cons != prod && n < limit && !RING_REQUEST_CONS_OVERFLOW(r, r->req_cons); r->req_cons++, n++) {      \
        RING_COPY_REQUEST(r, r->req_cons, &entry);                                                                     \
        hex(entry.bytes, sizeof(entry));                                                                               \
    }                                                                                                                  \
    return n;                                                                                                          \
}                                                                                                                      \
                                                                                                                       \
static int tag##_front_check(void *v)                                                                                  \
{                                                                                                                      \
    tag##_front_ring_t *r = v;                                                                                         \
    int work;                                                                                                          \
                                                                                                                       \
    RING_FINAL_CHECK_FOR_RESPONSES(r, work);                                                                           \
    return !!work;                                                                                                     \
}                                                                                                                      \
                                                                                                                       \
static int tag##_back_check(void *v)                                                                                   \
{                                                                                                                      \
    tag##_back_ring_t *r = v;                                                                                          \
    int work;                                                                                                          \
                                                                                                                       \
    RING_FINAL_CHECK_FOR_REQUESTS(r, work);                                                                            \
    return !!work;                                                                                                     \
}                                                                                                                      \
                                                                                                                       \
static int tag##_front_event(void *v, unsigned int n)                                                                  \
{                                                                                                                      \
    tag##_front_ring_t *r = v;                                                                                         \
    volatile tag##_sring_t *s = r->sring;                                                                              \
                                                                                                                       \
    return REQUEST_EVENT(s->rsp_prod, s->rsp_event, r->rsp_cons, n);                                                   \
}                                                                                                                      \
                                                                                                                       \
static int tag##_back_event(void *v, unsigned int n)                                                                   \
{                                                                                                                      \
    tag##_back_ring_t *r = v;                                                                                          \
    volatile tag##_sring_t *s = r->sring;                                                                              \
                                                                                                                       \
    return REQUEST_EVENT(s->req_prod, s->req_event, r->req_cons, n);                                                   \
}

#define SIDE(name, tag, var)                                                                                           \
    { #name, #tag, &var, tag##_##name##_open, tag##_##name##_room, tag##_##name##_put, tag##_##name##_publish,         \
      tag##_##name##_take, tag##_##name##_check, tag##_##name##_event }
#define ENDS(tag) SIDE(front, tag, tag##_f), SIDE(back, tag, tag##_b)

FORMAT(net_tx, sizeof(netif_tx_request_t), sizeof(netif_tx_response_t))
FORMAT(net_rx, sizeof(netif_rx_request_t), sizeof(netif_rx_response_t))
FORMAT(blk, sizeof(blkif_request_t), sizeof(blkif_response_t))
FORMAT(urb, sizeof(usbif_urb_request_t), sizeof(usbif_urb_response_t))

static const struct end ends[] = { ENDS(net_tx), ENDS(net_rx), ENDS(blk), ENDS(urb) };

static void obey(const struct end *end, char *line)
{
    char *save, *verb = strtok_r(line, " \n", &save), *word;

    if (!verb) {
        puts("?");
    } else if (!strcmp(verb, "put")) {
        while ((word = strtok_r(NULL, " \n", &save)))
            if (end->put(end->r, word))
                break;
        if (word)
            puts("refused");
        else
            printf("%u\n", end->room(end->r));
    } else if (!strcmp(verb, "publish")) {
        printf("%d\n", end->publish(end->r));
    } else if (!strcmp(verb, "take")) {
        word = strtok_r(NULL, " \n", &save);
        puts(end->take(end->r, word ? strtoul(word, NULL, 10) : 0) ? "" : "-");
    } else if (!strcmp(verb, "check")) {
        printf("%d\n", end->check(end->r));
    } else if (!strcmp(verb, "event")) {
        word = strtok_r(NULL, " \n", &save);
        printf("%d\n", end->event(end->r, word ? strtoul(word, NULL, 10) : 1));
    } else {
        puts("?");
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const struct end *end = NULL;
    char *line = NULL;
    size_t bytes, room = 0;
    void *page;
    int fd;

    for (size_t i = 0; argc == 6 && i < sizeof(ends) / sizeof(ends[0]); i++)
        if (!strcmp(ends[i].side, argv[1]) && !strcmp(ends[i].format, argv[2]))
            end = &ends[i];
    if (!end) {
        fputs("usage: ring_peer front|back net_tx|net_rx|blk|urb FILE BYTES START\n", stderr);
        return 2;
    }
    fd = open(argv[3], O_RDWR);
    if (fd < 0)
        fail(argv[3]);
    bytes = strtoul(argv[4], NULL, 10);
    page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        fail("mmap");
    close(fd);
    printf("%u\n", end->open(end->r, page, bytes, strtoul(argv[5], NULL, 10)));
    fflush(stdout);
    while (getline(&line, &room, stdin) > 0)
        obey(end, line);
    free(line);
    return 0;
}
