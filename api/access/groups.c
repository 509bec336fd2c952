#include "api/access/groups.h"
#include "api/access/rights.h"
#include "api/access/spawn.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MAX_BYTES (16 + (GROUPS_MAX + 1) * 11)
#define WHY_BYTES 80
#define NAMED_MAX 3 /* a note names at most this many lost groups */

/* The cached groups of one user. */
struct user {
	struct groups *all;
	struct user *next;
	uid_t uid;
	uint64_t asked_ns;
	bool known; /* the look-up has ended */
	int r;	    /* its result: 0; -ENOENT: the database does not know the user; another -errno: it failed */
	char why[WHY_BYTES]; /* the reason of a failed look-up */
	gid_t *list; /* owned; the primary group comes first */
	size_t n;
	struct groups_ask *askers; /* owned list; empty once the look-up has ended */
	bool answers; /* user_answer() is running */
	/* The process. After a failed look-up, it may not have ended yet. */
	int pidfd, out; /* out: a file in memory, with its answer. pidfd -1: there is no process */
	struct loop_watch *watch;
	struct loop_timer *timer;
};

struct groups_ask {
	struct user *of;
	struct groups_ask *next;
	struct rights *recorded; /* owned */
	void (*done)(void *opaque, const struct rights *now, const char *note);
	void *opaque;
};

struct groups {
	struct loop *loop;
	const char *program;
	struct user *users;
};

/* ---- the note on lost groups ---- */

static bool user_has_group(const struct user *u, gid_t gid)
{
	for (size_t i = 0; i < u->n; i++)
		if (u->list[i] == gid)
			return true;
	return false;
}

/* Print the recorded groups that the user lacks now: "group 4", "groups 4, 5 and others". Returns their number. */
static size_t lost_print(const struct user *u, const struct rights *recorded, char *buf, size_t size)
{
	gid_t lost[NAMED_MAX];
	size_t n = 0, at;

	for (size_t i = 0; i <= recorded->ngroups; i++) {
		gid_t gid = i ? recorded->groups[i - 1] : recorded->gid;
		bool is_kept = u->r < 0 && gid == recorded->gid;

		if (is_kept || user_has_group(u, gid) || (i && gid == recorded->gid))
			continue;
		if (n < NAMED_MAX)
			lost[n] = gid;
		n++;
	}
	at = (size_t)snprintf(buf, size, n == 1 ? "group" : "groups");
	for (size_t i = 0; i < MIN(n, NAMED_MAX); i++)
		at += (size_t)snprintf(buf + at, size - at, "%s %u", i ? "," : "", lost[i]);
	if (n > NAMED_MAX)
		snprintf(buf + at, size - at, " and others");
	return n;
}

static void note_make(const struct user *u, const struct rights *recorded, char note[GROUPS_NOTE_BYTES])
{
	char lost[64];
	size_t n = lost_print(u, recorded, lost, sizeof(lost));

	note[0] = 0;
	if (u->r < 0 && u->r != -ENOENT)
		snprintf(note, GROUPS_NOTE_BYTES, "; the user's other groups do not count, because they could not be looked up: "
			"%s; try again later", u->why);
	else if (n && u->r < 0)
		snprintf(note, GROUPS_NOTE_BYTES, " and was in %s then; the user database does not know the user, so only "
			"group %u counts", lost, recorded->gid);
	else if (n)
		snprintf(note, GROUPS_NOTE_BYTES, " and was in %s then, but is not now; let root add the user to the %s again",
			lost, n == 1 ? "group" : "groups");
}

/* ---- answers ---- */

static void asker_answer(const struct user *u, const struct rights *recorded,
	void (*done)(void *opaque, const struct rights *now, const char *note), void *opaque)
{
	CLEANUP_FREE struct rights *now = must_alloc(rights_new(recorded->uid, recorded->gid, u->n));
	char note[GROUPS_NOTE_BYTES];

	if (u->n) {
		memcpy(now->groups, u->list, u->n * sizeof(*u->list));
		now->gid = user_has_group(u, recorded->gid) ? recorded->gid : u->list[0];
	}
	note_make(u, recorded, note);
	done(opaque, now, note);
}

void groups_ask_free(struct groups_ask *a)
{
	struct groups_ask **at;

	if (!a)
		return;
	at = &a->of->askers;
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	free(a->recorded);
	free(a);
}

static void user_answer(struct user *u)
{
	u->known = true;
	u->answers = true; /* done() may ask about other users, which frees unused entries */
	if (u->r < 0 && u->r != -ENOENT)
		log_warn("groups", "user %u: the groups could not be looked up: %s; files are opened without them", u->uid, u->why);
	while (u->askers) {
		struct groups_ask *a = u->askers;
		void (*done)(void *opaque, const struct rights *now, const char *note) = a->done;
		CLEANUP_FREE struct rights *recorded = STEAL_PTR(a->recorded);
		void *opaque = a->opaque;

		groups_ask_free(a);
		asker_answer(u, recorded, done, opaque);
	}
	u->answers = false;
}

/* ---- the process ---- */

static int look_up_failed(struct user *u, int r, const char *why)
{
	snprintf(u->why, sizeof(u->why), "%s", why);
	return r;
}

/* Parse "ID ID …", the numbers of the groups. */
static int list_parse(struct user *u, const char *text)
{
	CLEANUP_FREE gid_t *list = must_alloc(calloc(GROUPS_MAX, sizeof(*list)));
	size_t n = 0;

	for (;; text++) {
		char *end;
		unsigned long id = strtoul(text, &end, 10);

		if (*text < '0' || *text > '9' || id >= UINT32_MAX || n == GROUPS_MAX || (*end && *end != ' '))
			return look_up_failed(u, -EPROTO, "cairn-groups gave a malformed answer");
		list[n++] = (gid_t)id;
		text = end;
		if (!*text)
			break;
	}
	u->list = must_alloc(calloc(n, sizeof(*u->list)));
	memcpy(u->list, list, n * sizeof(*list));
	u->n = n;
	return 0;
}

/* Read the line that the process wrote (tools/groups/main.c). The newline shows that the line is complete. */
static int answer_parse(struct user *u, int status)
{
	CLEANUP_FREE char *text = NULL;
	char *end = NULL;
	size_t len;

	if (lseek(u->out, 0, SEEK_SET) == 0 && file_read_fd(u->out, "answer", ANSWER_MAX_BYTES, &text, &len, NULL) == 0)
		end = memchr(text, '\n', len);
	if (!end)
		return look_up_failed(u, -EIO, status == SPAWN_NO_PROGRAM ? "cairn-groups cannot be run" :
			"cairn-groups ended without an answer");
	*end = 0;
	if (!strcmp(text, "none"))
		return -ENOENT;
	if (!strncmp(text, "error ", 6))
		return look_up_failed(u, -EIO, text + 6);
	return list_parse(u, strncmp(text, "groups ", 7) ? "" : text + 7);
}

static void process_close(struct user *u)
{
	loop_unwatch(STEAL_PTR(u->watch));
	loop_timer_free(STEAL_PTR(u->timer));
	if (u->pidfd >= 0)
		close(steal_fd(&u->pidfd));
	if (u->out >= 0)
		close(steal_fd(&u->out));
}

static void process_ended(void *opaque, unsigned revents)
{
	struct user *u = opaque;
	siginfo_t si = { 0 };

	(void)revents;
	waitid(P_PIDFD, (id_t)u->pidfd, &si, WEXITED | WNOHANG);
	if (!u->known)
		u->r = answer_parse(u, si.si_status);
	process_close(u);
	if (!u->known)
		user_answer(u);
}

static void process_timed_out(void *opaque)
{
	struct user *u = opaque;

	pidfd_send_signal(u->pidfd, SIGKILL, NULL, 0);
	u->r = look_up_failed(u, -ETIMEDOUT, "the user database does not answer");
	user_answer(u);
	/* process_ended() forgets the process when it has ended. Until then no further one is started for this user. */
}

static int process_start(struct user *u)
{
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char uid[16], *argv[] = { (char *)"cairn-groups", uid, NULL };
	int fds[] = { null, u->out = memfd_create("cairn-groups", MFD_CLOEXEC), null };
	struct spawn_spec s = { .path = u->all->program, .argv = argv, .fds = fds, .nfds = ARRAY_SIZE(fds),
		.death_signal = SIGKILL };

	if (null < 0 || u->out < 0)
		return -errno;
	snprintf(uid, sizeof(uid), "%u", u->uid);
	return spawn_watched(u->all->loop, &s, process_ended, u, &u->pidfd, &u->watch);
}

static int look_up_start(struct user *u)
{
	int r = loop_timer_new(u->all->loop, process_timed_out, u, &u->timer);

	u->asked_ns = loop_now_ns();
	if (!r)
		r = process_start(u);
	if (!r)
		loop_timer_arm(u->timer, u->asked_ns + GROUPS_TIMEOUT_NS);
	return r;
}

/* ---- users ---- */

static void user_free(struct user *u)
{
	if (u->pidfd >= 0)
		pidfd_send_signal(u->pidfd, SIGKILL, NULL, 0);
	process_close(u);
	while (u->askers)
		groups_ask_free(u->askers);
	free(u->list);
	free(u);
}

static bool user_is_stale(const struct user *u)
{
	return u->known && loop_now_ns() - u->asked_ns >= GROUPS_FRESH_NS;
}

static void stale_free(struct groups *g)
{
	for (struct user **at = &g->users, *u; (u = *at);) {
		if (!user_is_stale(u) || u->pidfd >= 0 || u->answers) {
			at = &u->next;
			continue;
		}
		*at = u->next;
		user_free(u);
	}
}

/* Find the user, and start a look-up for one who is not in the list. */
static struct user *user_get(struct groups *g, uid_t uid)
{
	struct user *u = g->users;
	int r;

	while (u && u->uid != uid)
		u = u->next;
	if (u)
		return u;
	u = must_alloc(calloc(1, sizeof(*u)));
	*u = (struct user){ .all = g, .next = g->users, .uid = uid, .pidfd = -1, .out = -1 };
	g->users = u;
	r = look_up_start(u);
	if (r < 0) {
		process_close(u);
		u->r = look_up_failed(u, r, strerror(-r));
		user_answer(u);
	}
	return u;
}

void groups_ask(struct groups *g, const struct rights *recorded,
	void (*done)(void *opaque, const struct rights *now, const char *note), void *opaque, struct groups_ask **ret_a)
{
	struct groups_ask *a;
	struct user *u;

	stale_free(g);
	u = user_get(g, recorded->uid);
	if (u->known) {
		asker_answer(u, recorded, done, opaque);
		return;
	}
	a = must_alloc(calloc(1, sizeof(*a)));
	*a = (struct groups_ask){ .of = u, .next = u->askers, .done = done, .opaque = opaque };
	if (rights_copy(recorded, &a->recorded) < 0)
		abort(); /* otherwise done() would never be called */
	u->askers = a;
	*ret_a = a;
}

struct groups *groups_new(struct loop *l, const char *program)
{
	struct groups *g = must_alloc(calloc(1, sizeof(*g)));

	*g = (struct groups){ .loop = l, .program = program };
	return g;
}

void groups_free(struct groups *g)
{
	for (struct user *u; g && (u = g->users);) {
		g->users = u->next;
		user_free(u);
	}
	free(g);
}
