/* A UDP echo: recvfrom, sendto. To compare with, no more: `cargo ladder bench --c-peers`. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static char buffer[65536];

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
    for (;;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        ssize_t bytes = recvfrom(socket_, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &length);
        if (bytes >= 0)
            sendto(socket_, buffer, bytes, 0, (struct sockaddr *)&peer, length);
    }
}
