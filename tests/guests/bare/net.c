/* Commands for a network interface behind virtio-net: polled; one pair of queues, or with F_NET_MQ all of them. */
#include "net.h"
#include "virtio.h"

#define QUEUE_SIZE 64
#define BUFFER_BYTES 2048
#define HEADER_BYTES 12
#define FRAME_MAX 65536
#define ETHERNET_BYTES 14
#define ETHERTYPE 0x88b5 /* local experimental EtherType */
#define PROBE_BYTES 46 /* of the shortest frame */
#define TRY_CYCLES 1500000000ULL /* before a question is asked again */
#define ARP_BYTES 28
#define DHCP_BYTES 300 /* with fixed fields, magic and options */

#define F_MTU (1ULL << 3)
#define F_MAC (1ULL << 5)
#define F_MRG_RXBUF (1ULL << 15)
#define F_STATUS (1ULL << 16)
#define F_CTRL_VQ (1ULL << 17)
#define F_GUEST_ANNOUNCE (1ULL << 21)
#define F_NET_MQ (1ULL << 22)
#define PAIRS 4 /* most pairs of queues */
#define PAIR_BUFFERS 8 /* of each pair but the first */

enum { RX = 0, TX = 1 };

static struct {
	struct virtio v;
	bool is_open;
	uint8_t mac[6];
	uint8_t ip[4]; /* by DHCP */
	unsigned pairs; /* of queues */
	unsigned by; /* the pair that sends */
} net = {.v.queue_size = QUEUE_SIZE};

static struct queue queues[2 * PAIRS + 1];
static uint8_t more[PAIRS - 1][PAIR_BUFFERS][BUFFER_BYTES] __attribute__((aligned(4096)));
static uint8_t request[16], obeyed;
static uint8_t buffers[QUEUE_SIZE][BUFFER_BYTES] __attribute__((aligned(4096)));
static uint8_t sent[HEADER_BYTES + FRAME_MAX] __attribute__((aligned(4096)));
static uint8_t frame[HEADER_BYTES + FRAME_MAX];

/* ---- the driver ---- */

static void buffer_offer(uint16_t i)
{
	queues[RX].desc[i] = (struct desc){(uint64_t)buffers[i], BUFFER_BYTES, DESC_WRITE, 0};
	virtio_publish(&net.v, &queues[RX], RX, i);
}

/* Take the next used entry. Returns its id and sets *bytes; -1: none in time. */
static int take(unsigned i, uint32_t *bytes, uint64_t patience)
{
	uint64_t begin = rdtsc();
	int id;

	while ((id = virtio_take(&net.v, &queues[i], bytes)) < 0) {
		if (rdtsc() - begin > patience)
			return -1;
		__asm__ volatile("pause");
	}
	return id;
}

static void pair_offer(unsigned pair, uint16_t i)
{
	if (!pair) {
		buffer_offer(i);
		return;
	}
	queues[2 * pair + RX].desc[i] = (struct desc){(uint64_t)more[pair - 1][i], BUFFER_BYTES, DESC_WRITE, 0};
	virtio_publish(&net.v, &queues[2 * pair + RX], 2 * pair + RX, i);
}

/* Start the queues of all pairs but the first, and the control queue. */
static const char *pairs_start(void)
{
	net.pairs = (unsigned)mmio_read(net.v.config + 8, 2);
	if (net.pairs > PAIRS)
		return "too many pairs of queues";
	for (unsigned i = 2; i <= 2 * net.pairs; i++)
		virtio_queue_start(&net.v, &queues[i], i);
	return NULL;
}

static const char *net_start(uint64_t without, uint64_t also)
{
	const char *wrong = virtio_begin(&net.v,
		F_VERSION_1 | ((F_MAC | F_MRG_RXBUF | F_STATUS | F_MTU | F_CTRL_VQ | F_GUEST_ANNOUNCE | also) & ~without));

	if (wrong)
		return wrong;
	virtio_queue_start(&net.v, &queues[RX], RX);
	virtio_queue_start(&net.v, &queues[TX], TX);
	net.pairs = 1;
	net.by = 0;
	if (net.v.features & F_NET_MQ)
		wrong = pairs_start();
	virtio_status_add(&net.v, STATUS_DRIVER_OK);
	for (uint16_t i = 0; i < QUEUE_SIZE; i++)
		buffer_offer(i);
	for (unsigned pair = 1; pair < net.pairs && !wrong; pair++)
		for (uint16_t i = 0; i < PAIR_BUFFERS; i++)
			pair_offer(pair, i);
	net.is_open = !wrong;
	return wrong;
}

/* ---- commands ---- */

static const char *net_tell(void)
{
	char text[18];

	for (unsigned i = 0; i < 6; i++) {
		net.mac[i] = (uint8_t)mmio_read(net.v.config + i, 1);
		text[3 * i] = "0123456789abcdef"[net.mac[i] >> 4];
		text[3 * i + 1] = "0123456789abcdef"[net.mac[i] & 15];
		text[3 * i + 2] = i == 5 ? 0 : ':';
	}
	print("mac=%s link=%u announce=%u mtu=%u features=%x status=%x\n", text, mmio_read(net.v.config + 6, 2) & 1,
		mmio_read(net.v.config + 6, 2) >> 1, mmio_read(net.v.config + 10, 2), net.v.features, (uint64_t)virtio_status(&net.v));
	return NULL;
}

static const char *net_open(const struct args *a)
{
	const char *wrong = virtio_find(&net.v, 0x1041, (unsigned)a->v[1]);

	net.is_open = false;
	if (!wrong)
		wrong = net_start(a->v[2], a->v[3]);
	return wrong ? wrong : net_tell();
}

static uint8_t payload(uint64_t at, uint64_t seed)
{
	return (uint8_t)(at * 7 + (at >> 8) + seed);
}

static const char *send(uint32_t bytes)
{
	uint32_t unused;

	unsigned i = 2 * net.by + TX;

	queues[i].desc[0] = (struct desc){(uint64_t)sent, bytes, 0, 0};
	virtio_publish(&net.v, &queues[i], i, 0);
	return take(i, &unused, VIRTIO_PATIENCE_CYCLES) < 0 ? "it was not sent" : NULL;
}

static void frame_make(uint64_t bytes, uint64_t seed)
{
	memset(sent, 0, HEADER_BYTES);
	memset(sent + HEADER_BYTES, 0xff, 6);
	memcpy(sent + HEADER_BYTES + 6, net.mac, 6);
	sent[HEADER_BYTES + 12] = ETHERTYPE >> 8;
	sent[HEADER_BYTES + 13] = ETHERTYPE & 0xff;
	for (uint64_t i = 0; i < bytes; i++)
		sent[HEADER_BYTES + ETHERNET_BYTES + i] = payload(i, seed);
}

/* Broadcast frames of an EtherType that no other test traffic uses. */
static const char *net_send(const struct args *a)
{
	const char *wrong = NULL;

	if (a->v[1] > FRAME_MAX - ETHERNET_BYTES)
		return "at most 65522 bytes";
	for (uint64_t n = a->v[3] ? a->v[3] : 1; n && !wrong; n--) {
		frame_make(a->v[1], a->v[2]);
		wrong = send(HEADER_BYTES + ETHERNET_BYTES + (uint32_t)a->v[1]);
	}
	return wrong;
}

/* Broadcast a probe of ARP (RFC 5227, section 2.1.1), with the last byte of both its MAC addresses changed. */
static const char *net_probe(const struct args *a)
{
	static const uint8_t head[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
	uint8_t *f = sent + HEADER_BYTES;

	frame_make(0, 0);
	memset(f + ETHERNET_BYTES, 0, PROBE_BYTES);
	memcpy(f + 12, head, sizeof(head));
	memcpy(f + 22, net.mac, 6);
	f[11] ^= (uint8_t)a->v[1];
	f[27] ^= (uint8_t)a->v[1];
	return send(HEADER_BYTES + ETHERNET_BYTES + PROBE_BYTES);
}

/* Copy all buffers of a frame into one. Returns its length; 0: none in time. */
static uint32_t receive(uint64_t patience)
{
	uint32_t bytes, have = 0;
	int id = take(RX, &bytes, patience);
	unsigned n = id < 0 ? 0 : buffers[id][10] | buffers[id][11] << 8;

	while (n--) {
		if (id < 0 || id >= QUEUE_SIZE || bytes > BUFFER_BYTES || have + bytes > sizeof(frame))
			return 0;
		memcpy(frame + have, buffers[id], bytes);
		have += bytes;
		buffer_offer((uint16_t)id);
		if (n)
			id = take(RX, &bytes, VIRTIO_PATIENCE_CYCLES);
	}
	return have;
}

/* A frame without an EtherType counts as ours: it is memory that a snapshot lost. */
static bool receive_ours(uint64_t begin, uint32_t *ret_have)
{
	do {
		unsigned type;

		*ret_have = receive(VIRTIO_PATIENCE_CYCLES / 100);
		type = get16(frame + HEADER_BYTES + 12);
		if (*ret_have >= HEADER_BYTES + ETHERNET_BYTES && (type == ETHERTYPE || !type))
			return true;
	} while (rdtsc() - begin < VIRTIO_PATIENCE_CYCLES);
	return false;
}

/* Send COUNT frames of that EtherType back to where they come from. */
static const char *net_echo(const struct args *a)
{
	const char *wrong = NULL;
	uint32_t have;

	for (uint64_t n = a->v[1]; n && !wrong; n--) {
		if (!receive_ours(rdtsc(), &have))
			return "nothing came";
		memcpy(sent, frame, have);
		memset(sent, 0, HEADER_BYTES);
		memcpy(sent + HEADER_BYTES, frame + HEADER_BYTES + 6, 6);
		memcpy(sent + HEADER_BYTES + 6, net.mac, 6);
		wrong = send(have);
	}
	return wrong;
}

/* Wait for the next frame of that EtherType; print its payload's length and whether its content
 * matches the seed. */
static const char *net_receive(const struct args *a)
{
	uint32_t have;
	uint64_t n;

	if (!receive_ours(rdtsc(), &have))
		return "nothing came";
	n = have - HEADER_BYTES - ETHERNET_BYTES;
	print("bytes=%u buffers=%u flags=%u segments=%u\n", n, (uint64_t)frame[10], (uint64_t)frame[0],
		(uint64_t)frame[1]);
	for (uint64_t i = 0; i < n; i++)
		if (frame[HEADER_BYTES + ETHERNET_BYTES + i] != payload(i, a->v[1]))
			return "differs";
	return NULL;
}

/* ---- several pairs of queues ---- */

/* Ask the device to use this many pairs; print its answer. */
static const char *net_pairs(const struct args *a)
{
	unsigned i = 2 * net.pairs;
	struct queue *q = &queues[i];
	uint32_t unused;

	if (!(net.v.features & F_NET_MQ))
		return "the interface has one pair of queues";
	request[0] = 4;
	request[1] = 0;
	request[2] = (uint8_t)a->v[1];
	request[3] = (uint8_t)(a->v[1] >> 8);
	obeyed = 0x77;
	q->desc[0] = (struct desc){(uint64_t)request, 4, DESC_NEXT, 1};
	q->desc[1] = (struct desc){(uint64_t)&obeyed, 1, DESC_WRITE, 0};
	virtio_publish(&net.v, &queues[i], i, 0);
	if (take(i, &unused, VIRTIO_PATIENCE_CYCLES) < 0)
		return "no answer came";
	print("answer=%u of=%u\n", (uint64_t) * (volatile uint8_t *)&obeyed, (uint64_t)net.pairs);
	return NULL;
}

/* Send by the queue of this pair from now on. */
static const char *net_by(const struct args *a)
{
	if (a->v[1] >= net.pairs)
		return "no such pair";
	net.by = (unsigned)a->v[1];
	return NULL;
}

/* Wait for COUNT frames of that EtherType or of IPv4, each in one buffer; print how many came by each pair. */
static const char *net_count(const struct args *a)
{
	uint64_t begin = rdtsc(), n = 0, got[PAIRS] = {0};

	while (n < a->v[1] && rdtsc() - begin < VIRTIO_PATIENCE_CYCLES)
		for (unsigned pair = 0; pair < net.pairs; pair++) {
			uint32_t bytes;
			int id = take(2 * pair + RX, &bytes, 0);
			const uint8_t *f;

			if (id < 0 || id >= (pair ? PAIR_BUFFERS : QUEUE_SIZE))
				continue;
			f = (pair ? more[pair - 1][id] : buffers[id]) + HEADER_BYTES;
			if (get16(f + 12) == ETHERTYPE || get16(f + 12) == 0x0800) {
				got[pair]++;
				n++;
			}
			pair_offer(pair, (uint16_t)id);
		}
	print("pair0=%u pair1=%u pair2=%u pair3=%u\n", got[0], got[1], got[2], got[3]);
	return n == a->v[1] ? NULL : "too few frames came";
}

/* ---- DHCP and ARP ---- */

void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

uint64_t get32(const uint8_t *p)
{
	return (uint64_t)get16(p) << 16 | get16(p + 2);
}

/* Broadcast a message of a DHCP client (RFC 2131). kind: option 53; options: after it. */
static const char *dhcp_send(uint8_t kind, const uint8_t *options, uint32_t bytes)
{
	static const uint8_t ip[] = {8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67};
	static const uint8_t head[] = {1, 1, 6, 0, 'c', 'a', 'i', 'r'}, magic[] = {0x63, 0x82, 0x53, 0x63, 53, 1};
	uint8_t *f = sent + HEADER_BYTES, *dhcp = f + 42;
	uint32_t sum = 0;

	frame_make(0, 0);
	memcpy(f + 12, ip, sizeof(ip));
	put16(f + 16, 28 + DHCP_BYTES);
	put16(f + 38, 8 + DHCP_BYTES);
	put16(f + 40, 0); /* no checksum of UDP */
	for (unsigned i = 14; i < 34; i += 2)
		sum += get16(f + i);
	put16(f + 24, ~((sum & 0xffff) + (sum >> 16)) & 0xffff);
	memset(dhcp, 0, DHCP_BYTES);
	memcpy(dhcp, head, sizeof(head));
	dhcp[10] = 0x80; /* answer by a broadcast */
	memcpy(dhcp + 28, net.mac, 6);
	memcpy(dhcp + 236, magic, sizeof(magic));
	dhcp[242] = kind;
	memcpy(dhcp + 243, options, bytes);
	dhcp[243 + bytes] = 255;
	return send(HEADER_BYTES + 42 + DHCP_BYTES);
}

/* Wait for an answer of the kind to this guest. Returns it, in `frame`; NULL: none came. */
static const uint8_t *dhcp_receive(uint8_t kind)
{
	uint64_t begin = rdtsc();
	const uint8_t *f = frame + HEADER_BYTES, *dhcp = f + 42;

	while (rdtsc() - begin < TRY_CYCLES)
		if (receive(TRY_CYCLES / 10) > HEADER_BYTES + 42 + 243 && get16(f + 12) == 0x0800 && f[23] == 17 && get16(f + 36) == 68 &&
			dhcp[242] == kind && memcmp(dhcp + 28, net.mac, 6) == 0)
			return dhcp;
	return NULL;
}

/* Get an address by DHCP, and print it. */
static const char *net_dhcp(const struct args *a)
{
	uint8_t options[12] = {50, 4, 0, 0, 0, 0, 54, 4};
	uint64_t begin = rdtsc();

	(void)a;
	while (rdtsc() - begin < VIRTIO_PATIENCE_CYCLES) {
		const char *wrong = dhcp_send(1, options, 0);
		const uint8_t *answer = wrong ? NULL : dhcp_receive(2);

		if (wrong)
			return wrong;
		if (!answer)
			continue;
		memcpy(options + 2, answer + 16, 4);
		memcpy(options + 8, frame + HEADER_BYTES + 26, 4); /* the server's address */
		wrong = dhcp_send(3, options, sizeof(options));
		if (wrong)
			return wrong;
		if (!dhcp_receive(5))
			continue;
		memcpy(net.ip, options + 2, 4);
		print("%u.%u.%u.%u\n", (uint64_t)net.ip[0], (uint64_t)net.ip[1], (uint64_t)net.ip[2], (uint64_t)net.ip[3]);
		return NULL;
	}
	return "no address came";
}

/* Ask for the MAC address of an IPv4 address, TRIES times, as one who has the address that DHCP gave. Print whether
 * somebody answers. */
static const char *net_ask(const struct args *a)
{
	static const uint8_t head[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
	uint8_t *f = sent + HEADER_BYTES;
	bool came = false;

	for (uint64_t n = a->v[2] ? a->v[2] : 10; n && !came; n--) {
		uint64_t begin = rdtsc();

		frame_make(0, 0);
		memset(f + ETHERNET_BYTES, 0, PROBE_BYTES);
		memcpy(f + 12, head, sizeof(head));
		memcpy(f + 22, net.mac, 6);
		memcpy(f + 28, net.ip, 4);
		put16(f + 38, (unsigned)(a->v[1] >> 16));
		put16(f + 40, (unsigned)a->v[1] & 0xffff);
		if (send(HEADER_BYTES + ETHERNET_BYTES + PROBE_BYTES))
			return "it was not sent";
		while (!came && rdtsc() - begin < TRY_CYCLES) {
			const uint8_t *g = frame + HEADER_BYTES;

			came = receive(TRY_CYCLES / 10) >= HEADER_BYTES + ETHERNET_BYTES + ARP_BYTES && get16(g + 12) == 0x0806 && g[21] == 2 &&
				get32(g + 28) == a->v[1];
		}
	}
	print("answered=%u\n", (uint64_t)came);
	return NULL;
}

static void swap(uint8_t *a, uint8_t *b, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++) {
		uint8_t was = a[i];

		a[i] = b[i];
		b[i] = was;
	}
}

/* Answer a question for the MAC address of the address that DHCP gave. Returns whether it was one. */
static bool arp_answer(uint32_t have)
{
	uint8_t *f = sent + HEADER_BYTES;

	if (have < HEADER_BYTES + ETHERNET_BYTES + ARP_BYTES || get16(f + 12) != 0x0806 || f[21] != 1 || memcmp(f + 38, net.ip, 4))
		return false;
	f[21] = 2;
	memcpy(f + 32, f + 22, 10);
	memcpy(f + 22, net.mac, 6);
	memcpy(f + 28, net.ip, 4);
	memcpy(f, f + 6, 6);
	memcpy(f + 6, net.mac, 6);
	memset(sent, 0, HEADER_BYTES);
	return !send(have);
}

/* Send each datagram of UDP over IPv4 back to its sender, until there is input. Swapping keeps both checksums. Between
 * datagrams the processor halts, so a timer has to run ("pit 100"). */
static const char *net_serve(const struct args *a)
{
	uint8_t *f = sent + HEADER_BYTES;

	(void)a;
	while (!serial_ready()) {
		uint32_t have = receive(0);

		if (!have) {
			halt();
			continue;
		}
		memcpy(sent, frame, have);
		if (arp_answer(have) || have < HEADER_BYTES + 42 || get16(f + 12) != 0x0800 || f[23] != 17)
			continue;
		memset(sent, 0, HEADER_BYTES);
		memcpy(f, f + 6, 6);
		memcpy(f + 6, net.mac, 6);
		swap(f + 26, f + 30, 4);
		swap(f + 34, f + 36, 2);
		if (send(have))
			return "it was not sent";
	}
	return NULL;
}

/* Receive and drop all frames, to catch up after a gap in the polling. */
static const char *net_drain(const struct args *a)
{
	uint64_t n = 0;

	(void)a;
	while (receive(VIRTIO_PATIENCE_CYCLES / 1000))
		n++;
	print("%u\n", n);
	return NULL;
}

/* ---- frames of other files' commands ---- */

bool net_is_open(void)
{
	return net.is_open;
}

const char *net_interrupts_enable(void)
{
	if (!virtio_msix_enable(&net.v))
		return "no MSI-X";
	mmio_write(net.v.common + COMMON_QUEUE_SELECT, 2, RX);
	mmio_write(net.v.common + COMMON_QUEUE_VECTOR, 2, 0);
	queues[RX].avail.flags = 0;
	return NULL;
}

const uint8_t *net_mac(void)
{
	return net.mac;
}

uint32_t net_frame_receive(const uint8_t **ret_f, uint64_t cycles)
{
	uint32_t have = receive(cycles);

	*ret_f = frame + HEADER_BYTES;
	return have > HEADER_BYTES ? have - HEADER_BYTES : 0;
}

uint8_t *net_frame_new(void)
{
	memset(sent, 0, HEADER_BYTES);
	return sent + HEADER_BYTES;
}

const char *net_frame_send(uint32_t bytes)
{
	return send(HEADER_BYTES + bytes);
}

/* ---- protocol violations ---- */

static void wrong_short(void)
{
	queues[TX].desc[0] = (struct desc){(uint64_t)sent, HEADER_BYTES - 1, 0, 0};
	virtio_publish(&net.v, &queues[TX], TX, 0);
}

static void wrong_beyond(void)
{
	queues[TX].desc[0] = (struct desc){0x0000700000000000ULL, 100, 0, 0};
	virtio_publish(&net.v, &queues[TX], TX, 0);
}

static void wrong_loop(void)
{
	queues[TX].desc[0] = (struct desc){(uint64_t)sent, 100, DESC_NEXT, 0};
	virtio_publish(&net.v, &queues[TX], TX, 0);
}

static void wrong_buffers(void)
{
	for (uint16_t i = 0; i < QUEUE_SIZE; i++)
		queues[RX].desc[i] = (struct desc){(uint64_t)buffers, 4, DESC_WRITE, 0};
	virtio_publish(&net.v, &queues[RX], RX, 0);
}

static void wrong_writable(void)
{
	queues[TX].desc[0] = (struct desc){(uint64_t)sent, 100, DESC_WRITE, 0};
	virtio_publish(&net.v, &queues[TX], TX, 0);
}

/* Send headers with invalid requests: the device drops such frames without a fault. */
static void wrong_header(void)
{
	uint64_t seed = 0x9e3779b97f4a7c15ULL;

	for (unsigned n = 0; n < 200; n++) {
		frame_make(100, n);
		for (unsigned i = 0; i < HEADER_BYTES; i++)
			sent[i] = (uint8_t)random_next(&seed);
		sent[1] |= 8; /* an unknown kind of segments */
		send(HEADER_BYTES + ETHERNET_BYTES + 100);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} wrongs[] = {
	{"short", wrong_short},
	{"beyond", wrong_beyond},
	{"loop", wrong_loop},
	{"buffers", wrong_buffers},
	{"writable", wrong_writable},
	{"header", wrong_header},
};

/* Commit violation number WHICH; print whether the device asks for a reset within half a second. */
static const char *net_wrong(const struct args *a)
{
	uint64_t begin;

	if (a->v[1] >= ARRAY_SIZE(wrongs))
		return "no such wrong";
	wrongs[a->v[1]].run();
	begin = rdtsc();
	while (!(virtio_status(&net.v) & STATUS_NEEDS_RESET) && rdtsc() - begin < 1500000000ULL)
		__asm__ volatile("pause");
	print("wrong=%s reset=%u\n", wrongs[a->v[1]].name, (uint64_t)!!(virtio_status(&net.v) & STATUS_NEEDS_RESET));
	return NULL;
}

static const char *cmd_net(const struct args *a)
{
	static const struct {
		const char *name;
		const char *(*run)(const struct args *a);
	} subs[] = {{"send", net_send}, {"probe", net_probe}, {"dhcp", net_dhcp}, {"ask", net_ask}, {"recv", net_receive},
		 {"echo", net_echo}, {"serve", net_serve}, {"drain", net_drain}, {"pairs", net_pairs},
		 {"by", net_by}, {"count", net_count}, {"wrong", net_wrong}};

	if (str_equal(a->s[0], "open"))
		return net_open(a);
	if (!net.is_open)
		return "open an interface first";
	if (str_equal(a->s[0], "show"))
		return net_tell();
	for (size_t i = 0; i < ARRAY_SIZE(subs); i++)
		if (str_equal(a->s[0], subs[i].name))
			return subs[i].run(a);
	return "no such command";
}

const struct command net_commands[] = {
	{"net", 1, 1,
		"open INDEX [WITHOUT-FEATURES [ALSO-FEATURES]]|show|send BYTES SEED [COUNT]|probe MAC-CHANGE|dhcp|ask ADDRESS [TRIES]|"
		"recv SEED|echo COUNT|serve|drain|pairs NUMBER|by PAIR|count FRAMES|wrong WHICH",
		cmd_net},
	{0},
};
