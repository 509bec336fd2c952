#include "tools/dns/notices.h"
#include "base/bytes.h"
#include "base/egress_notice.h"
#include "base/err.h"
#include "base/inet_sum.h"
#include "base/util.h"

#include <errno.h>
#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_S 1000000000ULL
#define ICMP_HEADER 8
#define ICMP_FILTER_OPTION 1 /* ICMP_FILTER of linux/icmp.h */
#define IP_HEADER 20
/* The table of open addresses remembers the latest end of each, since a notice sets the time anew. An evicted address
 * stays open for the time of its last answer. */
#define SETS 1024
#define WAYS 8

struct open_address {
	uint8_t address[EGRESS_ADDRESS_BYTES];
	uint64_t name; /* 0: unused */
	uint64_t end_ns;
};

struct notices {
	const struct settings *settings;
	int fd;
	bool ipv6; /* the gateway's address */
	uint16_t id;
	struct open_address open[SETS][WAYS];
};

static bool is_ipv4(const uint8_t *address)
{
	return !memcmp(address, egress_ipv4_form, EGRESS_IPV4_AT);
}

static socklen_t socket_address(const uint8_t *address, struct sockaddr_storage *ret)
{
	struct sockaddr_in *v4 = (void *)ret;
	struct sockaddr_in6 *v6 = (void *)ret;

	*ret = (struct sockaddr_storage){ 0 };
	if (is_ipv4(address)) {
		v4->sin_family = AF_INET;
		memcpy(&v4->sin_addr, address + EGRESS_IPV4_AT, 4);
		return sizeof(*v4);
	}
	v6->sin6_family = AF_INET6;
	memcpy(&v6->sin6_addr, address, EGRESS_ADDRESS_BYTES);
	return sizeof(*v6);
}

/* Take echo replies only. */
static int filter_set(const struct notices *n)
{
	const struct icmp_filter v4 = { .data = ~(1U << ICMP_ECHOREPLY) };
	struct icmp6_filter v6;

	ICMP6_FILTER_SETBLOCKALL(&v6);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &v6);
	return n->ipv6 ? setsockopt(n->fd, IPPROTO_ICMPV6, ICMP6_FILTER, &v6, sizeof(v6))
		       : setsockopt(n->fd, SOL_RAW, ICMP_FILTER_OPTION, &v4, sizeof(v4));
}

/* The rules know the sender by its address: that of the gateway's family. */
static int socket_open(struct notices *n)
{
	struct sockaddr_storage own, gateway;
	const struct settings *s = n->settings;
	socklen_t len = socket_address(s->gateway, &gateway);

	n->fd = socket(gateway.ss_family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, n->ipv6 ? (int)IPPROTO_ICMPV6 : (int)IPPROTO_ICMP);
	if (n->fd < 0 || filter_set(n) < 0)
		return -errno;
	for (unsigned i = 0; i < s->nlisten; i++)
		if (is_ipv4(s->listen[i]) != n->ipv6) {
			socket_address(s->listen[i], &own);
			return bind(n->fd, (void *)&own, len) < 0 || connect(n->fd, (void *)&gateway, len) < 0 ? -errno : 0;
		}
	return -EADDRNOTAVAIL;
}

int notices_new(const struct settings *s, struct notices **ret_n, struct err *e)
{
	struct notices *n = must_alloc(calloc(1, sizeof(*n)));
	int r;

	n->settings = s;
	n->ipv6 = !is_ipv4(s->gateway);
	r = socket_open(n);
	if (!r && getrandom(&n->id, sizeof(n->id), 0) != sizeof(n->id))
		r = -EIO;
	if (r < 0) {
		notices_free(n);
		return err_set_errno(e, r, "cairn-dns: socket for ICMP");
	}
	*ret_n = n;
	return 0;
}

void notices_free(struct notices *n)
{
	if (n && n->fd >= 0)
		close(n->fd);
	free(n);
}

int notices_fd(const struct notices *n)
{
	return n->fd;
}

static bool notice_send(struct notices *n, const uint8_t data[NOTICE_BYTES], uint16_t number)
{
	uint8_t message[ICMP_HEADER + NOTICE_BYTES] = { n->ipv6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO };

	store_be16(message + 4, n->id);
	store_be16(message + 6, number);
	memcpy(message + ICMP_HEADER, data, NOTICE_BYTES);
	if (!n->ipv6) /* the kernel fills in that of ICMPv6 */
		store_be16(message + 2, (uint16_t)~sum_fold(sum_add(0, message, sizeof(message))));
	return send(n->fd, message, sizeof(message), MSG_NOSIGNAL) == sizeof(message);
}

/* Note the address's end. Returns its latest one. */
static uint64_t end_note(struct notices *n, uint64_t name, const uint8_t *address, uint64_t end_ns)
{
	uint64_t hash = (load_be64(address) ^ load_be64(address + 8) ^ name) * 0x9e3779b97f4a7c15ULL;
	struct open_address *set = n->open[hash >> 54], *at = set;

	for (unsigned i = 0; i < WAYS; i++) {
		if (set[i].name == name && !memcmp(set[i].address, address, EGRESS_ADDRESS_BYTES)) {
			set[i].end_ns = MAX(set[i].end_ns, end_ns);
			return set[i].end_ns;
		}
		if (set[i].end_ns < at->end_ns)
			at = &set[i];
	}
	*at = (struct open_address){ .name = name, .end_ns = end_ns };
	memcpy(at->address, address, EGRESS_ADDRESS_BYTES);
	return end_ns;
}

static unsigned time_for(uint64_t ns)
{
	unsigned time = 0;

	while (time < NOTICE_TIMES - 1 && notice_seconds(time) * NS_PER_S < ns)
		time++;
	return time;
}

unsigned notices_open(struct notices *n, const char *name, const uint8_t address[EGRESS_ADDRESS_BYTES], uint32_t ttl_s,
	uint16_t number, uint64_t now_ns)
{
	const struct egress *e = &n->settings->egress;
	uint64_t end_ns = now_ns + MAX(EGRESS_TTL_MIN_S, MIN(ttl_s, EGRESS_TTL_MAX_S)) * NS_PER_S;
	uint8_t data[NOTICE_BYTES] = { 0 };
	uint64_t told[EGRESS_RULES_MAX];
	unsigned sent = 0, ntold = 0;

	data[NOTICE_FAMILY] = is_ipv4(address) ? 4 : 6;
	memcpy(data + NOTICE_ADDRESS, address + (is_ipv4(address) ? EGRESS_IPV4_AT : 0), is_ipv4(address) ? 4 : EGRESS_ADDRESS_BYTES);
	for (uint32_t i = 0; i < e->nrules; i++) {
		uint64_t hash = egress_rule_name_hash(&e->rules[i]);
		bool had = false;

		if (e->rules[i].target != EGRESS_NAME || !egress_rule_has_name(&e->rules[i], name))
			continue;
		for (unsigned k = 0; k < ntold && !had; k++)
			had = told[k] == hash;
		if (had)
			continue;
		told[ntold++] = hash;
		store_be64(data + NOTICE_NAME, hash);
		data[NOTICE_TIME] = (uint8_t)time_for(end_note(n, hash, address, end_ns) - now_ns);
		sent += notice_send(n, data, number);
	}
	return sent;
}

void notices_refused(struct notices *n)
{
	const uint8_t data[NOTICE_BYTES] = { 0 };

	notice_send(n, data, 0);
}

bool notices_read(struct notices *n, uint16_t *ret_number)
{
	uint8_t packet[IP_HEADER + 40 + ICMP_HEADER + NOTICE_BYTES];
	ssize_t got = recv(n->fd, packet, sizeof(packet), MSG_DONTWAIT);
	const uint8_t *message = packet;

	*ret_number = 0;
	if (got < 0)
		return false;
	if (!n->ipv6) {
		size_t header = got ? (packet[0] & 15u) * 4 : 0;

		message += header;
		got -= (ssize_t)header;
	}
	if (got >= ICMP_HEADER && load_be16(message + 4) == n->id)
		*ret_number = load_be16(message + 6);
	return true;
}
