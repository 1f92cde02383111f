/* store_client SOCKET OPERATION ROUNDS: requests of xenstore, one after another; seconds that they took. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct header {
    uint32_t type, request, transaction, length;
};

static int fd;
static char answer[4097];

static void all(ssize_t (*move)(int, void *, size_t), char *data, size_t size)
{
    while (size) {
        ssize_t moved = move(fd, data, size);
        if (moved <= 0) {
            perror("store_client");
            exit(1);
        }
        data += moved;
        size -= (size_t)moved;
    }
}

static ssize_t put(int to, void *data, size_t size)
{
    return write(to, data, size);
}

static uint32_t ask(uint32_t type, uint32_t transaction, const char *payload, uint32_t length)
{
    char message[4112];
    struct header head = {type, 0, transaction, length};
    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, payload, length);
    all(put, message, sizeof head + length);
    all(read, (char *)&head, sizeof head);
    all(read, answer, head.length);
    answer[head.length] = 0;
    return (uint32_t)atoi(answer);
}

static void once(const char *what)
{
    if (!strcmp(what, "read")) {
        ask(2, 0, "/bench/node", 12);
    } else if (!strcmp(what, "write")) {
        ask(11, 0, "/bench/node\0value", 17);
    } else if (!strcmp(what, "list")) {
        ask(1, 0, "/bench", 7);
    } else if (!strcmp(what, "empty")) {
        ask(7, ask(6, 0, "", 1), "T", 2);
    } else {
        uint32_t t = ask(6, 0, "", 1);
        ask(2, t, "/bench/node", 12);
        ask(11, t, "/bench/node\0value", 17);
        ask(7, t, "T", 2);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        perror(argv[1]);
        return 1;
    }
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = atoi(argv[3]); i-- > 0;)
        once(argv[2]);
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.9f\n", (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9);
    return 0;
}
