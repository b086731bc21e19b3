"""A UDP echo that drops every fourth datagram and garbles every fifth: HOST PORT."""
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
count = 0
while True:
    payload, peer = server.recvfrom(65535)
    count += 1
    if count % 4 == 0:
        continue
    if count % 5 == 0:
        payload = payload[::-1] + b"!"
    server.sendto(payload, peer)
