#include "tools/slirp/options.h"
#include "base/err.h"
#include "base/host_name.h"
#include "base/user_network.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Prefix lengths. A network of /27 has room for the addresses .2, .3 and .15, and .15 is not its broadcast address. */
#define PREFIX_MIN 8
#define PREFIX_MAX 27

static const struct option long_options[] = {
	{ "frames", required_argument, NULL, 'f' },
	{ "network", required_argument, NULL, 'n' },
	{ "hostname", required_argument, NULL, 'h' },
	{ "mtu", required_argument, NULL, 'm' },
	{ "restrict", no_argument, NULL, 'r' },
	{ "host-loopback", no_argument, NULL, 'l' },
	{ "egress", required_argument, NULL, 'e' },
	{ "forward", required_argument, NULL, 'F' },
	{ "control", required_argument, NULL, 'c' },
	{ 0 },
};

static int option_invalid(struct err *e, const char *option, const char *text, const char *want)
{
	return err_set(e, -EINVAL, ERR_INVALID, "--%s %.100s: %s", option, text, want);
}

/* Parse the whole text as a decimal number. */
static bool number_parse(const char *text, unsigned long least, unsigned long most, unsigned *ret)
{
	unsigned long v;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || v < least || v > most)
		return false;
	*ret = (unsigned)v;
	return true;
}

static int fd_parse(const char *option, const char *text, int *ret, struct err *e)
{
	unsigned fd;

	if (!number_parse(text, 3, FDS_MAX - 1, &fd) || fcntl((int)fd, F_GETFD) < 0)
		return option_invalid(e, option, text, "the number of an open file descriptor from 3 on");
	*ret = (int)fd;
	return 0;
}

static int socket_option(int fd, int name)
{
	socklen_t len = sizeof(int);
	int v = -1;

	return getsockopt(fd, SOL_SOCKET, name, &v, &len) < 0 ? -1 : v;
}

static int packets_fd_parse(const char *option, const char *text, int *ret, struct err *e)
{
	int r = fd_parse(option, text, ret, e);

	if (!r && (socket_option(*ret, SO_DOMAIN) != AF_UNIX || socket_option(*ret, SO_TYPE) != SOCK_SEQPACKET))
		return option_invalid(e, option, text, "has to be a Unix socket of type SOCK_SEQPACKET");
	return r;
}

static int listening_fd_parse(const char *text, int *ret, struct err *e)
{
	int r = packets_fd_parse("control", text, ret, e);

	return !r && socket_option(*ret, SO_ACCEPTCONN) != 1 ? option_invalid(e, "control", text, "has to listen") : r;
}

static struct in_addr host_in(const struct options *o, uint32_t number)
{
	return (struct in_addr){ o->network.s_addr | (htonl(number) & ~o->mask.s_addr) };
}

static int network_parse(struct options *o, const char *text, struct err *e)
{
	char address[INET_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	unsigned bits;

	if (!slash || (size_t)(slash - text) >= sizeof(address) ||
		!number_parse(slash + 1, PREFIX_MIN, PREFIX_MAX, &bits))
		return option_invalid(e, "network", text, "must be like 10.0.2.0/24, with a length from 8 to 27");
	memcpy(address, text, (size_t)(slash - text));
	address[slash - text] = 0;
	o->mask.s_addr = htonl(~0u << (32 - bits));
	if (inet_pton(AF_INET, address, &o->network) != 1 || (o->network.s_addr & ~o->mask.s_addr))
		return option_invalid(e, "network", text, "is not a network: the address has bits beyond its length");
	if (!(ntohl(o->network.s_addr) >> 24) || ntohl(o->network.s_addr) >> 24 == 127 ||
		ntohl(o->network.s_addr) >> 28 >= 14)
		return option_invalid(e, "network", text, "these addresses have a meaning of their own; take private ones");
	o->gateway = host_in(o, USER_NETWORK_GATEWAY);
	o->resolver = host_in(o, USER_NETWORK_RESOLVER);
	o->first = host_in(o, USER_NETWORK_GUEST);
	return 0;
}

static int hostname_parse(struct options *o, const char *text, struct err *e)
{
	if (!host_label_is_valid(text))
		return option_invalid(e, "hostname", text,
			"has to have 1 to 63 letters, digits and hyphens, no hyphen at its ends");
	strcpy(o->hostname, text);
	return 0;
}

/* Returns the next part up to a colon or the end; NULL: none. */
static const char *part_next(char **rest)
{
	return *rest ? strsep(rest, ":") : NULL;
}

static int forward_address(const struct options *o, const char *text, struct forward *f, struct err *e)
{
	uint32_t host;

	if (!strcmp(text, "-")) {
		f->guest = o->first;
		return 0;
	}
	if (inet_pton(AF_INET, text, &f->guest) != 1)
		return option_invalid(e, "forward", text, "the address of the guest must be like 10.0.2.15, or - for the first one");
	host = f->guest.s_addr & ~o->mask.s_addr;
	if ((f->guest.s_addr & o->mask.s_addr) != o->network.s_addr || !host || host == ~o->mask.s_addr ||
		f->guest.s_addr == o->gateway.s_addr || f->guest.s_addr == o->resolver.s_addr)
		return option_invalid(e, "forward", text, "is not an address that a guest in this network can have");
	return 0;
}

/* Accept only IPv4: libslirp does not forward from IPv6 to IPv4. */
static int forward_socket(struct forward *f, struct err *e)
{
	bool fits = socket_option(f->fd, SO_DOMAIN) == AF_INET;
	socklen_t size = sizeof(f->own);

	if (f->udp)
		fits = fits && socket_option(f->fd, SO_TYPE) == SOCK_DGRAM;
	else
		fits = fits && socket_option(f->fd, SO_TYPE) == SOCK_STREAM &&
			socket_option(f->fd, SO_ACCEPTCONN) == 1;
	if (!fits || getsockname(f->fd, (struct sockaddr *)&f->own, &size) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "--forward: fd %d is not a %s IPv4 socket", f->fd,
			f->udp ? "bound UDP" : "listening TCP");
	return 0;
}

int options_add_forward(struct options *o, char *text, int fd, struct err *e)
{
	char *rest = text;
	const char *protocol = part_next(&rest), *number = fd < 0 ? part_next(&rest) : NULL;
	const char *address = part_next(&rest), *port = part_next(&rest);
	struct forward *f = &o->forwards[o->nforwards];
	unsigned to;
	int r;

	if (o->nforwards == FORWARDS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "more than %d forwards", FORWARDS_MAX);
	if (!port || rest || (strcmp(protocol, "tcp") && strcmp(protocol, "udp")))
		return option_invalid(e, "forward", text, "must be like tcp:4:-:22 or udp:5:10.0.2.15:53");
	if (!number_parse(port, 1, UINT16_MAX, &to))
		return option_invalid(e, "forward", port, "a port is a number from 1 to 65535");
	*f = (struct forward){ .fd = fd, .udp = !strcmp(protocol, "udp"), .port = (uint16_t)to };
	r = number ? fd_parse("forward", number, &f->fd, e) : 0;
	if (!r)
		r = forward_socket(f, e);
	if (!r)
		r = forward_address(o, address, f, e);
	if (!r)
		o->nforwards++;
	return r;
}

static void removed_note(struct options *o, const struct forward *f)
{
	for (unsigned i = 0; i < o->nremoved && i < FORWARDS_MAX; i++)
		if (o->removed[i].port == f->port && o->removed[i].guest.s_addr == f->guest.s_addr)
			return;
	o->removed[o->nremoved++ % FORWARDS_MAX] = *f;
}

void options_remove_forward(struct options *o, unsigned at)
{
	if (!o->forwards[at].udp)
		removed_note(o, &o->forwards[at]);
	o->nforwards--;
	memmove(&o->forwards[at], &o->forwards[at + 1], (o->nforwards - at) * sizeof(o->forwards[0]));
}

static int option_take(struct options *o, int c, char *text, struct err *e)
{
	switch (c) {
	case 'f':
		return packets_fd_parse("frames", text, &o->frames_fd, e);
	case 'c':
		return listening_fd_parse(text, &o->control_fd, e);
	case 'n':
		return network_parse(o, text, e);
	case 'h':
		return hostname_parse(o, text, e);
	case 'm':
		if (!number_parse(text, MTU_MIN, MTU_MAX, &o->mtu))
			return option_invalid(e, "mtu", text, "has to be a number from 576 to 65520");
		return 0;
	case 'r':
		o->restricted = true;
		return 0;
	case 'l':
		o->host_loopback = true;
		return 0;
	case 'e':
		if (!egress_parse(text, &o->egress))
			return option_invalid(e, "egress", text, "must be like \"deny;allow tcp 443 *.example.org;allow any - 192.0.2.0/24\"");
		o->filtered = true;
		return 0;
	default:
		return err_set(e, -EINVAL, ERR_INVALID, "unknown option, or an option without its value");
	}
}

int options_parse(int argc, char **argv, struct options *ret_o, struct err *e)
{
	char *forwards[FORWARDS_MAX + 1];
	unsigned n = 0;
	int c, r;

	*ret_o = (struct options){ .frames_fd = -1, .control_fd = -1, .mtu = 1500 };
	r = network_parse(ret_o, "10.0.2.0/24", e);
	opterr = 0;
	while (!r && (c = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
		if (c != 'F')
			r = option_take(ret_o, c, optarg, e);
		else if (n <= FORWARDS_MAX)
			forwards[n++] = optarg;
	}
	if (!r && optind < argc)
		r = err_set(e, -EINVAL, ERR_INVALID, "unexpected argument '%.100s'", argv[optind]);
	if (!r && ret_o->frames_fd < 0)
		r = err_set(e, -EINVAL, ERR_INVALID, "--frames is missing");
	/* Parse forwards last, because their addresses are checked against the network. */
	for (unsigned i = 0; i < n && !r; i++)
		r = options_add_forward(ret_o, forwards[i], -1, e);
	return r;
}
