/* The UART and the console behind it. */
#include "fixture.h"

#include "base/err.h"
#include "base/loop.h"
#include "devices/console.h"
#include "devices/legacy/serial.h"
#include "snapshot/state.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COM1 SERIAL_COM1_PORT
#define GSI SERIAL_COM1_GSI

struct serial_test {
	struct fixture f;
	struct console *console;
	struct device *dev;
	int peer; /* the test's end of an attached socket */
};

static void serial_begin(struct serial_test *t, bool attach)
{
	struct serial_config c = { .name = "serial0" };
	int sv[2];

	fx_init(&t->f);
	t->peer = -1;
	assert_int_equal(console_new(t->f.host.loop, "serial0", &t->console, NULL), 0);
	c.console = t->console;
	assert_int_equal(serial_new(&t->f.host, t->f.pio, &c, &t->dev, NULL), 0);
	if (!attach)
		return;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(console_attach(t->console, sv[0], true, (struct console_user){ 0 }, NULL), 0);
	t->peer = sv[1];
}

static void serial_end(struct serial_test *t)
{
	t->dev->ops->free(t->dev);
	console_free(t->console);
	if (t->peer >= 0)
		close(t->peer);
	fx_done(&t->f);
}

static void put(struct serial_test *t, unsigned reg, uint8_t v)
{
	fx_out(&t->f, (uint16_t)(COM1 + reg), 1, v);
}

static uint8_t get(struct serial_test *t, unsigned reg)
{
	return (uint8_t)fx_in(&t->f, (uint16_t)(COM1 + reg), 1);
}

static void type(struct serial_test *t, const char *s, size_t n)
{
	assert_int_equal(write(t->peer, s, n), n);
	fx_run(&t->f, 5);
}

static void expect_output(struct serial_test *t, int fd, const char *want)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char buf[4096];
	size_t n = 0, len = strlen(want);

	while (n < len) {
		ssize_t r;

		do
			fx_run(&t->f, 5);
		while (!poll(&p, 1, 0));
		r = read(fd, buf + n, len - n);
		assert_true(r > 0);
		n += (size_t)r;
	}
	assert_memory_equal(buf, want, len);
}

/* ---- registers ---- */

static void registers_after_reset(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, false);
	assert_int_equal(get(&t, 1), 0);
	assert_int_equal(get(&t, 2), 1);
	assert_int_equal(get(&t, 3), 0);
	assert_int_equal(get(&t, 5), 0x60);
	assert_int_equal(get(&t, 6) & 0xf0, 0xb0);
	serial_end(&t);
}

/* The registers that Linux's autoconfig() checks. */
static void linux_finds_a_16550a(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, false);
	put(&t, 1, 0);
	assert_int_equal(get(&t, 1) & 0x0f, 0);
	put(&t, 1, 0x0f);
	assert_int_equal(get(&t, 1) & 0x0f, 0x0f);
	put(&t, 1, 0);
	put(&t, 4, 0x10 | 0x0a); /* loopback with RTS and OUT2: CTS and DCD */
	assert_int_equal(get(&t, 6) & 0xf0, 0x90);
	put(&t, 4, 0);
	put(&t, 3, 0x80);
	put(&t, 2, 0x01);
	assert_int_equal(get(&t, 2) >> 6, 3);
	put(&t, 3, 0);
	put(&t, 7, 0xa5);
	assert_int_equal(get(&t, 7), 0xa5);
	assert_false(t.f.level[GSI]);
	serial_end(&t);
}

static void divisor_latch(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, true);
	put(&t, 3, 0x83);
	put(&t, 0, 0x01);
	put(&t, 1, 0x02);
	assert_int_equal(get(&t, 0), 0x01);
	assert_int_equal(get(&t, 1), 0x02);
	put(&t, 3, 0x03);
	assert_int_equal(get(&t, 1), 0); /* IER is a separate register */
	put(&t, 0, 'x');
	expect_output(&t, t.peer, "x");
	serial_end(&t);
}

static void loopback_returns_what_is_sent(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, true);
	put(&t, 4, 0x10);
	put(&t, 0, 0x5a);
	assert_int_equal(get(&t, 5) & 1, 1);
	assert_int_equal(get(&t, 0), 0x5a);
	/* Without a FIFO, a second byte overruns. */
	put(&t, 0, 1);
	put(&t, 0, 2);
	assert_int_equal(get(&t, 5) & 2, 2);
	assert_int_equal(get(&t, 5) & 2, 0);
	assert_int_equal(get(&t, 0), 1);
	fx_run(&t.f, 5);
	assert_int_equal(recv(t.peer, (char[1]){ 0 }, 1, MSG_DONTWAIT), -1);
	serial_end(&t);
}

static void thre_interrupt(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, false);
	put(&t, 4, 0x08);
	put(&t, 1, 0x02); /* enabling raises it; drivers start sending that way */
	assert_true(t.f.level[GSI]);
	assert_int_equal(get(&t, 2), 0x02);
	assert_false(t.f.level[GSI]);
	assert_int_equal(get(&t, 2), 0x01);
	put(&t, 0, 'a');
	assert_true(t.f.level[GSI]);
	put(&t, 4, 0); /* OUT2 gates the line */
	assert_false(t.f.level[GSI]);
	serial_end(&t);
}

static void receive_interrupts_and_priorities(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, true);
	put(&t, 4, 0x08);
	put(&t, 2, 0x81); /* FIFO, trigger level 8 */
	put(&t, 1, 0x03);
	type(&t, "abc", 3);
	assert_true(t.f.level[GSI]);
	assert_int_equal(get(&t, 2), 0xcc); /* time-out: fewer than 8 */
	type(&t, "defgh", 5);
	assert_int_equal(get(&t, 2), 0xc4); /* received data before THRE */
	for (const char *p = "abcdefgh"; *p; p++) {
		assert_int_equal(get(&t, 5) & 1, 1);
		assert_int_equal(get(&t, 0), *p);
	}
	assert_int_equal(get(&t, 5) & 1, 0);
	assert_int_equal(get(&t, 2), 0xc2); /* now THRE */
	assert_int_equal(get(&t, 2), 0xc1);
	assert_false(t.f.level[GSI]);
	serial_end(&t);
}

static void fifo_takes_16_and_loses_none(void **state)
{
	struct serial_test t;
	char in[6000], out[6000];
	size_t sent = 0, got = 0;

	(void)state;
	serial_begin(&t, true);
	fcntl(t.peer, F_SETFL, O_NONBLOCK);
	put(&t, 2, 0x01);
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (char)(i * 13);
	while (got < sizeof(in)) {
		ssize_t w = sent < sizeof(in) ? write(t.peer, in + sent, sizeof(in) - sent) : 0;

		if (w > 0)
			sent += (size_t)w;
		fx_run(&t.f, 3);
		for (unsigned i = 0; i < 100 && (get(&t, 5) & 1); i++)
			out[got++] = (char)get(&t, 0);
	}
	assert_int_equal(got, sizeof(in));
	assert_memory_equal(in, out, sizeof(in));
	/* Clearing the FIFO makes room for waiting input. */
	type(&t, "0123456789abcdefXY", 18);
	put(&t, 2, 0x03);
	assert_int_equal(get(&t, 0), 'X');
	assert_int_equal(get(&t, 0), 'Y');
	assert_int_equal(get(&t, 5) & 1, 0);
	serial_end(&t);
}

static void state_survives(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, true);
	put(&t, 4, 0x0b);
	put(&t, 2, 0xc1);
	put(&t, 1, 0x0f);
	put(&t, 7, 0x42);
	type(&t, "hello", 5);
	get(&t, 0);
	fx_state_test(&t.f, t.dev, 1000);
	assert_int_equal(get(&t, 7), 0x42);
	assert_true(t.f.level[GSI]);
	for (const char *p = "ello"; *p; p++)
		assert_int_equal(get(&t, 0), *p);
	serial_end(&t);
}

static void paused_device_takes_no_input(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, true);
	t.dev->ops->pause(t.dev);
	type(&t, "z", 1);
	assert_int_equal(get(&t, 5) & 1, 0);
	t.dev->ops->resume(t.dev);
	assert_int_equal(get(&t, 0), 'z');
	serial_end(&t);
}

/* ---- the console ---- */

static void late_attach_gets_the_history(void **state)
{
	char big[CONSOLE_HISTORY_BYTES + 1000], *got = malloc(sizeof(big));
	struct serial_test t;
	size_t n = 0;
	int sv[2];

	(void)state;
	serial_begin(&t, false);
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)('a' + i % 23);
	console_write(t.console, big, sizeof(big));
	put(&t, 0, '!');
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(console_attach(t.console, sv[0], true, (struct console_user){ 0 }, NULL), 0);
	while (n < CONSOLE_HISTORY_BYTES) {
		ssize_t r = recv(sv[1], got + n, sizeof(big) - n, MSG_DONTWAIT);

		if (r > 0)
			n += (size_t)r;
		else
			fx_run(&t.f, 5);
	}
	assert_int_equal(n, CONSOLE_HISTORY_BYTES);
	assert_memory_equal(got, big + 1001, CONSOLE_HISTORY_BYTES - 1);
	assert_int_equal(got[n - 1], '!');
	close(sv[1]);
	/* A reader without history sees only new output. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(console_attach(t.console, sv[0], false, (struct console_user){ 0 }, NULL), 0);
	put(&t, 0, '?');
	expect_output(&t, sv[1], "?");
	close(sv[1]);
	free(got);
	serial_end(&t);
}

static void slow_reader_never_stalls_the_guest(void **state)
{
	static char got[1 << 21];
	struct serial_test t;
	char line[64];
	size_t n = 0;
	ssize_t r;
	int sv[2];

	(void)state;
	serial_begin(&t, true); /* this reader does not read until the end */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(console_attach(t.console, sv[0], false, (struct console_user){ 0 }, NULL), 0);
	fcntl(sv[1], F_SETFL, O_NONBLOCK);
	for (unsigned i = 0; i < 40000; i++) {
		snprintf(line, sizeof(line), "line %05u of a guest that talks\n", i);
		console_write(t.console, line, strlen(line));
		if (i % 64 == 0) {
			fx_run(&t.f, 1);
			while ((r = read(sv[1], got + n, sizeof(got) - n)) > 0)
				n += (size_t)r;
		}
	}
	fx_run(&t.f, 20);
	while ((r = read(sv[1], got + n, sizeof(got) - n)) > 0)
		n += (size_t)r;
	assert_int_equal(n, 40000 * strlen(line)); /* the fast reader has all output */
	fcntl(t.peer, F_SETFL, O_NONBLOCK);
	for (n = 0; (r = read(t.peer, got + n, sizeof(got) - 1 - n)) > 0 || n == 0;) {
		n += (size_t)r;
		fx_run(&t.f, 5);
	}
	got[n] = 0;
	assert_non_null(strstr(got, "bytes of output lost]"));
	assert_true(n > strlen(line));
	assert_string_equal(got + n - strlen(line), "line 39999 of a guest that talks\n");
	assert_true(n < 1 << 20);
	close(sv[1]);
	serial_end(&t);
}

static void closed_reader_is_removed(void **state)
{
	struct serial_test t;

	(void)state;
	serial_begin(&t, true);
	assert_int_equal(console_readers(t.console), 1);
	close(t.peer);
	t.peer = -1;
	fx_run(&t.f, 5);
	assert_int_equal(console_readers(t.console), 0);
	put(&t, 0, 'x');
	fx_run(&t.f, 5);
	serial_end(&t);
}

static void unread_input_is_bounded(void **state)
{
	static char junk[1 << 20];
	struct serial_test t;
	size_t sent = 0, got = 0;
	ssize_t r;

	(void)state;
	serial_begin(&t, true);
	fcntl(t.peer, F_SETFL, O_NONBLOCK);
	while ((r = write(t.peer, junk, sizeof(junk))) > 0) {
		sent += (size_t)r;
		fx_run(&t.f, 10);
	}
	assert_int_equal(errno, EAGAIN); /* back-pressure has reached the writer */
	assert_true(sent < sizeof(junk));
	for (unsigned idle = 0; idle < 20;) {
		fx_run(&t.f, 2);
		for (idle++; get(&t, 5) & 1; idle = 0, got++)
			get(&t, 0);
	}
	assert_int_equal(got, sent);
	serial_end(&t);
}

static void too_many_readers(void **state)
{
	struct serial_test t;
	struct err e = { 0 };
	int fds[64][2], sv[2];

	(void)state;
	serial_begin(&t, false);
	for (unsigned i = 0; i < 64; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds[i]), 0);
		assert_int_equal(console_attach(t.console, fds[i][0], false, (struct console_user){ 0 }, NULL), 0);
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(console_attach(t.console, sv[0], false, (struct console_user){ 0 }, &e), -EMFILE);
	assert_true(e.msg[0]);
	close(sv[0]);
	close(sv[1]);
	serial_end(&t);
	for (unsigned i = 0; i < 64; i++)
		close(fds[i][1]);
}

/* One user leaves places for others. */
static void too_many_readers_of_a_user(void **state)
{
	struct console_user user = { .user = 2 + getuid() }, other = { .user = 3 + getuid() };
	struct serial_test t;
	struct err e = { 0 };
	int fds[CONSOLE_USER_MAX][2], sv[2];

	(void)state;
	serial_begin(&t, false);
	for (unsigned i = 0; i < CONSOLE_USER_MAX; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds[i]), 0);
		assert_int_equal(console_attach(t.console, fds[i][0], false, user, NULL), 0);
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(console_attach(t.console, sv[0], false, user, &e), -EMFILE);
	assert_non_null(strstr(e.msg, "16 of your clients are attached"));
	assert_int_equal(console_attach(t.console, sv[0], false, other, &e), 0);
	serial_end(&t);
	for (unsigned i = 0; i < CONSOLE_USER_MAX; i++)
		close(fds[i][1]);
	close(sv[1]);
}

static void foreground_uses_pipes(void **state)
{
	struct serial_test t;
	int in[2], out[2];

	(void)state;
	serial_begin(&t, false);
	put(&t, 0, '0'); /* before the terminal is attached */
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	assert_int_equal(console_attach_stdio(t.console, in[0], out[1], NULL), 0);
	put(&t, 0, '1');
	put(&t, 0, '2');
	expect_output(&t, out[0], "012");
	assert_int_equal(write(in[1], "k", 1), 1);
	fx_run(&t.f, 5);
	assert_int_equal(get(&t, 0), 'k');
	close(in[1]); /* the end of input does not end output */
	fx_run(&t.f, 5);
	put(&t, 0, '3');
	expect_output(&t, out[0], "3");
	/* The rest is written before the process ends. */
	for (unsigned i = 0; i < 10000; i++)
		put(&t, 0, 'e');
	console_drain(t.console, 2000000000ULL);
	{
		char buf[10001];

		assert_int_equal(read(out[0], buf, sizeof(buf)), 10000);
	}
	serial_end(&t);
	close(in[0]);
	close(out[0]);
	close(out[1]);
}

/* The VM may end while bytes wait for the end of their line. */
static void end_of_a_line_that_never_came_is_sent(void **state)
{
	struct serial_test t;
	char buf[8] = { 0 };
	int peer;

	(void)state;
	serial_begin(&t, true);
	put(&t, 0, '$');
	expect_output(&t, t.peer, "$");
	put(&t, 0, ' ');
	peer = t.peer;
	t.peer = -1;
	serial_end(&t);
	assert_int_equal(read(peer, buf, sizeof(buf)), 1);
	assert_string_equal(buf, " ");
	assert_int_equal(read(peer, buf, sizeof(buf)), 0);
	close(peer);
}

/* While the guest writes on, its bytes wait for 1, 2, 4, 8 and then 16 ms, so the loop sends them rarely. */
static void waits_grow_while_the_guest_writes_on(void **state)
{
	uint64_t begin_ns, past_ns;
	struct serial_test t;
	unsigned sent = 0;
	char buf[4096];

	(void)state;
	serial_begin(&t, true);
	begin_ns = loop_now_ns();
	do {
		put(&t, 0, 'x');
		loop_run_once(t.f.host.loop, 1000000);
		sent += recv(t.peer, buf, sizeof(buf), MSG_DONTWAIT) > 0;
		past_ns = loop_now_ns() - begin_ns;
	} while (past_ns < 200000000);
	assert_in_range(sent, 1, 6 + past_ns / 16000000);
	serial_end(&t);
}

static void foreground_writes_files_from_their_start(void **state)
{
	char path[96], buf[16] = { 0 };
	struct serial_test t;
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/cairn-serial-XXXXXX", tmp_folder());
	fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	serial_begin(&t, false);
	assert_int_equal(console_attach_stdio(t.console, -1, fd, NULL), 0);
	for (const char *p = "hello, file"; *p; p++) {
		put(&t, 0, (uint8_t)*p);
		fx_run(&t.f, 2);
	}
	console_drain(t.console, 2000000000ULL);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), 11);
	assert_string_equal(buf, "hello, file");
	serial_end(&t);
	close(fd);
}

/* ---- a console that another process continues ---- */

static void load(struct serial_test *t, const struct state_writer *w, size_t cut, bool ok)
{
	size_t pos = 0;
	struct state_section s;

	assert_int_equal(state_section_next(w->buf, w->len, &pos, &s, NULL), 1);
	s.content.len -= cut;
	console_load(t->console, &s.content);
	assert_int_equal(state_reader_complete(&s.content), ok);
}

/* The history, the input that nobody has taken and a client with a half-sent note are the second console's. */
static void console_goes_on_elsewhere(void **state)
{
	struct serial_test t, next;
	struct console_client c[CONSOLE_READERS_MAX];
	struct state_writer w;
	struct err e;
	char in[64];

	(void)state;
	serial_begin(&t, true);
	serial_begin(&next, false);
	console_write(t.console, "before\n", 7);
	expect_output(&t, t.peer, "before\n");
	console_set_device(t.console, NULL, NULL); /* leave the input in the console */
	type(&t, "taken", 5);
	console_hold(t.console);
	type(&t, "later", 5); /* stays in the socket */
	state_writer_init(&w);
	state_section_begin(&w, "console", "", 1);
	console_save(t.console, &w);
	state_section_end(&w);
	console_set_device(next.console, NULL, NULL);
	load(&next, &w, 0, true);
	assert_int_equal(console_written(next.console), 7);
	assert_int_equal(console_clients(t.console, c), 1);
	assert_int_equal(c[0].sent, 7);
	c[0].sent = 3;
	strcpy(c[0].note, "note ");
	c[0].fd = dup(c[0].fd);
	assert_int_equal(console_attach_client(next.console, &c[0], &e), 0);
	expect_output(&t, t.peer, "note ore\n");
	fx_run(&next.f, 5);
	assert_int_equal(console_read(next.console, in, sizeof(in)), 10);
	assert_memory_equal(in, "takenlater", 10);
	console_release(t.console); /* as if the next process had failed */
	type(&t, "again", 5);
	assert_int_equal(console_read(t.console, in, sizeof(in)), 10);
	assert_memory_equal(in, "takenagain", 10);
	state_writer_done(&w);
	serial_end(&next);
	serial_end(&t);
}

static void malformed_console_is_refused(void **state)
{
	struct serial_test t;
	struct console_client c = { .fd = -1, .sent = 8 };
	struct state_writer w;
	struct err e;

	(void)state;
	serial_begin(&t, true);
	console_write(t.console, "before\n", 7);
	assert_int_equal(console_attach_client(t.console, &c, &e), -EINVAL); /* ahead of the output */
	c.sent = 7;
	memset(c.note, 'x', sizeof(c.note));
	assert_int_equal(console_attach_client(t.console, &c, &e), -EINVAL);
	state_writer_init(&w);
	state_section_begin(&w, "console", "", 1);
	console_save(t.console, &w);
	state_put_u32(&w, 0);
	state_section_end(&w);
	load(&t, &w, 0, false); /* too long */
	for (size_t cut = 5; cut < 19; cut++)
		load(&t, &w, cut, false);
	w.len = 0;
	state_section_begin(&w, "console", "", 1);
	state_put_u64(&w, 0);
	state_put_u32(&w, CONSOLE_INPUT_BYTES + 1);
	for (unsigned i = 0; i <= CONSOLE_INPUT_BYTES; i++)
		state_put_u8(&w, 0);
	state_section_end(&w);
	load(&t, &w, 0, false);
	state_writer_done(&w);
	serial_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_after_reset),
		cmocka_unit_test(linux_finds_a_16550a),
		cmocka_unit_test(divisor_latch),
		cmocka_unit_test(loopback_returns_what_is_sent),
		cmocka_unit_test(thre_interrupt),
		cmocka_unit_test(receive_interrupts_and_priorities),
		cmocka_unit_test(fifo_takes_16_and_loses_none),
		cmocka_unit_test(state_survives),
		cmocka_unit_test(paused_device_takes_no_input),
		cmocka_unit_test(late_attach_gets_the_history),
		cmocka_unit_test(slow_reader_never_stalls_the_guest),
		cmocka_unit_test(closed_reader_is_removed),
		cmocka_unit_test(unread_input_is_bounded),
		cmocka_unit_test(too_many_readers),
		cmocka_unit_test(too_many_readers_of_a_user),
		cmocka_unit_test(console_goes_on_elsewhere),
		cmocka_unit_test(malformed_console_is_refused),
		cmocka_unit_test(foreground_uses_pipes),
		cmocka_unit_test(end_of_a_line_that_never_came_is_sent),
		cmocka_unit_test(waits_grow_while_the_guest_writes_on),
		cmocka_unit_test(foreground_writes_files_from_their_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
