"""A UDP echo in ten lines, to be held against the contract and measured beside the rungs: HOST PORT."""
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
while True:
    payload, peer = server.recvfrom(65535)
    server.sendto(payload, peer)
