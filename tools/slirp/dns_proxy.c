#include "tools/slirp/dns_proxy.h"
#include "base/cleanup.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "base/dns_message.h"
#include "tools/slirp/egress_filter.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESOLV_CONF "/etc/resolv.conf"
#define RESOLV_CONF_BYTES 4096
#define NAMESERVER "nameserver"
#define QUERY_NS (10 * 1000000000ULL) /* a query without an answer ends */
#define LOOPBACK_MTU 65535 /* as the kernel reports that of its loopback link, which no other link reaches */

union host_address {
	struct sockaddr any;
	struct sockaddr_in ipv4;
	struct sockaddr_in6 ipv6;
};

struct query {
	int fd; /* owned; -1: unused */
	uint16_t id;
	uint64_t asked_ns;
	struct dns_question question;
	struct guest_packet from; /* without data */
};

struct dns_proxy {
	struct egress_filter *filter;
	struct frames *frames;
	union host_address server; /* AF_UNSPEC: none */
	struct stat seen;	   /* the file from which it was read */
	struct query queries[DNS_QUERIES_MAX];
	uint8_t answer[DNS_ANSWER_MAX];
	uint8_t frame[GUEST_ANSWER_HEADERS + DNS_ANSWER_MAX];
};

int dns_proxy_new(struct egress_filter *filter, struct frames *frames, struct dns_proxy **ret_d, struct err *e)
{
	struct dns_proxy *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set_errno(e, -ENOMEM, "egress rules");
	d->filter = filter;
	d->frames = frames;
	for (unsigned i = 0; i < DNS_QUERIES_MAX; i++)
		d->queries[i].fd = -1;
	*ret_d = d;
	return 0;
}

void dns_proxy_free(struct dns_proxy *d)
{
	for (unsigned i = 0; d && i < DNS_QUERIES_MAX; i++)
		if (d->queries[i].fd >= 0)
			close(d->queries[i].fd);
	free(d);
}

static socklen_t address_bytes(const union host_address *a)
{
	return a->any.sa_family == AF_INET ? sizeof(a->ipv4) : sizeof(a->ipv6);
}

/* ---- the host's resolver ---- */

static bool server_parse(char *text, union host_address *ret)
{
	char *scope = strchr(text, '%');

	*ret = (union host_address){ 0 };
	if (inet_pton(AF_INET, text, &ret->ipv4.sin_addr) == 1) {
		ret->ipv4.sin_family = AF_INET;
		ret->ipv4.sin_port = htons(DNS_PORT);
		return true;
	}
	if (scope)
		*scope++ = 0;
	if (inet_pton(AF_INET6, text, &ret->ipv6.sin6_addr) != 1)
		return false;
	ret->ipv6.sin6_family = AF_INET6;
	ret->ipv6.sin6_port = htons(DNS_PORT);
	ret->ipv6.sin6_scope_id = scope ? if_nametoindex(scope) : 0;
	return true;
}

/* Take the first name server of a text in the form of resolv.conf(5), which is split. */
static void server_find(char *text, union host_address *ret)
{
	char *line, *word;

	while ((line = strsep(&text, "\n"))) {
		line += strspn(line, " \t");
		if (strncmp(line, NAMESERVER, strlen(NAMESERVER)) || !isspace((unsigned char)line[strlen(NAMESERVER)]))
			continue;
		word = line + strlen(NAMESERVER);
		word += strspn(word, " \t");
		word[strcspn(word, " \t\r")] = 0;
		if (server_parse(word, ret))
			return;
	}
	*ret = (union host_address){ 0 };
}

/* Read the file again if another one has its place, as network managers do it. */
static void server_update(struct dns_proxy *d)
{
	CLEANUP_CLOSE int fd = open(RESOLV_CONF, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char text[RESOLV_CONF_BYTES];
	struct stat st;
	ssize_t got;

	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	if (st.st_ino == d->seen.st_ino && st.st_dev == d->seen.st_dev && st.st_size == d->seen.st_size &&
		!memcmp(&st.st_mtim, &d->seen.st_mtim, sizeof(st.st_mtim)))
		return;
	got = read(fd, text, sizeof(text) - 1);
	text[MAX(got, 0)] = 0;
	d->seen = st;
	server_find(text, &d->server);
}

/* ---- answers to the guest ---- */

static void answer_send(struct dns_proxy *d, const struct guest_packet *to, const uint8_t *message, size_t len)
{
	frames_write(d->frames, d->frame, guest_packet_answer(to, message, len, d->frame));
}

/* Answer a question with an error. Its header and question are those of the answer. */
static void code_send(struct dns_proxy *d, const struct guest_packet *to, const struct dns_question *q, uint8_t code)
{
	size_t len = dns_query_make(q, q->id, d->answer);

	if (q->edns)
		len = q->bytes;
	store_be16(d->answer + DNS_EXTRAS, 0);
	d->answer[DNS_FLAGS] |= 0x80;
	d->answer[DNS_CODE] = 0x80 | code;
	answer_send(d, to, d->answer, len);
}

/* Does the host itself have this address? The kernel sends packets for that address through its loopback link, or
 * from that address; connecting a datagram socket sends nothing. */
static bool address_is_hosts(const uint8_t address[EGRESS_ADDRESS_BYTES])
{
	union host_address to = { 0 }, from = { 0 };
	bool ipv4 = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)address);
	CLEANUP_CLOSE int fd = socket(ipv4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(from), mtu_size = sizeof(int);
	int mtu = 0;

	if (fd < 0)
		return true;
	to.any.sa_family = ipv4 ? AF_INET : AF_INET6;
	if (ipv4) {
		memcpy(&to.ipv4.sin_addr, address + 12, 4);
		to.ipv4.sin_port = htons(DNS_PORT);
	} else {
		memcpy(&to.ipv6.sin6_addr, address, EGRESS_ADDRESS_BYTES);
		to.ipv6.sin6_port = htons(DNS_PORT);
	}
	if (connect(fd, &to.any, address_bytes(&to)) < 0)
		return errno != ENETUNREACH && errno != EHOSTUNREACH;
	if (getsockname(fd, &from.any, &size) < 0 || getsockopt(fd, ipv4 ? IPPROTO_IP : IPPROTO_IPV6,
		ipv4 ? IP_MTU : IPV6_MTU, &mtu, &mtu_size) < 0 || mtu >= LOOPBACK_MTU)
		return true;
	return ipv4 ? from.ipv4.sin_addr.s_addr == to.ipv4.sin_addr.s_addr
		    : !memcmp(&from.ipv6.sin6_addr, address, EGRESS_ADDRESS_BYTES);
}

static void addresses_open(struct dns_proxy *d, const struct query *q, size_t len, uint64_t now_ns)
{
	struct dns_address list[DNS_ADDRESSES_MAX];
	unsigned n = dns_answer_addresses(&q->question, d->answer, len, list);

	for (unsigned i = 0; i < n; i++)
		if (egress_filter_is_public(d->filter, list[i].address) && !address_is_hosts(list[i].address))
			egress_filter_open(d->filter, q->question.name, list[i].address, list[i].ttl_s, now_ns);
}

static void query_end(struct query *q)
{
	close(q->fd);
	q->fd = -1;
}

static void answer_receive(struct dns_proxy *d, struct query *q, uint64_t now_ns)
{
	ssize_t got = recv(q->fd, d->answer, sizeof(d->answer), MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got < 0) {
		code_send(d, &q->from, &q->question, DNS_FAILED); /* the name server is not there */
		query_end(q);
	} else if (dns_answer_fits(&q->question, q->id, d->answer, (size_t)got)) {
		addresses_open(d, q, (size_t)got, now_ns);
		store_be16(d->answer + DNS_ID, q->question.id);
		answer_send(d, &q->from, d->answer, (size_t)got);
		query_end(q);
	}
}

/* ---- questions of the guest ---- */

/* Choose a place for a query: a free one, or that of the same question sent again, or of the oldest one. */
static struct query *query_place(struct dns_proxy *d, const struct guest_packet *p, const struct dns_question *question)
{
	struct query *oldest = &d->queries[0], *free_place = NULL;

	for (unsigned i = 0; i < DNS_QUERIES_MAX; i++) {
		struct query *q = &d->queries[i];

		if (q->fd < 0)
			free_place = q;
		else if (q->question.id == question->id && q->question.type == question->type &&
			q->from.from_port == p->from_port && !strcmp(q->question.name, question->name))
			return q;
		else if (q->asked_ns < oldest->asked_ns)
			oldest = q;
	}
	return free_place ? free_place : oldest;
}

static int server_connect(const union host_address *server)
{
	int fd = server->any.sa_family ? socket(server->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;

	if (fd >= 0 && connect(fd, &server->any, address_bytes(server)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void query_begin(struct dns_proxy *d, const struct guest_packet *p, const struct dns_question *question,
	uint64_t now_ns)
{
	struct query *q = query_place(d, p, question);
	uint8_t message[DNS_QUERY_MAX];

	if (q->fd >= 0)
		query_end(q);
	server_update(d);
	q->fd = server_connect(&d->server);
	if (q->fd < 0 || getrandom(&q->id, sizeof(q->id), 0) != sizeof(q->id) ||
		send(q->fd, message, dns_query_make(question, q->id, message), MSG_NOSIGNAL) < 0) {
		code_send(d, p, question, DNS_FAILED);
		if (q->fd >= 0)
			query_end(q);
		return;
	}
	q->asked_ns = now_ns;
	q->question = *question;
	q->from = *p;
	q->from.data = NULL;
}

void dns_proxy_ask(struct dns_proxy *d, const struct guest_packet *p, uint64_t now_ns)
{
	struct dns_question q;

	if (!dns_question_parse(p->data, p->data_bytes, &q)) {
		egress_filter_counts(d->filter)->questions++;
		log_guest("egress", "refused a DNS message of %zu bytes: it is no plain question for a name", p->data_bytes);
		return;
	}
	if (egress_filter_takes_name(d->filter, q.name)) {
		query_begin(d, p, &q, now_ns);
		return;
	}
	egress_filter_counts(d->filter)->questions++;
	log_guest("egress", "refused the name %s", q.name[0] ? q.name : ".");
	code_send(d, p, &q, DNS_REFUSED);
}

uint64_t dns_proxy_expire(struct dns_proxy *d, uint64_t now_ns)
{
	uint64_t next_ns = UINT64_MAX;

	for (unsigned i = 0; d && i < DNS_QUERIES_MAX; i++) {
		struct query *q = &d->queries[i];

		if (q->fd < 0)
			continue;
		if (now_ns - q->asked_ns < QUERY_NS) {
			next_ns = MIN(next_ns, q->asked_ns + QUERY_NS);
			continue;
		}
		code_send(d, &q->from, &q->question, DNS_FAILED);
		query_end(q);
	}
	return next_ns;
}

unsigned dns_proxy_poll_add(const struct dns_proxy *d, struct pollfd *fds)
{
	unsigned n = 0;

	for (unsigned i = 0; d && i < DNS_QUERIES_MAX; i++)
		if (d->queries[i].fd >= 0)
			fds[n++] = (struct pollfd){ .fd = d->queries[i].fd, .events = POLLIN };
	return n;
}

void dns_proxy_poll_done(struct dns_proxy *d, const struct pollfd *fds, unsigned n, uint64_t now_ns)
{
	for (unsigned k = 0; d && k < n; k++)
		for (unsigned i = 0; fds[k].revents && i < DNS_QUERIES_MAX; i++)
			if (d->queries[i].fd == fds[k].fd) {
				answer_receive(d, &d->queries[i], now_ns);
				break;
			}
}
