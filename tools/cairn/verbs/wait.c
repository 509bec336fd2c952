/* wait: wait for a state, a guest agent or an address. */
#include "tools/cairn/address.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/guest_session.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* No event reports a new address or that cairn-agent listens, so ask at this interval. */
#define ASK_EVERY_NS 1000000000ULL
#define HELLO_MS 1000

/* Words of --for, and the states that satisfy each. */
static const struct {
	const char *word;
	const char *states; /* separated by spaces */
} goals[] = {
	{ "running", "running" },
	{ "paused", "paused" },
	{ "shutoff", "shutoff saved crashed" },
	{ "shutdown", "shutoff saved crashed" }, /* for shutdown --wait: ends with the shutdown */
	{ "crashed", "crashed preserved" },
	{ "agent", "connected" }, /* state of QEMU's guest agent, not of the VM; cairn-agent counts, too */
	{ "qga", "connected" }, /* QEMU's guest agent only, for --for ip */
};

static bool is_agent(const char *word)
{
	return !strcmp(word, "agent") || !strcmp(word, "qga");
}

static const char *goal_states(const char *word)
{
	for (size_t i = 0; i < sizeof(goals) / sizeof(goals[0]); i++)
		if (!strcmp(goals[i].word, word))
			return goals[i].states;
	return NULL;
}

static bool goal_reached(const char *states, const char *word)
{
	return word && words_have(states, ' ', word);
}

/* Does this event satisfy the goal? name: the VM's name, as in events. */
static bool event_fits(struct json_object *ev, const char *name, const char *goal)
{
	struct json_object *data = js_get(ev, "data");
	const char *event = js_get_str(ev, "event"), *vm = js_get_str(data, "vm");

	if (!event || !vm || strcmp(vm, name))
		return false;
	if (is_agent(goal))
		return !strcmp(event, "AGENT") && js_get_bool(data, "connected", false);
	return !strcmp(event, "VM_STATE_CHANGE") && goal_reached(goal_states(goal), js_get_str(data, "state"));
}

static int left_running(const char *name, struct err *e)
{
	return err_set(e, -ETIME, ERR_TIMEOUT, "the guest has not shut down by the deadline (shutdown.deadline), and shutdown.then leaves the VM "
		"running; stop it with cairn destroy %s, or with cairn shutdown --then destroy %s", shell_word(name).s, shell_word(name).s);
}

/* Return whether the running VM's shutdown is over without an event that this client has seen: it may have waited for
 * another VM then. */
static bool shutdown_is_over(struct json_object *info)
{
	static const char *const signs[] = { "shutdown-deadline", "shutdown-at", "waits-for-hook" };

	for (size_t i = 0; i < ARRAY_SIZE(signs); i++)
		if (js_get(info, signs[i]))
			return false;
	return js_get_int(info, "pid", 0) > 0;
}

static bool deadline_runs(struct cli *c, const char *name)
{
	CLEANUP_JS struct json_object *info = NULL;
	struct err e;

	return cli_vm_info(c, name, &info, &e) == 0 && js_get(info, "shutdown-deadline");
}

/* Fail if this event reports that the shutdown is over and the VM keeps running. */
static int shutdown_over_check(struct cli *c, struct json_object *ev, const char *name, struct err *e)
{
	struct json_object *data = js_get(ev, "data");
	const char *event = js_get_str(ev, "event"), *what = js_get_str_or(data, "what", ""), *vm = js_get_str(data, "vm");

	if (!event || strcmp(event, "SHUTDOWN_PLAN") || !vm || strcmp(vm, name))
		return 0;
	if (!strcmp(what, "overdue") && !strcmp(js_get_str_or(data, "then", ""), "leave"))
		return left_running(name, e);
	if (!strcmp(what, "cancelled"))
		return err_set(e, -ECANCELED, ERR_CANCELLED, "the shutdown was cancelled meanwhile");
	if (!strcmp(what, "failed") && !deadline_runs(c, name)) /* at the deadline, the daemon stops the VM */
		return err_set(e, -EIO, ERR_GENERIC, "the shutdown has failed: %s", js_get_str_or(data, "detail", ""));
	return 0;
}

/* Fail if this event reports that the VM was removed or renamed: no later event will have its name. */
static int gone_check(struct json_object *ev, const char *name, struct err *e)
{
	struct json_object *data = js_get(ev, "data");
	const char *event = js_get_str(ev, "event"), *vm = js_get_str(data, "vm"), *to = js_get_str(data, "renamed-to");

	if (!event || strcmp(event, "VM_UNDEFINED") || !vm || strcmp(vm, name))
		return 0;
	if (to)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM was renamed meanwhile; wait for '%s'", to);
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM was undefined meanwhile");
}

static int wait_is_late(const char *name, const char *goal, struct err *e)
{
	if (is_agent(goal))
		return err_set(e, -ETIMEDOUT, ERR_TIMEOUT,
			"timeout: no guest agent answers; check that the VM runs, and cairn-agent or qemu-guest-agent in the guest");
	if (strcmp(goal, "shutoff"))
		return err_set(e, -ETIMEDOUT, ERR_TIMEOUT,
			"timeout: the VM is not %s; see cairn domstate --reason %s", goal, shell_word(name).s);
	return err_set(e, -ETIMEDOUT, ERR_TIMEOUT,
		"timeout: the VM is not %s; see cairn domstate --reason %s, or stop the VM with cairn destroy %s",
		goal, shell_word(name).s, shell_word(name).s);
}

/* Returns whether the first frame of cairn-agent comes. */
static bool hello_comes(int sock)
{
	uint8_t buf[AGENT_HEADER_BYTES + AGENT_HELLO_BYTES];
	struct agent_order order = { 0 };
	struct agent_frame f;
	size_t len = 0;

	while (len < sizeof(buf)) {
		struct pollfd p = { .fd = sock, .events = POLLIN };
		ssize_t n = poll(&p, 1, HELLO_MS) > 0 ? recv(sock, buf + len, sizeof(buf) - len, MSG_DONTWAIT) : 0;

		if (n <= 0)
			return false;
		len += (size_t)n;
	}
	return agent_frame_parse(buf, len, true, &f) > 0 && agent_order_check(&order, &f) == 0;
}

/* Ask whether cairn-agent answers. Returns 1: yes; 0: not now; -errno with a sentence: the VM has no vsock device, or
 * the user may not connect. */
static int cairn_agent_ask(struct cli *c, const char *name, struct err *e)
{
	CLEANUP(guest_link_close) struct guest_link link = { .sock = -1 };
	int r = guest_link_open(c, name, &link, e);

	if (!r)
		return hello_comes(link.sock);
	return e->cls == ERR_UNSUPPORTED || e->cls == ERR_PERMISSION ? r : 0;
}

/* Fail if the VM runs without a port for QEMU's guest agent, because a running VM gets no new port.
 * asked: what cairn_agent_ask() returned, with its sentence in e; 0: it was not asked. */
static int qga_possible(struct json_object *info, const char *name, int asked, struct err *e)
{
	if (js_get_int(info, "pid", 0) <= 0 || js_get_str(info, "agent"))
		return 0;
	if (asked && e->cls != ERR_UNSUPPORTED)
		return asked;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM has no port for QEMU's guest agent%s; set \"guest_agent\": true%s with cairn edit %s, shut "
		"the VM down and start it", asked ? ", and no vsock device for cairn-agent" : "", asked ? " or \"vsock\": true" : "", shell_word(name).s);
}

/* Returns 1: the user's roles have changed, so look again; 0; -errno. */
static int wait_round(struct cli *c, const char *name, const char *word, uint64_t deadline_ns, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	uint64_t ask_ns = strcmp(word, "agent") ? UINT64_MAX : 0; /* when to ask for cairn-agent */
	const char *real;
	int r = cli_vm_info(c, name, &info, e), asked = 0;

	if (r < 0)
		return r;
	real = js_get_str(info, "name");
	/* The connection was made before this answer and receives all events, so no later change is missed. */
	if (goal_reached(goal_states(word), js_get_str(info, is_agent(word) ? "agent" : "word")))
		return 0;
	if (!strcmp(word, "shutdown") && js_get_bool(info, "shutdown-overdue", false))
		return left_running(real, e);
	if (!strcmp(word, "shutdown") && shutdown_is_over(info))
		return err_set(e, -ECANCELED, ERR_CANCELLED, "the shutdown was cancelled or has failed meanwhile");
	for (;;) {
		CLEANUP_JS struct json_object *ev = NULL;

		if (loop_now_ns() >= ask_ns) {
			asked = cairn_agent_ask(c, real, e);
			ask_ns = asked < 0 ? UINT64_MAX : loop_now_ns() + ASK_EVERY_NS;
		}
		if (asked > 0)
			return 0;
		r = is_agent(word) && ask_ns == UINT64_MAX ? qga_possible(info, real, asked, e) : 0;
		if (r < 0)
			return r;
		r = cli_next_event(c, MIN(deadline_ns, ask_ns), &ev, e);
		if (r == -ETIMEDOUT && ask_ns < deadline_ns)
			continue;
		if (r == -ETIMEDOUT)
			return wait_is_late(real, word, e);
		if (!r)
			r = gone_check(ev, real, e);
		if (!r && !strcmp(word, "shutdown"))
			r = shutdown_over_check(c, ev, real, e);
		if (r < 0 || event_fits(ev, real, word))
			return r;
		if (cli_roles_changed(ev))
			return 1;
	}
}

int wait_for_state(struct cli *c, const char *name, const char *word, uint64_t deadline_ns,
	struct err *e)
{
	int r;

	do
		r = wait_round(c, name, word, deadline_ns, e);
	while (r > 0);
	return r;
}

/* ---- waiting for an address ---- */

/* Is it worth asking again? The agent may be busy, or the VM paused. */
static bool may_answer_yet(const struct err *e)
{
	return e->cls == ERR_TIMEOUT || e->cls == ERR_BUSY || e->cls == ERR_WRONG_STATE;
}

static int pause_until(struct cli *c, uint64_t until_ns, struct err *e)
{
	int r;

	do {
		CLEANUP_JS struct json_object *ev = NULL;

		r = cli_next_event(c, until_ns, &ev, e);
	} while (!r);
	return r == -ETIMEDOUT ? 0 : r;
}

static int wait_for_ip(struct cli *c, const char *name, uint64_t deadline_ns, char text[ADDRESS_TEXT], struct err *e)
{
	for (;;) {
		CLEANUP_JS struct json_object *interfaces = NULL;
		uint64_t now;
		int r = wait_for_state(c, name, "qga", deadline_ns, e);

		if (r < 0)
			return r;
		r = addresses_ask(c, name, &interfaces, e);
		if (!r && address_pick(interfaces, text))
			return 0;
		if (r < 0 && !may_answer_yet(e))
			return r;
		now = loop_now_ns();
		if (now >= deadline_ns)
			return err_set(e, -ETIMEDOUT, ERR_TIMEOUT,
				"timeout: the guest has no address; see cairn domifaddr %s and cairn domiflist %s",
				shell_word(name).s, shell_word(name).s);
		r = pause_until(c, MIN(now + ASK_EVERY_NS, deadline_ns), e);
		if (r < 0)
			return r;
	}
}

/* ---- the verb wait ---- */

static int wait_failed(const struct cli *c, const char *word, const struct err *e)
{
	if (e->cls == ERR_NOT_FOUND)
		return cli_fail(e, "failed to get domain '%s'", c->pos[0]);
	if (!strcmp(word, "agent"))
		return cli_fail(e, "No guest agent answers in domain '%s'", c->pos[0]);
	if (!strcmp(word, "ip"))
		return cli_fail(e, "Domain '%s' has no address", c->pos[0]);
	return cli_fail(e, "Domain '%s' is not %s", c->pos[0], word);
}

int verb_wait(struct cli *c)
{
	const char *given = option_value(c, "for"), *word = given ? given : "running";
	uint64_t timeout_ns, deadline = UINT64_MAX;
	char address[ADDRESS_TEXT];
	struct err e;
	bool ip;
	int r = option_seconds(c, "timeout", UINT64_MAX, &timeout_ns);

	if (r)
		return r;
	ip = !strcmp(word, "ip");
	if (timeout_ns != UINT64_MAX)
		deadline = loop_now_ns() + timeout_ns;
	r = ip ? wait_for_ip(c, c->pos[0], deadline, address, &e) : wait_for_state(c, c->pos[0], word, deadline, &e);
	if (r < 0)
		return wait_failed(c, word, &e);
	if (ip)
		printf("%s\n", address);
	return CLI_OK;
}
