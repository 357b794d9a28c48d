"""As rate.c, in plain Python: what the interpreter leaves of the rate. Run on the client's host."""

import socket
import sys
import time


def main(address: tuple[str, int]) -> None:
    control = socket.socket(fileno=0)
    _, fds, _, _ = socket.recv_fds(control, 1, 1)
    listener = socket.socket(fileno=fds[0])
    listener.setblocking(True)
    while count := control.recv(32):
        start, cpu = time.perf_counter_ns(), time.thread_time_ns()
        for _ in range(int(count)):
            client = socket.socket()
            client.connect(address)
            server, _ = listener.accept()
            client.close()
            server.close()
        cpu = time.thread_time_ns() - cpu
        control.send(b"%d %d" % (time.perf_counter_ns() - start, cpu))


if __name__ == "__main__":
    main((sys.argv[1], int(sys.argv[2])))
