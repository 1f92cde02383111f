/* gntalloc and gntdev, case by case, by the ioctls of the public headers: a line each, NAME: RESULT. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xen/xen.h>
#include <xen/grant_table.h>
#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>

#define PAGE 4096u
#define MINE 0x7ff0 /* DOMID_SELF */

static const char *result(long value)
{
    static char text[8][32];
    static int turn;
    char *into = text[turn++ & 7];
    if (value < 0)
        snprintf(into, 32, "-%s", strerrorname_np(errno));
    else
        snprintf(into, 32, "%ld", value);
    return into;
}

static void say(const char *name, long value)
{
    printf("%s: %s\n", name, result(value));
    fflush(stdout);
}

static int device(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/dev/xen/%s", name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        perror(path);
        exit(2);
    }
    return fd;
}

struct alloc {
    struct ioctl_gntalloc_alloc_gref head;
    uint32_t more[1100];
};
static struct alloc allocation;

static uint32_t *refs(void)
{
    return (uint32_t *)((char *)&allocation + offsetof(struct ioctl_gntalloc_alloc_gref, gref_ids));
}

static long alloc(int fd, unsigned domid, unsigned count, int writable)
{
    memset(&allocation, 0, sizeof allocation);
    allocation.head.domid = (uint16_t)domid;
    allocation.head.flags = writable ? GNTALLOC_FLAG_WRITABLE : 0;
    allocation.head.count = count;
    return ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, &allocation);
}

static long dealloc(int fd, uint64_t index, unsigned count)
{
    struct ioctl_gntalloc_dealloc_gref d = {.index = index, .count = count};
    return ioctl(fd, IOCTL_GNTALLOC_DEALLOC_GREF, &d);
}

static long notify(int fd, unsigned long number, uint64_t index, unsigned action, unsigned port)
{
    struct ioctl_gntdev_unmap_notify n = {.index = index, .action = action, .event_channel_port = port};
    return ioctl(fd, number, &n);
}

struct map {
    struct ioctl_gntdev_map_grant_ref head;
    struct ioctl_gntdev_grant_ref more[16];
};
static struct map mapping;

static long map(int fd, unsigned count, unsigned ref)
{
    memset(&mapping, 0, sizeof mapping);
    mapping.head.count = count;
    for (unsigned i = 0; i < count && i < 17; i++)
        mapping.head.refs[i] = (struct ioctl_gntdev_grant_ref){.domid = MINE, .ref = ref + i};
    return ioctl(fd, IOCTL_GNTDEV_MAP_GRANT_REF, &mapping);
}

static long unmap(int fd, uint64_t index, unsigned count)
{
    struct ioctl_gntdev_unmap_grant_ref u = {.index = index, .count = count};
    return ioctl(fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, &u);
}

static void granter(int fd)
{
    char byte = 0;
    say("gntalloc.read", read(fd, &byte, 1));
    say("gntalloc.write", write(fd, &byte, 1));
    say("gntalloc.lseek", lseek(fd, 0, SEEK_SET));
    say("gntalloc.unknown", ioctl(fd, _IOC(_IOC_NONE, 'G', 99, 0), 0));
    say("gntalloc.efault", ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, (void *)8));
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    say("gntalloc.mmap", at == MAP_FAILED ? -1 : 0);
    say("alloc.none", alloc(fd, MINE, 0, 1));
    say("alloc.one", alloc(fd, MINE, 1, 1));
    printf("alloc.one.index: %llu\n", (unsigned long long)allocation.head.index);
    printf("alloc.one.ref>=8: %d\n", refs()[0] >= 8);
    say("alloc.three", alloc(fd, MINE, 3, 1));
    printf("alloc.three.index: %llu\n", (unsigned long long)allocation.head.index);
    printf("alloc.three.distinct: %d\n", refs()[0] != refs()[1] && refs()[1] != refs()[2]);
    say("alloc.unknown_domain", alloc(fd, 999, 1, 1));
    say("dealloc.bad_index", dealloc(fd, 123, 1));
    say("dealloc.too_many", dealloc(fd, 0, 9));
    say("dealloc.none", dealloc(fd, 0, 0));
    say("dealloc.middle", dealloc(fd, 2 * PAGE, 1));
    say("dealloc.middle_again", dealloc(fd, 2 * PAGE, 1));
    say("dealloc.over_the_hole", dealloc(fd, PAGE, 3));
    say("dealloc.rest", dealloc(fd, PAGE, 1));
    say("alloc.again", alloc(fd, MINE, 1, 1));
    printf("alloc.again.index: %llu\n", (unsigned long long)allocation.head.index);
    say("alloc.1025", alloc(fd, MINE, 1025, 1));
    int other = device("gntalloc");
    say("alloc.1021_elsewhere", alloc(other, MINE, 1021, 1));
    say("alloc.1020_elsewhere", alloc(other, MINE, 1020, 1));
    say("alloc.one_too_many", alloc(fd, MINE, 1, 1));
    close(other);
    long after = -1;
    for (int i = 0; i < 2000 && after < 0; i++) { /* a close is told when it is told */
        after = alloc(fd, MINE, 1, 1);
        if (after < 0)
            poll(NULL, 0, 5);
    }
    say("alloc.after_close", after);
}

static void mapper(int fd)
{
    char byte = 0;
    say("gntdev.read", read(fd, &byte, 1));
    say("gntdev.write", write(fd, &byte, 1));
    say("gntdev.unknown", ioctl(fd, _IOC(_IOC_NONE, 'G', 99, 0), 0));
    struct ioctl_gntdev_set_max_grants most = {.count = 10};
    say("gntdev.set_max_grants", ioctl(fd, IOCTL_GNTDEV_SET_MAX_GRANTS, &most));
    say("map.none", map(fd, 0, 8));
    say("map.65537", map(fd, 65537, 8));
    say("map.two", map(fd, 2, 8));
    printf("map.two.index: %llu\n", (unsigned long long)mapping.head.index);
    say("map.one", map(fd, 1, 8));
    printf("map.one.index: %llu\n", (unsigned long long)mapping.head.index);
    say("map.three", map(fd, 3, 8));
    printf("map.three.index: %llu\n", (unsigned long long)mapping.head.index);
    say("map.bad_ref", map(fd, 1, 31000));
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 2 * PAGE);
    say("gntdev.mmap", at == MAP_FAILED ? -1 : 0);
    struct ioctl_gntdev_get_offset_for_vaddr where = {.vaddr = (uintptr_t)&byte};
    say("get_offset.not_mapped", ioctl(fd, IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR, &where));
    say("unmap.wrong_count", unmap(fd, 0, 1));
    say("unmap.unknown", unmap(fd, 100 * PAGE, 1));
    say("unmap.two", unmap(fd, 0, 2));
    say("unmap.two_again", unmap(fd, 0, 2));
    say("map.into_a_hole_of_its_size", map(fd, 2, 8));
    printf("map.into_a_hole_of_its_size.index: %llu\n", (unsigned long long)mapping.head.index);
    say("map.into_a_larger_hole", map(fd, 1, 8));
    printf("map.into_a_larger_hole.index: %llu\n", (unsigned long long)mapping.head.index);
    say("unmap.any_count", unmap(fd, 2 * PAGE, 0));
}

static void notices(int galloc, int gdev)
{
    int evtchn = device("evtchn");
    struct ioctl_evtchn_bind_unbound_port bind = {.remote_domain = MINE};
    int port = ioctl(evtchn, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &bind);
    struct ioctl_evtchn_bind_interdomain back = {.remote_domain = MINE, .remote_port = (unsigned)port};
    int peer = ioctl(evtchn, IOCTL_EVTCHN_BIND_INTERDOMAIN, &back);
    uint32_t heard = 0;
    if (read(evtchn, &heard, 4) != 4 || write(evtchn, &heard, 4) != 4) /* of the bind */
        exit(3);
    alloc(galloc, MINE, 1, 1);
    uint64_t index = allocation.head.index;
    say("gntalloc.notify.no_page", notify(galloc, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, index + 90 * PAGE, 8, 0));
    say("gntalloc.notify.action", notify(galloc, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, index, 8, 0));
    say("gntalloc.notify.port", notify(galloc, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, index, 2, 999));
    say("gntalloc.notify.both", notify(galloc, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, index + 7, 3, (unsigned)port));
    say("gntalloc.dealloc", dealloc(galloc, index, 1));
    say("gntalloc.heard", read(evtchn, &heard, 4) == 4 && (int)heard == peer);
    (void)!write(evtchn, &heard, 4);

    map(gdev, 2, 8);
    index = mapping.head.index;
    say("gntdev.notify.action", notify(gdev, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, index, 8, 0));
    say("gntdev.notify.port", notify(gdev, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, index + 90 * PAGE, 2, 999));
    say("gntdev.notify.no_map", notify(gdev, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, index + 90 * PAGE, 2, (unsigned)port));
    say("gntdev.notify.event", notify(gdev, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, index + PAGE, 2, (unsigned)port));
    say("gntdev.unmap", unmap(gdev, index, 2));
    say("gntdev.heard", read(evtchn, &heard, 4) == 4 && (int)heard == peer);
    close(evtchn);
}

static struct gntdev_grant_copy_segment segments[3];

static long copy(int fd, unsigned count)
{
    struct ioctl_gntdev_grant_copy c = {.count = count, .segments = segments};
    return ioctl(fd, IOCTL_GNTDEV_GRANT_COPY, &c);
}

static void to_grant(int i, void *from, unsigned domid, uint32_t ref, unsigned offset, unsigned length)
{
    memset(&segments[i], 0, sizeof segments[i]);
    segments[i].source.virt = from;
    segments[i].dest.foreign.ref = ref;
    segments[i].dest.foreign.offset = (uint16_t)offset;
    segments[i].dest.foreign.domid = (domid_t)domid;
    segments[i].len = (uint16_t)length;
    segments[i].flags = GNTCOPY_dest_gref;
}

static void from_grant(int i, void *to, unsigned domid, uint32_t ref, unsigned offset, unsigned length)
{
    memset(&segments[i], 0, sizeof segments[i]);
    segments[i].source.foreign.ref = ref;
    segments[i].source.foreign.offset = (uint16_t)offset;
    segments[i].source.foreign.domid = (domid_t)domid;
    segments[i].dest.virt = to;
    segments[i].len = (uint16_t)length;
    segments[i].flags = GNTCOPY_source_gref;
}

static void copies(int galloc, int gdev)
{
    char text[] = "abcdefgh", back[3 * PAGE], *crossing = back + PAGE - 3;
    alloc(galloc, MINE, 2, 1);
    uint32_t one = refs()[0], two = refs()[1];
    alloc(galloc, MINE, 1, 0);
    uint32_t readonly = refs()[0];
    alloc(galloc, 5, 1, 1);
    uint32_t anothers = refs()[0];

    from_grant(0, back, MINE, one, 0, PAGE - 1);
    say("copy.zeroed", copy(gdev, 1));
    int any = 0;
    for (unsigned i = 0; i < PAGE - 1; i++)
        any |= back[i];
    printf("copy.zeroed.bytes: %d\n", any);
    to_grant(0, text, MINE, one, 100, 8);
    from_grant(1, crossing, MINE, one, 100, 8);
    say("copy.there_and_back", copy(gdev, 2));
    printf("copy.there_and_back.bytes: %.8s\n", crossing);
    memset(&segments[0], 0, sizeof segments[0]);
    segments[0].source.foreign.ref = one;
    segments[0].source.foreign.offset = 100;
    segments[0].source.foreign.domid = MINE;
    segments[0].dest.foreign.ref = two;
    segments[0].dest.foreign.domid = MINE;
    segments[0].len = 8;
    segments[0].flags = GNTCOPY_source_gref | GNTCOPY_dest_gref;
    from_grant(1, back, MINE, two, 0, 8);
    say("copy.grant_to_grant", copy(gdev, 2));
    printf("copy.grant_to_grant.bytes: %.8s\n", back);

    to_grant(0, text, MINE, one, 0, 4);
    to_grant(1, text, MINE, 31999999, 0, 4);
    to_grant(2, text, MINE, one, 4, 4);
    say("copy.one_bad", copy(gdev, 3));
    printf("copy.one_bad.statuses: %d %d %d\n", segments[0].status, segments[1].status, segments[2].status);
    to_grant(0, text, MINE, readonly, 0, 4);
    to_grant(1, text, 999, one, 0, 4);
    from_grant(2, back, MINE, anothers, 0, 4);
    say("copy.refused", copy(gdev, 3));
    printf("copy.refused.statuses: %d %d %d\n", segments[0].status, segments[1].status, segments[2].status);
    from_grant(0, back, MINE, readonly, 0, 4);
    say("copy.read_of_readonly", copy(gdev, 1));
    printf("copy.read_of_readonly.status: %d\n", segments[0].status);

    memcpy(back, "........", 8);
    from_grant(0, back, MINE, one, 0, 4);
    from_grant(1, back, MINE, one, 4093, 4);
    say("copy.crossing", copy(gdev, 2));
    printf("copy.crossing.bytes: %.8s\n", back);
    segments[1].flags = 0;
    say("copy.no_grant", copy(gdev, 2));
    from_grant(0, (void *)8, MINE, one, 0, 4);
    say("copy.efault", copy(gdev, 1));
    to_grant(0, text, MINE, one, 5000, 0);
    say("copy.nothing_out_of_page", copy(gdev, 1));
    to_grant(0, text, 999, 1, 0, 0);
    say("copy.nothing", copy(gdev, 1));
    printf("copy.nothing.status: %d\n", segments[0].status);
    say("copy.no_segments", copy(gdev, 0));
}

int main(void)
{
    int galloc = device("gntalloc"), gdev = device("gntdev");
    granter(galloc);
    mapper(gdev);
    notices(galloc, gdev);
    copies(galloc, gdev);
    return 0;
}
