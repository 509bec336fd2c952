/* The control queue of a network interface, and states from before it. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "devices/virtio/net_filter.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_net_header.h"
#include "snapshot/state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 4
#define RX 0
#define TX 1
#define CTRL 2
#define ALL (~0ULL)
#define F_CTRL (NET_F_CTRL_VQ | NET_F_CTRL_RX | NET_F_CTRL_VLAN | NET_F_GUEST_ANNOUNCE | NET_F_CTRL_MAC_ADDR)
#define LINK_UP 1
#define ANNOUNCE 2
#define OK 0
#define REFUSED 1
#define FRAME_BYTES 60

static const uint8_t own[] = { 0x52, 0x54, 0, 1, 2, 3 }, other[] = { 0x52, 0x54, 0, 9, 9, 9 },
	multicast[] = { 1, 0, 0x5e, 0, 0, 1 }, broadcast[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

struct net_test {
	struct fixture f;
	struct device *dev;
	struct drv d;
	int tap, their;
	uint64_t buf;
	unsigned offered; /* buffers for received frames */
};

static void net_new(struct net_test *t)
{
	struct virtio_net_config c = { .name = "net0", .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .mtu = 9000, .slot = SLOT };
	int pair[2];

	fx_init(&t->f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	t->tap = pair[0];
	t->their = c.tap_fd = pair[1];
	c.loop = t->f.host.loop;
	assert_int_equal(virtio_net_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
}

static void net_begin(struct net_test *t, uint64_t features)
{
	net_new(t);
	drv_init(&t->d, &t->f, SLOT, features, true);
	drv_queue_setup(&t->d, RX, 16);
	drv_queue_setup(&t->d, TX, 16);
	if (features & NET_F_CTRL_VQ)
		drv_queue_setup(&t->d, CTRL, 16);
	drv_ok(&t->d);
	t->buf = fx_alloc(&t->f, 1 << 20, 4096);
	fx_run(&t->f, 3);
}

static void net_end(struct net_test *t)
{
	t->dev->ops->free(t->dev);
	fx_run(&t->f, 2);
	close(t->tap);
	close(t->their);
	fx_done(&t->f);
}

/* Let the driver send a command. Returns the device's answer. */
static uint8_t command(struct net_test *t, uint8_t class, uint8_t cmd, const void *data, uint32_t bytes)
{
	struct drv_sg sg[] = { { t->buf, 2 + bytes, false }, { t->buf + 8192, 1, true } };
	uint8_t *p = fx_ram(&t->f, t->buf);
	uint32_t len;

	p[0] = class;
	p[1] = cmd;
	if (bytes)
		memcpy(p + 2, data, bytes);
	p[8192] = 0x77;
	drv_add(&t->d.q[CTRL], sg, 2, false);
	drv_kick(&t->d.q[CTRL]);
	drv_wait(&t->d.q[CTRL], &len);
	assert_int_equal(len, 1);
	return p[8192];
}

static uint8_t mode_set(struct net_test *t, uint8_t cmd, uint8_t on)
{
	return command(t, NET_CLASS_RX, cmd, &on, 1);
}

/* Returns whether the guest gets a frame to this address. vlan: its tag; -1: none. */
static bool arrives(struct net_test *t, const uint8_t *mac, int vlan)
{
	uint8_t packet[NET_HEADER_BYTES + FRAME_BYTES] = { 0 };
	struct drv_sg sg = { t->buf + 65536 + 2048 * (t->offered++ % 8), 2048, true };
	uint16_t before = drv_used_idx(&t->d.q[RX]);

	memcpy(packet + NET_HEADER_BYTES, mac, 6);
	if (vlan >= 0) {
		packet[NET_HEADER_BYTES + 12] = 0x81;
		packet[NET_HEADER_BYTES + 14] = (uint8_t)(0xe0 | vlan >> 8);
		packet[NET_HEADER_BYTES + 15] = (uint8_t)vlan;
	}
	drv_add(&t->d.q[RX], &sg, 1, false);
	drv_kick(&t->d.q[RX]);
	assert_int_equal(write(t->tap, packet, sizeof(packet)), sizeof(packet));
	fx_run(&t->f, 5);
	return drv_used_idx(&t->d.q[RX]) != before;
}

static void driver_without_commands_gets_all_frames(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	assert_true(arrives(&t, own, -1));
	assert_true(arrives(&t, other, -1));
	assert_true(arrives(&t, multicast, 5));
	net_end(&t);
}

static void driver_gets_frames_to_addresses_of_its_tables(void **state)
{
	uint8_t tables[4 + 6 + 4 + 6] = { 1 };
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(mode_set(&t, NET_RX_PROMISC, 0), OK);
	assert_true(arrives(&t, own, -1));
	assert_true(arrives(&t, broadcast, -1));
	assert_false(arrives(&t, other, -1));
	assert_false(arrives(&t, multicast, -1));
	memcpy(tables + 4, other, 6);
	tables[10] = 1;
	memcpy(tables + 14, multicast, 6);
	assert_int_equal(command(&t, NET_CLASS_MAC, NET_MAC_TABLE_SET, tables, sizeof(tables)), OK);
	assert_true(arrives(&t, other, -1));
	assert_true(arrives(&t, multicast, -1));
	assert_int_equal(command(&t, NET_CLASS_MAC, NET_MAC_TABLE_SET, (uint8_t[8]){ 0 }, 8), OK);
	assert_false(arrives(&t, other, -1));
	assert_int_equal(mode_set(&t, NET_RX_ALLMULTI, 1), OK);
	assert_true(arrives(&t, multicast, -1));
	assert_false(arrives(&t, other, -1));
	net_end(&t);
}

/* Let a TCP segment with data to this address arrive. */
static bool segment_arrives(struct net_test *t, const uint8_t *mac)
{
	uint8_t packet[NET_HEADER_BYTES + FRAME_BYTES] = { 0 }, *frame = packet + NET_HEADER_BYTES;
	struct drv_sg sg = { t->buf + 65536 + 2048 * (t->offered++ % 8), 2048, true };
	uint16_t before = drv_used_idx(&t->d.q[RX]);

	memcpy(frame, mac, 6);
	frame[12] = 8;
	frame[14] = 0x45;
	frame[17] = 46;
	frame[23] = 6;
	frame[46] = 0x50;
	frame[47] = 16;
	drv_add(&t->d.q[RX], &sg, 1, false);
	drv_kick(&t->d.q[RX]);
	assert_int_equal(write(t->tap, packet, sizeof(packet)), sizeof(packet));
	fx_run(&t->f, 5);
	return drv_used_idx(&t->d.q[RX]) != before;
}

/* Returns the number of frames that the interface has sent. */
static unsigned sent(struct net_test *t)
{
	uint8_t packet[256];
	unsigned n = 0;

	while (read(t->tap, packet, sizeof(packet)) > NET_HEADER_BYTES)
		n++;
	return n;
}

static void revert_resets_connections_of_own_addresses_only(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	virtio_net_mark(t.dev, 7);
	assert_true(segment_arrives(&t, other)); /* the driver gets all frames: no command has told it otherwise */
	t.dev->ops->pause(t.dev);
	virtio_net_revert(t.dev, 7);
	t.dev->ops->resume(t.dev);
	assert_int_equal(sent(&t), 0);
	virtio_net_revert(t.dev, 8);
	assert_true(segment_arrives(&t, other));
	assert_int_equal(sent(&t), 0);
	segment_arrives(&t, own);
	assert_int_equal(sent(&t), 1);
	net_end(&t);
}

static void table_too_long_lets_its_kind_pass(void **state)
{
	uint8_t tables[4 + 6 * (NET_FILTER_MACS + 1) + 4] = { NET_FILTER_MACS + 1 };
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(mode_set(&t, NET_RX_PROMISC, 0), OK);
	assert_int_equal(command(&t, NET_CLASS_MAC, NET_MAC_TABLE_SET, tables, sizeof(tables)), OK);
	assert_true(arrives(&t, other, -1));
	assert_false(arrives(&t, multicast, -1));
	net_end(&t);
}

static void tagged_frames_need_their_vlan(void **state)
{
	struct net_test t = { 0 };
	uint8_t vlan[2] = { 0x23, 0x01 };

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(mode_set(&t, NET_RX_PROMISC, 0), OK);
	assert_false(arrives(&t, own, 0x123));
	assert_int_equal(command(&t, NET_CLASS_VLAN, NET_VLAN_ADD, vlan, 2), OK);
	assert_true(arrives(&t, own, 0x123));
	assert_false(arrives(&t, own, 0x124));
	assert_int_equal(command(&t, NET_CLASS_VLAN, NET_VLAN_DEL, vlan, 2), OK);
	assert_false(arrives(&t, own, 0x123));
	net_end(&t);
}

static void new_address_shows_until_reset(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(mode_set(&t, NET_RX_PROMISC, 0), OK);
	assert_int_equal(command(&t, NET_CLASS_MAC, NET_MAC_ADDR_SET, other, 6), OK);
	assert_int_equal(fx_read(&t.f, t.d.device + 5, 1), other[5]);
	assert_true(arrives(&t, other, -1));
	assert_false(arrives(&t, own, -1));
	fx_state_test(&t.f, t.dev, 0);
	assert_int_equal(fx_read(&t.f, t.d.device + 5, 1), other[5]);
	fx_write(&t.f, t.d.common + 20, 1, 0);
	assert_int_equal(fx_read(&t.f, t.d.device + 5, 1), own[5]);
	net_end(&t);
}

static void invalid_commands_are_refused(void **state)
{
	static const struct {
		uint8_t class, cmd, bytes, data[24];
	} wrong[] = {
		{ NET_CLASS_RX, NET_RX_PROMISC, 0, { 0 } }, { NET_CLASS_RX, NET_RX_PROMISC, 2, { 0 } },
		{ NET_CLASS_RX, NET_RX_PROMISC, 1, { 2 } }, { NET_CLASS_RX, 2, 1, { 0 } },
		{ NET_CLASS_MAC, NET_MAC_TABLE_SET, 3, { 0 } }, { NET_CLASS_MAC, NET_MAC_TABLE_SET, 4, { 0 } },
		{ NET_CLASS_MAC, NET_MAC_TABLE_SET, 9, { 0 } }, { NET_CLASS_MAC, NET_MAC_TABLE_SET, 13, { 1 } },
		{ NET_CLASS_MAC, NET_MAC_TABLE_SET, 8, { 0xff, 0xff, 0xff, 0xff } },
		{ NET_CLASS_MAC, NET_MAC_TABLE_SET, 8, { 0, 0, 0, 0, 1 } },
		{ NET_CLASS_MAC, NET_MAC_ADDR_SET, 5, { 2 } }, { NET_CLASS_MAC, NET_MAC_ADDR_SET, 7, { 2 } },
		{ NET_CLASS_MAC, NET_MAC_ADDR_SET, 6, { 1 } }, { NET_CLASS_MAC, 2, 6, { 2 } },
		{ NET_CLASS_VLAN, NET_VLAN_ADD, 2, { 0, 0x10 } }, { NET_CLASS_VLAN, NET_VLAN_ADD, 1, { 0 } },
		{ NET_CLASS_VLAN, 2, 2, { 0 } }, { NET_CLASS_ANNOUNCE, 1, 0, { 0 } }, { NET_CLASS_ANNOUNCE, 0, 1, { 0 } },
		{ 4, 0, 2, { 1 } }, { 255, 255, 24, { 0 } },
	};
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(command(&t, wrong[i].class, wrong[i].cmd, wrong[i].data, wrong[i].bytes), REFUSED);
	assert_true(arrives(&t, other, -1)); /* nothing has changed */
	assert_int_equal(drv_status(&t.d), 15);
	net_end(&t);
	/* The device refuses commands of features that were not negotiated. */
	net_begin(&t, ALL & ~(NET_F_CTRL_RX | NET_F_CTRL_VLAN | NET_F_CTRL_MAC_ADDR | NET_F_GUEST_ANNOUNCE));
	assert_int_equal(mode_set(&t, NET_RX_PROMISC, 0), REFUSED);
	assert_int_equal(command(&t, NET_CLASS_MAC, NET_MAC_TABLE_SET, (uint8_t[8]){ 0 }, 8), REFUSED);
	assert_int_equal(command(&t, NET_CLASS_MAC, NET_MAC_ADDR_SET, other, 6), REFUSED);
	assert_int_equal(command(&t, NET_CLASS_VLAN, NET_VLAN_ADD, (uint8_t[2]){ 1 }, 2), REFUSED);
	assert_int_equal(command(&t, NET_CLASS_ANNOUNCE, 0, NULL, 0), REFUSED);
	net_end(&t);
}

static void command_without_header_or_answer_is_a_fault(void **state)
{
	for (unsigned wrong = 0; wrong < 2; wrong++) {
		struct net_test t = { 0 };
		struct drv_sg sg[2];

		(void)state;
		net_begin(&t, ALL);
		sg[0] = (struct drv_sg){ t.buf, wrong ? 2 : 1, false };
		sg[1] = (struct drv_sg){ t.buf + 8192, 1, true };
		drv_add(&t.d.q[CTRL], sg, wrong ? 1 : 2, false);
		drv_kick(&t.d.q[CTRL]);
		fx_run(&t.f, 3);
		assert_true(drv_status(&t.d) & VIRTIO_STATUS_NEEDS_RESET);
		net_end(&t);
	}
}

static void driver_announces_itself_after_load(void **state)
{
	struct net_test t = { 0 };

	(void)state;
	net_begin(&t, ALL);
	assert_int_equal(mode_set(&t, NET_RX_PROMISC, 0), OK);
	assert_int_equal(command(&t, NET_CLASS_VLAN, NET_VLAN_ADD, (uint8_t[2]){ 7 }, 2), OK);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), LINK_UP);
	fx_state_test(&t.f, t.dev, 2000);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), LINK_UP | ANNOUNCE);
	virtio_net_set_link(t.dev, false);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), 0);
	virtio_net_set_link(t.dev, true);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), LINK_UP | ANNOUNCE);
	assert_int_equal(command(&t, NET_CLASS_ANNOUNCE, 0, NULL, 0), OK);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), LINK_UP);
	/* The state has the filter. */
	assert_false(arrives(&t, other, -1));
	assert_true(arrives(&t, own, 7));
	assert_false(arrives(&t, own, 8));
	net_end(&t);
}

/* ---- states from before the control queue ---- */

#define OLD_BYTES 432

/* Version 1 of the section: an interface without a tap, whose driver has offered two buffers. Zeros are left out. */
static const struct {
	uint16_t at;
	uint8_t bytes[16];
} old_rows[] = {
	{ 0x0, { 0xf4, 0x1a, 0x41, 0x10, 0x02, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00 } },
	{ 0x10, { 0x00, 0x00, 0x00, 0xc0, 0x00, 0x40, 0x00, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 } },
	{ 0x20, { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xf4, 0x1a, 0x41, 0x10 } },
	{ 0x30, { 0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x14, 0x01, 0x00, 0x00 } },
	{ 0x40, { 0x11, 0x4c, 0x02, 0x80, 0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, 0x00, 0x09, 0x5c, 0x10, 0x01 } },
	{ 0x50, { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x38, 0x00, 0x00, 0x00, 0x09, 0x70, 0x14, 0x02 } },
	{ 0x60, { 0x00, 0x00, 0x00, 0x00, 0x00, 0x30, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00 } },
	{ 0x70, { 0x09, 0x80, 0x10, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00 } },
	{ 0x80, { 0x09, 0x90, 0x10, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x20, 0x00, 0x00, 0x0c, 0x00, 0x00, 0x00 } },
	{ 0x90, { 0x09, 0x00, 0x14, 0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 } },
	{ 0x100, { 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xe0, 0xfe, 0x00 } },
	{ 0x110, { 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xe0, 0xfe, 0x00 } },
	{ 0x120, { 0x00, 0x00, 0x00, 0x01, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xe0, 0xfe, 0x00 } },
	{ 0x130, { 0x00, 0x00, 0x00, 0x02, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01 } },
	{ 0x140, { 0x00, 0x00, 0x00, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0xab, 0xbb, 0x01, 0x30 } },
	{ 0x150, { 0x01, 0x00, 0x00, 0x00, 0xab, 0xbb, 0x01, 0x30, 0x01, 0x00, 0x00, 0x00, 0x0f, 0x00, 0x02, 0x00 } },
	{ 0x160, { 0x0c, 0x00, 0x52, 0x54, 0x00, 0x01, 0x02, 0x03, 0x00, 0x00, 0x00, 0x00, 0x28, 0x23, 0x10, 0x00 } },
	{ 0x170, { 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00 } },
	{ 0x180, { 0x00, 0x20, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10 } },
	{ 0x190, { 0x00, 0x00, 0x30, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x01, 0x00, 0x00, 0x00, 0x00 } },
	{ 0x1a0, { 0x00, 0x00, 0x50, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 } },
};

static void old_state(uint8_t *ret)
{
	memset(ret, 0, OLD_BYTES);
	for (unsigned i = 0; i < ARRAY_SIZE(old_rows); i++)
		memcpy(ret + old_rows[i].at, old_rows[i].bytes, sizeof(old_rows[i].bytes));
}

static int old_load(struct net_test *t, const uint8_t *bytes, size_t len)
{
	struct state_reader r = { .buf = bytes, .len = len };
	struct err e = { 0 };

	t->dev->ops->reset(t->dev);
	return t->dev->ops->load(t->dev, &r, 1, &e);
}

static uint32_t features_low(struct net_test *t)
{
	fx_write(&t->f, t->d.common, 4, 0);
	return (uint32_t)fx_read(&t->f, t->d.common + 4, 4);
}

static void old_state_keeps_its_features(void **state)
{
	struct net_test t = { 0 };
	uint8_t old[OLD_BYTES];
	struct fx_state s, new;

	(void)state;
	/* A driver without the control queue has the old driver's rings. */
	net_begin(&t, ALL & ~F_CTRL);
	for (unsigned i = 0; i < 2; i++)
		drv_add(&t.d.q[RX], &(struct drv_sg){ t.buf + 2048 * i, 2048, true }, 1, false);
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &new);
	old_state(old);
	assert_int_equal(old_load(&t, old, sizeof(old)), 0);
	t.dev->ops->resume(t.dev);
	assert_int_equal(drv_status(&t.d), 15);
	assert_int_equal(features_low(&t) & F_CTRL, 0);
	assert_true(features_low(&t) & NET_F_MRG_RXBUF);
	assert_int_equal(fx_read(&t.f, t.d.device + 6, 2), LINK_UP);
	assert_true(arrives(&t, other, -1));
	/* It is saved as a state of today, still without the features, */
	t.dev->ops->pause(t.dev);
	fx_save(t.dev, &s);
	assert_int_equal(fx_load(t.dev, &s), 0);
	assert_int_equal(features_low(&t) & F_CTRL, 0);
	/* and a state with them brings them back. */
	assert_int_equal(fx_load(t.dev, &new), 0);
	assert_int_equal(features_low(&t) & F_CTRL, F_CTRL);
	free(s.buf);
	free(new.buf);
	net_end(&t);
}

static void damaged_old_state_is_refused(void **state)
{
	struct net_test t = { 0 };
	uint8_t old[OLD_BYTES + 1] = { 0 };

	(void)state;
	net_begin(&t, ALL);
	t.dev->ops->pause(t.dev);
	old_state(old);
	assert_true(old_load(&t, old, OLD_BYTES - 1) < 0);
	assert_true(old_load(&t, old, OLD_BYTES + 1) < 0);
	for (unsigned i = 0; i < OLD_BYTES; i++) {
		old[i] ^= 0xff;
		old_load(&t, old, OLD_BYTES); /* refused or harmless: the sanitizers watch */
		old[i] ^= 0xff;
	}
	for (unsigned i = 0; i < 3; i++) {
		static const unsigned wrong[] = { 257, 350, 348 }; /* numbers of vectors and of queues; the status */

		old[wrong[i]] ^= 0x10;
		assert_true(old_load(&t, old, OLD_BYTES) < 0);
		old[wrong[i]] ^= 0x10;
	}
	assert_int_equal(features_low(&t) & F_CTRL, F_CTRL);
	assert_int_equal(old_load(&t, old, OLD_BYTES), 0);
	net_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(driver_without_commands_gets_all_frames),
		cmocka_unit_test(driver_gets_frames_to_addresses_of_its_tables),
		cmocka_unit_test(revert_resets_connections_of_own_addresses_only),
		cmocka_unit_test(table_too_long_lets_its_kind_pass),
		cmocka_unit_test(tagged_frames_need_their_vlan),
		cmocka_unit_test(new_address_shows_until_reset),
		cmocka_unit_test(invalid_commands_are_refused),
		cmocka_unit_test(command_without_header_or_answer_is_a_fault),
		cmocka_unit_test(driver_announces_itself_after_load),
		cmocka_unit_test(old_state_keeps_its_features),
		cmocka_unit_test(damaged_old_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
