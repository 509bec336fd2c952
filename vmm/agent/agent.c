#include "vmm/agent/agent.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define THAW_TRIES 3
/* Rate limit of changed(): REPORT_MAX calls in REPORT_NS, because a guest can open and close the port at any rate. */
#define REPORT_MAX 8
#define REPORT_NS 1000000000ULL
/* Input that is read for the answer to a sync that timed out: on a busy host the agent answers late, and clients wait
 * until it does. A guest cannot keep the loop busy with more. */
#define LATE_BYTES_MAX (64 * 1024)
/* Sent before guest-sync-delimited, to make the agent discard a partial line. The agent's answer begins with the same
 * byte. */
#define SENTINEL "\xff"

enum agent_state {
	IDLE,
	FREEZE_SYNC, /* the sync shows whether an agent answers, and where its answers begin */
	FREEZE_ASKED,
	FROZEN,
	THAW_SYNC, /* the thaw is sent together with the sync; its answer follows the sync's */
	THAW_ASKED,
	TIME_SYNC,
	TIME_ASKED,
	PING_SYNC, /* the port was opened: a sync checks whether an agent answers */
	REQUEST_SYNC,
	REQUEST_ASKED,
	NAME_SYNC,
	NAME_ASKED,
	COMMAND_SYNC,
	COMMAND_ASKED,
};

/* Slots of struct agent's requests. Address queries have a separate slot, so that they do not block a shutdown. */
enum { REQUEST_ACTION, REQUEST_ADDRESSES, REQUEST_COUNT };

/* A command whose caller waits for the result. */
struct request {
	bool due, under_way;
	struct vm_addresses *into; /* addresses go here; NULL: a command without result data */
	bool silent; /* a missing answer counts as success */
	uint64_t begin_before_ns; /* 0: no limit */
	char text[128 + 2 * AGENT_WORDS_MAX];
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

struct agent {
	struct loop *loop;
	int fd;
	struct loop_watch *watch;
	struct loop_timer *timer;
	struct agent_times times;
	enum agent_state state;
	/* The last sync, and the oldest one whose answer counts. No command was sent between the two. */
	int64_t id, first_id;
	bool unsynced; /* the answer to the last sync has not come; data that the guest sends before it is no answer
		        * to a command */
	unsigned tries;
	char line[AGENT_LINE_MAX];
	size_t len, answer_len; /* bytes of the current line; length of the last complete line */
	bool wants_sentinel; /* discard input up to the next sentinel */
	bool overlong;
	bool waits; /* a freeze is due once the current command ends */
	bool hurried; /* the command in progress has less time than its client gave it, because a freeze waits */
	uint64_t due_ns; /* when the timer fires; without meaning in IDLE */
	bool time_due, thaw_due, time_late; /* time_late: set the clock once an agent answers */
	struct request requests[REQUEST_COUNT], *request; /* *request: the one in progress */
	struct agent_command *commands; /* the first one is in progress in the states COMMAND_ */
	unsigned ncommands;
	size_t late_bytes; /* input still read in IDLE for the answer to the last sync, which timed out; 0: none is awaited */
	uint64_t synced_ns; /* time of the last answer, if nothing has disturbed the port since; 0: something has */
	char hostname[AGENT_HOSTNAME_MAX + 1]; /* host name still to be set; empty: none */
	bool owes_thaw;
	void (*thaw_failed)(void *opaque);
	void *thaw_opaque;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
	struct loop_task port_task;
	atomic_bool port_posted, port_open, ping_due;
	bool answers, told_open, told_answers;
	uint64_t tell_window_ns; /* start of the current window */
	unsigned told;		 /* changed() calls in that window */
	struct loop_timer *tell_timer;
	void (*changed)(void *opaque, bool open, bool answers);
	void *changed_opaque;
};

static bool input_wanted(const struct agent *a)
{
	return a->state == IDLE ? a->late_bytes > 0 : a->state != FROZEN;
}

static void state_set(struct agent *a, enum agent_state s, uint64_t ns)
{
	a->state = s;
	a->hurried = false;
	/* Without a command in progress, leave input in the port, except a late answer. */
	loop_watch_events(a->watch, input_wanted(a) ? POLLIN : 0);
	if (s == IDLE)
		loop_timer_disarm(a->timer);
	else if (ns)
		loop_timer_arm(a->timer, a->due_ns = loop_now_ns() + ns);
}

/* If the VM itself needs the agent, let the client's command in progress take no longer than commands wait for their
 * turns. A user with the role guest may set a time limit of two minutes for a command, which would delay snapshots. */
static void command_limit(struct agent *a)
{
	uint64_t due_ns = loop_now_ns() + a->times.turn_ns;

	if ((!a->waits && !a->thaw_due) || a->state != COMMAND_ASKED || a->due_ns <= due_ns)
		return;
	a->hurried = true;
	loop_timer_arm(a->timer, a->due_ns = due_ns);
}

/* Send all of text or, when the guest does not read, nothing; the timeout then handles the missing
 * answer. Returns whether the text was sent. */
static bool line_send(struct agent *a, const char *text)
{
	if (send(a->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	log_debug("agent", "the guest does not read from its port: %s", strerror(errno));
	return false;
}

static void sync_send(struct agent *a)
{
	char text[96];

	snprintf(text, sizeof(text), SENTINEL "{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" PRId64 "}}\n", a->id + 1);
	a->synced_ns = 0;
	a->late_bytes = 0;
	a->wants_sentinel = a->unsynced = true;
	a->len = 0;
	if (line_send(a, text))
		a->id++;
}

/* Find out whether an agent answers. s: one of the states ..._SYNC. */
static void sync_begin(struct agent *a, enum agent_state s)
{
	state_set(a, s, a->times.sync_ns);
	sync_send(a);
}

static void thaw_send(struct agent *a)
{
	sync_send(a);
	line_send(a, "{\"execute\":\"guest-fsfreeze-thaw\"}\n");
	state_set(a, THAW_SYNC, a->times.thaw_ns);
}

static void thaw_begin(struct agent *a)
{
	a->tries = 1;
	a->thaw_due = false;
	a->first_id = a->id + 1; /* no thaw follows an earlier sync */
	thaw_send(a);
}

static void freeze_begin(struct agent *a)
{
	a->waits = false;
	sync_begin(a, FREEZE_SYNC);
}

static void time_begin(struct agent *a)
{
	a->time_due = a->time_late = false;
	sync_begin(a, TIME_SYNC);
}

static void time_send(struct agent *a)
{
	char text[96];

	snprintf(text, sizeof(text), "{\"execute\":\"guest-set-time\",\"arguments\":{\"time\":%" PRId64 "}}\n",
		(int64_t)clock_realtime_ns());
	line_send(a, text);
	a->synced_ns = a->time_late = 0;
	state_set(a, TIME_ASKED, a->times.sync_ns);
}

static int turn_missed(const struct agent *a, struct err *e)
{
	return err_set(e, -EBUSY, ERR_BUSY, "the guest agent was busy with other commands for %llu s; this one was not sent; try "
		"again in a moment", (unsigned long long)(a->times.turn_ns / 1000000000));
}

static void request_end(struct agent *a, int r, const struct err *e);

static void request_begin(struct agent *a, struct request *which)
{
	struct err e;

	a->request = which;
	which->due = false;
	which->under_way = true;
	if (which->begin_before_ns && loop_now_ns() > which->begin_before_ns) {
		request_end(a, turn_missed(a, &e), &e);
		return;
	}
	sync_begin(a, REQUEST_SYNC);
}

static void name_send(struct agent *a)
{
	char text[AGENT_NAME_COMMAND_MAX];

	agent_name_command(a->hostname, text);
	a->hostname[0] = 0;
	line_send(a, text);
	state_set(a, NAME_ASKED, a->times.sync_ns);
}

static void command_begin(struct agent *a);

static void state_report(void *opaque)
{
	struct agent *a = opaque;
	bool open = atomic_load(&a->port_open);
	uint64_t now = loop_now_ns();

	if (!a->changed || (open == a->told_open && a->answers == a->told_answers))
		return;
	if (now - a->tell_window_ns >= REPORT_NS) {
		a->tell_window_ns = now;
		a->told = 0;
	}
	if (a->told == REPORT_MAX) {
		loop_timer_arm(a->tell_timer, a->tell_window_ns + REPORT_NS);
		return;
	}
	a->told++;
	a->told_open = open;
	a->told_answers = a->answers;
	a->changed(a->changed_opaque, open, a->answers);
}

static void answers_set(struct agent *a, bool answers)
{
	a->answers = answers;
	state_report(a);
}

static void ping_begin(struct agent *a)
{
	atomic_store(&a->ping_due, false);
	sync_begin(a, PING_SYNC);
}

static void queue_resume(struct agent *a)
{
	state_set(a, IDLE, 0);
	if (a->thaw_due)
		thaw_begin(a);
	else if (a->waits)
		freeze_begin(a);
	else if (a->time_due)
		time_begin(a);
	else if (a->requests[REQUEST_ACTION].due)
		request_begin(a, &a->requests[REQUEST_ACTION]);
	else if (a->requests[REQUEST_ADDRESSES].due)
		request_begin(a, &a->requests[REQUEST_ADDRESSES]);
	else if (a->commands)
		command_begin(a);
	else if (a->hostname[0])
		sync_begin(a, NAME_SYNC);
	else if (atomic_load(&a->ping_due))
		ping_begin(a);
}

static void request_end(struct agent *a, int r, const struct err *e)
{
	struct request was = *a->request;

	a->request->under_way = false;
	queue_resume(a);
	was.done(was.opaque, r, e);
}

static void request_answered(struct agent *a, const struct agent_answer *x)
{
	struct err e;

	if (x->kind == AGENT_RETURN && (!a->request->into || agent_addresses_parse(a->line, a->answer_len, a->request->into)))
		request_end(a, 0, NULL);
	else if (x->kind != AGENT_ERROR && a->request->into)
		request_end(a, err_set(&e, -EPROTO, ERR_GENERIC, "the guest agent sent a malformed "
			"answer; restart qemu-guest-agent in the guest"), &e);
	else
		request_end(a, err_set(&e, -EIO, ERR_GENERIC, "the guest agent refuses: %s",
			x->kind == AGENT_ERROR && x->desc[0] ? x->desc : "it gave no reason"), &e);
}

static void request_timed_out(struct agent *a)
{
	struct err e;

	if (a->state == REQUEST_ASKED && a->request->silent)
		request_end(a, 0, NULL);
	else
		request_end(a, err_set(&e, -ETIMEDOUT, ERR_TIMEOUT,
			"the guest agent did not answer within %llu s; is qemu-guest-agent running in the guest?",
			(unsigned long long)(a->times.sync_ns / 1000000000)), &e);
}

/* ---- commands of clients ---- */

static void command_end(struct agent *a, int r, const struct err *e)
{
	struct agent_command *x = a->commands;

	a->commands = x->next;
	a->ncommands--;
	queue_resume(a);
	x->done(x, r, e);
}

/* Send the command. A part of it may be in the port if the guest does not read; the sentinel of the next sync ends that
 * part. */
static void command_send(struct agent *a)
{
	struct agent_command *x = a->commands;
	ssize_t n = send(a->fd, x->text, x->len, MSG_DONTWAIT | MSG_NOSIGNAL);
	struct err e;

	a->synced_ns = 0;
	if (n == (ssize_t)x->len) {
		state_set(a, COMMAND_ASKED, x->timeout_ns);
		command_limit(a); /* a freeze may have come while the agent answered the sync */
	} else {
		command_end(a, err_set(&e, -EBUSY, ERR_BUSY, "the guest agent does not read its port; try again in a moment, or "
			"restart qemu-guest-agent in the guest"), &e);
	}
}

/* queue_resume() calls this, so end at most one command that has waited too long here; its end begins the next one. */
static void command_begin(struct agent *a)
{
	uint64_t synced_ns = a->synced_ns;
	struct err e;

	if (loop_now_ns() > a->commands->begin_before_ns) {
		command_end(a, turn_missed(a, &e), &e);
		return;
	}
	if (synced_ns && loop_now_ns() - synced_ns < AGENT_SYNCED_NS) {
		a->len = 0;
		command_send(a);
		return;
	}
	sync_begin(a, COMMAND_SYNC);
}

/* Write the content of the line buffer to the client's file. Returns false if the answer is too long or cannot be
 * written. */
static bool command_keep(struct agent *a)
{
	struct agent_command *x = a->commands;

	if (x->bytes + a->len > x->bytes_max || pwrite_full(x->fd, a->line, a->len, (off_t)x->bytes) < 0)
		return false;
	x->bytes += a->len;
	a->len = 0;
	return true;
}

/* The line ends. The buffer has its last part. */
static void command_answered(struct agent *a)
{
	struct agent_command *x = a->commands;
	struct agent_answer answer = { .kind = AGENT_RETURN };
	struct err e;

	if (a->overlong) {
		command_end(a, err_set(&e, -EPROTO, ERR_GENERIC, "the guest agent's answer is longer than %llu bytes; ask for less",
			(unsigned long long)x->bytes_max), &e);
		return;
	}
	if (!x->bytes)
		agent_answer_parse(a->line, a->len, &answer);
	if (answer.kind != AGENT_GARBAGE)
		a->synced_ns = loop_now_ns();
	if (answer.kind == AGENT_ERROR)
		command_end(a, err_set(&e, -EIO, ERR_GENERIC, "the guest agent refuses: %s",
			answer.desc[0] ? answer.desc : "it gave no reason"), &e);
	else if (answer.kind == AGENT_GARBAGE)
		command_end(a, err_set(&e, -EPROTO, ERR_GENERIC, "the guest agent sent a malformed answer; restart "
			"qemu-guest-agent in the guest"), &e);
	else if (!command_keep(a))
		command_end(a, err_set(&e, -EPROTO, ERR_GENERIC, "the guest agent's answer cannot be kept; ask for less"), &e);
	else
		command_end(a, 0, NULL);
}

static void command_timed_out(struct agent *a)
{
	bool asked = a->state == COMMAND_ASKED, hurried = a->hurried;
	uint64_t ns = asked ? a->commands->timeout_ns : a->times.sync_ns;
	struct err e;

	if (hurried) {
		command_end(a, err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "the guest agent did not answer the command before the VM itself "
			"needed the agent, for a snapshot or a thaw; it may have carried the command out; try again in a moment"), &e);
		return;
	}
	command_end(a, err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, asked ? "the guest agent did not answer the command within %llu ms; it may "
		"have carried it out" : "the guest agent did not answer within %llu ms; is qemu-guest-agent running in the guest?",
		(unsigned long long)(ns / 1000000)), &e);
}

static void thaw_end(struct agent *a, bool thawed)
{
	void (*failed)(void *opaque) = a->thaw_failed;

	if (thawed)
		a->owes_thaw = false;
	a->first_id = a->id + 1; /* a thaw's answer follows each earlier one */
	if (!a->thaw_due) /* if another thaw is due, that thaw's end calls thaw_failed() */
		a->thaw_failed = NULL;
	if (!thawed && !a->thaw_failed && failed)
		failed(a->thaw_opaque);
	queue_resume(a);
}

/* ---- handling answers ---- */

static void freeze_answered(struct agent *a, const struct agent_answer *x)
{
	struct err e;

	if (x->kind == AGENT_RETURN) {
		state_set(a, FROZEN, a->times.hold_ns);
		a->done(a->opaque, 0, NULL);
		return;
	}
	thaw_begin(a);
	a->done(a->opaque, x->kind == AGENT_ERROR ?
		err_set(&e, -EIO, ERR_GENERIC, "the guest agent cannot freeze its file systems: %s", x->desc[0] ? x->desc : "it gave no reason") :
		err_set(&e, -EPROTO, ERR_GENERIC, "the guest agent sent a malformed answer; restart qemu-guest-agent in the guest"), &e);
}

/* The guest sent a line, and the answer to the last sync is missing. The answer to any sync since the last command
 * shows that an agent answers: one that is always late would otherwise get no command. A command's answer begins behind
 * the answer to the last sync, because an agent also answers a sync's sentinel, with an error. */
static void sync_answered(struct agent *a, const struct agent_answer *x)
{
	bool is_sync = x->kind == AGENT_RETURN && x->is_number;

	a->unsynced = a->wants_sentinel = !is_sync || x->number != a->id;
	if (!is_sync || x->number < a->first_id || x->number > a->id)
		return;
	a->first_id = x->number + 1;
	answers_set(a, true);
	if (a->state == PING_SYNC || a->state == IDLE) {
		a->late_bytes = a->unsynced ? LATE_BYTES_MAX : 0;
		a->synced_ns = a->unsynced ? 0 : loop_now_ns();
		if (a->time_late && !a->unsynced)
			time_send(a);
		else
			queue_resume(a);
		return;
	}
	a->first_id = a->id + 1;
	a->time_due |= a->time_late;
	if (a->state == THAW_SYNC) {
		a->unsynced = a->wants_sentinel = false; /* a thaw follows each of these syncs */
		state_set(a, THAW_ASKED, 0);
	} else if (a->state == TIME_SYNC) {
		time_send(a);
	} else if (a->state == REQUEST_SYNC) {
		line_send(a, a->request->text);
		state_set(a, REQUEST_ASKED, a->request->silent ? AGENT_SILENCE_NS : a->times.sync_ns);
	} else if (a->state == NAME_SYNC) {
		name_send(a);
	} else if (a->state == COMMAND_SYNC) {
		command_send(a);
	} else if (a->state == FREEZE_SYNC) {
		state_set(a, FREEZE_ASKED, a->times.freeze_ns);
		a->owes_thaw = true;
		line_send(a, "{\"execute\":\"guest-fsfreeze-freeze\"}\n");
	}
}

static void line_done(struct agent *a)
{
	struct agent_answer x = {.kind = AGENT_GARBAGE};

	if (a->state == COMMAND_ASKED && !a->unsynced) {
		command_answered(a);
		a->overlong = false;
		return;
	}
	if (!a->overlong)
		agent_answer_parse(a->line, a->len, &x);
	a->answer_len = a->len;
	a->len = 0;
	a->overlong = false;
	if (a->unsynced) {
		sync_answered(a, &x);
		return;
	}
	switch (a->state) {
	case REQUEST_ASKED:
		request_answered(a, &x);
		break;
	case NAME_ASKED:
	case TIME_ASKED:
		if (x.kind != AGENT_RETURN)
			log_info("agent", "cannot set the guest's %s: %s", a->state == NAME_ASKED ? "host name" : "clock",
				x.kind == AGENT_ERROR ? x.desc : "malformed answer");
		queue_resume(a);
		break;
	case FREEZE_ASKED:
		freeze_answered(a, &x);
		break;
	case THAW_ASKED:
		if (x.kind != AGENT_RETURN)
			log_warn("agent", "cannot thaw the guest's file systems: %s",
				x.kind == AGENT_ERROR ? x.desc : "malformed answer");
		thaw_end(a, x.kind == AGENT_RETURN);
		break;
	default: /* no command is in progress */
		break;
	}
}

static void byte_take(struct agent *a, char c)
{
	if (c == SENTINEL[0]) {
		a->wants_sentinel = a->overlong = false;
		a->len = 0;
	} else if (a->wants_sentinel) {
		return;
	} else if (c == '\n') {
		line_done(a);
	} else if (a->overlong || (a->len == sizeof(a->line) && !(a->state == COMMAND_ASKED && !a->unsynced && command_keep(a)))) {
		a->overlong = true;
	} else {
		a->line[a->len++] = c;
	}
}

static void port_readable(void *opaque, unsigned revents)
{
	struct agent *a = opaque;
	char buf[4096];
	ssize_t n = recv(a->fd, buf, sizeof(buf), MSG_DONTWAIT);

	(void)revents;
	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
		loop_watch_events(a->watch, 0); /* the port is closed; the timeouts end the commands in progress */
	for (ssize_t i = 0; i < n && input_wanted(a); i++) {
		if (a->state == IDLE && !--a->late_bytes)
			state_set(a, IDLE, 0);
		else
			byte_take(a, buf[i]);
	}
}

/* ---- handling timeouts ---- */

static void deadline_passed(void *opaque)
{
	struct agent *a = opaque;
	bool asked = a->state == FREEZE_ASKED;
	struct err e;

	a->synced_ns = 0;
	if (a->state == FREEZE_SYNC || a->state == TIME_SYNC || a->state == REQUEST_SYNC || a->state == PING_SYNC ||
		a->state == NAME_SYNC || a->state == COMMAND_SYNC) {
		a->late_bytes = LATE_BYTES_MAX;
		answers_set(a, false);
	}
	switch (a->state) {
	case FREEZE_SYNC:
	case FREEZE_ASKED:
		/* The agent may still freeze, so queue a thaw behind the freeze. */
		if (asked)
			thaw_begin(a);
		else
			queue_resume(a);
		a->done(a->opaque, err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, asked ? "the guest agent did not freeze the file systems within "
			"%llu s" : "the guest agent did not answer within %llu s; is qemu-guest-agent running in the guest?",
			(unsigned long long)((asked ? a->times.freeze_ns : a->times.sync_ns) / 1000000000)), &e);
		break;
	case FROZEN:
		log_warn("agent", "the guest's file systems were frozen for too long; thawing them now");
		thaw_begin(a);
		break;
	case THAW_SYNC:
	case THAW_ASKED:
		if (a->tries++ < THAW_TRIES) {
			thaw_send(a);
			break;
		}
		log_error("agent", "the guest agent did not confirm that the file systems are thawed; "
			"run `fsfreeze -u` on them in the guest");
		thaw_end(a, false);
		break;
	case TIME_SYNC:
	case TIME_ASKED:
		a->time_late = a->state == TIME_SYNC;
		log_info("agent", "cannot set the guest's clock: no agent answers%s", a->time_late ? " yet" : "");
		queue_resume(a);
		break;
	case REQUEST_SYNC:
	case REQUEST_ASKED:
		request_timed_out(a);
		break;
	case NAME_SYNC:
	case NAME_ASKED:
		log_info("agent", "cannot set the guest's host name: no agent answers");
		a->hostname[0] = 0;
		queue_resume(a);
		break;
	case COMMAND_SYNC:
	case COMMAND_ASKED:
		command_timed_out(a);
		break;
	default:
		queue_resume(a);
	}
}

/* ---- the agent's port ---- */

static void port_run(struct loop_task *t)
{
	struct agent *a = container_of(t, struct agent, port_task);

	atomic_store(&a->port_posted, false);
	a->synced_ns = 0;
	if (!atomic_load(&a->port_open)) {
		a->answers = false;
		a->late_bytes = 0;
		if (a->state == IDLE) {
			a->first_id = a->id + 1; /* an unread answer shows no agent any more */
			state_set(a, IDLE, 0);
		}
	}
	if (atomic_load(&a->ping_due) && a->state == IDLE)
		ping_begin(a);
	state_report(a);
}

void agent_port(struct agent *a, bool open, bool loaded)
{
	atomic_store(&a->port_open, open);
	atomic_store(&a->ping_due, open && !loaded);
	if (!atomic_exchange(&a->port_posted, true))
		loop_post(a->loop, &a->port_task);
}

void agent_watch(struct agent *a, void (*changed)(void *opaque, bool open, bool answers), void *opaque)
{
	a->changed = changed;
	a->changed_opaque = opaque;
}

bool agent_port_is_open(const struct agent *a)
{
	return a && atomic_load(&a->port_open);
}

bool agent_answers(const struct agent *a)
{
	return a && a->answers;
}

/* ---- requests of the VM ---- */

int agent_freeze(struct agent *a, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	if (a->waits || a->state == FREEZE_SYNC || a->state == FREEZE_ASKED || a->state == FROZEN)
		return err_set(e, -EBUSY, ERR_BUSY, "the guest agent is still busy with the previous request; try again in a moment");
	a->done = done;
	a->opaque = opaque;
	a->waits = a->state != IDLE;
	if (!a->waits)
		freeze_begin(a);
	else
		command_limit(a);
	return 0;
}

bool agent_is_frozen(const struct agent *a)
{
	return a->state == FROZEN;
}

void agent_thaw(struct agent *a)
{
	if (a && a->state == FROZEN)
		thaw_begin(a);
}

bool agent_needs_thaw(const struct agent *a)
{
	return a && a->owes_thaw;
}

void agent_restored(struct agent *a, bool frozen)
{
	struct err e;

	if (!a)
		return;
	a->owes_thaw = frozen;
	a->synced_ns = 0;
	err_set(&e, -ECANCELED, ERR_CANCELLED, "the guest was reset, or its state was replaced, before the guest agent answered; "
		"it may have carried the command out; try again");
	if (a->state == COMMAND_ASKED)
		command_end(a, -ECANCELED, &e);
	else if (a->state == REQUEST_ASKED && !a->request->silent)
		request_end(a, -ECANCELED, &e);
}

void agent_carried(struct agent *a)
{
	if (a)
		a->answers = true;
}

void agent_thaw_restored(struct agent *a, void (*failed)(void *opaque), void *opaque)
{
	if (!agent_needs_thaw(a))
		return;
	a->thaw_due = true;
	a->thaw_failed = failed;
	a->thaw_opaque = opaque;
	if (a->state == IDLE)
		queue_resume(a);
	else
		command_limit(a);
}

void agent_set_time(struct agent *a)
{
	if (!a)
		return;
	a->time_due = true;
	if (a->state == IDLE)
		queue_resume(a);
}

/* Return the free slot for a request; NULL with -EBUSY in e when the slot is in use. */
static struct request *request_new(struct agent *a, unsigned which, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e)
{
	struct request *x = &a->requests[which];

	if (x->due || x->under_way) {
		err_set(e, -EBUSY, ERR_BUSY, "the guest agent is still busy with the previous request; try again in a moment");
		return NULL;
	}
	*x = (struct request){.done = done, .opaque = opaque};
	/* A query has no effect that could surprise anybody. */
	if (which == REQUEST_ACTION)
		x->begin_before_ns = loop_now_ns() + a->times.turn_ns;
	return x;
}

/* Queue a request whose text is complete. */
static int request_ask(struct agent *a, struct request *x)
{
	x->due = true;
	if (a->state == IDLE)
		queue_resume(a);
	return 0;
}

int agent_tell(struct agent *a, const char *line, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e)
{
	struct request *x = request_new(a, REQUEST_ACTION, done, opaque, e);
	char quoted[2 * AGENT_WORDS_MAX + 1];

	if (!x)
		return -EBUSY;
	agent_quote(line, quoted);
	snprintf(x->text, sizeof(x->text), "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"wall\",\"arg\":[\"%s\"]}}\n", quoted);
	return request_ask(a, x);
}

int agent_shutdown(struct agent *a, bool reboot, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e)
{
	struct request *x = request_new(a, REQUEST_ACTION, done, opaque, e);

	if (!x)
		return -EBUSY;
	x->silent = true;
	snprintf(x->text, sizeof(x->text), "{\"execute\":\"guest-shutdown\",\"arguments\":{\"mode\":\"%s\"}}\n",
		reboot ? "reboot" : "powerdown");
	return request_ask(a, x);
}

int agent_addresses(struct agent *a, struct vm_addresses *into, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e)
{
	struct request *x = request_new(a, REQUEST_ADDRESSES, done, opaque, e);

	if (!x)
		return -EBUSY;
	x->into = into;
	snprintf(x->text, sizeof(x->text), "{\"execute\":\"guest-network-get-interfaces\"}\n");
	return request_ask(a, x);
}

int agent_command(struct agent *a, struct agent_command *x, struct err *e)
{
	struct agent_command **last = &a->commands;

	if (a->ncommands == AGENT_COMMANDS_MAX)
		return err_set(e, -EBUSY, ERR_BUSY, "%d commands wait for the guest agent; try again in a moment", AGENT_COMMANDS_MAX);
	while (*last)
		last = &(*last)->next;
	*last = x;
	a->ncommands++;
	x->next = NULL;
	x->bytes = 0;
	x->begin_before_ns = loop_now_ns() + a->times.turn_ns;
	if (a->state == IDLE)
		queue_resume(a);
	return 0;
}

void agent_guest_off(struct agent *a)
{
	if (a && a->state == REQUEST_ASKED && a->request->silent)
		request_end(a, 0, NULL);
}

void agent_set_hostname(struct agent *a, const char *name)
{
	if (!a)
		return;
	agent_hostname(name, a->hostname);
	if (a->state == IDLE)
		queue_resume(a);
}

int agent_new(struct loop *l, int fd, const struct agent_times *t, struct agent **ret_a, struct err *e)
{
	struct agent *a = calloc(1, sizeof(*a));
	int r = a ? 0 : -ENOMEM;

	if (r < 0)
		return err_set_errno(e, r, "guest agent");
	a->loop = l;
	a->fd = -1;
	a->times = t ? *t : (struct agent_times){ AGENT_SYNC_NS, AGENT_FREEZE_NS, AGENT_THAW_NS, AGENT_HOLD_NS, AGENT_TURN_NS };
	/* Start from an id that an earlier process did not use, because answers to that process may still be in the
	 * port. */
	a->id = (int64_t)(loop_now_ns() & 0xffffffff);
	a->first_id = a->id + 1;
	a->port_task.run = port_run;
	r = loop_timer_new(l, deadline_passed, a, &a->timer);
	if (!r)
		r = loop_timer_new(l, state_report, a, &a->tell_timer);
	if (!r)
		r = loop_watch(l, fd, 0, port_readable, a, &a->watch);
	if (r < 0) {
		agent_free(a);
		return err_set_errno(e, r, "guest agent");
	}
	a->fd = fd;
	*ret_a = a;
	return 0;
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	loop_unwatch(a->watch);
	loop_timer_free(a->timer);
	loop_timer_free(a->tell_timer);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
}
