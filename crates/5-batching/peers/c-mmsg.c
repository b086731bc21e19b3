/* A UDP echo: recvmmsg, sendmmsg. To compare with, no more: `cargo ladder bench --c-peers`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define BATCH 64

static char buffers[BATCH][65536];

int main(int argc, char **argv) {
    struct sockaddr_in own = {.sin_family = AF_INET};
    if (argc != 3 || inet_pton(AF_INET, argv[1], &own.sin_addr) != 1) {
        fprintf(stderr, "usage: %s IPV4 PORT\n", argv[0]);
        return 2;
    }
    own.sin_port = htons(atoi(argv[2]));
    int socket_ = socket(AF_INET, SOCK_DGRAM, 0);
    if (socket_ < 0 || bind(socket_, (struct sockaddr *)&own, sizeof own) < 0) {
        perror("bind");
        return 1;
    }
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
    struct sockaddr_in peers[BATCH];
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            pieces[i] = (struct iovec){buffers[i], sizeof buffers[i]};
            messages[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &pieces[i], .msg_iovlen = 1}};
        }
        int count = recvmmsg(socket_, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++)
            pieces[i].iov_len = messages[i].msg_len;
        for (int sent = 0; sent < count;) {
            int now = sendmmsg(socket_, messages + sent, count - sent, 0);
            sent += now > 0 ? now : 1; /* the first of them failed: without it */
        }
    }
}
