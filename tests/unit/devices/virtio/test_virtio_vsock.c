/* Vsock: the arithmetic of credit, and the device with a driver whose packets the test writes. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "base/vsock_dial.h"
#include "devices/console.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_vsock.h"
#include "devices/virtio/vsock_packet.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 4
#define CID 5
enum { RX = 0, TX = 1, EVENT = 2 };

/* ---- credit ---- */

/* The counts of both directions wrap in the middle. */
static void credit_survives_the_wrap_of_its_counts(void **state)
{
	const uint32_t alloc = 65536, start = UINT32_MAX - 100000;
	struct vsock_credit c = { .received = start, .forwarded = start, .told = start, .sent = start, .peer_alloc = 5000,
		.peer_forwarded = start };
	uint64_t got = 0;

	(void)state;
	while (got < 300000) {
		assert_true(vsock_credit_receive(&c, 40000, alloc));
		assert_false(vsock_credit_receive(&c, alloc - 40000 + 1, alloc));
		assert_true(vsock_credit_receive(&c, alloc - 40000, alloc));
		assert_false(vsock_credit_receive(&c, 1, alloc));
		assert_true(vsock_credit_receive(&c, 0, alloc));
		vsock_credit_forward(&c, alloc);
		got += alloc;
	}
	assert_int_equal((uint32_t)(c.received - start), got);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(vsock_credit_room(&c), 5000);
		c.sent += 3000;
		assert_int_equal(vsock_credit_room(&c), 2000);
		c.sent += 2000;
		assert_int_equal(vsock_credit_room(&c), 0);
		c.peer_forwarded += 5000;
	}
}

static void credit_update_is_due_at_a_quarter(void **state)
{
	struct vsock_credit c = { .received = UINT32_MAX - 5, .forwarded = UINT32_MAX - 5, .told = UINT32_MAX - 5 };

	(void)state;
	assert_true(vsock_credit_receive(&c, 4000, 4000));
	vsock_credit_forward(&c, 999);
	assert_false(vsock_credit_is_due(&c, 4000));
	vsock_credit_forward(&c, 1);
	assert_true(vsock_credit_is_due(&c, 4000));
	c.told = c.forwarded;
	assert_false(vsock_credit_is_due(&c, 4000));
}

/* A guest whose counts are nonsense gets nothing, and never more than it offers. */
static void nonsense_of_the_guest_gives_no_room(void **state)
{
	struct vsock_credit c = { .sent = 1000, .peer_alloc = 500, .peer_forwarded = 2000 };

	(void)state;
	assert_int_equal(vsock_credit_room(&c), 0);
	c.peer_forwarded = 1000;
	assert_int_equal(vsock_credit_room(&c), 500);
	c.peer_alloc = UINT32_MAX;
	assert_int_equal(vsock_credit_room(&c), UINT32_MAX);
	c.peer_alloc = 0;
	assert_int_equal(vsock_credit_room(&c), 0);
	c.peer_alloc = 10;
	c.peer_forwarded = 0;
	assert_int_equal(vsock_credit_room(&c), 0);
}

static void header_has_its_fields_in_place(void **state)
{
	struct vsock_header h = { 0x0102030405060708, 2, 1024, 52, 100, 1, VSOCK_OP_RW, 3, 4096, 77 }, back;
	uint8_t raw[VSOCK_HEADER_BYTES], again[VSOCK_HEADER_BYTES];

	(void)state;
	vsock_header_print(&h, raw);
	assert_int_equal(load_le64(raw), h.src_cid);
	assert_int_equal(load_le32(raw + 16), 1024);
	assert_int_equal(load_le32(raw + 20), 52);
	assert_int_equal(load_le16(raw + 28), 1);
	assert_int_equal(load_le16(raw + 30), 5);
	assert_int_equal(load_le32(raw + 40), 77);
	vsock_header_parse(raw, &back);
	vsock_header_print(&back, again);
	assert_memory_equal(raw, again, sizeof(raw));
}

/* ---- the device ---- */

struct vs_test {
	struct fixture f;
	struct device *dev;
	struct drv d;
	int dial; /* the test's end of the dialer's socket */
	uint64_t buf;
	unsigned offered; /* buffers of the receive queue */
	unsigned answers;
	int answer;
	struct err e;
};

static void vs_begin_listening(struct vs_test *t, int listen_fd)
{
	struct virtio_vsock_config c = { .name = "vsock0", .cid = CID, .listen_fd = listen_fd, .slot = SLOT };
	int pair[2];

	memset(t, 0, sizeof(*t));
	fx_init(&t->f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	t->dial = pair[0];
	c.dial_fd = pair[1];
	assert_int_equal(virtio_vsock_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
	drv_init(&t->d, &t->f, SLOT, ~0ULL, true);
	drv_queue_setup(&t->d, RX, 64);
	drv_queue_setup(&t->d, TX, 64);
	drv_queue_setup(&t->d, EVENT, 16);
	drv_ok(&t->d);
	t->buf = fx_alloc(&t->f, 1 << 20, 4096);
	fx_run(&t->f, 3);
}

static void vs_begin(struct vs_test *t)
{
	vs_begin_listening(t, -1);
}

static void vs_end(struct vs_test *t)
{
	fx_run(&t->f, 3); /* no task of the device is left */
	t->dev->ops->free(t->dev);
	fx_run(&t->f, 2);
	close(t->dial);
	fx_done(&t->f);
}

/* Offer receive buffers of 1 KiB of data each. */
static void vs_offer(struct vs_test *t, unsigned n)
{
	while (n--) {
		struct drv_sg sg = { t->buf + 4096 * (uint64_t)t->offered++, VSOCK_HEADER_BYTES + 1024, true };

		drv_add(&t->d.q[RX], &sg, 1, false);
	}
	drv_kick(&t->d.q[RX]);
	fx_run(&t->f, 3);
}

/* Send a packet as the guest. */
static void vs_send(struct vs_test *t, struct vsock_header h, const void *data)
{
	uint64_t at = t->buf + 512 * 1024;
	uint8_t *p = fx_ram(&t->f, at);
	struct drv_sg sg = { at, VSOCK_HEADER_BYTES + h.len, false };
	uint32_t len;

	vsock_header_print(&h, p);
	if (h.len)
		memcpy(p + VSOCK_HEADER_BYTES, data, h.len);
	drv_add(&t->d.q[TX], &sg, 1, false);
	drv_kick(&t->d.q[TX]);
	drv_wait(&t->d.q[TX], &len);
	fx_run(&t->f, 3);
}

/* Take the next packet for the guest. */
static struct vsock_header vs_take(struct vs_test *t, const uint8_t **ret_data)
{
	struct drv_queue *q = &t->d.q[RX];
	struct vsock_header h;
	const uint8_t *p;
	uint32_t len;
	unsigned head = drv_wait(q, &len);

	p = fx_ram(&t->f, load_le64((const uint8_t *)fx_ram(&t->f, q->desc) + 16 * (size_t)head));
	vsock_header_parse(p, &h);
	assert_int_equal(len, VSOCK_HEADER_BYTES + h.len);
	if (ret_data)
		*ret_data = p + VSOCK_HEADER_BYTES;
	return h;
}

static unsigned vs_pending(struct vs_test *t)
{
	fx_run(&t->f, 5);
	return (uint16_t)(drv_used_idx(&t->d.q[RX]) - t->d.q[RX].last_used);
}

static void vs_answered(void *opaque, int r, const struct err *e)
{
	struct vs_test *t = opaque;

	t->answers++;
	t->answer = r;
	t->e = *e;
}

/* Connect a client to port 52; the guest sees the request. The client's socket keeps only a few KiB that the client has
 * not read. Returns the client's end. */
static int vs_connect(struct vs_test *t, struct vsock_header *ret)
{
	struct console_user nobody = { 0 };
	int pair[2], small = 4096;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	assert_int_equal(virtio_vsock_connect(t->dev, 52, pair[1], &nobody, vs_answered, t, NULL), 0);
	vs_offer(t, 1);
	*ret = vs_take(t, NULL);
	assert_int_equal(ret->op, VSOCK_OP_REQUEST);
	assert_int_equal(ret->src_cid, VSOCK_CID_HOST);
	assert_int_equal(ret->dst_cid, CID);
	assert_int_equal(ret->dst_port, 52);
	assert_int_equal(ret->buf_alloc, VSOCK_BUFFER_BYTES);
	return pair[0];
}

static struct vsock_header vs_packet(const struct vsock_header *request, enum vsock_op op)
{
	return (struct vsock_header){ .src_cid = CID, .dst_cid = VSOCK_CID_HOST, .src_port = request->dst_port,
		.dst_port = request->src_port, .type = VSOCK_TYPE_STREAM, .op = op, .buf_alloc = 1500 };
}

static int vs_open(struct vs_test *t, struct vsock_header *ret)
{
	int fd = vs_connect(t, ret);

	vs_send(t, vs_packet(ret, VSOCK_OP_RESPONSE), NULL);
	assert_int_equal(t->answers, 1);
	assert_int_equal(t->answer, 0);
	return fd;
}

static bool is_closed(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

/* The guest offered 1500 bytes: that many leave the client's socket, and the rest when there is room again. */
static void data_to_the_guest_stays_in_the_socket_without_credit(void **state)
{
	static uint8_t data[4000];
	struct vs_test t;
	struct vsock_header h, p;
	const uint8_t *got;
	int fd;

	(void)state;
	vs_begin(&t);
	fd = vs_open(&t, &h);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
	vs_offer(&t, 8);
	p = vs_take(&t, &got);
	assert_int_equal(p.op, VSOCK_OP_RW);
	assert_int_equal(p.len, 1024);
	assert_memory_equal(got, data, 1024);
	p = vs_take(&t, &got);
	assert_int_equal(p.len, 476);
	assert_memory_equal(got, data + 1024, 476);
	assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_CREDIT_REQUEST);
	assert_int_equal(vs_pending(&t), 0);
	p = vs_packet(&h, VSOCK_OP_CREDIT_UPDATE);
	p.fwd_cnt = 1000;
	vs_send(&t, p, NULL);
	p = vs_take(&t, &got);
	assert_int_equal(p.len, 1000);
	assert_memory_equal(got, data + 1500, 1000);
	close(fd);
	vs_end(&t);
}

/* The device keeps data that the client does not read, up to the credit, and resets connections beyond. */
static void guest_that_exceeds_its_credit_is_reset(void **state)
{
	static uint8_t data[16384];
	struct vs_test t;
	struct vsock_header h, p;
	uint32_t sent = 0, told = 0;
	int fd;

	(void)state;
	vs_begin(&t);
	fd = vs_open(&t, &h);
	vs_offer(&t, 40);
	p = vs_packet(&h, VSOCK_OP_RW);
	p.len = sizeof(data);
	for (;;) {
		struct vsock_header q = { 0 };

		while (vs_pending(&t)) {
			q = vs_take(&t, NULL);
			if (q.op == VSOCK_OP_CREDIT_UPDATE)
				told = q.fwd_cnt;
		}
		if (q.op == VSOCK_OP_RST)
			break;
		/* The guest gets no credit update before a quarter is free. */
		assert_true(sent - told <= VSOCK_BUFFER_BYTES + VSOCK_BUFFER_BYTES / 4);
		vs_send(&t, p, data);
		sent += sizeof(data);
	}
	assert_true(sent - told > VSOCK_BUFFER_BYTES);
	vs_end(&t);
	close(fd);
}

/* A client that reads part of what is kept makes room, and the guest learns it before all of it has left. */
static void guest_learns_of_room_before_all_kept_data_has_left(void **state)
{
	static uint8_t data[16384];
	struct vs_test t;
	struct vsock_header h, p;
	uint32_t sent = 0, told = 0;
	int fd;

	(void)state;
	vs_begin(&t);
	fd = vs_open(&t, &h);
	vs_offer(&t, 60);
	p = vs_packet(&h, VSOCK_OP_RW);
	p.len = sizeof(data);
	while (sent - told + sizeof(data) <= VSOCK_BUFFER_BYTES) {
		vs_send(&t, p, data);
		sent += sizeof(data);
		while (vs_pending(&t))
			told = vs_take(&t, NULL).fwd_cnt;
	}
	while (!vs_pending(&t))
		assert_true(recv(fd, data, sizeof(data), MSG_DONTWAIT) > 0);
	p = vs_take(&t, NULL);
	assert_int_equal(p.op, VSOCK_OP_CREDIT_UPDATE);
	assert_true(p.fwd_cnt - told >= VSOCK_BUFFER_BYTES / 4 && p.fwd_cnt < sent);
	close(fd);
	vs_end(&t);
}

static void kept_data_reaches_a_slow_client_after_the_guests_end(void **state)
{
	static uint8_t data[16384];
	struct vs_test t;
	struct vsock_header h, p;
	size_t got = 0;
	ssize_t n;
	int fd;

	(void)state;
	vs_begin(&t);
	fd = vs_open(&t, &h);
	vs_offer(&t, 16);
	p = vs_packet(&h, VSOCK_OP_RW);
	p.len = sizeof(data);
	for (unsigned i = 0; i < 8; i++)
		vs_send(&t, p, data);
	p = vs_packet(&h, VSOCK_OP_SHUTDOWN);
	p.flags = VSOCK_SHUTDOWN_BOTH;
	vs_send(&t, p, NULL);
	while ((p = vs_take(&t, NULL)).op != VSOCK_OP_RST)
		;
	while ((n = recv(fd, data, sizeof(data), MSG_DONTWAIT)) != 0) {
		got += n > 0 ? (size_t)n : 0;
		fx_run(&t.f, 2);
	}
	assert_int_equal(got, 8 * sizeof(data));
	close(fd);
	vs_end(&t);
}

static void refused_client_gets_an_error(void **state)
{
	struct vs_test t;
	struct vsock_header h;
	int fd;

	(void)state;
	vs_begin(&t);
	fd = vs_connect(&t, &h);
	vs_send(&t, vs_packet(&h, VSOCK_OP_RST), NULL);
	assert_int_equal(t.answers, 1);
	assert_int_equal(t.answer, -ECONNREFUSED);
	assert_string_equal(t.e.msg, "nothing in the guest listens on vsock port 52");
	assert_true(is_closed(fd));
	close(fd);
	vs_end(&t);
}

/* Each ends both sides' connection: a second answer, a second request, data before the answer, an unknown operation. */
static void guest_out_of_turn_is_reset(void **state)
{
	static const struct {
		bool opened;
		uint16_t op;
	} wrong[] = { { true, VSOCK_OP_RESPONSE }, { true, VSOCK_OP_REQUEST }, { false, VSOCK_OP_RW }, { true, 0 }, { true, 99 },
		{ false, VSOCK_OP_SHUTDOWN }, { false, VSOCK_OP_REQUEST } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct vsock_header h;
		struct vs_test t;
		int fd;

		vs_begin(&t);
		fd = wrong[i].opened ? vs_open(&t, &h) : vs_connect(&t, &h);
		vs_offer(&t, 4);
		vs_send(&t, vs_packet(&h, wrong[i].op), NULL);
		assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_RST);
		assert_int_equal(t.answers, 1);
		assert_true(wrong[i].opened ? t.answer == 0 : t.answer < 0);
		assert_true(is_closed(fd));
		close(fd);
		vs_end(&t);
	}
}

/* Not only when the driver has a buffer for the reset. */
static void client_learns_of_a_reset_at_once(void **state)
{
	struct vsock_header h;
	struct vs_test t;
	int fd;

	(void)state;
	vs_begin(&t);
	fd = vs_open(&t, &h);
	vs_send(&t, vs_packet(&h, VSOCK_OP_RESPONSE), NULL);
	assert_true(is_closed(fd));
	vs_offer(&t, 1);
	assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_RST);
	close(fd);
	vs_end(&t);
}

static void packets_for_nobody_are_refused_or_dropped(void **state)
{
	struct vsock_header base = { .src_cid = CID, .dst_cid = VSOCK_CID_HOST, .src_port = 1, .dst_port = 2,
		.type = VSOCK_TYPE_STREAM, .op = VSOCK_OP_RW }, h, got;
	struct vs_test t;

	(void)state;
	vs_begin(&t);
	vs_offer(&t, 8);
	vs_send(&t, base, NULL);
	got = vs_take(&t, NULL);
	assert_int_equal(got.op, VSOCK_OP_RST);
	assert_int_equal(got.src_port, 2);
	assert_int_equal(got.dst_port, 1);
	h = base;
	h.type = 2;
	vs_send(&t, h, NULL);
	got = vs_take(&t, NULL);
	assert_int_equal(got.op, VSOCK_OP_RST);
	assert_int_equal(got.type, 2);
	h = base;
	h.dst_cid = 9;
	vs_send(&t, h, NULL);
	got = vs_take(&t, NULL);
	assert_int_equal(got.op, VSOCK_OP_RST);
	assert_int_equal(got.src_cid, 9);
	h = base;
	h.src_cid = CID + 1;
	vs_send(&t, h, NULL);
	h = base;
	h.op = VSOCK_OP_RST;
	vs_send(&t, h, NULL);
	assert_int_equal(vs_pending(&t), 0);
	vs_end(&t);
}

/* A guest that sends and takes no answers is not served any more, and costs no memory; then it is answered. */
static void guest_that_takes_no_answers_waits(void **state)
{
	struct vsock_header h = { .src_cid = CID, .dst_cid = VSOCK_CID_HOST, .dst_port = 2, .type = VSOCK_TYPE_STREAM,
		.op = VSOCK_OP_RW };
	struct vs_test t;
	unsigned sent = 0;
	uint16_t used;

	(void)state;
	vs_begin(&t);
	do {
		uint64_t at = t.buf + 512 * 1024 + 64 * (uint64_t)(sent % 64);
		struct drv_sg sg = { at, VSOCK_HEADER_BYTES, false };

		used = drv_used_idx(&t.d.q[TX]);
		h.src_port = sent;
		vsock_header_print(&h, fx_ram(&t.f, at));
		drv_add(&t.d.q[TX], &sg, 1, false);
		drv_kick(&t.d.q[TX]);
		fx_run(&t.f, 2);
		sent++;
	} while (drv_used_idx(&t.d.q[TX]) != used);
	assert_in_range(sent, 200, 300);
	for (unsigned i = 0; i < sent; i++) {
		vs_offer(&t, 1);
		t.offered = 0;
		assert_int_equal(vs_take(&t, NULL).dst_port, i);
	}
	assert_int_equal(drv_used_idx(&t.d.q[TX]), (uint16_t)sent);
	vs_end(&t);
}

/* The driver gives no buffers before it learns that those that it gave are used up. */
static void refusals_interrupt_also_when_buffers_run_out(void **state)
{
	struct vsock_header h = { .src_cid = CID, .dst_cid = VSOCK_CID_HOST, .dst_port = 2, .type = VSOCK_TYPE_STREAM,
		.op = VSOCK_OP_RW };
	unsigned interrupts = 0;
	struct vs_test t;

	(void)state;
	vs_begin(&t);
	vs_offer(&t, 1);
	t.f.nmsi = 0;
	for (unsigned i = 0; i < 3; i++) {
		struct drv_sg sg = { t.buf + 512 * 1024 + 64 * i, VSOCK_HEADER_BYTES, false };

		vsock_header_print(&h, fx_ram(&t.f, sg.gpa));
		drv_add(&t.d.q[TX], &sg, 1, false);
	}
	drv_kick(&t.d.q[TX]);
	assert_int_equal(vs_pending(&t), 1);
	for (unsigned i = 0; i < t.f.nmsi; i++)
		interrupts += t.f.msi_data[i] == (SLOT << 8 | RX);
	assert_int_equal(interrupts, 1);
	vs_end(&t);
}

/* Data would wait for ever, and its socket would keep the loop awake. */
static void receive_buffers_without_room_for_data_need_a_reset(void **state)
{
	struct console_user nobody = { 0 };
	struct drv_sg sg;
	struct vs_test t;
	int pair[2];

	(void)state;
	vs_begin(&t);
	sg = (struct drv_sg){ t.buf, VSOCK_HEADER_BYTES, true };
	drv_add(&t.d.q[RX], &sg, 1, false);
	drv_kick(&t.d.q[RX]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(virtio_vsock_connect(t.dev, 52, pair[1], &nobody, vs_answered, &t, NULL), 0);
	fx_run(&t.f, 3);
	assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
	close(pair[0]);
	vs_end(&t);
}

static void malformed_packets_need_a_reset(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct vsock_header h = { .src_cid = CID, .dst_cid = VSOCK_CID_HOST, .type = 1, .op = VSOCK_OP_RW, .len = 100 };
		struct vs_test t;
		struct drv_sg sg;

		vs_begin(&t);
		sg = (struct drv_sg){ t.buf, i ? VSOCK_HEADER_BYTES + 99 : VSOCK_HEADER_BYTES - 1, false };
		vsock_header_print(&h, fx_ram(&t.f, t.buf));
		drv_add(&t.d.q[TX], &sg, 1, false);
		drv_kick(&t.d.q[TX]);
		fx_run(&t.f, 3);
		assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
		vs_end(&t);
	}
}

static void many_connections_reach_a_limit(void **state)
{
	struct console_user nobody = { 0 };
	struct vs_test t;
	int ends[VSOCK_CONNS_MAX + 1][2];
	struct err e;

	(void)state;
	vs_begin(&t);
	for (unsigned i = 0; i <= VSOCK_CONNS_MAX; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends[i]), 0);
		assert_int_equal(virtio_vsock_connect(t.dev, 52, ends[i][1], &nobody, vs_answered, &t, &e),
			i < VSOCK_CONNS_MAX ? 0 : -EMFILE);
	}
	assert_string_equal(e.msg, "the VM has 256 vsock connections, the limit; close one first");
	assert_int_equal(virtio_vsock_users(t.dev), VSOCK_CONNS_MAX);
	close(ends[VSOCK_CONNS_MAX][1]);
	t.dev->ops->reset(t.dev);
	fx_run(&t.f, 3);
	assert_int_equal(t.answers, VSOCK_CONNS_MAX);
	assert_int_equal(virtio_vsock_users(t.dev), 0);
	for (unsigned i = 0; i <= VSOCK_CONNS_MAX; i++) {
		assert_true(is_closed(ends[i][0]));
		close(ends[i][0]);
	}
	vs_end(&t);
}

/* Make a listening socket, and find its address. */
static int listener_make(struct sockaddr_storage *address, socklen_t *size)
{
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	*address = (struct sockaddr_storage){ .ss_family = AF_UNIX };
	*size = sizeof(*address);
	assert_int_equal(bind(sock, (struct sockaddr *)address, sizeof(address->ss_family)), 0);
	assert_int_equal(listen(sock, VSOCK_CONNS_MAX), 0);
	assert_int_equal(getsockname(sock, (struct sockaddr *)address, size), 0);
	return sock;
}

/* Port of the request that the guest gets for a client's bytes; 0: the client is closed. */
static uint32_t greet_with(const char *line)
{
	struct sockaddr_storage address;
	socklen_t size;
	int listening = listener_make(&address, &size), client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint32_t port = 0;
	struct vs_test t;

	vs_begin_listening(&t, listening);
	assert_int_equal(connect(client, (struct sockaddr *)&address, size), 0);
	assert_int_equal(write(client, line, strlen(line)), strlen(line));
	vs_offer(&t, 1);
	fx_run(&t.f, 4);
	if (vs_pending(&t))
		port = vs_take(&t, NULL).dst_port;
	else /* a reset, if the device has left bytes unread */
		assert_true(recv(client, (char[1]){ 0 }, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET);
	close(client);
	vs_end(&t);
	close(listening);
	return port;
}

static void greeting_may_be_as_firecracker_takes_it(void **state)
{
	static const char *const good[] = { "CONNECT 52\n", "connect 52\n", "CoNNecT 52\n", "CONNECT 52 \n", "CONNECT 52\r\n",
		" CONNECT \t 52\n", "CONNECT 0052\n", "CONNECT +52\n", "CONNECT 52 and more\n", "CONNECT                     52 \n" };
	static const char *const bad[] = { "\n", "CONNECT\n", "CONNECT \n", "CONNECT52\n", "CONNECTED 52\n", "CONNECT x\n", "CONNECT 52x\n",
		"CONNECT -1\n", "CONNECT 4294967295\n", "CONNECT 99999999999999999999\n", "CONNECT                        52\n" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(greet_with(good[i]), 52);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(greet_with(bad[i]), 0);
	assert_int_equal(greet_with("CONNECT 4294967294\n"), 4294967294);
}

/* Clients that have written no CONNECT line give way to those that name a port. */
static void silent_clients_give_way(void **state)
{
	struct sockaddr_storage address;
	socklen_t size;
	int listening = listener_make(&address, &size), clients[VSOCK_CONNS_MAX], pair[2];
	struct console_user nobody = { 0 };
	struct vs_test t;

	(void)state;
	vs_begin_listening(&t, listening);
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(clients[i], (struct sockaddr *)&address, size), 0);
		fx_run(&t.f, 2);
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(virtio_vsock_connect(t.dev, 52, pair[1], &nobody, vs_answered, &t, NULL), 0);
	fx_run(&t.f, 3);
	assert_true(is_closed(clients[0]));
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		assert_true(!i || !is_closed(clients[i]));
		close(clients[i]);
	}
	close(pair[0]);
	vs_end(&t);
	close(listening);
}

/* ---- connections from the guest ---- */

static struct vsock_header dial(struct vs_test *t, uint32_t port, struct vsock_dial_request *ret)
{
	struct vsock_header h = { .src_cid = CID, .dst_cid = VSOCK_CID_HOST, .src_port = 1000, .dst_port = port,
		.type = VSOCK_TYPE_STREAM, .op = VSOCK_OP_REQUEST, .buf_alloc = 1500 };

	vs_send(t, h, NULL);
	assert_int_equal(recv(t->dial, ret, sizeof(*ret), MSG_DONTWAIT), sizeof(*ret));
	assert_int_equal(ret->port, port);
	return h;
}

static void dial_answer(struct vs_test *t, uint32_t id, int error, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct vsock_dial_answer a = { id, error };
	struct iovec iov = { &a, sizeof(a) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *c;

		m.msg_control = control.buf;
		m.msg_controllen = sizeof(control.buf);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	assert_int_equal(sendmsg(t->dial, &m, 0), sizeof(a));
	fx_run(&t->f, 5);
}

/* A late answer to the VM's former process must match no request of this one. */
static void requests_of_another_process_have_other_numbers(void **state)
{
	struct vsock_dial_request first, second;
	struct vs_test t;

	(void)state;
	vs_begin(&t);
	vs_offer(&t, 8);
	dial(&t, 7777, &first);
	vs_end(&t);
	vs_begin(&t);
	vs_offer(&t, 8);
	dial(&t, 7777, &second);
	dial_answer(&t, first.id, -ECONNREFUSED, -1);
	assert_int_equal(vs_pending(&t), 0);
	dial_answer(&t, second.id, -ECONNREFUSED, -1);
	assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_RST);
	vs_end(&t);
}

static void guest_connects_to_the_host(void **state)
{
	struct vsock_dial_request ask;
	struct vsock_header h, p;
	struct vs_test t;
	char got[8] = "";
	int pair[2];

	(void)state;
	vs_begin(&t);
	vs_offer(&t, 8);
	h = dial(&t, 7777, &ask);
	assert_int_equal(vs_pending(&t), 0);
	dial_answer(&t, ask.id + 1, 0, t.dial); /* an answer to nobody */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	dial_answer(&t, ask.id, 0, pair[1]);
	close(pair[1]);
	p = vs_take(&t, NULL);
	assert_int_equal(p.op, VSOCK_OP_RESPONSE);
	assert_int_equal(p.src_port, 7777);
	assert_int_equal(p.dst_port, 1000);
	h.op = VSOCK_OP_RW;
	h.len = 5;
	vs_send(&t, h, "hello");
	assert_int_equal(recv(pair[0], got, sizeof(got), MSG_DONTWAIT), 5);
	assert_string_equal(got, "hello");
	close(pair[0]);
	assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_SHUTDOWN);
	/* refused */
	dial(&t, 7778, &ask);
	dial_answer(&t, ask.id, -ECONNREFUSED, -1);
	p = vs_take(&t, NULL);
	assert_int_equal(p.op, VSOCK_OP_RST);
	assert_int_equal(p.src_port, 7778);
	vs_end(&t);
}

static void end_of_the_dialer_refuses_what_waits(void **state)
{
	struct vsock_dial_request ask;
	struct vsock_header h;
	struct vs_test t;

	(void)state;
	vs_begin(&t);
	vs_offer(&t, 8);
	h = dial(&t, 7777, &ask);
	close(t.dial);
	t.dial = open("/dev/null", O_RDONLY | O_CLOEXEC);
	fx_run(&t.f, 3);
	assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_RST);
	vs_send(&t, h, NULL);
	assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_RST);
	vs_end(&t);
}

/* ---- saved states ---- */

/* Connections end, and the driver is told first: packets wait until it gives the event's buffer back. */
static void load_tells_the_driver_of_the_reset(void **state)
{
	struct console_user nobody = { 0 };
	struct drv_sg sg = { 0, 4, true };
	struct fx_state saved;
	struct vsock_header h;
	struct vs_test t;
	uint32_t len;
	int fd, pair[2];

	(void)state;
	vs_begin(&t);
	sg.gpa = t.buf + 768 * 1024;
	*(uint8_t *)fx_ram(&t.f, sg.gpa) = 0xff;
	drv_add(&t.d.q[EVENT], &sg, 1, false);
	drv_kick(&t.d.q[EVENT]);
	fd = vs_open(&t, &h);
	t.answers = 0;
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &saved);
	t.dev->ops->reset(t.dev);
	assert_int_equal(fx_load(t.dev, &saved), 0);
	t.dev->ops->resume(t.dev);
	fx_run(&t.f, 3);
	assert_true(is_closed(fd));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(virtio_vsock_connect(t.dev, 52, pair[1], &nobody, vs_answered, &t, NULL), 0);
	vs_offer(&t, 1);
	assert_int_equal(vs_pending(&t), 0);
	drv_wait(&t.d.q[EVENT], &len);
	assert_int_equal(len, 4);
	assert_int_equal(load_le32(fx_ram(&t.f, sg.gpa)), 0);
	drv_add(&t.d.q[EVENT], &sg, 1, false);
	drv_kick(&t.d.q[EVENT]);
	assert_int_equal(vs_take(&t, NULL).op, VSOCK_OP_REQUEST);
	free(saved.buf);
	close(fd);
	close(pair[0]);
	vs_end(&t);
}

static void state_round_trips(void **state)
{
	struct vs_test t;

	(void)state;
	vs_begin(&t);
	fx_state_test(&t.f, t.dev, 200);
	vs_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(credit_survives_the_wrap_of_its_counts),
		cmocka_unit_test(credit_update_is_due_at_a_quarter),
		cmocka_unit_test(nonsense_of_the_guest_gives_no_room),
		cmocka_unit_test(header_has_its_fields_in_place),
		cmocka_unit_test(data_to_the_guest_stays_in_the_socket_without_credit),
		cmocka_unit_test(guest_that_exceeds_its_credit_is_reset),
		cmocka_unit_test(guest_learns_of_room_before_all_kept_data_has_left),
		cmocka_unit_test(kept_data_reaches_a_slow_client_after_the_guests_end),
		cmocka_unit_test(refused_client_gets_an_error),
		cmocka_unit_test(guest_out_of_turn_is_reset),
		cmocka_unit_test(client_learns_of_a_reset_at_once),
		cmocka_unit_test(packets_for_nobody_are_refused_or_dropped),
		cmocka_unit_test(guest_that_takes_no_answers_waits),
		cmocka_unit_test(refusals_interrupt_also_when_buffers_run_out),
		cmocka_unit_test(malformed_packets_need_a_reset),
		cmocka_unit_test(receive_buffers_without_room_for_data_need_a_reset),
		cmocka_unit_test(many_connections_reach_a_limit),
		cmocka_unit_test(greeting_may_be_as_firecracker_takes_it),
		cmocka_unit_test(silent_clients_give_way),
		cmocka_unit_test(guest_connects_to_the_host),
		cmocka_unit_test(requests_of_another_process_have_other_numbers),
		cmocka_unit_test(end_of_the_dialer_refuses_what_waits),
		cmocka_unit_test(load_tells_the_driver_of_the_reset),
		cmocka_unit_test(state_round_trips),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
