/* tap_cable: connects a new tap device of this network namespace with a packet socket of
 * cairn-slirp, so that the host's TCP plays the guest. Uses the same offloads as Linux in a VM, and polls before it
 * sleeps as the loop of a VM's interface does. For bench_net-user.py.
 *
 *   tap_cable NAME FD: prints "up" when the device exists; ends when FD is closed. */
#include "base/busy_poll.h"
#include "base/wait_fds.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACKET_MAX 70000
#define HEADER_BYTES 12
#define BATCH 64
#define OFFLOADS (TUN_F_CSUM | TUN_F_TSO4)

static int tap_open(const char *name)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), bytes = HEADER_BYTES;

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &bytes) < 0 ||
		ioctl(fd, TUNSETOFFLOAD, OFFLOADS) < 0) {
		perror(name);
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	static char packet[PACKET_MAX];
	const unsigned takes = OFFLOADS;
	struct busy_poll busy = { 0 };
	int tap, sock;

	if (argc != 3)
		return 2;
	tap = tap_open(argv[1]);
	sock = atoi(argv[2]);
	if (send(sock, &takes, sizeof(takes), MSG_NOSIGNAL) < 0)
		return 1;
	puts("up");
	fflush(stdout);
	for (;;) {
		struct pollfd p[] = { { .fd = tap, .events = POLLIN }, { .fd = sock, .events = POLLIN } };
		int r = wait_fds(&busy, p, 2, -1);
		ssize_t n;

		if (r < 0 && r != -EINTR)
			return 1;
		for (int i = 0; i < BATCH && (n = read(tap, packet, sizeof(packet))) > 0; i++)
			if (send(sock, packet, (size_t)n, MSG_NOSIGNAL) < 0)
				return 0;
		for (int i = 0; i < BATCH && (n = recv(sock, packet, sizeof(packet), MSG_DONTWAIT)) >= 0; i++)
			if (!n || (write(tap, packet, (size_t)n) < 0 && errno != EIO))
				return n != 0;
	}
}
