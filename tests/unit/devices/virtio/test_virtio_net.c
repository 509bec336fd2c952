/* A network interface, with a packet socket in place of the tap. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_net_header.h"

#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 4
#define RX 0
#define TX 1
#define LINK_UP 1
#define ALL (~0ULL)
#define MS 1000000ULL

/* The device's clock: the host's, or one that stands until a test sets it on. The loop's timers have the host's. */
static uint64_t clock_ns;

uint64_t __real_loop_now_ns(void);
uint64_t __wrap_loop_now_ns(void);

uint64_t __wrap_loop_now_ns(void)
{
	return clock_ns ? clock_ns : __real_loop_now_ns();
}

/* ---- headers ---- */

struct header {
	uint8_t flags, segments;
	uint16_t headers, segment, start, offset;
};

static const struct header tcp4 = { 1, 1, 54, 1448, 34, 16 };

static bool parse(const struct header *h, uint64_t bytes, uint64_t features, uint8_t *ret)
{
	uint8_t raw[NET_HEADER_BYTES] = { h->flags, h->segments };

	store_le16(raw + 2, h->headers);
	store_le16(raw + 4, h->segment);
	store_le16(raw + 6, h->start);
	store_le16(raw + 8, h->offset);
	store_le16(raw + 10, 0xffff);
	return net_header_parse(raw, bytes, features, ret);
}

static void a_plain_frame_passes_with_a_plain_header(void **state)
{
	static const uint8_t zero[NET_HEADER_BYTES];
	struct header odd = { 0xfe, 0, 9999, 9999, 9999, 9999 };
	uint8_t ret[NET_HEADER_BYTES];

	(void)state;
	assert_true(parse(&odd, 60, 0, ret));
	assert_memory_equal(ret, zero, sizeof(zero));
	assert_true(parse(&odd, 14, ALL, ret));
	assert_false(parse(&odd, 13, ALL, ret));
	assert_false(parse(&odd, 0, ALL, ret));
}

static void checksum_outside_frame_is_refused(void **state)
{
	struct header h = { .flags = 1, .start = 34, .offset = 16 };
	uint8_t ret[NET_HEADER_BYTES];

	(void)state;
	assert_true(parse(&h, 52, NET_F_CSUM, ret));
	assert_int_equal(ret[0], 1);
	assert_int_equal(load_le16(ret + 6), 34);
	assert_int_equal(load_le16(ret + 8), 16);
	assert_int_equal(load_le16(ret + 10), 0);
	assert_false(parse(&h, 51, NET_F_CSUM, ret));
	assert_false(parse(&h, 52, ALL & ~NET_F_CSUM, ret));
	h.start = 13;
	assert_false(parse(&h, 60, NET_F_CSUM, ret));
	h = (struct header){ .flags = 1, .start = 0xffff, .offset = 0xffff };
	assert_false(parse(&h, 65000, NET_F_CSUM, ret));
	assert_false(parse(&h, 16, NET_F_CSUM, ret));
}

static void only_negotiated_segments_pass(void **state)
{
	uint64_t both = NET_F_CSUM | NET_F_HOST_TSO4;
	uint8_t ret[NET_HEADER_BYTES];
	struct header h = tcp4;

	(void)state;
	assert_true(parse(&h, 60000, both, ret));
	assert_int_equal(ret[1], 1);
	assert_int_equal(load_le16(ret + 2), 54);
	assert_int_equal(load_le16(ret + 4), 1448);
	assert_false(parse(&h, 60000, NET_F_CSUM, ret));
	h.segments = 0x81;
	assert_false(parse(&h, 60000, both, ret));
	assert_true(parse(&h, 60000, both | NET_F_HOST_ECN, ret));
	h.segments = 4;
	assert_false(parse(&h, 60000, both, ret));
	assert_true(parse(&h, 60000, both | NET_F_HOST_TSO6, ret));
	for (unsigned kind = 0; kind < 256; kind++) {
		h.segments = (uint8_t)kind;
		assert_int_equal(parse(&h, 60000, ALL, ret),
			kind == 0 || kind == 1 || kind == 4 || kind == 0x81 || kind == 0x84);
	}
}

static void segments_need_a_checksum_a_size_and_headers(void **state)
{
	uint8_t ret[NET_HEADER_BYTES];
	struct header h = tcp4;

	(void)state;
	h.flags = 0;
	assert_false(parse(&h, 60000, ALL, ret));
	h = tcp4;
	h.segment = 0;
	assert_false(parse(&h, 60000, ALL, ret));
	h = tcp4;
	h.headers = 60001;
	assert_false(parse(&h, 60000, ALL, ret));
}

static void received_header_fits_negotiated_features(void **state)
{
	uint8_t sum[NET_HEADER_BYTES] = { 1 }, good[NET_HEADER_BYTES] = { 2 }, tcp6[NET_HEADER_BYTES] = { 1, 4 };

	(void)state;
	assert_true(net_header_fit(sum, NET_F_GUEST_CSUM));
	assert_false(net_header_fit(sum, 0));
	assert_true(net_header_fit(good, NET_F_GUEST_CSUM));
	assert_int_equal(good[0], 2);
	assert_true(net_header_fit(good, 0));
	assert_int_equal(good[0], 0);
	assert_true(net_header_fit(tcp6, NET_F_GUEST_CSUM | NET_F_GUEST_TSO6));
	assert_false(net_header_fit(tcp6, NET_F_GUEST_CSUM | NET_F_GUEST_TSO4));
}

/* ---- the device ---- */

struct net_test {
	struct fixture f;
	struct device *dev;
	struct drv d;
	int tap; /* the test's end; -1: none */
	int their;
	bool user; /* a user network instead of a tap */
	struct virtio_net_limits limits;
	bool link_down;
	uint64_t buf;
};

static void net_new(struct net_test *t, bool tap)
{
	struct virtio_net_config c = { .name = "net0", .tap_fd = -1, .mac = { 0x52, 0x54, 0, 1, 2, 3 },
		.mtu = 9000, .user = t->user, .slot = SLOT, .limits = t->limits, .link_down = t->link_down };
	int pair[2] = { -1, -1 };

	fx_init(&t->f);
	if (tap)
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	t->tap = pair[0];
	t->their = c.tap_fd = pair[1];
	c.loop = t->f.host.loop;
	assert_int_equal(virtio_net_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
}

static void net_begin(struct net_test *t, bool tap, uint64_t features)
{
	net_new(t, tap);
	drv_init(&t->d, &t->f, SLOT, features, true);
	drv_queue_setup(&t->d, RX, 16);
	drv_queue_setup(&t->d, TX, 16);
	drv_ok(&t->d);
	t->buf = fx_alloc(&t->f, 1 << 20, 4096);
	fx_run(&t->f, 3);
}

static void net_end(struct net_test *t)
{
	t->dev->ops->free(t->dev);
	fx_run(&t->f, 2);
	if (t->tap >= 0)
		close(t->tap);
	if (t->their >= 0)
		close(t->their);
	fx_done(&t->f);
}

static struct virtio_net_stats stats(struct net_test *t)
{
	struct virtio_net_stats s;

	virtio_net_stats(t->dev, &s);
	return s;
}

/* Send a frame of this length, each byte `fill`, with a plain header. */
static void host_sends(struct net_test *t, size_t bytes, uint8_t fill)
{
	static uint8_t packet[NET_HEADER_BYTES + 70000];

	memset(packet, 0, NET_HEADER_BYTES);
	memset(packet + NET_HEADER_BYTES, fill, bytes);
	assert_int_equal(write(t->tap, packet, NET_HEADER_BYTES + bytes), NET_HEADER_BYTES + bytes);
}

static void guest_offers(struct net_test *t, unsigned at, uint32_t bytes)
{
	struct drv_sg sg = { t->buf + at, bytes, true };

	drv_add(&t->d.q[RX], &sg, 1, false);
}

static const uint8_t *ram(struct net_test *t, unsigned at)
{
	return fx_ram(&t->f, t->buf + at);
}

static void shows_mac_link_and_mtu(void **state)
{
	static const uint8_t mac[] = { 0x52, 0x54, 0, 1, 2, 3 };
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, true, ALL);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, 0, 4), 0x10411af4);
	for (unsigned i = 0; i < sizeof(mac); i++)
		assert_int_equal(fx_read(&t.f, t.d.device + i, 1), mac[i]);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), LINK_UP);
	assert_int_equal(fx_read(&t.f, t.d.device + 10, 2), 9000);
	/* The driver cannot change any of it. */
	fx_write(&t.f, t.d.device, 1, 0xff);
	assert_int_equal(fx_read(&t.f, t.d.device, 1), 0x52);
	assert_true(stats(&t).link_up);
	net_end(&t);
}

static void frames_without_tap_are_dropped(void **state)
{
	struct net_test t = { 0 };
	struct drv_sg sg = { 0, NET_HEADER_BYTES + 60, false };
	unsigned head;
	uint32_t len;

	(void)state;
	net_begin(&t, false, ALL);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), 0);
	sg.gpa = t.buf;
	guest_offers(&t, 4096, 2048);
	drv_kick(&t.d.q[RX]);
	head = drv_add(&t.d.q[TX], &sg, 1, false);
	drv_kick(&t.d.q[TX]);
	assert_int_equal(drv_wait(&t.d.q[TX], &len), head);
	assert_int_equal(stats(&t).tx_drops, 1);
	assert_false(stats(&t).link_up);
	assert_int_equal(drv_used_idx(&t.d.q[RX]), 0);
	net_end(&t);
}

static void sends_frames(void **state)
{
	uint8_t got[256], *p;
	struct net_test t = { 0 };
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	p = fx_ram(&t.f, t.buf);
	p[0] = 0xfc; /* undefined bits */
	memset(p + NET_HEADER_BYTES, 0x77, 60);
	for (unsigned cut = 1; cut < NET_HEADER_BYTES + 60; cut += 7) {
		struct drv_sg sg[2] = { { t.buf, cut, false },
			{ t.buf + cut, NET_HEADER_BYTES + 60 - cut, false } };

		drv_add(&t.d.q[TX], sg, 2, cut & 1);
		drv_kick(&t.d.q[TX]);
		drv_wait(&t.d.q[TX], &len);
		assert_int_equal(len, 0);
		assert_int_equal(read(t.tap, got, sizeof(got)), NET_HEADER_BYTES + 60);
		assert_int_equal(got[0], 0);
		assert_memory_equal(got + NET_HEADER_BYTES, p + NET_HEADER_BYTES, 60);
	}
	assert_int_equal(stats(&t).tx_packets, 11);
	assert_int_equal(stats(&t).tx_bytes, 660);
	net_end(&t);
}

static void frame_for_full_socket_waits(void **state)
{
	struct net_test t = { .user = true };
	struct drv_sg sg = { 0, 8192, false };
	static uint8_t got[8192];
	int bytes = 16384;
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	assert_int_equal(read(t.tap, got, sizeof(got)), 4); /* the offloads that the driver accepts */
	assert_int_equal(setsockopt(t.their, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
	sg.gpa = t.buf;
	for (unsigned i = 0; i < 8; i++)
		drv_add(&t.d.q[TX], &sg, 1, false);
	drv_kick(&t.d.q[TX]);
	fx_run(&t.f, 5);
	assert_in_range(stats(&t).tx_packets, 1, 7);
	for (unsigned i = 0; i < 8; i++) {
		fx_run(&t.f, 5);
		assert_int_equal(read(t.tap, got, sizeof(got)), sizeof(got));
	}
	for (unsigned i = 0; i < 8; i++)
		drv_wait(&t.d.q[TX], &len);
	assert_int_equal(stats(&t).tx_packets, 8);
	assert_int_equal(stats(&t).tx_drops, 0);
	/* The peer no longer reads: nothing waits forever. */
	for (unsigned i = 0; i < 8; i++)
		drv_add(&t.d.q[TX], &sg, 1, false);
	drv_kick(&t.d.q[TX]);
	fx_run(&t.f, 5);
	close(t.tap);
	t.tap = -1;
	for (unsigned i = 0; i < 8; i++)
		drv_wait(&t.d.q[TX], &len);
	assert_false(stats(&t).link_up);
	assert_in_range(stats(&t).tx_drops, 1, 8);
	net_end(&t);
}

/* The offloads that the socket's peer may leave to the driver: sent when a driver starts and when
 * they change. */
static void socket_peer_gets_drivers_offloads(void **state)
{
	const uint64_t finished = NET_F_CSUM | NET_F_HOST_TSO4, taken = NET_F_GUEST_CSUM | NET_F_GUEST_TSO4;
	const uint64_t others = NET_F_GUEST_TSO6 | NET_F_GUEST_ECN | NET_F_HOST_TSO6 | NET_F_HOST_ECN;
	struct net_test t = { .user = true };
	uint8_t got[8];

	(void)state;
	net_begin(&t, true, ALL);
	assert_int_equal(t.d.features & (finished | taken | others), finished | taken);
	assert_int_equal(read(t.tap, got, sizeof(got)), 4);
	assert_int_equal(load_le32(got), TUN_F_CSUM | TUN_F_TSO4);
	guest_offers(&t, 0, 2048);
	drv_kick(&t.d.q[RX]);
	fx_run(&t.f, 5);
	assert_int_equal(read(t.tap, got, sizeof(got)), -1); /* sent once */
	/* The next driver accepts no offloads. */
	t.dev->ops->reset(t.dev);
	drv_init(&t.d, &t.f, SLOT, ALL & ~taken, true);
	drv_queue_setup(&t.d, RX, 16);
	drv_ok(&t.d);
	fx_run(&t.f, 5);
	assert_int_equal(read(t.tap, got, sizeof(got)), 4);
	assert_int_equal(load_le32(got), 0);
	net_end(&t);
}

/* A full socket has no room for the offload message: the device tries again with the next buffers
 * or frame. */
static void full_socket_gets_offloads_later(void **state)
{
	struct net_test t = { .user = true };
	static uint8_t got[1024];
	int bytes = 4096;

	(void)state;
	net_new(&t, true);
	assert_int_equal(setsockopt(t.their, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
	while (write(t.their, got, sizeof(got)) > 0) {
	}
	drv_init(&t.d, &t.f, SLOT, ALL, true);
	drv_queue_setup(&t.d, RX, 16);
	drv_ok(&t.d);
	t.buf = fx_alloc(&t.f, 1 << 20, 4096);
	fx_run(&t.f, 5);
	while (read(t.tap, got, sizeof(got)) > 0)
		assert_int_equal(load_le32(got), 0); /* filler */
	guest_offers(&t, 0, 2048);
	drv_kick(&t.d.q[RX]);
	fx_run(&t.f, 5);
	assert_int_equal(read(t.tap, got, sizeof(got)), 4);
	assert_int_equal(load_le32(got), TUN_F_CSUM | TUN_F_TSO4);
	net_end(&t);
}

static void a_wrong_header_never_reaches_the_host(void **state)
{
	struct drv_sg sg = { 0, NET_HEADER_BYTES + 60, false };
	struct net_test t = { 0 };
	uint8_t got[256];
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	sg.gpa = t.buf;
	*(uint8_t *)fx_ram(&t.f, t.buf) = 1; /* asks for a checksum at offset 0 */
	drv_add(&t.d.q[TX], &sg, 1, false);
	drv_kick(&t.d.q[TX]);
	drv_wait(&t.d.q[TX], &len);
	assert_int_equal(read(t.tap, got, sizeof(got)), -1);
	assert_int_equal(stats(&t).tx_errors, 1);
	assert_int_equal(drv_status(&t.d), 15);
	net_end(&t);
}

static void needs_reset(struct net_test *t, unsigned q, uint32_t bytes, const char *why)
{
	struct drv_sg sg = { t->buf, bytes, q == RX };

	drv_add(&t->d.q[q], &sg, 1, false);
	drv_kick(&t->d.q[q]);
	fx_wait(&t->f, &t->f.nevents, 1);
	assert_true(drv_status(&t->d) & VIRTIO_STATUS_NEEDS_RESET);
	assert_non_null(strstr(t->f.details[0], why));
}

static void a_frame_without_a_header_is_a_fault(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, true, ALL);
	needs_reset(&t, TX, NET_HEADER_BYTES - 1, "has no header");
	net_end(&t);
}

static void a_buffer_without_room_for_a_header_is_a_fault(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, true, ALL);
	host_sends(&t, 60, 1);
	needs_reset(&t, RX, NET_HEADER_BYTES - 1, "no room for a header");
	net_end(&t);
}

static void receives_into_as_many_buffers_as_it_takes(void **state)
{
	struct net_test t = { 0 };
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	for (unsigned i = 0; i < 5; i++)
		guest_offers(&t, i * 512, 512);
	drv_kick(&t.d.q[RX]);
	host_sends(&t, 1500, 0x42);
	drv_wait(&t.d.q[RX], &len);
	assert_int_equal(len, 512);
	assert_int_equal(drv_used_idx(&t.d.q[RX]), 3);
	assert_int_equal(load_le16(ram(&t, 10)), 3);
	for (unsigned i = NET_HEADER_BYTES; i < NET_HEADER_BYTES + 1500; i++)
		assert_int_equal(*ram(&t, i), 0x42);
	assert_int_equal(*ram(&t, NET_HEADER_BYTES + 1500), 0);
	assert_int_equal(stats(&t).rx_packets, 1);
	assert_int_equal(stats(&t).rx_bytes, 1500);
	net_end(&t);
}

/* The driver sees no buffer of a frame before the whole frame is there. */
static void a_frame_waits_for_its_last_buffer(void **state)
{
	struct net_test t = { 0 };
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	guest_offers(&t, 0, 512);
	guest_offers(&t, 512, 512);
	drv_kick(&t.d.q[RX]);
	host_sends(&t, 1500, 0x42);
	host_sends(&t, 100, 0x43);
	fx_run(&t.f, 10);
	assert_int_equal(drv_used_idx(&t.d.q[RX]), 0);
	guest_offers(&t, 1024, 512);
	guest_offers(&t, 1536, 512);
	assert_true(drv_wants_kick(&t.d.q[RX], 2));
	drv_kick(&t.d.q[RX]);
	for (unsigned i = 0; i < 4; i++)
		drv_wait(&t.d.q[RX], &len);
	assert_int_equal(len, NET_HEADER_BYTES + 100);
	assert_int_equal(*ram(&t, 1536 + NET_HEADER_BYTES), 0x43);
	net_end(&t);
}

static void frame_too_large_for_buffers_is_dropped(void **state)
{
	struct net_test t = { 0 };
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL & ~NET_F_MRG_RXBUF);
	guest_offers(&t, 0, 512);
	guest_offers(&t, 512, 512);
	drv_kick(&t.d.q[RX]);
	host_sends(&t, 501, 0x42);
	host_sends(&t, 500, 0x43);
	drv_wait(&t.d.q[RX], &len);
	assert_int_equal(len, 512);
	assert_int_equal(load_le16(ram(&t, 10)), 1);
	assert_int_equal(*ram(&t, NET_HEADER_BYTES), 0x43);
	assert_int_equal(stats(&t).rx_drops, 1);
	net_end(&t);
}

/* A ring with fewer buffers than a frame needs must not block the queue. */
static void frame_larger_than_ring_is_dropped(void **state)
{
	struct net_test t = { 0 };
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	for (unsigned i = 0; i < 16; i++)
		guest_offers(&t, i * 64, 64);
	drv_kick(&t.d.q[RX]);
	host_sends(&t, 1500, 0x42);
	host_sends(&t, 40, 0x43);
	drv_wait(&t.d.q[RX], &len);
	assert_int_equal(len, NET_HEADER_BYTES + 40);
	assert_int_equal(stats(&t).rx_drops, 1);
	net_end(&t);
}

/* Let the guest send n frames of that length, in ring's fulls, and count how many have passed. */
static uint64_t guest_sends(struct net_test *t, unsigned n, uint32_t bytes)
{
	struct drv_sg sg = { t->buf, NET_HEADER_BYTES + bytes, false };
	uint64_t before = stats(t).tx_packets;
	static uint8_t got[2048];

	while (n) {
		while (n && (uint16_t)(t->d.q[TX].avail_idx - drv_used_idx(&t->d.q[TX])) < 16) {
			drv_add(&t->d.q[TX], &sg, 1, false);
			n--;
		}
		drv_kick(&t->d.q[TX]);
		fx_run(&t->f, 5);
		while (read(t->tap, got, sizeof(got)) > 0) {
		}
		if (t->d.q[TX].avail_idx != drv_used_idx(&t->d.q[TX]))
			break; /* the frames wait */
	}
	return stats(t).tx_packets - before;
}

/* The host sends frames until they wait, or n. Returns how many have reached the guest. */
static uint64_t host_floods(struct net_test *t, unsigned n, uint32_t bytes)
{
	uint64_t before = stats(t).rx_packets;

	for (unsigned i = 0; i < n && stats(t).rx_packets == before + i; i++) {
		guest_offers(t, 0, 2048);
		drv_kick(&t->d.q[RX]);
		host_sends(t, bytes, 1);
		fx_run(&t->f, 5);
	}
	return stats(t).rx_packets - before;
}

/* Set the standing clock on, and run the loop until the timer of what waits has fired. */
static void clock_on(struct net_test *t, uint64_t ns)
{
	clock_ns += ns;
	while (__real_loop_now_ns() < clock_ns + 2 * MS)
		fx_run(&t->f, 1);
	fx_run(&t->f, 5);
}

static void limited_frames_from_guest_wait(void **state)
{
	struct net_test t = { .limits.out = { .average = 100000, .burst = 10000 } };

	(void)state;
	clock_ns = __real_loop_now_ns();
	net_begin(&t, true, ALL);
	/* The burst, and nothing more while the clock stands; then the average. */
	assert_int_equal(guest_sends(&t, 1000, 1000), 10);
	clock_on(&t, 40 * MS);
	assert_int_equal(stats(&t).tx_packets, 14);
	clock_on(&t, 60 * MS);
	assert_int_equal(stats(&t).tx_packets, 16); /* the ring had 6 more */
	assert_int_equal(guest_sends(&t, 1000, 1000), 4);
	assert_int_equal(stats(&t).tx_drops, 0);
	/* Frames to the guest have a limit of their own. */
	assert_int_equal(host_floods(&t, 50, 1000), 50);
	/* Without the limit, those that wait pass. */
	virtio_net_set_limits(t.dev, &(struct virtio_net_limits){ 0 });
	fx_run(&t.f, 5);
	assert_int_equal(t.d.q[TX].avail_idx, drv_used_idx(&t.d.q[TX]));
	net_end(&t);
	clock_ns = 0;
}

static void limited_frames_to_guest_wait(void **state)
{
	struct net_test t = { .limits.in = { .packets = 100 } };

	(void)state;
	clock_ns = __real_loop_now_ns();
	net_begin(&t, true, ALL);
	assert_int_equal(host_floods(&t, 50, 60), 10);
	/* The frame that waits is still in the tap. */
	clock_on(&t, 10 * MS);
	assert_int_equal(stats(&t).rx_packets, 11);
	clock_on(&t, 50 * MS);
	assert_int_equal(host_floods(&t, 50, 60), 5);
	assert_int_equal(stats(&t).rx_drops, 0);
	/* Frames from the guest have a limit of their own. */
	assert_int_equal(guest_sends(&t, 200, 60), 200);
	net_end(&t);
	clock_ns = 0;
}

/* The peak holds back a burst that the average would let pass. */
static void peak_limits_burst(void **state)
{
	struct net_test t = { .limits.out = { .average = 100000, .burst = 50000, .peak = 200000 } };

	(void)state;
	clock_ns = __real_loop_now_ns();
	net_begin(&t, true, ALL);
	assert_int_equal(guest_sends(&t, 1000, 1000), 2);
	clock_on(&t, 20 * MS);
	assert_in_range(stats(&t).tx_packets, 4, 6);
	clock_on(&t, 1000 * MS);
	/* After an idle time longer than the burst, the bucket of the peak holds 10 ms. */
	net_end(&t);
	clock_ns = 0;
}

static void link_can_be_set_down_and_up(void **state)
{
	struct net_test t = { 0 };
	unsigned before;
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	assert_int_equal(host_floods(&t, 3, 60), 3);
	before = t.f.nmsi;
	virtio_net_set_link(t.dev, false);
	fx_wait(&t.f, &t.f.nmsi, before + 1); /* the driver gets an interrupt */
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), 0);
	assert_false(stats(&t).link_up);
	/* Frames of both directions are dropped, not kept for later. */
	assert_int_equal(guest_sends(&t, 5, 60), 0);
	assert_int_equal(stats(&t).tx_drops, 5);
	assert_int_equal(host_floods(&t, 5, 60), 0);
	assert_int_equal(stats(&t).rx_drops, 1);
	virtio_net_set_link(t.dev, true);
	fx_run(&t.f, 5);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), LINK_UP);
	assert_int_equal(stats(&t).rx_packets, 3);
	host_sends(&t, 61, 2);
	fx_run(&t.f, 5);
	assert_int_equal(stats(&t).rx_packets, 4);
	assert_int_equal(guest_sends(&t, 5, 60), 5);
	for (unsigned i = 0; i < 4; i++)
		drv_wait(&t.d.q[RX], &len);
	assert_int_equal(len, NET_HEADER_BYTES + 61);
	/* A link that is down when the VM starts. */
	net_end(&t);
	t = (struct net_test){ .link_down = true };
	net_begin(&t, true, ALL);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), 0);
	assert_int_equal(guest_sends(&t, 5, 60), 0);
	virtio_net_set_link(t.dev, true);
	assert_int_equal(guest_sends(&t, 5, 60), 5);
	net_end(&t);
}

/* A flood of large frames in one direction: after each MiB, the loop's other work has its turn. */
static void flood_leaves_loop_to_others(void **state)
{
	static struct drv_sg sg[16];
	struct net_test t = { 0 };

	(void)state;
	net_new(&t, false);
	drv_init(&t.d, &t.f, SLOT, ALL, true);
	drv_queue_setup(&t.d, TX, 256);
	drv_ok(&t.d);
	t.buf = fx_alloc(&t.f, 1 << 20, 4096);
	fx_run(&t.f, 3);
	for (unsigned i = 0; i < 16; i++)
		sg[i] = (struct drv_sg){ t.buf, 4096, false };
	for (unsigned i = 0; i < 100; i++)
		drv_add(&t.d.q[TX], sg, 16, true); /* 64 KiB */
	drv_kick(&t.d.q[TX]);
	fx_run(&t.f, 1);
	assert_int_equal(drv_used_idx(&t.d.q[TX]), 16);
	fx_run(&t.f, 20);
	assert_int_equal(drv_used_idx(&t.d.q[TX]), 100);
	net_end(&t);
}

/* The main loop serves an interface without a tap, so the guest's doorbells may take a part of its time only. One with
 * a tap has a thread of its own. */
static void interface_without_tap_rests(void **state)
{
	static struct drv_sg sg;

	(void)state;
	for (unsigned tap = 0; tap < 2; tap++) {
		struct net_test t = { 0 };
		struct virtio_dev *v;

		net_begin(&t, tap, ALL);
		v = container_of(t.dev, struct virtio_dev, dev);
		assert_int_equal(v->rest != NULL, !tap);
		v->share = (struct cpu_share){ 1000 * CPU_SHARE_BURST_NS, loop_now_ns() };
		sg = (struct drv_sg){ t.buf, NET_HEADER_BYTES + 60, false };
		drv_add(&t.d.q[TX], &sg, 1, false);
		drv_kick(&t.d.q[TX]);
		fx_run(&t.f, 5);
		drv_add(&t.d.q[TX], &sg, 1, false);
		drv_kick(&t.d.q[TX]);
		fx_run(&t.f, 5);
		assert_int_equal(drv_used_idx(&t.d.q[TX]), 1 + tap);
		net_end(&t);
	}
}

/* Send frames until the loop, which measures its sleeps, polls before it sleeps. */
static void loop_made_busy(struct net_test *t)
{
	struct drv_sg sg = { t->buf, NET_HEADER_BYTES + 60, false };
	uint8_t got[256];
	uint32_t len;

	for (unsigned i = 0; i < 10000 && !loop_polls(t->f.host.loop); i++) {
		drv_add(&t->d.q[TX], &sg, 1, false);
		drv_kick(&t->d.q[TX]);
		drv_wait(&t->d.q[TX], &len);
		assert_int_equal(read(t->tap, got, sizeof(got)), NET_HEADER_BYTES + 60);
	}
	assert_true(loop_polls(t->f.host.loop));
}

static void busy_loop_needs_no_doorbell(void **state)
{
	for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
		struct net_test t = { 0 };
		struct drv_sg sg = { .len = NET_HEADER_BYTES + 60 };
		uint16_t old;

		(void)state;
		net_begin(&t, true, event_idx ? ALL : ALL & ~VIRTIO_F_EVENT_IDX);
		loop_made_busy(&t);
		sg.gpa = t.buf;
		/* A doorbell that rings while the loop polls disables the next one until the loop sleeps. */
		drv_add(&t.d.q[TX], &sg, 1, false);
		drv_kick(&t.d.q[TX]);
		for (unsigned i = 0; i < 5; i++)
			loop_run_once(t.f.host.loop, 0);
		assert_int_equal(drv_used_idx(&t.d.q[TX]), t.d.q[TX].avail_idx);
		old = t.d.q[TX].avail_idx;
		drv_add(&t.d.q[TX], &sg, 1, false);
		assert_false(drv_wants_kick(&t.d.q[TX], old));
		loop_run_once(t.f.host.loop, MS);
		loop_run_once(t.f.host.loop, MS);
		assert_int_equal(drv_used_idx(&t.d.q[TX]), t.d.q[TX].avail_idx);
		old = t.d.q[TX].avail_idx;
		drv_add(&t.d.q[TX], &sg, 1, false);
		assert_true(drv_wants_kick(&t.d.q[TX], old));
		net_end(&t);
	}
}

static void frames_wait_while_it_is_paused(void **state)
{
	struct net_test t = { 0 };
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	guest_offers(&t, 0, 2048);
	drv_kick(&t.d.q[RX]);
	fx_run(&t.f, 3);
	t.dev->ops->pause(t.dev);
	host_sends(&t, 60, 0x42);
	fx_run(&t.f, 10);
	assert_int_equal(drv_used_idx(&t.d.q[RX]), 0);
	t.dev->ops->resume(t.dev);
	drv_wait(&t.d.q[RX], &len);
	assert_int_equal(len, NET_HEADER_BYTES + 60);
	net_end(&t);
}

static void deleted_tap_sets_link_down(void **state)
{
	struct net_test t = { 0 };
	unsigned before;

	(void)state;
	net_begin(&t, true, ALL);
	before = t.f.nmsi;
	close(t.tap);
	t.tap = -1;
	fx_wait(&t.f, &t.f.nmsi, before + 1);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), 0);
	assert_false(stats(&t).link_up);
	net_end(&t);
}

static void state_comes_back(void **state)
{
	struct net_test t = { 0 };
	unsigned before;
	uint32_t len;

	(void)state;
	net_begin(&t, true, ALL);
	guest_offers(&t, 0, 2048);
	drv_kick(&t.d.q[RX]);
	fx_run(&t.f, 3);
	before = t.f.nmsi;
	fx_state_test(&t.f, t.dev, 2000);
	/* The driver gets an interrupt to read the link status again. */
	assert_true(t.f.nmsi > before);
	host_sends(&t, 60, 0x42);
	drv_wait(&t.d.q[RX], &len);
	assert_int_equal(len, NET_HEADER_BYTES + 60);
	net_end(&t);
}

/* The state of an interface with a tap fits one without, and another MAC address. */
static void state_fits_another_interface(void **state)
{
	struct net_test t = { 0 }, u = { 0 };
	struct fx_state s;

	(void)state;
	net_begin(&t, true, ALL);
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &s);
	net_new(&u, false);
	u.dev->ops->pause(u.dev);
	u.dev->ops->reset(u.dev);
	memcpy(u.f.host.ram[0].host, t.f.host.ram[0].host, FX_LOW_BYTES);
	assert_int_equal(fx_load(u.dev, &s), 0);
	u.dev->ops->resume(u.dev);
	assert_int_equal(fx_read(&u.f, t.d.device + 6, 2), 0);
	assert_int_equal(fx_read(&u.f, t.d.common + 20, 1), 15);
	free(s.buf);
	net_end(&u);
	net_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plain_frame_passes_with_a_plain_header),
		cmocka_unit_test(checksum_outside_frame_is_refused),
		cmocka_unit_test(only_negotiated_segments_pass),
		cmocka_unit_test(segments_need_a_checksum_a_size_and_headers),
		cmocka_unit_test(received_header_fits_negotiated_features),
		cmocka_unit_test(shows_mac_link_and_mtu),
		cmocka_unit_test(frames_without_tap_are_dropped),
		cmocka_unit_test(sends_frames),
		cmocka_unit_test(frame_for_full_socket_waits),
		cmocka_unit_test(socket_peer_gets_drivers_offloads),
		cmocka_unit_test(full_socket_gets_offloads_later),
		cmocka_unit_test(a_wrong_header_never_reaches_the_host),
		cmocka_unit_test(a_frame_without_a_header_is_a_fault),
		cmocka_unit_test(a_buffer_without_room_for_a_header_is_a_fault),
		cmocka_unit_test(receives_into_as_many_buffers_as_it_takes),
		cmocka_unit_test(a_frame_waits_for_its_last_buffer),
		cmocka_unit_test(frame_too_large_for_buffers_is_dropped),
		cmocka_unit_test(frame_larger_than_ring_is_dropped),
		cmocka_unit_test(limited_frames_from_guest_wait),
		cmocka_unit_test(limited_frames_to_guest_wait),
		cmocka_unit_test(peak_limits_burst),
		cmocka_unit_test(link_can_be_set_down_and_up),
		cmocka_unit_test(flood_leaves_loop_to_others),
		cmocka_unit_test(interface_without_tap_rests),
		cmocka_unit_test(busy_loop_needs_no_doorbell),
		cmocka_unit_test(frames_wait_while_it_is_paused),
		cmocka_unit_test(deleted_tap_sets_link_down),
		cmocka_unit_test(state_comes_back),
		cmocka_unit_test(state_fits_another_interface),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
