/* A UDP echo with recvmsg and sendmsg, to be traced beside the rungs: PORT. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

int main(int count, char **words) {
    char bytes[65535];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(count > 1 ? atoi(words[1]) : 2000)}, peer;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int server = socket(AF_INET, SOCK_DGRAM, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&here, sizeof here) < 0)
        return 1;
    for (;;) {
        struct iovec part = {bytes, sizeof bytes};
        struct msghdr message = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &part, .msg_iovlen = 1};
        ssize_t length = recvmsg(server, &message, 0);
        if (length < 0)
            return 1;
        part.iov_len = length;
        sendmsg(server, &message, 0);
    }
}
