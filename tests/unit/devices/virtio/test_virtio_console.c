#include "fixture.h"

#include "base/bytes.h"
#include "devices/console.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_console.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 5
#define F_MULTIPORT 2ULL
#define ALL (~0ULL)
#define BUFFER 256

struct con_test {
	struct fixture f;
	struct console *consoles[2];
	int peers[2];
	struct device *dev;
	struct drv d;
	uint64_t buf; /* one BUFFER for each queue and each of 8 slots */
};

static uint64_t buffer(struct con_test *t, unsigned q, unsigned i)
{
	return t->buf + BUFFER * (8 * q + i % 8);
}

static void offer(struct con_test *t, unsigned q, unsigned i)
{
	struct drv_sg sg = { buffer(t, q, i), BUFFER, true };

	drv_add(&t->d.q[q], &sg, 1, false);
	drv_kick(&t->d.q[q]);
}

static void send_bytes(struct con_test *t, unsigned q, const void *p, uint32_t n)
{
	struct drv_sg sg = { buffer(t, q, 0), n, false };

	memcpy(fx_ram(&t->f, sg.gpa), p, n);
	drv_add(&t->d.q[q], &sg, 1, false);
	drv_kick(&t->d.q[q]);
	drv_wait(&t->d.q[q], NULL);
}

static void con_begin(struct con_test *t, unsigned nports, uint64_t features)
{
	struct virtio_console_port_config ports[2] = { { 0 }, { .name = "org.cairn.test" } };
	struct virtio_console_config c = { .name = "virtio-console0", .ports = ports,
		.nports = nports, .slot = SLOT };
	unsigned queues = nports > 1 ? 6 : 2;

	fx_init(&t->f);
	for (unsigned i = 0; i < nports; i++) {
		int sv[2];

		assert_int_equal(console_new(t->f.host.loop, "hvc", &t->consoles[i], NULL), 0);
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
		assert_int_equal(console_attach(t->consoles[i], sv[0], true, (struct console_user){ 0 }, NULL), 0);
		t->peers[i] = sv[1];
		ports[i].console = t->consoles[i];
	}
	assert_int_equal(virtio_console_new(&t->f.host, t->f.pci, &c, &t->dev, NULL), 0);
	drv_init(&t->d, &t->f, SLOT, features, true);
	assert_int_equal(fx_read(&t->f, t->d.common + 18, 2), queues);
	t->buf = fx_alloc(&t->f, 8 * 8 * BUFFER, 4096);
	for (unsigned q = 0; q < queues; q++)
		drv_queue_setup(&t->d, q, 8);
	drv_ok(&t->d);
	fx_run(&t->f, 5);
}

static void con_end(struct con_test *t, unsigned nports)
{
	t->dev->ops->free(t->dev);
	for (unsigned i = 0; i < nports; i++) {
		console_free(t->consoles[i]);
		close(t->peers[i]);
	}
	fx_done(&t->f);
}

static void expect_from(struct con_test *t, int fd, const char *want)
{
	char got[256] = { 0 };

	fx_run(&t->f, 10);
	assert_int_equal(recv(fd, got, sizeof(got), MSG_DONTWAIT), strlen(want));
	assert_string_equal(got, want);
}

static void one_port(void **state)
{
	struct con_test t;
	uint32_t len;

	(void)state;
	con_begin(&t, 1, ALL);
	assert_false(t.d.features & F_MULTIPORT);
	assert_int_equal(fx_cfg_read(&t.f, SLOT, 0, 4), 0x10431af4);
	send_bytes(&t, 1, "hvc0 speaks", 11);
	expect_from(&t, t.peers[0], "hvc0 speaks");
	/* Input waits for a buffer, or a buffer for input. */
	assert_int_equal(write(t.peers[0], "abc", 3), 3);
	fx_run(&t.f, 5);
	offer(&t, 0, 0);
	drv_wait(&t.d.q[0], &len);
	assert_int_equal(len, 3);
	assert_memory_equal(fx_ram(&t.f, buffer(&t, 0, 0)), "abc", 3);
	offer(&t, 0, 1);
	fx_run(&t.f, 5);
	assert_int_equal(drv_used_idx(&t.d.q[0]), 1);
	assert_int_equal(write(t.peers[0], "de", 2), 2);
	drv_wait(&t.d.q[0], &len);
	assert_int_equal(len, 2);
	assert_memory_equal(fx_ram(&t.f, buffer(&t, 0, 1)), "de", 2);
	con_end(&t, 1);
}

static void much_input_in_order(void **state)
{
	static char in[20000], out[20000];
	struct con_test t;
	size_t sent = 0, got = 0;
	unsigned i = 0;

	(void)state;
	con_begin(&t, 1, ALL);
	for (size_t k = 0; k < sizeof(in); k++)
		in[k] = (char)(k * 31 + k / 256);
	for (; i < 4; i++)
		offer(&t, 0, i);
	while (got < sizeof(in)) {
		ssize_t w = send(t.peers[0], in + sent, sizeof(in) - sent, MSG_DONTWAIT);
		uint32_t len;

		if (w > 0)
			sent += (size_t)w;
		drv_wait(&t.d.q[0], &len);
		memcpy(out + got, fx_ram(&t.f, buffer(&t, 0, i - 4)), len);
		got += len;
		offer(&t, 0, i++);
	}
	assert_memory_equal(in, out, sizeof(in));
	con_end(&t, 1);
}

static void control_send(struct con_test *t, uint32_t id, uint16_t event, uint16_t value)
{
	uint8_t m[8];

	store_le32(m, id);
	store_le16(m + 4, event);
	store_le16(m + 6, value);
	send_bytes(t, 3, m, sizeof(m));
}

static unsigned control_slot;

static void control_expect(struct con_test *t, uint32_t id, uint16_t event, uint16_t value,
	const char *name)
{
	const uint8_t *m = fx_ram(&t->f, buffer(t, 2, control_slot));
	uint32_t len;

	offer(t, 2, control_slot++);
	drv_wait(&t->d.q[2], &len);
	assert_int_equal(len, 8 + strlen(name));
	assert_int_equal(load_le32(m), id);
	assert_int_equal(load_le16(m + 4), event);
	assert_int_equal(load_le16(m + 6), value);
	assert_memory_equal(m + 8, name, strlen(name));
}

static void named_port(void **state)
{
	struct con_test t;
	uint32_t len;

	(void)state;
	control_slot = 0;
	con_begin(&t, 2, ALL);
	assert_true(t.d.features & F_MULTIPORT);
	assert_int_equal(fx_read(&t.f, t.d.device + 4, 4), 2);
	control_send(&t, 0, 0, 1);
	control_expect(&t, 0, 1, 0, "");
	control_expect(&t, 1, 1, 0, "");
	control_send(&t, 0, 3, 1);
	control_expect(&t, 0, 4, 1, "");
	control_expect(&t, 0, 6, 1, "");
	control_send(&t, 1, 3, 1);
	control_expect(&t, 1, 7, 1, "org.cairn.test");
	/* A state saved meanwhile keeps the messages still to be sent. */
	fx_state_test(&t.f, t.dev, 1000);
	control_expect(&t, 1, 6, 1, "");
	/* Input waits until the guest opens the port. */
	assert_int_equal(write(t.peers[1], "hi", 2), 2);
	offer(&t, 4, 0);
	fx_run(&t.f, 10);
	assert_int_equal(drv_used_idx(&t.d.q[4]), 0);
	control_send(&t, 1, 6, 1);
	drv_wait(&t.d.q[4], &len);
	assert_int_equal(len, 2);
	send_bytes(&t, 5, "ho", 2);
	expect_from(&t, t.peers[1], "ho");
	send_bytes(&t, 1, "con", 3);
	expect_from(&t, t.peers[0], "con");
	/* Invalid: unknown ports and events, a truncated message. */
	control_send(&t, 77, 3, 1);
	control_send(&t, 0xffffffff, 6, 1);
	control_send(&t, 1, 0xffff, 1);
	send_bytes(&t, 3, "abc", 3);
	assert_int_equal(drv_status(&t.d), 15);
	con_end(&t, 2);
}

static void refuses_bad_configurations(void **state)
{
	char long_name[80];
	struct virtio_console_port_config port = { .name = long_name };
	struct virtio_console_config c = { .name = "c", .ports = &port, .nports = 1 };
	struct fixture f;
	struct device *d;
	struct err e;

	(void)state;
	fx_init(&f);
	assert_int_equal(console_new(f.host.loop, "x", &port.console, NULL), 0);
	memset(long_name, 'n', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = 0;
	assert_int_equal(virtio_console_new(&f.host, f.pci, &c, &d, &e), -EINVAL);
	port.name = "";
	assert_int_equal(virtio_console_new(&f.host, f.pci, &c, &d, &e), -EINVAL);
	c.nports = 0;
	assert_int_equal(virtio_console_new(&f.host, f.pci, &c, &d, &e), -EINVAL);
	c.nports = 9;
	assert_int_equal(virtio_console_new(&f.host, f.pci, &c, &d, &e), -EINVAL);
	console_free(port.console);
	fx_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_port),
		cmocka_unit_test(much_input_in_order),
		cmocka_unit_test(named_port),
		cmocka_unit_test(refuses_bad_configurations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
