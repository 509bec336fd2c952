#include "tools/agent/network.h"
#include "base/agent_frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOUND_FOLDER "/dev/.cairn" /* in memory */
#define INTERFACE "eth0" /* no udev is there to give it another name */

static char own_address[INET_ADDRSTRLEN] = "127.0.1.1"; /* for the name in /etc/hosts; as Debian has it without a network */
static char own_name[AGENT_NAME_MAX + 1];
static bool does_bind;

static void failure_print(const char *what)
{
	char line[256] = "cairn-agent: ";

	strncat(line, what, 100);
	strcat(line, ": ");
	strncat(line, strerror(errno), 100);
	strcat(line, "\n");
	if (write(2, line, strlen(line)) < 0)
		return; /* there is no console */
}

/* ---- parsing ---- */

/* Parse an address up to the separator, or to the end with 0. Returns the rest; NULL: it is malformed. */
static const char *address_parse(const char *text, char end, struct in_addr *ret, char ret_text[INET_ADDRSTRLEN])
{
	const char *at = text ? strchr(text, end) : NULL;

	if (!at || at - text >= INET_ADDRSTRLEN)
		return NULL;
	memcpy(ret_text, text, (size_t)(at - text));
	ret_text[at - text] = 0;
	return inet_pton(AF_INET, ret_text, ret) == 1 ? at + (end != 0) : NULL;
}

bool network_parse(const char *text, struct network *ret)
{
	const char *rest = address_parse(text, '/', &ret->address, ret->address_text);
	char gateway[INET_ADDRSTRLEN];
	struct in_addr resolver;
	char *end = NULL;
	long bits = rest && *rest >= '1' && *rest <= '9' ? strtol(rest, &end, 10) : 0;

	if (bits < 1 || bits > 32 || *end != ',')
		return false;
	ret->mask.s_addr = htonl(0xffffffffu << (32 - bits));
	rest = address_parse(end + 1, ',', &ret->gateway, gateway);
	return address_parse(rest, 0, &resolver, ret->resolver_text) != NULL;
}

/* ---- interfaces ---- */

static int flags_set(int s, const char *interface, int flags)
{
	struct ifreq r = { .ifr_flags = (short)flags };

	strcpy(r.ifr_name, interface);
	return ioctl(s, SIOCSIFFLAGS, &r);
}

static int address_set(int s, unsigned long request, struct in_addr address)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = address };
	struct ifreq r = { .ifr_name = INTERFACE };

	memcpy(&r.ifr_addr, &a, sizeof(a));
	return ioctl(s, (int)request, &r);
}

static int route_add(int s, struct in_addr gateway)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	struct rtentry r = { .rt_flags = RTF_UP | RTF_GATEWAY };

	memcpy(&r.rt_dst, &a, sizeof(a));
	memcpy(&r.rt_genmask, &a, sizeof(a));
	a.sin_addr = gateway;
	memcpy(&r.rt_gateway, &a, sizeof(a));
	return ioctl(s, SIOCADDRT, &r);
}

static void interfaces_begin(const struct network *n)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool failed = s < 0 || flags_set(s, "lo", IFF_UP) < 0;

	if (n && (failed || address_set(s, SIOCSIFADDR, n->address) < 0 || address_set(s, SIOCSIFNETMASK, n->mask) < 0 ||
		flags_set(s, INTERFACE, IFF_UP | IFF_MULTICAST) < 0 || route_add(s, n->gateway) < 0))
		failure_print("the guest has no network: " INTERFACE);
	if (s >= 0)
		close(s);
}

/* ---- files ---- */

/* Replace a file. The image may have a symbolic link there, to a file of a program that does not run. */
static void file_replace(const char *path, const char *text)
{
	int fd;

	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		failure_print(path);
	if (fd >= 0)
		close(fd);
}

/* Mount a file above another one, which is made if it is missing. */
static void file_bind(const char *path, const char *text)
{
	char own[64] = BOUND_FOLDER;
	int fd;

	mkdir(own, 0755);
	strncat(own, strrchr(path, '/'), 32);
	file_replace(own, text);
	fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
	if (fd < 0 || mount(own, path, NULL, MS_BIND, NULL) < 0)
		failure_print(path);
	if (fd >= 0)
		close(fd);
}

static void file_put(const char *path, const char *text)
{
	if (does_bind)
		file_bind(path, text);
	else
		file_replace(path, text);
}

static void names_write(void)
{
	char text[256] = "127.0.0.1\tlocalhost\n";

	if (access("/proc/net/if_inet6", F_OK) == 0)
		strcat(text, "::1\tlocalhost ip6-localhost ip6-loopback\n");
	if (own_name[0])
		stpcpy(stpcpy(stpcpy(stpcpy(text + strlen(text), own_address), "\t"), own_name), "\n");
	file_put("/etc/hosts", text);
	if (!own_name[0])
		return;
	stpcpy(stpcpy(text, own_name), "\n");
	file_put("/etc/hostname", text);
}

void network_name_set(const char *name, size_t len)
{
	if (len > AGENT_NAME_MAX || (strlen(own_name) == len && !memcmp(own_name, name, len)))
		return;
	memcpy(own_name, name, len);
	own_name[len] = 0;
	if (sethostname(own_name, len) < 0)
		failure_print("the host name");
	names_write();
}

void network_begin(const char *text, const char *name, bool binds)
{
	char line[INET_ADDRSTRLEN + 16] = "nameserver ";
	struct network n;
	bool has_network = text && network_parse(text, &n);

	does_bind = binds;
	interfaces_begin(has_network ? &n : NULL);
	mkdir("/etc", 0755);
	if (has_network) {
		strcpy(own_address, n.address_text);
		file_put("/etc/resolv.conf", strcat(strcat(line, n.resolver_text), "\n"));
	}
	if (name)
		network_name_set(name, strlen(name));
	else
		names_write();
}
