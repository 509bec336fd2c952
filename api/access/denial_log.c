#include "api/access/denial_log.h"
#include "api/access/audit.h"
#include "api/schema/event.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/ratelimit.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

/* Number of slots. Each slot but the last belongs to one user. All users for whom no other slot is free share the
 * last slot. */
#define USERS 64
#define OTHERS (USERS - 1)

struct user {
	uid_t uid; /* meaningless in the shared slot */
	struct ratelimit limit;
	int64_t since_ns;   /* realtime of the first omitted denial; valid while limit.left_out is not 0 */
	uint64_t unaudited; /* omitted denials that would have had an audit line */
};

struct denial_log {
	const struct event_sink *sink;
	struct audit *audit;
	struct loop_timer *timer;
	bool armed;
	struct user users[USERS];
};

static bool window_is_over(const struct user *u, uint64_t now_ns)
{
	return !u->limit.since_ns || now_ns - u->limit.since_ns >= RATELIMIT_WINDOW_NS;
}

static struct user *user_of(struct denial_log *r, uid_t uid)
{
	uint64_t now = loop_now_ns();
	struct user *unused = NULL;

	for (unsigned i = 0; i < OTHERS; i++) {
		struct user *u = &r->users[i];

		if (u->limit.since_ns && u->uid == uid)
			return u;
		if (!unused && window_is_over(u, now) && !u->limit.left_out)
			unused = u;
	}
	if (!unused)
		return &r->users[OTHERS];
	*unused = (struct user){ .uid = uid };
	return unused;
}

static void audit_left_out(struct denial_log *r, const struct user *u)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();

	js_put_int(line, "time", (int64_t)clock_realtime_ns());
	if (u != &r->users[OTHERS])
		js_put_int(line, "uid", u->uid);
	js_put_str(line, "outcome", err_class_name(ERR_PERMISSION));
	js_put_uint(line, "left-out", u->unaudited);
	js_put_int(line, "since", u->since_ns);
	audit_add(r->audit, line);
}

static void left_out_report(struct denial_log *r, struct user *u)
{
	struct json_object *data = json_object_new_object();

	if (u != &r->users[OTHERS])
		js_put_int(data, "uid", u->uid);
	js_put_uint(data, "left-out", u->limit.left_out);
	js_put_int(data, "since", u->since_ns);
	event_emit(r->sink, EVENT_REFUSALS_LEFT_OUT, NULL, NULL, data);
	if (u->unaudited)
		audit_left_out(r, u);
	u->limit.left_out = 0;
	u->unaudited = 0;
}

static void window_timer_fire(void *opaque)
{
	struct denial_log *r = opaque;
	uint64_t now = loop_now_ns(), next = UINT64_MAX;

	for (unsigned i = 0; i < USERS; i++) {
		struct user *u = &r->users[i];

		if (!u->limit.left_out)
			continue;
		if (window_is_over(u, now))
			left_out_report(r, u);
		else
			next = MIN(next, u->limit.since_ns + RATELIMIT_WINDOW_NS);
	}
	r->armed = next != UINT64_MAX;
	if (r->armed)
		loop_timer_arm(r->timer, next);
}

int denial_log_open(struct loop *loop, const struct event_sink *sink, struct audit *audit, struct denial_log **ret_r,
	struct err *e)
{
	struct denial_log *r = calloc(1, sizeof(*r));
	int ret = r ? loop_timer_new(loop, window_timer_fire, r, &r->timer) : -ENOMEM;

	if (ret < 0) {
		free(r);
		return err_set_errno(e, ret, "refusals");
	}
	r->sink = sink;
	r->audit = audit;
	*ret_r = r;
	return 0;
}

void denial_log_close(struct denial_log *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < USERS; i++)
		if (r->users[i].limit.left_out)
			left_out_report(r, &r->users[i]);
	loop_timer_free(r->timer);
	free(r);
}

static void left_out_note(struct denial_log *r, struct user *u)
{
	if (u->limit.left_out == 1)
		u->since_ns = (int64_t)clock_realtime_ns();
	/* One timer serves all users: if it is armed already, window_timer_fire() arms it again for this window. */
	if (!r->armed)
		loop_timer_arm(r->timer, u->limit.since_ns + RATELIMIT_WINDOW_NS);
	r->armed = true;
}

bool denial_log_report(struct denial_log *r, enum event_id id, uid_t uid, pid_t pid, struct json_object *data)
{
	struct user *u = user_of(r, uid);
	uint64_t earlier;

	/* The window has ended but the timer has not fired yet. */
	if (u->limit.left_out && window_is_over(u, loop_now_ns()))
		left_out_report(r, u);
	if (!ratelimit_take(&u->limit, loop_now_ns(), &earlier)) {
		json_object_put(data);
		left_out_note(r, u);
		return false;
	}
	js_put_int(data, "uid", uid);
	js_put_int(data, "pid", pid);
	event_emit(r->sink, id, NULL, NULL, data);
	return true;
}

void denial_log_unaudited(struct denial_log *r, uid_t uid)
{
	user_of(r, uid)->unaudited++;
}
