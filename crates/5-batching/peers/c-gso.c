/* A UDP echo: recvmmsg with UDP_GRO, neighbours of one peer and one size sent by UDP_SEGMENT.
   To compare with, no more: `cargo ladder bench --c-peers`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define BATCH 64
#define SEGMENTS 64
#define MOST 65507

static char buffers[BATCH][65536];

int main(int argc, char **argv) {
    struct sockaddr_in own = {.sin_family = AF_INET};
    if (argc != 3 || inet_pton(AF_INET, argv[1], &own.sin_addr) != 1) {
        fprintf(stderr, "usage: %s IPV4 PORT\n", argv[0]);
        return 2;
    }
    own.sin_port = htons(atoi(argv[2]));
    int socket_ = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    if (socket_ < 0 || bind(socket_, (struct sockaddr *)&own, sizeof own) < 0) {
        perror("bind");
        return 1;
    }
    if (setsockopt(socket_, IPPROTO_UDP, UDP_GRO, &on, sizeof on) < 0) {
        perror("UDP_GRO");
        return 1;
    }
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
    struct sockaddr_in peers[BATCH];
    char control[BATCH][CMSG_SPACE(sizeof(int))];
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            pieces[i] = (struct iovec){buffers[i], sizeof buffers[i]};
            messages[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &pieces[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]}};
        }
        int count = recvmmsg(socket_, messages, BATCH, MSG_WAITFORONE, NULL);
        int segments[BATCH];
        for (int i = 0; i < count; i++) {
            pieces[i].iov_len = messages[i].msg_len;
            segments[i] = messages[i].msg_len;
            for (struct cmsghdr *c = CMSG_FIRSTHDR(&messages[i].msg_hdr); c; c = CMSG_NXTHDR(&messages[i].msg_hdr, c))
                if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
                    memcpy(&segments[i], CMSG_DATA(c), sizeof(int));
        }
        for (int i = 0; i < count;) {
            /* A group: pieces of whole segments, of which the last may end in a shorter one. */
            size_t bytes = pieces[i].iov_len, segment = segments[i];
            int end = i + 1;
            while (segment && end < count && segments[end] <= (int)segment && pieces[end].iov_len && bytes % segment == 0 &&
                   (segments[end] == (int)segment || pieces[end].iov_len <= segment) &&
                   bytes + pieces[end].iov_len <= MOST && (bytes + pieces[end].iov_len + segment - 1) / segment <= SEGMENTS &&
                   peers[end].sin_port == peers[i].sin_port && peers[end].sin_addr.s_addr == peers[i].sin_addr.s_addr)
                bytes += pieces[end++].iov_len;
            char out[CMSG_SPACE(sizeof(uint16_t))] = {0};
            struct msghdr group = {.msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &pieces[i], .msg_iovlen = end - i};
            if (bytes > segment) {
                group.msg_control = out;
                group.msg_controllen = sizeof out;
                struct cmsghdr *c = CMSG_FIRSTHDR(&group);
                uint16_t size = segment;
                c->cmsg_level = IPPROTO_UDP;
                c->cmsg_type = UDP_SEGMENT;
                c->cmsg_len = CMSG_LEN(sizeof size);
                memcpy(CMSG_DATA(c), &size, sizeof size);
            }
            sendmsg(socket_, &group, 0);
            i = end;
        }
    }
}
