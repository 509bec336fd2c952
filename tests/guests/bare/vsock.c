/* Commands for a virtio-vsock device: one connection at a time, polled. */
#include "virtio_blk.h"

#define QUEUE_SIZE 32
#define BUFFER_BYTES 4096
#define HEADER_BYTES 44
#define DATA_MAX 4000
#define KEPT_BYTES 65536 /* credit that this side offers */
#define PATIENCE_CYCLES 30000000000ULL
#define HOST_CID 2

enum { RX = 0, TX = 1, EVENT = 2 };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

static struct {
	int bdf;
	bool is_open;
	uint64_t common, notify, config, cid;
	uint32_t notify_step;
	uint64_t events;
} dev;

/* The connection. */
static struct {
	uint32_t mine, peer; /* ports */
	uint32_t sent, received, taken, peer_alloc, peer_taken;
	bool ended; /* the host sends no more */
	bool reset;
} conn;

/* A request that came while another connection was open. */
static struct header waiting;

static struct queue queues[3];
static uint8_t buffers[QUEUE_SIZE][BUFFER_BYTES] __attribute__((aligned(4096)));
static uint8_t out[BUFFER_BYTES] __attribute__((aligned(4096)));
static uint8_t kept[KEPT_BYTES];
static uint32_t event_words[4];

/* ---- the driver ---- */

static uint64_t capability_gpa(unsigned cap)
{
	uint64_t bar = pci_bar((uint16_t)dev.bdf, pci_read((uint16_t)dev.bdf, cap + 4, 1));

	return bar ? bar + pci_read((uint16_t)dev.bdf, cap + 8, 4) : 0;
}

static const char *dev_find(void)
{
	uint16_t bdf;

	dev.bdf = pci_find(0x1af4, 0x1053, 0);
	if (dev.bdf < 0)
		return "no vsock device";
	bdf = (uint16_t)dev.bdf;
	pci_write(bdf, 4, 2, 0x0006); /* memory, bus master */
	for (unsigned cap = pci_read(bdf, 0x34, 1) & 0xfc, n = 0; cap && n < 48;
		cap = pci_read(bdf, cap + 1, 1) & 0xfc, n++) {
		unsigned kind = pci_read(bdf, cap, 1) == 0x09 ? pci_read(bdf, cap + 3, 1) : 0;

		if (kind == 1)
			dev.common = capability_gpa(cap);
		if (kind == 2) {
			dev.notify = capability_gpa(cap);
			dev.notify_step = pci_read(bdf, cap + 16, 4);
		}
		if (kind == 4)
			dev.config = capability_gpa(cap);
	}
	return dev.common && dev.notify && dev.config ? NULL : "the device lacks a capability";
}

static uint8_t status(void)
{
	return (uint8_t)mmio_read(dev.common + COMMON_STATUS, 1);
}

static void status_add(uint8_t bits)
{
	mmio_write(dev.common + COMMON_STATUS, 1, status() | bits);
}

static void common_write64(unsigned reg, const void *p)
{
	mmio_write(dev.common + reg, 4, (uint32_t)(uint64_t)p);
	mmio_write(dev.common + reg + 4, 4, (uint64_t)p >> 32);
}

static void queue_start(unsigned i)
{
	struct queue *q = &queues[i];

	memset(q, 0, sizeof(*q));
	q->avail.flags = 1; /* polling, so no interrupts */
	mmio_write(dev.common + COMMON_QUEUE_SELECT, 2, i);
	mmio_write(dev.common + COMMON_QUEUE_SIZE, 2, QUEUE_SIZE);
	mmio_write(dev.common + COMMON_QUEUE_VECTOR, 2, 0xffff);
	common_write64(COMMON_QUEUE_DESC, q->desc);
	common_write64(COMMON_QUEUE_AVAIL, &q->avail);
	common_write64(COMMON_QUEUE_USED, &q->used);
	q->notify_gpa = dev.notify + mmio_read(dev.common + COMMON_QUEUE_NOTIFY_OFF, 2) * dev.notify_step;
	mmio_write(dev.common + COMMON_QUEUE_ENABLE, 2, 1);
}

static void publish(unsigned i, uint16_t head)
{
	struct queue *q = &queues[i];

	q->avail.ring[q->avail_idx++ % QUEUE_SIZE] = head;
	__asm__ volatile("mfence" : : : "memory");
	*(volatile uint16_t *)&q->avail.idx = q->avail_idx;
	__asm__ volatile("mfence" : : : "memory");
	mmio_write(q->notify_gpa, 2, i);
}

static void buffer_offer(uint16_t i)
{
	queues[RX].desc[i] = (struct desc){(uint64_t)buffers[i], BUFFER_BYTES, DESC_WRITE, 0};
	publish(RX, i);
}

static void event_offer(uint16_t i)
{
	queues[EVENT].desc[i] = (struct desc){(uint64_t)&event_words[i], 4, DESC_WRITE, 0};
	publish(EVENT, i);
}

/* Returns the next used id; -1: none. */
static int used_next(unsigned i)
{
	struct queue *q = &queues[i];

	if (*(volatile uint16_t *)&q->used.idx == q->last_used)
		return -1;
	__asm__ volatile("" : : : "memory");
	return (int)q->used.ring[q->last_used++ % QUEUE_SIZE].id;
}

static const char *dev_start(void)
{
	uint64_t begin = rdtsc();

	mmio_write(dev.common + COMMON_STATUS, 1, 0);
	while (status())
		if (rdtsc() - begin > PATIENCE_CYCLES)
			return "the device does not reset";
	status_add(STATUS_ACKNOWLEDGE);
	status_add(STATUS_DRIVER);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE_SELECT, 4, 0);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE, 4, 0);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE_SELECT, 4, 1);
	mmio_write(dev.common + COMMON_DRIVER_FEATURE, 4, (uint32_t)(F_VERSION_1 >> 32));
	status_add(STATUS_FEATURES_OK);
	if (!(status() & STATUS_FEATURES_OK))
		return "the device refuses the features";
	for (unsigned i = 0; i < 3; i++)
		queue_start(i);
	status_add(STATUS_DRIVER_OK);
	for (uint16_t i = 0; i < QUEUE_SIZE; i++)
		buffer_offer(i);
	for (uint16_t i = 0; i < ARRAY_SIZE(event_words); i++)
		event_offer(i);
	dev.cid = mmio_read(dev.config, 4) | mmio_read(dev.config + 4, 4) << 32;
	dev.events = 0;
	dev.is_open = true;
	return NULL;
}

/* ---- packets ---- */

static struct header packet(uint16_t op)
{
	return (struct header){.src_cid = dev.cid, .dst_cid = HOST_CID, .src_port = conn.mine, .dst_port = conn.peer,
		.type = 1, .op = op, .buf_alloc = KEPT_BYTES, .fwd_cnt = conn.taken};
}

static const char *packet_send(const struct header *h, const void *data)
{
	uint64_t begin = rdtsc();

	memcpy(out, h, HEADER_BYTES);
	memcpy(out + HEADER_BYTES, data, h->len);
	queues[TX].desc[0] = (struct desc){(uint64_t)out, HEADER_BYTES + h->len, 0, 0};
	publish(TX, 0);
	while (used_next(TX) < 0)
		if (rdtsc() - begin > PATIENCE_CYCLES)
			return "a packet was not taken";
	return NULL;
}

static const char *say(uint16_t op, uint32_t flags)
{
	struct header h = packet(op);

	h.flags = flags;
	return packet_send(&h, NULL);
}

static void events_look(void)
{
	int id = used_next(EVENT);

	if (id < 0)
		return;
	dev.events += event_words[id & 3] == 0;
	conn.reset = true;
	event_offer((uint16_t)id);
}

/* Take the next packet and keep its data. Returns its operation; 0: none, or of no interest. */
static uint16_t packet_take(void)
{
	struct header h;
	uint16_t op = 0;
	int id;

	events_look();
	id = used_next(RX);
	if (id < 0)
		return 0;
	memcpy(&h, buffers[id], HEADER_BYTES);
	/* conn.peer 0: waits for a connection */
	if (h.dst_port == conn.mine && (h.src_port == conn.peer || (!conn.peer && h.op == REQUEST))) {
		op = h.op;
		conn.peer = h.src_port;
		conn.peer_alloc = h.buf_alloc;
		conn.peer_taken = h.fwd_cnt;
		for (uint32_t i = 0; op == RW && i < h.len; i++)
			kept[conn.received++ % KEPT_BYTES] = buffers[id][HEADER_BYTES + i];
		conn.reset |= op == RST;
		conn.ended |= op == RST || (op == SHUTDOWN && h.flags & 2);
	}
	if (!op && h.op == REQUEST)
		waiting = h;
	buffer_offer((uint16_t)id);
	if (op == CREDIT_REQUEST)
		say(CREDIT_UPDATE, 0);
	return op;
}

/* Send kept data back as the peer's credit allows. */
static const char *echo_some(void)
{
	uint32_t room = conn.peer_alloc - (conn.sent - conn.peer_taken), n = conn.received - conn.taken;
	struct header h = packet(RW);
	uint8_t data[DATA_MAX];

	n = n < room ? n : room;
	n = n < DATA_MAX ? n : DATA_MAX;
	if (!n)
		return NULL;
	for (uint32_t i = 0; i < n; i++)
		data[i] = kept[conn.taken++ % KEPT_BYTES];
	h.len = n;
	h.fwd_cnt = conn.taken;
	conn.sent += n;
	return packet_send(&h, data);
}

/* Echo until the host sends no more, then end the connection from this side. */
static const char *echo(void)
{
	uint64_t begin = rdtsc();
	const char *wrong = NULL;

	while (!wrong && !conn.reset && (!conn.ended || conn.taken != conn.received)) {
		if (packet_take())
			begin = rdtsc();
		wrong = echo_some();
		if (rdtsc() - begin > PATIENCE_CYCLES)
			wrong = "nothing came";
	}
	if (!wrong && !conn.reset)
		wrong = say(SHUTDOWN, 3);
	while (!wrong && !conn.reset) {
		packet_take();
		if (rdtsc() - begin > PATIENCE_CYCLES)
			wrong = "the end was not confirmed";
	}
	print("bytes=%u ended=%u events=%u\n", (uint64_t)conn.received, (uint64_t)conn.ended, dev.events);
	return wrong;
}

/* ---- commands ---- */

static const char *vsock_open(const struct args *a)
{
	const char *wrong = dev_find();

	(void)a;
	dev.is_open = false;
	if (!wrong)
		wrong = dev_start();
	if (!wrong)
		print("cid=%u\n", dev.cid);
	return wrong;
}

static void conn_begin(uint32_t mine, uint32_t peer)
{
	memset(&conn, 0, sizeof(conn));
	conn.mine = mine;
	conn.peer = peer;
}

/* Accept one connection to PORT and echo. */
static const char *vsock_serve(const struct args *a)
{
	uint64_t begin = rdtsc();
	const char *wrong;

	conn_begin((uint32_t)a->v[1], 0);
	print("listens\n");
	if (waiting.op && waiting.dst_port == conn.mine) {
		conn.peer = waiting.src_port;
		conn.peer_alloc = waiting.buf_alloc;
		waiting.op = 0;
	}
	while (!conn.peer && packet_take() != REQUEST)
		if (rdtsc() - begin > PATIENCE_CYCLES)
			return "nobody connected";
	conn.reset = false; /* an event came before the request */
	wrong = say(RESPONSE, 0);
	return wrong ? wrong : echo();
}

/* Refuse one connection. */
static const char *vsock_refuse(const struct args *a)
{
	uint64_t begin = rdtsc();

	conn_begin((uint32_t)a->v[1], 0);
	while (packet_take() != REQUEST)
		if (rdtsc() - begin > PATIENCE_CYCLES)
			return "nobody connected";
	return say(RST, 0);
}

/* Connect to the host's PORT and echo. */
static const char *vsock_connect(const struct args *a)
{
	uint64_t begin = rdtsc();
	const char *wrong;
	uint16_t op;

	conn_begin(a->v[2] ? (uint32_t)a->v[2] : 1000, (uint32_t)a->v[1]);
	wrong = say(REQUEST, 0);
	while (!wrong && (op = packet_take()) != RESPONSE) {
		if (op == RST)
			wrong = "refused";
		else if (rdtsc() - begin > PATIENCE_CYCLES)
			wrong = "no answer";
	}
	conn.reset = false; /* an event came before the answer */
	return wrong ? wrong : echo();
}

static const char *vsock_events(const struct args *a)
{
	uint64_t begin = rdtsc();

	while (dev.events < a->v[1] && rdtsc() - begin < PATIENCE_CYCLES)
		packet_take();
	print("events=%u reset=%u status=%x\n", dev.events, (uint64_t)conn.reset, (uint64_t)status());
	return NULL;
}

static const char *cmd_vsock(const struct args *a)
{
	static const struct {
		const char *name;
		const char *(*run)(const struct args *a);
	} subs[] = {{"serve", vsock_serve}, {"refuse", vsock_refuse}, {"connect", vsock_connect}, {"events", vsock_events}};

	if (str_equal(a->s[0], "open"))
		return vsock_open(a);
	if (!dev.is_open)
		return "open the device first";
	for (size_t i = 0; i < ARRAY_SIZE(subs); i++)
		if (str_equal(a->s[0], subs[i].name))
			return subs[i].run(a);
	return "no such command";
}

const struct command vsock_commands[] = {
	{"vsock", 1, 1, "open|serve PORT|refuse PORT|connect PORT [OWN-PORT]|events NUMBER", cmd_vsock},
	{0},
};
