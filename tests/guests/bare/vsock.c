/* Commands for a virtio-vsock device: one connection at a time, polled. */
#include "virtio.h"

#define QUEUE_SIZE 32
#define BUFFER_BYTES 4096
#define HEADER_BYTES 44
#define DATA_MAX 4000
#define KEPT_BYTES 65536 /* credit that this side offers */
#define HOST_CID 2

enum { RX = 0, TX = 1, EVENT = 2 };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

static struct virtio dev = {.queue_size = QUEUE_SIZE};
static bool is_open;
static uint64_t own_cid, events;

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

static void buffer_offer(uint16_t i)
{
	queues[RX].desc[i] = (struct desc){(uint64_t)buffers[i], BUFFER_BYTES, DESC_WRITE, 0};
	virtio_publish(&dev, &queues[RX], RX, i);
}

static void event_offer(uint16_t i)
{
	queues[EVENT].desc[i] = (struct desc){(uint64_t)&event_words[i], 4, DESC_WRITE, 0};
	virtio_publish(&dev, &queues[EVENT], EVENT, i);
}

static const char *dev_start(void)
{
	const char *wrong = virtio_begin(&dev, F_VERSION_1);

	if (wrong)
		return wrong;
	for (unsigned i = 0; i < ARRAY_SIZE(queues); i++)
		virtio_queue_start(&dev, &queues[i], i);
	virtio_status_add(&dev, STATUS_DRIVER_OK);
	for (uint16_t i = 0; i < QUEUE_SIZE; i++)
		buffer_offer(i);
	for (uint16_t i = 0; i < ARRAY_SIZE(event_words); i++)
		event_offer(i);
	own_cid = mmio_read(dev.config, 4) | mmio_read(dev.config + 4, 4) << 32;
	events = 0;
	is_open = true;
	return NULL;
}

/* ---- packets ---- */

static struct header packet(uint16_t op)
{
	return (struct header){.src_cid = own_cid, .dst_cid = HOST_CID, .src_port = conn.mine, .dst_port = conn.peer,
		.type = 1, .op = op, .buf_alloc = KEPT_BYTES, .fwd_cnt = conn.taken};
}

static const char *packet_send(const struct header *h, const void *data)
{
	uint64_t begin = rdtsc();

	memcpy(out, h, HEADER_BYTES);
	memcpy(out + HEADER_BYTES, data, h->len);
	queues[TX].desc[0] = (struct desc){(uint64_t)out, HEADER_BYTES + h->len, 0, 0};
	virtio_publish(&dev, &queues[TX], TX, 0);
	while (virtio_take(&dev, &queues[TX], NULL) < 0)
		if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
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
	int id = virtio_take(&dev, &queues[EVENT], NULL);

	if (id < 0)
		return;
	events += event_words[id & 3] == 0;
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
	id = virtio_take(&dev, &queues[RX], NULL);
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
		if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
			wrong = "nothing came";
	}
	if (!wrong && !conn.reset)
		wrong = say(SHUTDOWN, 3);
	while (!wrong && !conn.reset) {
		packet_take();
		if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
			wrong = "the end was not confirmed";
	}
	print("bytes=%u ended=%u events=%u\n", (uint64_t)conn.received, (uint64_t)conn.ended, events);
	return wrong;
}

/* ---- commands ---- */

static const char *vsock_open(const struct args *a)
{
	const char *wrong = virtio_find(&dev, 0x1053, 0);

	(void)a;
	is_open = false;
	if (!wrong)
		wrong = dev_start();
	if (!wrong)
		print("cid=%u\n", own_cid);
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
		if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
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
		if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
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
		else if (rdtsc() - begin > VIRTIO_PATIENCE_CYCLES)
			wrong = "no answer";
	}
	conn.reset = false; /* an event came before the answer */
	return wrong ? wrong : echo();
}

static const char *vsock_events(const struct args *a)
{
	uint64_t begin = rdtsc();

	while (events < a->v[1] && rdtsc() - begin < VIRTIO_PATIENCE_CYCLES)
		packet_take();
	print("events=%u reset=%u status=%x\n", events, (uint64_t)conn.reset, (uint64_t)virtio_status(&dev));
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
	if (!is_open)
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
