/* Commands for TCP over IPv4 (RFC 9293): a server that echoes, and one of HTTP. All of its state is in memory, so a
 * revert takes it back. */
#include "net.h"

#define CONNS 8
#define ETHERNET_BYTES 14
#define HEADERS_BYTES (ETHERNET_BYTES + 20 + 20)
#define WINDOW 8192
#define PAUSE_CYCLES 100000

enum { FIN = 1, SYN = 2, RST = 4, PUSH = 8, ACK = 16 };

struct conn {
	uint8_t mac[6], ip[4];
	unsigned port;
	uint32_t next, wanted; /* numbers of the next byte to send, and of the next one to receive */
	uint32_t received;
	bool answered; /* a request of HTTP; no more data goes to the client */
	const char *state; /* NULL: unused */
};

static struct {
	uint8_t ip[4];
	unsigned port;
	bool is_http;
	struct conn conns[CONNS];
} tcp;

static uint32_t sum(const uint8_t *p, unsigned bytes, uint32_t s)
{
	for (unsigned i = 0; i < bytes; i++)
		s += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	return s;
}

static unsigned sum_end(uint32_t s)
{
	s = (s & 0xffff) + (s >> 16);
	return ~(s + (s >> 16)) & 0xffff;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

/* Send a segment with data that repeats what was received. */
static void segment_send(const struct conn *c, uint8_t flags, uint32_t seq, uint32_t ack, const uint8_t *data, unsigned bytes)
{
	static const uint8_t ip[] = {8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0};
	uint8_t *f = net_frame_new();

	memcpy(f, c->mac, 6);
	memcpy(f + 6, net_mac(), 6);
	memcpy(f + 12, ip, sizeof(ip));
	put16(f + 16, 40 + bytes);
	memcpy(f + 26, tcp.ip, 4);
	memcpy(f + 30, c->ip, 4);
	put16(f + 24, sum_end(sum(f + 14, 20, 0)));
	put16(f + 34, tcp.port);
	put16(f + 36, c->port);
	put32(f + 38, seq);
	put32(f + 42, ack);
	put16(f + 46, 0x5000 | flags);
	put16(f + 48, WINDOW);
	put32(f + 50, 0);
	memcpy(f + HEADERS_BYTES, data, bytes);
	put16(f + 50, sum_end(sum(f + 34, 20 + bytes, sum(f + 26, 8, 6 + 20 + bytes))));
	net_frame_send(HEADERS_BYTES + bytes);
}

static void acknowledge(const struct conn *c)
{
	segment_send(c, ACK, c->next, c->wanted, NULL, 0);
}

static struct conn *conn_find(const uint8_t *f, bool opens)
{
	struct conn *unused = NULL;

	for (unsigned i = 0; i < CONNS; i++) {
		struct conn *c = &tcp.conns[i];

		if (c->state && c->port == get16(f + 34) && memcmp(c->ip, f + 26, 4) == 0)
			return c;
		if (!c->state && !unused)
			unused = c;
	}
	if (!unused || !opens)
		return NULL;
	memcpy(unused->mac, f + 6, 6);
	memcpy(unused->ip, f + 26, 4);
	unused->port = get16(f + 34);
	return unused;
}

/* Answer a request, whatever it is, and end the connection. */
static void page_send(struct conn *c)
{
	static const char page[] = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nserved\n";

	segment_send(c, PUSH | FIN | ACK, c->next, c->wanted, (const uint8_t *)page, sizeof(page) - 1);
	c->next += sizeof(page); /* with the FIN */
	c->answered = true;
}

static void data_answer(struct conn *c, const uint8_t *data, unsigned bytes)
{
	if (tcp.is_http && !c->answered) {
		page_send(c);
	} else if (!tcp.is_http) {
		segment_send(c, PUSH | ACK, c->next, c->wanted, data, bytes);
		c->next += bytes;
	}
}

static void segment_take(struct conn *c, const uint8_t *f, const uint8_t *data, unsigned bytes)
{
	uint32_t seq = (uint32_t)get32(f + 38), ack = (uint32_t)get32(f + 42);
	uint8_t flags = f[47];

	if (flags & RST) {
		if (seq == c->wanted)
			c->state = "reset";
		else
			acknowledge(c);
		return;
	}
	if (seq != c->wanted || (int32_t)(ack - c->next) > 0) {
		acknowledge(c);
		return;
	}
	c->wanted += bytes + (flags & FIN);
	c->received += bytes;
	if (bytes)
		data_answer(c, data, bytes);
	if (flags & FIN && c->answered) {
		acknowledge(c);
		c->state = NULL;
	} else if (flags & FIN) {
		segment_send(c, FIN | ACK, c->next++, c->wanted, NULL, 0);
		c->state = "closed";
	}
}

static void tcp_receive(const uint8_t *f, uint32_t have)
{
	unsigned header = (f[46] >> 4) * 4u, bytes = get16(f + 16) - 20;
	bool opens = (f[47] & (SYN | ACK | RST)) == SYN;
	struct conn *c = conn_find(f, opens);

	if (header < 20 || header > bytes || ETHERNET_BYTES + 20 + bytes > have || get16(f + 36) != tcp.port)
		return;
	if (c && opens && !c->state) {
		c->next = (uint32_t)rdtsc();
		c->wanted = (uint32_t)get32(f + 38) + 1;
		c->received = 0;
		c->answered = false;
		c->state = "open";
		segment_send(c, SYN | ACK, c->next++, c->wanted, NULL, 0);
	} else if (c && !str_equal(c->state, "reset")) {
		segment_take(c, f, f + 34 + header, bytes - header);
	}
}

static void arp_answer(const uint8_t *f)
{
	uint8_t *out = net_frame_new();

	memcpy(out, f + 6, 6);
	memcpy(out + 6, net_mac(), 6);
	memcpy(out + 12, f + 12, 8);
	put16(out + 20, 2);
	memcpy(out + 22, net_mac(), 6);
	memcpy(out + 28, tcp.ip, 4);
	memcpy(out + 32, f + 22, 10);
	net_frame_send(42);
}

static const char *tcp_listen(const struct args *a)
{
	memset(&tcp, 0, sizeof(tcp));
	put32(tcp.ip, (uint32_t)a->v[1]);
	tcp.port = (unsigned)a->v[2];
	return NULL;
}

static void frame_take(const uint8_t *f, uint32_t have)
{
	if (have >= 42 && get16(f + 12) == 0x0806 && f[21] == 1 && memcmp(f + 38, tcp.ip, 4) == 0)
		arp_answer(f);
	else if (have >= HEADERS_BYTES && get16(f + 12) == 0x0800 && f[14] == 0x45 && f[23] == 6 && memcmp(f + 30, tcp.ip, 4) == 0)
		tcp_receive(f, have);
}

/* Echo until there is input. */
static const char *tcp_serve(const struct args *a)
{
	(void)a;
	tcp.is_http = false;
	while (!serial_ready()) {
		const uint8_t *f;
		uint32_t have = net_frame_receive(&f, PAUSE_CYCLES);

		frame_take(f, have);
	}
	return NULL;
}

/* Answer requests of HTTP until there is input. The processor halts until a frame comes. */
static const char *tcp_http(const struct args *a)
{
	const char *wrong = net_interrupts_enable();

	(void)a;
	tcp.is_http = true;
	while (!wrong && !serial_ready()) {
		uint64_t seen = irq_count[VECTOR_MSI];
		const uint8_t *f;
		uint32_t have = net_frame_receive(&f, 0);

		if (have)
			frame_take(f, have);
		else
			halt_unless(&irq_count[VECTOR_MSI], seen);
	}
	return wrong;
}

static const char *tcp_show(const struct args *a)
{
	(void)a;
	for (unsigned i = 0; i < CONNS; i++)
		if (tcp.conns[i].state)
			print("port=%u state=%s received=%u\n", (uint64_t)tcp.conns[i].port, tcp.conns[i].state, (uint64_t)tcp.conns[i].received);
	return NULL;
}

static const char *cmd_tcp(const struct args *a)
{
	if (!net_is_open())
		return "open an interface first";
	if (str_equal(a->s[0], "listen"))
		return tcp_listen(a);
	if (str_equal(a->s[0], "serve"))
		return tcp_serve(a);
	if (str_equal(a->s[0], "http"))
		return tcp_http(a);
	return str_equal(a->s[0], "show") ? tcp_show(a) : "no such command";
}

const struct command tcp_commands[] = {
	{"tcp", 1, 1, "listen ADDRESS PORT|serve|http|show", cmd_tcp},
	{0},
};
