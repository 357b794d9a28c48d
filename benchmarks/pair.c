// SPDX-License-Identifier: Apache-2.0
/*
 * The floor for a ready pair of hosts: what Lab does, in C with raw netlink.
 *
 * usage: pair [CGROUP]. For each line on stdin: sets a pair up (cgroups, two
 * brokers born in them with a network namespace each, their sysctls, a veth,
 * addresses, default routes; ready to connect), prints the nanoseconds it took,
 * and takes it down. Without CGROUP: the bare topology, no cgroups and no brokers.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/veth.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define OPERSTATE_UP 6

static const char *const sysctls[][2] = {
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/default/addr_gen_mode", "1"},
	{"net/ipv4/tcp_max_tw_buckets", "131072"},
};

struct host {
	const char *name;
	int index; /* of its interface */
	const char *ip4, *ip6;
	int cgroup, pid, pidfd, control, netns, netlink;
};

struct batch {
	char data[8192];
	size_t size;
	int messages;
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static struct nlmsghdr *message(struct batch *b, int type, int flags, const void *body, size_t size)
{
	struct nlmsghdr *h = (void *)(b->data + b->size);

	memset(h, 0, NLMSG_SPACE(size));
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	h->nlmsg_seq = ++b->messages;
	h->nlmsg_len = NLMSG_LENGTH(size);
	memcpy(NLMSG_DATA(h), body, size);
	b->size += NLMSG_SPACE(size);
	return h;
}

static struct rtattr *attribute(struct batch *b, struct nlmsghdr *h, int type, const void *data,
				size_t size)
{
	struct rtattr *a = (void *)(b->data + b->size);

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	memset(RTA_DATA(a), 0, RTA_ALIGN(size));
	if (data)
		memcpy(RTA_DATA(a), data, size);
	b->size += RTA_SPACE(size);
	h->nlmsg_len = (char *)b->data + b->size - (char *)h;
	return a;
}

static void end_nest(struct batch *b, struct rtattr *a)
{
	a->rta_len = b->data + b->size - (char *)a;
}

/* Sends all, waits for every acknowledgement; the last two other answers go to link and routes. */
static void execute(int sock, struct batch *b, int *operstate, int *local)
{
	char data[65536];

	if (send(sock, b->data, b->size, 0) < 0)
		err(1, "netlink send");
	while (b->messages) {
		ssize_t size = recv(sock, data, sizeof(data), 0);

		if (size < 0)
			err(1, "netlink recv");
		for (struct nlmsghdr *h = (void *)data; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
			if (h->nlmsg_type == NLMSG_ERROR) {
				int code = *(int *)NLMSG_DATA(h);

				if (code)
					errx(1, "netlink: %s", strerror(-code));
				b->messages--;
			} else if (h->nlmsg_type == RTM_NEWROUTE) {
				struct rtmsg *r = NLMSG_DATA(h);

				*local += r->rtm_type == RTN_LOCAL;
			} else if (h->nlmsg_type == RTM_NEWLINK) {
				int left = IFLA_PAYLOAD(h);

				for (struct rtattr *a = IFLA_RTA((char *)NLMSG_DATA(h)); RTA_OK(a, left);
				     a = RTA_NEXT(a, left))
					if (a->rta_type == IFLA_OPERSTATE)
						*operstate = *(uint8_t *)RTA_DATA(a);
			}
		}
	}
}

static void send_fds(int sock, int *fds, int count)
{
	char control[CMSG_SPACE(2 * sizeof(int))] = {0}, byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
	struct cmsghdr *c;

	m.msg_controllen = CMSG_SPACE(count * sizeof(int));
	c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	if (sendmsg(sock, &m, 0) < 0)
		err(1, "sendmsg");
}

static void receive_fds(int sock, int *fds, int count)
{
	char control[CMSG_SPACE(2 * sizeof(int))], byte;
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			   .msg_controllen = sizeof(control)};

	if (recvmsg(sock, &m, MSG_CMSG_CLOEXEC) <= 0)
		err(1, "recvmsg");
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), count * sizeof(int));
}

/* Of the namespace that this process is in: its descriptor, and a netlink socket. */
static void set_up_namespace(int *fds)
{
	char path[128];

	for (size_t i = 0; i < ARRAY_SIZE(sysctls); i++) {
		snprintf(path, sizeof(path), "/proc/sys/%s", sysctls[i][0]);
		int fd = open(path, O_WRONLY | O_CLOEXEC);

		if (fd < 0 || write(fd, sysctls[i][1], strlen(sysctls[i][1])) < 0)
			err(1, "%s", path);
		close(fd);
	}
	fds[0] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	fds[1] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static void be_broker(int control)
{
	char byte;
	int fds[2];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* the other host's control socket, above all: with a copy here it would never close */
	close_range(3, control - 1, 0);
	close_range(control + 1, ~0U, 0);
	set_up_namespace(fds);
	send_fds(control, fds, 2);
	while (read(control, &byte, 1) > 0)
		;
	_exit(0);
}

static void start_host(struct host *h, const char *lab)
{
	char path[512];
	int pair[2];

	snprintf(path, sizeof(path), "%s/lab/%s", lab, h->name);
	if (mkdir(path, 0755))
		err(1, "%s", path);
	h->cgroup = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		err(1, "socketpair");

	struct clone_args args = {
		.flags = CLONE_INTO_CGROUP | CLONE_NEWNET | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&h->pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = h->cgroup,
	};
	h->pid = syscall(SYS_clone3, &args, sizeof(args));
	if (h->pid < 0)
		err(1, "clone3");
	if (!h->pid) {
		close(pair[0]);
		be_broker(pair[1]);
	}
	close(pair[1]);
	h->control = pair[0];
}

/* Apart from start_host: one broker sets itself up while the next is started. */
static void await_host(struct host *h)
{
	int fds[2];

	receive_fds(h->control, fds, 2);
	h->netns = fds[0];
	h->netlink = fds[1];
}

static void bare_host(struct host *h)
{
	int fds[2];

	if (unshare(CLONE_NEWNET))
		err(1, "unshare");
	set_up_namespace(fds);
	h->netns = fds[0];
	h->netlink = fds[1];
}

static void make_veth(struct host *a, struct host *b)
{
	static const unsigned char mac[6] = {2};
	struct ifinfomsg info = {.ifi_index = a->index, .ifi_flags = IFF_UP | IFF_NOARP,
				 .ifi_change = IFF_UP | IFF_NOARP};
	struct ifinfomsg peer = {.ifi_index = b->index, .ifi_flags = IFF_NOARP,
				 .ifi_change = IFF_NOARP};
	struct batch batch = {.size = 0};
	struct nlmsghdr *h = message(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &info,
				     sizeof(info));
	struct rtattr *link, *data, *veth;

	attribute(&batch, h, IFLA_IFNAME, "eth0", 5);
	attribute(&batch, h, IFLA_ADDRESS, mac, 6);
	link = attribute(&batch, h, IFLA_LINKINFO, NULL, 0);
	attribute(&batch, h, IFLA_INFO_KIND, "veth", 5);
	data = attribute(&batch, h, IFLA_INFO_DATA, NULL, 0);
	veth = attribute(&batch, h, VETH_INFO_PEER, &peer, sizeof(peer));
	attribute(&batch, h, IFLA_IFNAME, "eth0", 5);
	attribute(&batch, h, IFLA_ADDRESS, mac, 6);
	attribute(&batch, h, IFLA_NET_NS_FD, &b->netns, 4);
	end_nest(&batch, veth);
	end_nest(&batch, data);
	end_nest(&batch, link);
	execute(a->netlink, &batch, NULL, NULL);
}

static void flags_up(struct batch *b, int index)
{
	struct ifinfomsg info = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};

	message(b, RTM_NEWLINK, 0, &info, sizeof(info));
}

static void address(struct batch *b, struct host *host, int family)
{
	unsigned char ip[16];
	size_t size = family == AF_INET ? 4 : 16;
	struct ifaddrmsg info = {.ifa_family = family, .ifa_index = host->index,
				 .ifa_prefixlen = family == AF_INET ? 24 : 64,
				 .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0};
	struct nlmsghdr *h = message(b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));

	inet_pton(family, family == AF_INET ? host->ip4 : host->ip6, ip);
	attribute(b, h, IFA_ADDRESS, ip, size);
	attribute(b, h, IFA_LOCAL, ip, size);
}

static void default_route(struct batch *b, struct host *host, struct host *peer, int family)
{
	unsigned char ip[16];
	struct rtmsg info = {.rtm_family = family, .rtm_table = RT_TABLE_MAIN,
			     .rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_UNICAST};
	struct nlmsghdr *h = message(b, RTM_NEWROUTE, NLM_F_CREATE, &info, sizeof(info));

	inet_pton(family, family == AF_INET ? peer->ip4 : peer->ip6, ip);
	attribute(b, h, RTA_GATEWAY, ip, family == AF_INET ? 4 : 16);
	attribute(b, h, RTA_OIF, &host->index, 4);
}

static void bring_up(struct host *host, struct host *peer)
{
	struct batch b = {.size = 0};

	flags_up(&b, 1);
	flags_up(&b, host->index);
	address(&b, host, AF_INET);
	address(&b, host, AF_INET6);
	default_route(&b, host, peer, AF_INET);
	default_route(&b, host, peer, AF_INET6);
	execute(host->netlink, &b, NULL, NULL);
}

static void get_route(struct batch *b, struct host *host, int family)
{
	unsigned char ip[16];
	struct rtmsg info = {.rtm_family = family, .rtm_dst_len = family == AF_INET ? 32 : 128};
	struct nlmsghdr *h = message(b, RTM_GETROUTE, 0, &info, sizeof(info));

	inet_pton(family, family == AF_INET ? host->ip4 : host->ip6, ip);
	attribute(b, h, RTA_DST, ip, family == AF_INET ? 4 : 16);
}

static void await_ready(struct host *host)
{
	struct ifinfomsg info = {.ifi_index = host->index};
	int operstate, local;

	do {
		struct batch b = {.size = 0};

		operstate = local = 0;
		message(&b, RTM_GETLINK, 0, &info, sizeof(info));
		get_route(&b, host, AF_INET);
		get_route(&b, host, AF_INET6);
		execute(host->netlink, &b, &operstate, &local);
	} while (operstate != OPERSTATE_UP || local != 2);
}

static void take_down_bare(struct host *hosts)
{
	for (int i = 0; i < 2; i++) {
		close(hosts[i].netns);
		close(hosts[i].netlink);
	}
}

static void take_down(struct host *hosts, const char *lab)
{
	char path[512];

	for (int i = 0; i < 2; i++) {
		close(hosts[i].control);
		waitpid(hosts[i].pid, NULL, 0);
		close(hosts[i].pidfd);
		close(hosts[i].netns);
		close(hosts[i].netlink);
		close(hosts[i].cgroup);
		snprintf(path, sizeof(path), "%s/lab/%s", lab, hosts[i].name);
		rmdir(path);
	}
	snprintf(path, sizeof(path), "%s/lab", lab);
	rmdir(path);
	rmdir(lab);
}

static void start_hosts(struct host *hosts, const char *lab)
{
	char path[300];

	if (!*lab) {
		bare_host(&hosts[0]);
		bare_host(&hosts[1]);
		return;
	}
	snprintf(path, sizeof(path), "%s/lab", lab);
	if (mkdir(lab, 0755) || mkdir(path, 0755))
		err(1, "%s", path);
	start_host(&hosts[0], lab);
	start_host(&hosts[1], lab);
	await_host(&hosts[0]);
	await_host(&hosts[1]);
}

int main(int argc, char **argv)
{
	char line[16], lab[256] = "";

	if (argc > 2)
		errx(2, "usage: pair [CGROUP]");
	if (argc == 2)
		snprintf(lab, sizeof(lab), "%s/c-lab", argv[1]);
	while (fgets(line, sizeof(line), stdin)) {
		struct host hosts[2] = {
			{.name = "client", .index = 2, .ip4 = "10.77.0.1", .ip6 = "fd77::1"},
			{.name = "server", .index = 3, .ip4 = "10.77.0.2", .ip6 = "fd77::2"},
		};
		uint64_t start = now();

		start_hosts(hosts, lab);
		make_veth(&hosts[0], &hosts[1]);
		bring_up(&hosts[0], &hosts[1]);
		bring_up(&hosts[1], &hosts[0]);
		await_ready(&hosts[0]);
		await_ready(&hosts[1]);
		printf("%llu\n", (unsigned long long)(now() - start));
		fflush(stdout);
		if (*lab)
			take_down(hosts, lab);
		else
			take_down_bare(hosts);
	}
	return 0;
}
