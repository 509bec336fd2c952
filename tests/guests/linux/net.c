/* Commands for the network: set an interface up, send and receive data. */
#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int address_parse(const char *text, uint16_t port, struct sockaddr_in *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->sin_family = AF_INET;
	ret->sin_port = htons(port);
	return inet_pton(AF_INET, text, &ret->sin_addr) == 1 ? 0 : fail("not an IPv4 address");
}

static int ifup_run(int argc, char **argv)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = 0;
	struct sockaddr_in address;
	struct ifreq q = {0};

	(void)argc;
	snprintf(q.ifr_name, sizeof(q.ifr_name), "%s", argv[1]);
	if (address_parse(argv[2], 0, &address)) {
		r = -1;
	} else {
		/* The netmask is that of the address's old class: 255.0.0.0 for 10.x. */
		memcpy(&q.ifr_addr, &address, sizeof(address));
		r = ioctl(s, SIOCSIFADDR, &q) < 0 ? -errno : 0;
	}
	q.ifr_flags = IFF_UP | IFF_RUNNING;
	if (!r && ioctl(s, SIOCSIFFLAGS, &q) < 0)
		r = -errno;
	close(s);
	return r;
}

static int send_all(int s, uint64_t bytes, uint64_t seed)
{
	for (uint64_t at = 0; at < bytes;) {
		size_t n = bytes - at < GUEST_IO_BYTES ? bytes - at : GUEST_IO_BYTES;
		ssize_t done;

		pattern_fill(guest_io, n, at, seed);
		done = write(s, guest_io, n);
		if (done < 0)
			return -errno;
		at += (uint64_t)done;
	}
	return shutdown(s, SHUT_WR) < 0 ? -errno : 0;
}

static int receive_all(int s, uint64_t bytes, uint64_t seed)
{
	uint64_t at = 0;
	ssize_t n;

	while ((n = read(s, guest_io, GUEST_IO_BYTES)) > 0) {
		if (pattern_check(guest_io, (size_t)n, at, seed) != (size_t)n)
			return fail("differs after byte %llu", (unsigned long long)at);
		at += (uint64_t)n;
	}
	if (n < 0)
		return -errno;
	return at == bytes ? 0 : fail("%llu bytes came back", (unsigned long long)at);
}

/* Send data to an echo server and compare the answer. */
static int tcp_run(int argc, char **argv)
{
	uint64_t port, bytes, seed;
	struct sockaddr_in to;
	int s, r;

	(void)argc;
	if (number(argv[2], &port) || number(argv[3], &bytes) || number(argv[4], &seed) ||
	    address_parse(argv[1], (uint16_t)port, &to))
		return -1;
	s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return -errno;
	r = connect(s, (struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
	if (!r)
		r = send_all(s, bytes, seed);
	if (!r)
		r = receive_all(s, bytes, seed);
	close(s);
	return r;
}

static int echo(int s)
{
	ssize_t n;

	while ((n = read(s, guest_io, GUEST_IO_BYTES)) > 0)
		for (ssize_t at = 0, done; at < n; at += done) {
			done = write(s, guest_io + at, (size_t)(n - at));
			if (done < 0)
				return -errno;
		}
	return n < 0 ? -errno : 0;
}

/* Echo data to one client until it closes its side. */
static int serve_run(int argc, char **argv)
{
	struct sockaddr_in here = {.sin_family = AF_INET};
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), peer, r;
	uint64_t port;

	(void)argc;
	if (number(argv[1], &port))
		return -1;
	here.sin_port = htons((uint16_t)port);
	if (s < 0 || bind(s, (struct sockaddr *)&here, sizeof(here)) < 0 || listen(s, 1) < 0)
		return -errno;
	peer = accept(s, NULL, NULL);
	r = peer < 0 ? -errno : echo(peer);
	close(peer);
	close(s);
	return r;
}

/* The same for a client of the host's. */
static int vsock_run(int argc, char **argv)
{
	struct sockaddr_vm here = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
	int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), peer, r;
	uint64_t port;

	(void)argc;
	if (number(argv[1], &port))
		return -1;
	here.svm_port = (unsigned)port;
	if (s < 0 || bind(s, (struct sockaddr *)&here, sizeof(here)) < 0 || listen(s, 1) < 0)
		return -errno;
	console_line("cairn-guest: vsock listens");
	peer = accept(s, NULL, NULL);
	r = peer < 0 ? -errno : echo(peer);
	close(peer);
	close(s);
	return r;
}

const struct command net_commands[] = {
	{"ifup", 2, 2, ifup_run, "ifup NAME ADDRESS"},
	{"tcp", 4, 4, tcp_run, "tcp ADDRESS PORT BYTES SEED"},
	{"serve", 1, 1, serve_run, "serve PORT"},
	{"vsock", 1, 1, vsock_run, "vsock PORT"},
	{0},
};
