// SPDX-License-Identifier: Apache-2.0
/*
 * The floor for connections a second: socket, connect, accept, close, close, one
 * after the other.
 *
 * usage: rate ADDRESS PORT, run on the client's host (its namespace, its cgroup).
 * Descriptor 0 is a SOCK_SEQPACKET socket. Its first packet brings the server's
 * listener (SCM_RIGHTS). Each one after it is a number of connections to make, as
 * text; the answer is the nanoseconds they took, on the clock and of the CPU.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int receive_listener(void)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			   .msg_controllen = sizeof(control)};
	int fd;

	if (recvmsg(0, &m, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&m))
		err(1, "recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static void one(int listener, const struct sockaddr_in *address)
{
	struct sockaddr_in peer;
	socklen_t size = sizeof(peer);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), server;

	if (client < 0 || connect(client, (const void *)address, sizeof(*address)))
		err(1, "connect");
	server = accept4(listener, (void *)&peer, &size, SOCK_CLOEXEC);
	if (server < 0)
		err(1, "accept");
	close(client);
	close(server);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	char text[64];
	ssize_t size;
	int listener;

	if (argc != 3 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
		errx(2, "usage: rate ADDRESS PORT");
	address.sin_port = htons(atoi(argv[2]));
	listener = receive_listener();
	while ((size = recv(0, text, sizeof(text) - 1, 0)) > 0) {
		uint64_t start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);

		text[size] = 0;
		for (int left = atoi(text); left; left--)
			one(listener, &address);
		cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
		size = snprintf(text, sizeof(text), "%llu %llu",
				(unsigned long long)(now(CLOCK_MONOTONIC) - start),
				(unsigned long long)cpu);
		if (send(0, text, size, 0) != size)
			err(1, "send");
	}
	return 0;
}
