/* What the guests run (machines.py): one sends blocks over TCP, the other one
   receives and checks them.

   tcp receive PORT BLOCKS
   tcp send ADDRESS PORT BLOCKS */

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>

enum {
    BLOCK = 64 * 1024,
    CHECKED = 16 /* Of so many blocks, one is compared with what was sent. */
};

/* A block begins with its number. What follows is the same in all. */
static void
fill(unsigned char *block)
{
    uint32_t state = 1;

    for (int i = 0; i < BLOCK; i++) {
        state = state * 1664525 + 1013904223;
        block[i] = (unsigned char)(state >> 24);
    }
}

static void
number(unsigned char *block, uint64_t value)
{
    memcpy(block, &value, sizeof value);
}

static void
send_blocks(int sock, uint64_t count)
{
    static unsigned char block[BLOCK];

    fill(block);
    for (uint64_t i = 0; i < count; i++) {
        number(block, i);
        for (size_t done = 0; done < BLOCK;) {
            ssize_t n = send(sock, block + done, BLOCK - done, 0);

            if (n < 0) {
                err(1, "send");
            }
            done += (size_t)n;
        }
    }
}

static void
receive_blocks(int sock, uint64_t count)
{
    static unsigned char block[BLOCK], expected[BLOCK];

    fill(expected);
    for (uint64_t i = 0; i < count; i++) {
        ssize_t n = recv(sock, block, BLOCK, MSG_WAITALL);

        if (n != BLOCK) {
            err(1, "block %llu has %zd bytes", (unsigned long long)i, n);
        }
        number(expected, i);
        if (memcmp(block, expected, i % CHECKED ? sizeof i : BLOCK) != 0) {
            errx(1, "block %llu is not what was sent", (unsigned long long)i);
        }
    }
    if (recv(sock, block, 1, 0) != 0) {
        errx(1, "more was received than was sent");
    }
}

static int
tcp_socket(void)
{
    int sock = socket(AF_INET, SOCK_STREAM, 0), yes = 1;

    if (sock < 0
        || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0) {
        err(1, "socket");
    }
    return sock;
}

int
main(int argc, char **argv)
{
    int is_sender = argc == 5 && strcmp(argv[1], "send") == 0;
    int sock = tcp_socket();
    struct sockaddr_in address = {.sin_family = AF_INET};

    if (!is_sender && (argc != 4 || strcmp(argv[1], "receive") != 0)) {
        errx(1, "usage: tcp receive PORT BLOCKS; send ADDRESS PORT BLOCKS");
    }
    address.sin_port = htons((uint16_t)atoi(argv[argc - 2]));
    if (is_sender) {
        inet_pton(AF_INET, argv[2], &address.sin_addr);
        if (connect(sock, (struct sockaddr *)&address, sizeof address) < 0) {
            err(1, "connect");
        }
        send_blocks(sock, strtoull(argv[argc - 1], NULL, 10));
        /* Waits until the other side has received everything. */
        shutdown(sock, SHUT_WR);
        return recv(sock, argv[1], 1, 0) == 0 ? 0 : 1;
    }
    if (bind(sock, (struct sockaddr *)&address, sizeof address) < 0
        || listen(sock, 1) < 0) {
        err(1, "listen");
    }
    write(STDOUT_FILENO, "listening\n", 10);
    sock = accept(sock, NULL, NULL);
    if (sock < 0) {
        err(1, "accept");
    }
    receive_blocks(sock, strtoull(argv[argc - 1], NULL, 10));
    return 0;
}
