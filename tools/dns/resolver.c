#include "tools/dns/resolver.h"
#include "base/bytes.h"
#include "base/dns_message.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define QUERIES_MAX 256
#define QUERIES_OF_ONE 64 /* of one guest's address */
#define QUERY_SLOTS 8	  /* bits of an id that are the query's place */
#define BATCH 32
#define NOTICES_PER_ROUND (4 * BATCH)
#define NS_PER_MS 1000000ULL
#define QUERY_MS 10000 /* a query without an answer ends */
/* A host that answers no pings has opened the address all the same, after a moment. */
#define NOTICE_MS 250

struct query {
	bool used;
	uint16_t id; /* of the query, and of its notices; never 0 */
	unsigned listener;
	struct sockaddr_storage from;
	socklen_t from_len;
	struct dns_question question;
	bool opens; /* the rules take the name */
	uint64_t end_ns;
	unsigned notices; /* unanswered */
	uint8_t *answer; /* owned; NULL: none yet */
	size_t answer_bytes;
};

struct resolver {
	const struct settings *settings;
	struct notices *notices;
	int upstream;
	int listeners[LISTEN_MAX];
	uint16_t generation;
	struct query queries[QUERIES_MAX];
	uint8_t message[DNS_ANSWER_MAX];
};

static int listener_open(const uint8_t *address)
{
	bool v4 = !memcmp(address, egress_ipv4_form, EGRESS_IPV4_AT);
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(DNS_PORT) };
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(DNS_PORT) };
	int one = 1, r, fd = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(&a4.sin_addr, address + EGRESS_IPV4_AT, sizeof(a4.sin_addr));
	memcpy(&a6.sin6_addr, address, sizeof(a6.sin6_addr));
	r = fd < 0 ? -1 : setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!r)
		r = v4 ? bind(fd, (void *)&a4, sizeof(a4)) : bind(fd, (void *)&a6, sizeof(a6));
	if (r < 0) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	return fd;
}

static int upstream_open(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(DNSMASQ_DNS_PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 || connect(fd, (void *)&a, sizeof(a)) < 0 ? -errno : fd;
}

int resolver_new(const struct settings *s, struct notices *n, struct resolver **ret_r, struct err *e)
{
	struct resolver *r = must_alloc(calloc(1, sizeof(*r)));
	int error = 0;

	r->settings = s;
	r->notices = n;
	r->upstream = upstream_open();
	for (unsigned i = 0; i < LISTEN_MAX; i++)
		r->listeners[i] = i < s->nlisten ? listener_open(s->listen[i]) : -1;
	for (unsigned i = 0; i < s->nlisten && !error; i++)
		error = MIN(r->listeners[i], 0);
	if (r->upstream < 0)
		error = r->upstream;
	if (error < 0) {
		resolver_free(r);
		return err_set_errno(e, error, "cairn-dns: port %d", DNS_PORT);
	}
	*ret_r = r;
	return 0;
}

void resolver_free(struct resolver *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < QUERIES_MAX; i++)
		free(r->queries[i].answer);
	for (unsigned i = 0; i < LISTEN_MAX; i++)
		if (r->listeners[i] >= 0)
			close(r->listeners[i]);
	if (r->upstream >= 0)
		close(r->upstream);
	free(r);
}

/* ---- answers ---- */

static void query_end(struct query *q)
{
	free(q->answer);
	*q = (struct query){ 0 };
}

static void answer_send(const struct resolver *r, const struct query *q, const uint8_t *message, size_t len)
{
	sendto(r->listeners[q->listener], message, len, MSG_DONTWAIT | MSG_NOSIGNAL, (const void *)&q->from, q->from_len);
}

/* Answer a question with an error. Its header and question are those of the answer. */
static void code_send(const struct resolver *r, const struct query *q, uint8_t code)
{
	uint8_t message[DNS_QUERY_MAX];

	dns_query_make(&q->question, q->question.id, message);
	store_be16(message + DNS_EXTRAS, 0);
	message[DNS_FLAGS] |= 0x80;
	message[DNS_CODE] = 0x80 | code;
	answer_send(r, q, message, q->question.bytes);
}

static struct query *query_find(struct resolver *r, uint16_t id)
{
	struct query *q = &r->queries[id & (QUERIES_MAX - 1)];

	return q->used && q->id == id ? q : NULL;
}

static unsigned addresses_open(struct resolver *r, const struct query *q, size_t len, uint64_t now_ns)
{
	struct dns_address list[DNS_ADDRESSES_MAX];
	unsigned n = q->opens ? dns_answer_addresses(&q->question, r->message, len, list) : 0, sent = 0;

	for (unsigned i = 0; i < n; i++)
		if (settings_address_opens(r->settings, list[i].address))
			sent += notices_open(r->notices, q->question.name, list[i].address, list[i].ttl_s, q->id, now_ns);
	return sent;
}

/* Take an answer of dnsmasq: have its addresses opened, and keep it until the host has done so. */
static void answer_take(struct resolver *r, size_t len, uint64_t now_ns)
{
	struct query *q = len >= DNS_HEADER ? query_find(r, load_be16(r->message + DNS_ID)) : NULL;

	if (!q || q->answer || !dns_answer_fits(&q->question, q->id, r->message, len))
		return;
	q->notices = addresses_open(r, q, len, now_ns);
	store_be16(r->message + DNS_ID, q->question.id);
	if (!q->notices) {
		answer_send(r, q, r->message, len);
		query_end(q);
		return;
	}
	q->answer = must_alloc(malloc(len));
	memcpy(q->answer, r->message, len);
	q->answer_bytes = len;
	q->end_ns = now_ns + NOTICE_MS * NS_PER_MS;
}

static void query_finish(struct resolver *r, struct query *q)
{
	if (q->answer)
		answer_send(r, q, q->answer, q->answer_bytes);
	query_end(q);
}

static void notices_take(struct resolver *r)
{
	uint16_t number;

	/* A guest can send many to an unfiltered network's gateway. */
	for (unsigned i = 0; i < NOTICES_PER_ROUND && notices_read(r->notices, &number); i++) {
		struct query *q = number ? query_find(r, number) : NULL;

		if (q && q->notices && !--q->notices)
			query_finish(r, q);
	}
}

/* ---- questions ---- */

static bool is_same_guest(const struct query *q, const struct sockaddr_storage *from)
{
	const struct sockaddr_in *a4 = (const void *)&q->from, *b4 = (const void *)from;
	const struct sockaddr_in6 *a6 = (const void *)&q->from, *b6 = (const void *)from;

	if (q->from.ss_family != from->ss_family)
		return false;
	return from->ss_family == AF_INET ? a4->sin_addr.s_addr == b4->sin_addr.s_addr
					  : !memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr));
}

/* Choose a place for a query: a free one, or that of the guest's oldest one, if it has many, or of the oldest one. */
static struct query *query_place(struct resolver *r, const struct sockaddr_storage *from)
{
	struct query *oldest = &r->queries[0], *own = NULL, *free_place = NULL;
	unsigned of_one = 0;

	for (unsigned i = 0; i < QUERIES_MAX; i++) {
		struct query *q = &r->queries[i];

		if (!q->used) {
			free_place = q;
			continue;
		}
		if (q->end_ns < oldest->end_ns)
			oldest = q;
		if (!is_same_guest(q, from))
			continue;
		of_one++;
		if (!own || q->end_ns < own->end_ns)
			own = q;
	}
	return of_one >= QUERIES_OF_ONE ? own : free_place ? free_place : oldest;
}

static void query_begin(struct resolver *r, const struct query *asked, uint64_t now_ns)
{
	struct query *q = query_place(r, &asked->from);
	uint8_t message[DNS_QUERY_MAX];

	query_finish(r, q); /* its answer may be here and wait for the host's */
	*q = *asked;
	q->used = true;
	r->generation += 1u << QUERY_SLOTS;
	if (!r->generation)
		r->generation = 1u << QUERY_SLOTS;
	q->id = (uint16_t)(r->generation | (uint16_t)(q - r->queries));
	q->end_ns = now_ns + QUERY_MS * NS_PER_MS;
	/* An error of an earlier datagram comes back here: dnsmasq starts anew. The guest asks again. */
	send(r->upstream, message, dns_query_make(&q->question, q->id, message), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void question_take(struct resolver *r, struct query *asked, size_t len, uint64_t now_ns)
{
	const char *name = asked->question.name;

	if (!dns_question_parse(r->message, len, &asked->question)) {
		notices_refused(r->notices);
		return;
	}
	asked->opens = egress_takes_name(&r->settings->egress, name);
	if (asked->opens || settings_name_is_local(r->settings, name, asked->question.type)) {
		query_begin(r, asked, now_ns);
		return;
	}
	notices_refused(r->notices);
	code_send(r, asked, DNS_REFUSED);
}

static void questions_read(struct resolver *r, unsigned listener, uint64_t now_ns)
{
	for (unsigned i = 0; i < BATCH; i++) {
		struct query asked = { .listener = listener, .from_len = sizeof(asked.from) };
		ssize_t got = recvfrom(r->listeners[listener], r->message, sizeof(r->message), MSG_DONTWAIT, (void *)&asked.from,
			&asked.from_len);

		if (got < 0)
			return;
		question_take(r, &asked, (size_t)got, now_ns);
	}
}

/* End the queries that have waited too long. Returns milliseconds until the next one; -1: none waits. */
static int queries_expire(struct resolver *r, uint64_t now_ns)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < QUERIES_MAX; i++) {
		struct query *q = &r->queries[i];

		if (q->used && now_ns >= q->end_ns)
			query_finish(r, q);
		else if (q->used)
			next = MIN(next, q->end_ns);
	}
	return next == UINT64_MAX ? -1 : (int)((next - now_ns) / NS_PER_MS + 1);
}

int resolver_run(struct resolver *r)
{
	struct pollfd fds[2 + LISTEN_MAX] = { { .fd = r->upstream, .events = POLLIN }, { .fd = notices_fd(r->notices), .events = POLLIN } };
	uint64_t now_ns;
	ssize_t got;

	for (unsigned i = 0; i < LISTEN_MAX; i++)
		fds[2 + i] = (struct pollfd){ .fd = r->listeners[i], .events = POLLIN };
	if (poll(fds, ARRAY_SIZE(fds), queries_expire(r, loop_now_ns())) < 0 && errno != EINTR)
		return -errno;
	now_ns = loop_now_ns();
	notices_take(r);
	for (unsigned i = 0; i < BATCH && (got = recv(r->upstream, r->message, sizeof(r->message), MSG_DONTWAIT)) >= 0; i++)
		answer_take(r, (size_t)got, now_ns);
	for (unsigned i = 0; i < LISTEN_MAX; i++)
		if (fds[2 + i].revents)
			questions_read(r, i, now_ns);
	return 0;
}
