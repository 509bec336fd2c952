/* fake_vm: a simulated VM process for tests of the control plane. Started like cairn-vm, it speaks vm_msg and fails as
 * the words of its kernel command line say (boot.cmdline):
 *   die-at-config kill-at-config silent-at-config refuse garbage-at-config
 *   never-runs (leave the end file as if the guest did not run)
 *   kill-after=MS garbage-after=MS close-after=MS off-after=MS panic-after=MS io-error-after=MS
 *   crash-after=MS (preserved)  exit-after=MS:VALUE (debug exit)  rude-after=MS (panic; detail is not UTF-8)
 *   agent-after=MS (an agent opens its port and answers)  no-agent (the guest's agent does not answer)
 *   cairn-agent="PATH" (vsock connections go to this program, as --fd FD; while it is not there nothing listens)
 *   hands-over (no agent answers before)  hands-over-silently (without its event)  agent-socket=PATH (an agent's)
 *   handover-ends=FILE (the old process ends once FILE exists)  goes-on-when=FILE (the new one serves then)
 *   half-closes (the old process keeps its connection until then, and takes no more requests)
 *   leaves-query=SOCKET (once SOCKET exists, hand the VM over to its listener instead of answering a query)
 *   repeats-after=MS (send a hundred times each event that a guest can repeat)
 *   when=FILE (the -after words also wait until FILE exists, which keeps the order on slow machines)
 *   ip-when=FILE (the guest has a non-link-local address only once FILE exists)  ip-many (too many)
 *   deaf (ignore the power button)  stubborn (ignore quit)  quits-in=MS (end this long after quit)
 *   stops-listening (with close-after: accept no other connection)
 *   loses-answer (close the connection in place of the answer to the first work)  loses-plug (of an attached disk)
 *   mute (answer nothing once the VM runs)  stops-quietly (stop without an event, with a log line)
 *   renewed (claim to have been reset after the last request to shut down)
 *   event-last (send the reply before the event)  works=N (report N times the load of works=1)
 *   config-until=FILE (read nothing before FILE exists)  boot-until=FILE (the same, not for images_only)
 *   lingers-until=FILE (with refuse: end only once FILE exists)  clone-dies=NAME (that clone dies at its start)
 *   clone-until=FILE:NAME (the clone of that name waits at its start for FILE)
 *   work-takes=MS (duration of saves and snapshots; with progress)  work-fails  work-until=FILE  fork-ready
 *   fork-stages (tell of all stages of a fork: the first at once, the others when the work ends)
 *   answer-until=FILE (answer work that ends only once FILE exists)  group-stays-at=N (ignore that vm_snapshot_step)
 * A save is a valid state file with empty memory. Snapshots are kept at the start of the first disk, as an array of
 * struct vm_snapshot_info: a tree without disk content.
 * FAKE_VM=die-at-start in the environment: end before accepting a connection. */
#include "base/build_id.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/vmstate.h"
#include "vmm/vm_msg.h"
#include "tests/helpers/fake_agent.h"
#include "tests/helpers/fake_consoles.h"
#include "tests/helpers/fake_figures.h"
#include "tests/helpers/fake_group.h"
#include "tests/helpers/fake_kill.h"
#include "tests/helpers/fake_state.h"
#include "tests/helpers/fake_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_MS 20
#define LOOK_MS 5
#define UNTIL_MS 60000

/* A save, or work on snapshots. */
struct work {
	uint64_t seq, begun_ms, due_ms; /* due 0: none */
	enum vm_msg_type type;
	bool was_running, group;
	int fds[2];
	uint8_t body[2048] __attribute__((aligned(8)));
};

struct fake {
	int listening, sock, end_fd;
	uint16_t version; /* of messages; with the word version-1, it is 1 from the second connection on */
	struct vm_config config;
	bool configured, paused;
	bool took_over; /* another process handed the VM over */
	bool lost_answer;
	enum vm_phase phase;
	enum vm_reason reason;
	uint64_t start_ms, due_ms; /* 0: nothing is due */
	const char *due;
	struct fake_console consoles[CONSOLES_MAX];
	int disk; /* first disk; -1: none */
	struct work work;
	uint8_t agent; /* enum vm_agent_state */
};

static const char *word(const struct fake *f, const char *name)
{
	const char *at = strstr(f->config.cmdline, name);

	return at ? at + strlen(name) : NULL;
}

/* Return whether the file exists that follows a word. Its name ends at a space or a colon. */
static bool file_is_there(const struct fake *f, const char *name)
{
	char path[256];

	return sscanf(word(f, name) ?: "", "%255[^ :]", path) == 1 && !access(path, F_OK);
}

static void reply(struct fake *f, uint64_t seq, int error, enum err_class cls, const char *msg)
{
	struct vm_reply r = { .error = error, .cls = cls };

	snprintf(r.msg, sizeof(r.msg), "%s", msg);
	channel_send(f->sock, f->version, VM_MSG_REPLY, seq, &r, sizeof(r), NULL, 0);
}

static void event(struct fake *f, struct vm_event ev)
{
	ev.phase = (uint8_t)f->phase;
	if (ev.kind == VM_EVENT_PHASE && ev.phase == VM_PHASE_ENDED && f->end_fd >= 0 &&
		pwrite(f->end_fd, &ev, sizeof(ev), 0) < 0)
		perror("end");
	channel_send(f->sock, f->version, VM_MSG_EVENT, 0, &ev, sizeof(ev), NULL, 0);
}

static void phase(struct fake *f, enum vm_phase p, enum vm_reason r, int64_t value,
	const char *detail)
{
	struct vm_event ev = { .kind = VM_EVENT_PHASE, .reason = (uint8_t)r, .value = value };

	snprintf(ev.detail, sizeof(ev.detail), "%s", detail);
	f->phase = p;
	f->reason = r;
	event(f, ev);
}

static void end(struct fake *f, enum vm_reason r, int64_t value, const char *detail, int status)
{
	phase(f, VM_PHASE_ENDED, r, value, detail);
	exit(status);
}

static void garbage(struct fake *f)
{
	char junk[300];

	memset(junk, 0xa5, sizeof(junk));
	send(f->sock, junk, sizeof(junk), MSG_NOSIGNAL);
}

static void repeat(struct fake *f)
{
	static const enum vm_event_kind kinds[] = { VM_EVENT_WATCHDOG, VM_EVENT_NEEDS_RESET, VM_EVENT_IO_ERROR,
		VM_EVENT_GUEST_PANICKED, VM_EVENT_RESET, VM_EVENT_POWERDOWN, VM_EVENT_RESET_DELAYED, VM_EVENT_LINK_LOST, VM_EVENT_TRAY,
		VM_EVENT_SNAPSHOT_RECOVERED, VM_EVENT_GUEST_FROZEN };

	for (unsigned n = 0; n < 100; n++) {
		for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
			event(f, (struct vm_event){ .kind = kinds[i], .value = 1, .device = "vda", .detail = "report" });
		f->agent = n % 2 ? VM_AGENT_CLOSED : VM_AGENT_OPEN;
		event(f, (struct vm_event){ .kind = VM_EVENT_AGENT, .value = f->agent });
	}
	f->agent = VM_AGENT_OPEN;
	event(f, (struct vm_event){ .kind = VM_EVENT_AGENT, .value = f->agent });
}

static void connection_close(struct fake *f)
{
	if (word(f, "stops-listening")) {
		close(f->listening);
		f->listening = -1;
	}
	close(f->sock);
	f->sock = -1;
}

/* Run the action of the command line that is due. */
static void due(struct fake *f)
{
	const char *what = f->due;

	f->due_ms = 0;
	if (word(f, "when=") && !file_is_there(f, "when=")) {
		f->due_ms = now_ms() + LOOK_MS;
		return;
	}
	if (!strcmp(what, "kill-after="))
		killed();
	else if (!strcmp(what, "garbage-after="))
		garbage(f);
	else if (!strcmp(what, "close-after="))
		connection_close(f);
	else if (!strcmp(what, "off-after="))
		end(f, VM_REASON_GUEST_SHUTDOWN, 0, "", VM_EXIT_OK);
	else if (!strcmp(what, "panic-after="))
		end(f, VM_REASON_GUEST_PANICKED, 1, "pvpanic", VM_EXIT_PANICKED);
	else if (!strcmp(what, "rude-after="))
		end(f, VM_REASON_GUEST_PANICKED, 1, "\x1b[2J\xff\xc3(", VM_EXIT_PANICKED);
	else if (!strcmp(what, "exit-after=")) {
		const char *colon = strchr(word(f, what), ':');

		end(f, VM_REASON_DEBUG_EXIT, colon ? atoi(colon + 1) : 0, "", colon ? atoi(colon + 1) : 0);
	} else if (!strcmp(what, "agent-after=")) {
		f->agent = VM_AGENT_ANSWERS;
		event(f, (struct vm_event){ .kind = VM_EVENT_AGENT, .value = VM_AGENT_OPEN });
		event(f, (struct vm_event){ .kind = VM_EVENT_AGENT, .value = VM_AGENT_ANSWERS });
	} else if (!strcmp(what, "repeats-after=")) {
		repeat(f);
	} else if (!strcmp(what, "crash-after="))
		phase(f, VM_PHASE_CRASHED, VM_REASON_TRIPLE_FAULT, 0, "rip 0x1000");
	else if (!strcmp(what, "io-error-after=")) {
		struct vm_event ev = { .kind = VM_EVENT_IO_ERROR, .value = ENOSPC, .is_write = 1, .device = "vda", .detail = "stop" };

		event(f, ev);
		phase(f, VM_PHASE_PAUSED, VM_REASON_IO_ERROR, ENOSPC, "vda: No space left on device");
	}
}

static void schedule(struct fake *f)
{
	static const char *const words[] = { "kill-after=", "garbage-after=", "close-after=",
		"off-after=", "panic-after=", "exit-after=", "crash-after=", "io-error-after=",
		"rude-after=", "agent-after=", "repeats-after=" };

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (word(f, words[i])) {
			f->due = words[i];
			f->due_ms = now_ms() + (uint64_t)atoi(word(f, words[i])) + 1;
		}
}

/* Load a saved state. Returns false after sending the error. */
static bool restore(struct fake *f, int fd, uint64_t seq)
{
	struct vmstate_header h;
	struct vmstate_file file;
	struct err e;
	bool own = f->config.forked;

	vmstate_file_init(&file, fd);
	if (vmstate_read_header(&file.store, &h, &e) < 0) {
		reply(f, seq, -EINVAL, e.cls, e.msg);
		return false;
	}
	for (unsigned i = 0; i < VM_FORMER_MAX; i++)
		own |= !memcmp(h.uuid, f->config.former[i], sizeof(h.uuid));
	if (!own && memcmp(h.uuid, f->config.uuid, sizeof(h.uuid))) {
		reply(f, seq, -EINVAL, ERR_INVALID, "the saved state belongs to another VM");
		return false;
	}
	return true;
}

/* Return whether a word's value names this clone. */
static bool is_named(const struct fake *f, const char *name)
{
	size_t len = strlen(f->config.name);

	return f->config.forked && name && !strncmp(name, f->config.name, len) && (!name[len] || name[len] == ' ');
}

static void wait_for_file(const struct fake *f, const char *name)
{
	for (int ms = 0; word(f, name) && !file_is_there(f, name) && ms < UNTIL_MS; ms += LOOK_MS)
		poll(NULL, 0, LOOK_MS);
}

static void start_words(struct fake *f)
{
	const char *until = word(f, "clone-until="), *name = until ? strchr(until, ':') : NULL;

	if (is_named(f, word(f, "clone-dies=")))
		exit(5);
	if (name && is_named(f, name + 1))
		wait_for_file(f, "clone-until=");
	wait_for_file(f, "config-until=");
	if (!f->config.images_only)
		wait_for_file(f, "boot-until=");
}

static void configure(struct fake *f, struct channel_msg *m)
{
	uint64_t ran = VM_RAN_YES;
	struct err e;

	memcpy(&f->config, m->body, sizeof(f->config));
	f->agent = f->config.guest_agent ? VM_AGENT_CLOSED : VM_AGENT_NONE;
	if (vm_config_take_held(&f->config, m, &e) < 0 || vm_config_check(&f->config, m->nfds, &e) < 0) {
		reply(f, m->head.seq, -EINVAL, e.cls, e.msg);
		exit(VM_EXIT_CONFIG);
	}
	f->end_fd = f->config.end_fd == VM_NO_FD ? -1 : m->fds[f->config.end_fd];
	fprintf(stderr, "fake_vm %s: %u files\n", f->config.name, m->nfds);
	start_words(f);
	if (word(f, "die-at-config"))
		exit(5);
	if (word(f, "kill-at-config"))
		killed();
	if (word(f, "garbage-at-config"))
		garbage(f);
	if (word(f, "silent-at-config"))
		return;
	if (word(f, "refuse")) {
		reply(f, m->head.seq, -EBUSY, ERR_BUSY, "vda: is locked by another process");
		fprintf(stderr, "fake_vm %s: refused\n", f->config.name);
		wait_for_file(f, "lingers-until=");
		exit(VM_EXIT_CONFIG);
	}
	if (f->config.ndisks)
		f->disk = m->fds[f->config.disks[0].fd[0]];
	f->configured = true;
	if (f->config.images_only) {
		reply(f, m->head.seq, 0, 0, "");
		return;
	}
	if (f->config.state_later)
		fake_state_await(m->fds[f->config.state_ready_fd], f->sock, UNTIL_MS);
	if (f->config.restore_fd != VM_NO_FD && !restore(f, m->fds[f->config.restore_fd], m->head.seq))
		exit(VM_EXIT_CONFIG);
	if (!word(f, "never-runs") && f->end_fd >= 0 && pwrite(f->end_fd, &ran, sizeof(ran), VM_END_RAN) < 0)
		perror("end");
	f->phase = f->config.start_paused ? VM_PHASE_PAUSED : VM_PHASE_RUNNING;
	f->reason = f->config.restore_fd != VM_NO_FD ? VM_REASON_RESTORED : VM_REASON_BOOTED;
	reply(f, m->head.seq, 0, 0, "");
	schedule(f);
}

static void answer_query(struct fake *f, uint64_t seq)
{
	struct vm_info info = { .phase = (uint8_t)f->phase, .reason = (uint8_t)f->reason,
		.host_kind = VM_HOST_PVM, .agent = f->agent, .agent_commands = !word(f, "old-agent"), .vcpus = f->config.vcpus, .vcpus_halted = word(f, "idle") ? f->config.vcpus : 0, .ram_bytes = f->config.ram_bytes,
		.hands_over = word(f, "hands-over") != NULL, .for_revert = word(f, "for-revert") != NULL, .renewed = word(f, "renewed") != NULL,
		.ends_consoles = !word(f, "keeps-consoles") && f->version == VM_MSG_VERSION, .sets_interfaces = !word(f, "keeps-interfaces"),
		.dumps_then = !word(f, "old-dumps") && f->version == VM_MSG_VERSION, .vsock = f->config.vsock_cid != 0,
		.copies_disks = word(f, "no-pivot") ? VM_LAYERS_DISKS : 0, .build = build_id_own() };
	char more[sizeof(info) + 100] = { 0 }; /* as of a process of a later build */

	for (unsigned i = 0; i < CONSOLES_MAX; i++)
		info.console_readers += f->consoles[i].fd >= 0;
	for (unsigned i = 0; i < f->config.vcpus; i++)
		info.vcpu_ns[i] = 1500000000;
	disks_tell(&info, &f->config, !word(f, "keeps-disks"));
	memory_tell(&info, &f->config);
	if (f->work.due_ms && ((f->work.type >= VM_MSG_SNAPSHOT_CREATE && f->work.type <= VM_MSG_SNAPSHOT_DELETE) || f->work.type == VM_MSG_DUMP) &&
		!word(f, "old-work"))
		info.work = (uint8_t)f->work.type;
	info.work_then = info.work != VM_MSG_DUMP ? 0 : ((const struct vm_dump *)(const void *)f->work.body)->then;
	info.ninterfaces = f->config.ninterfaces;
	for (unsigned i = 0; i < info.ninterfaces; i++)
		memcpy(info.interfaces[i].id, f->config.interfaces[i].id, sizeof(info.interfaces[i].id));
	if (word(f, "works="))
		works(&info, (unsigned)atoi(word(f, "works=")));
	if (word(f, "other-version="))
		f->version = (uint16_t)atoi(word(f, "other-version="));
	memcpy(more, &info, sizeof(info));
	channel_send(f->sock, f->version, VM_MSG_INFO, seq, more, sizeof(info) + (word(f, "longer-answers") ? 100 : 0), NULL, 0);
}

/* ---- work ---- */

static void tree_load(struct fake *f, struct tree *t)
{
	memset(t, 0, sizeof(*t));
	if (f->disk < 0 || pread_full(f->disk, t, sizeof(*t), 0) < 0 || t->n > SNAPSHOTS_MAX)
		memset(t, 0, sizeof(*t));
}

static int tree_store(struct fake *f, struct tree *t, struct err *e)
{
	int r = f->disk < 0 ? -ENOENT : pwrite_full(f->disk, t, sizeof(*t), 0);

	return r < 0 ? err_set(e, r, ERR_UNSUPPORTED, "no disk can hold a snapshot") : 0;
}

static int none(const char *name, struct err *e)
{
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no snapshot '%s'", name);
}

static int snapshot_create(struct fake *f, const struct vm_snapshot_create *c, char id[24],
	struct err *e)
{
	struct tree t;
	struct vm_snapshot_info *s, *parent;

	tree_load(f, &t);
	if (tree_find(&t, c->name))
		return err_set(e, -EEXIST, ERR_EXISTS, "there is a snapshot '%s'", c->name);
	if (t.n == SNAPSHOTS_MAX)
		return err_set(e, -ENOSPC, ERR_NO_SPACE, "too many snapshots");
	parent = tree_find(&t, "");
	s = &t.list[t.n++];
	memset(s, 0, sizeof(*s));
	snprintf(s->id, sizeof(s->id), "id%u", ++t.next_id);
	if (parent)
		memcpy(s->parent, parent->id, sizeof(s->parent));
	memcpy(s->name, c->name, sizeof(s->name));
	memcpy(s->description, c->description, sizeof(s->description));
	memcpy(s->tags, c->tags, sizeof(s->tags));
	s->realtime_ns = time_of(c->name) + t.next_id;
	s->vm_state_bytes = f->config.images_only || c->disks_only ? 0 : 4096;
	s->own_bytes = UINT64_MAX;
	s->state = f->config.images_only || c->disks_only ? VM_SNAPSHOT_SHUTOFF :
		f->work.was_running			  ? VM_SNAPSHOT_RUNNING : VM_SNAPSHOT_PAUSED;
	s->disks_only = c->disks_only && !f->config.images_only;
	current_set(&t, s);
	memcpy(id, s->id, sizeof(s->id));
	return tree_store(f, &t, e);
}

static int snapshot_delete(struct fake *f, const struct vm_snapshot_name *n, struct err *e)
{
	struct vm_snapshot_info *s, gone;
	struct tree t;

	tree_load(f, &t);
	s = tree_find(&t, n->name);
	if (!s)
		return none(n->name, e);
	gone = *s;
	for (uint32_t i = 0; i < t.n; i++)
		if (!strcmp(t.list[i].parent, gone.id))
			memcpy(t.list[i].parent, gone.parent, sizeof(gone.parent));
	memmove(s, s + 1, (size_t)(&t.list[t.n] - (s + 1)) * sizeof(*s));
	t.n--;
	if (gone.current)
		current_set(&t, gone.parent[0] ? tree_find(&t, gone.parent) : NULL);
	return tree_store(f, &t, e);
}

static int snapshot_set(struct fake *f, const struct vm_snapshot_set *c, struct err *e)
{
	struct vm_snapshot_info *s;
	struct tree t;

	tree_load(f, &t);
	s = tree_find(&t, c->name);
	if (!s)
		return none(c->name, e);
	if (c->new_name[0] && tree_find(&t, c->new_name))
		return err_set(e, -EEXIST, ERR_EXISTS, "there is a snapshot '%s'", c->new_name);
	if (c->new_name[0])
		memcpy(s->name, c->new_name, sizeof(s->name));
	if (c->set_description)
		memcpy(s->description, c->description, sizeof(s->description));
	if (c->set_tags)
		memcpy(s->tags, c->tags, sizeof(s->tags));
	return tree_store(f, &t, e);
}

static int snapshot_revert(struct fake *f, const struct vm_snapshot_revert *v, struct err *e)
{
	struct vm_snapshot_info *s;
	struct tree t;
	bool paused;
	int r;

	tree_load(f, &t);
	s = tree_find(&t, v->name);
	if (!s)
		return none(v->name, e);
	if (v->look_only)
		return 0;
	paused = v->then ? v->then == 2 : s->state == VM_SNAPSHOT_PAUSED;
	if (!f->config.images_only && (v->disks_only || s->state == VM_SNAPSHOT_SHUTOFF))
		return err_set(e, -EINVAL, ERR_WRONG_STATE, "there is no memory in it");
	current_set(&t, s);
	r = tree_store(f, &t, e);
	if (!r && !f->config.images_only) {
		if (f->phase == VM_PHASE_RUNNING)
			phase(f, VM_PHASE_PAUSED, VM_REASON_RESTORED, 0, "");
		if (!paused)
			phase(f, VM_PHASE_RUNNING, VM_REASON_RESTORED, 0, "");
	}
	return r;
}

static void size_send(struct fake *f, const struct vm_snapshot_name *n, uint64_t seq)
{
	static struct vm_snapshots s;
	struct vm_snapshot_info *info;
	struct tree t;

	tree_load(f, &t);
	info = tree_find(&t, n->name);
	if (!info)
		return reply(f, seq, -ENOENT, ERR_NOT_FOUND, "there is no such snapshot");
	s = (struct vm_snapshots){ .total = 1, .n = 1 };
	s.list[0] = *info;
	s.list[0].own_bytes = 65536;
	channel_send(f->sock, f->version, VM_MSG_SNAPSHOTS, seq, &s, offsetof(struct vm_snapshots, list) + sizeof(s.list[0]), NULL, 0);
}

static void snapshots_send(struct fake *f, const struct vm_snapshot_list *l, uint64_t seq)
{
	struct tree t;

	tree_load(f, &t);
	tree_send(f->sock, f->version, &t, l->from, seq);
}

static void work_reply(struct fake *f, const struct work *w, const char *id, int r, const struct err *e)
{
	const struct vm_snapshot_create *c = (const void *)w->body;
	struct vm_snapshot_done d = { .error = r, .pause_ns = 1500000, .total_ns = 20000000, .ram_bytes_written = 3 << 20, .ram_bytes_shared = 5 << 20 };

	if (word(f, "loses-answer") && !f->lost_answer) {
		f->lost_answer = true;
		connection_close(f);
		return;
	}
	if (w->type != VM_MSG_SNAPSHOT_CREATE && w->type != VM_MSG_FORK && w->type != VM_MSG_DUMP) {
		reply(f, w->seq, r, r ? e->cls : 0, r ? e->msg : "");
		return;
	}
	if (r) {
		d.cls = e->cls;
		snprintf(d.msg, sizeof(d.msg), "%s", e->msg);
	}
	snprintf(d.id, sizeof(d.id), "%s", id);
	/* As a process of an earlier version, which also answers a revert by VM_MSG_REPLY. */
	channel_send(f->sock, f->version, VM_MSG_SNAPSHOT_DONE, w->seq, &d, offsetof(struct vm_snapshot_done, memory_tracking), NULL, 0);
	if (!r && c->halt && !f->config.images_only)
		end(f, VM_REASON_USER, 0, "", VM_EXIT_OK);
}

static int work_do(struct fake *f, struct work *w, char id[24], struct err *e)
{
	if (word(f, "work-fails"))
		return err_set(e, -ENOSPC, ERR_NO_SPACE, "vda: no space left on the device");
	switch (w->type) {
	case VM_MSG_DUMP:
		return write(w->fds[0], "core", 4) == 4 ? 0 : err_set_errno(e, -errno, "dump");
	case VM_MSG_SAVE:
	case VM_MSG_FORK:
		return word(f, "fork-ready") ? 0 : fake_state_write(&f->config, w->fds, e);
	case VM_MSG_SNAPSHOT_CREATE:
		return snapshot_create(f, (const void *)w->body, id, e);
	case VM_MSG_SNAPSHOT_DELETE:
		return snapshot_delete(f, (const void *)w->body, e);
	case VM_MSG_SNAPSHOT_REVERT:
		return snapshot_revert(f, (const void *)w->body, e);
	default:
		return w->type == VM_MSG_DISK_PULL || w->type == VM_MSG_DISK_COPY || w->type == VM_MSG_DISK_COMMIT ? 0 : snapshot_set(f, (const void *)w->body, e);
	}
}

/* Complete the work. r, e: 0 to carry it out, or the error to report. */
static void work_finish(struct fake *f, int r, struct err *e)
{
	struct work w = f->work;
	char id[24] = "";

	f->work.due_ms = 0;
	if (!r)
		r = work_do(f, &w, id, e);
	if (w.type == VM_MSG_SAVE && r)
		phase(f, w.was_running ? VM_PHASE_RUNNING : VM_PHASE_PAUSED, VM_REASON_USER, 0, "");
	if (!r && w.type == VM_MSG_FORK && word(f, "fork-stages")) {
		event(f, (struct vm_event){ .kind = VM_EVENT_FORK_READY, .value = VM_FORK_READY });
		event(f, (struct vm_event){ .kind = VM_EVENT_FORK_READY, .value = VM_FORK_DURABLE });
	}
	wait_for_file(f, "answer-until=");
	work_reply(f, &w, id, r, e);
	if (w.type != VM_MSG_SAVE && w.type != VM_MSG_FORK && w.type != VM_MSG_DUMP)
		return;
	if (!r && w.type == VM_MSG_SAVE)
		end(f, VM_REASON_SAVED, 0, "", VM_EXIT_OK);
	close(w.fds[0]);
	if (w.fds[1] >= 0)
		close(w.fds[1]);
}

static void work_begin(struct fake *f, struct channel_msg *m)
{
	const char *takes = word(f, "work-takes=");
	uint64_t ms = word(f, "work-until=") || group_begins(m) ? UNTIL_MS : takes ? (uint64_t)atoi(takes) : 0;
	struct err e;

	if (f->work.due_ms) {
		channel_msg_close_fds(m);
		reply(f, m->head.seq, -EBUSY, ERR_BUSY, "work of this VM is under way");
		return;
	}
	f->work = (struct work){ .seq = m->head.seq, .type = m->head.type, .begun_ms = now_ms(),
		.was_running = f->phase == VM_PHASE_RUNNING, .group = group_begins(m),
		.fds = { m->nfds ? m->fds[0] : -1, m->nfds > 1 ? m->fds[1] : -1 } };
	f->work.due_ms = f->work.begun_ms + ms;
	memcpy(f->work.body, m->body, MIN(m->head.body_bytes, sizeof(f->work.body)));
	if (m->head.type == VM_MSG_SAVE)
		phase(f, VM_PHASE_PAUSED, VM_REASON_SAVING, 0, "");
	if (m->head.type == VM_MSG_FORK && word(f, "fork-ready") && !fake_state_write(&f->config, f->work.fds, &e))
		event(f, (struct vm_event){ .kind = VM_EVENT_FORK_READY });
	if (m->head.type == VM_MSG_FORK && word(f, "fork-stages"))
		event(f, (struct vm_event){ .kind = VM_EVENT_FORK_READY, .value = VM_FORK_BEGUN });
	if (f->work.group)
		event(f, (struct vm_event){ .kind = VM_EVENT_FORK_READY, .value = VM_GROUP_HELD });
	else if (!ms)
		work_finish(f, 0, &e);
}

static void group_go(struct fake *f, struct channel_msg *m)
{
	const char *takes = word(f, "work-takes=");
	int stage = group_step(m, word(f, "group-stays-at="));

	reply(f, m->head.seq, 0, 0, "");
	if (stage > 0)
		event(f, (struct vm_event){ .kind = VM_EVENT_FORK_READY, .value = stage });
	f->work.group = stage >= 0;
	if (stage < 0 && !word(f, "work-until="))
		f->work.due_ms = now_ms() + (takes ? (uint64_t)atoi(takes) : 0);
}

static void work_resume_pending(struct fake *f)
{
	struct work *w = &f->work;
	uint64_t now = now_ms();
	struct err e;

	if (file_is_there(f, "work-until="))
		w->due_ms = now;
	event(f, (struct vm_event){ .kind = VM_EVENT_PROGRESS,
		.value = (int64_t)MIN(now - w->begun_ms, w->due_ms - w->begun_ms) << 20,
		.total = (int64_t)(w->due_ms - w->begun_ms) << 20 });
	if (now >= w->due_ms)
		work_finish(f, 0, &e);
}

static void work_cancel(struct fake *f, uint64_t seq)
{
	struct err e;

	if (!f->work.due_ms)
		return reply(f, seq, -ENOENT, ERR_WRONG_STATE, "nothing is under way");
	reply(f, seq, 0, 0, "");
	work_finish(f, err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled"), &e);
}

/* Handle an agent command. Returns false after sending the error. */
static bool agent_action(struct fake *f, struct channel_msg *m)
{
	const struct vm_agent *want = m->body;

	fprintf(stderr, "agent %u: %.255s\n", want->action, want->text);
	if (word(f, "no-agent")) {
		reply(f, m->head.seq, -ETIMEDOUT, ERR_TIMEOUT, "the guest agent did not answer within 5 s");
		return false;
	}
	if (want->action != VM_AGENT_TELL) {
		f->due = "off-after=";
		f->due_ms = now_ms() + 20;
	}
	return true;
}

static void addresses_send(struct fake *f, uint64_t seq)
{
	struct vm_addresses all = { 0 };

	if (word(f, "no-agent")) {
		reply(f, seq, -ETIMEDOUT, ERR_TIMEOUT, "the guest agent did not answer within 5 s");
		return;
	}
	addresses_fill(&all, f->config.ninterfaces ? f->config.interfaces[0].mac : NULL,
		!word(f, "ip-when=") || file_is_there(f, "ip-when="));
	all.n = word(f, "ip-many") ? VM_ADDRESSES_MAX + 1 : all.n;
	channel_send(f->sock, f->version, VM_MSG_ADDRESS_LIST, seq, &all, sizeof(all), NULL, 0);
}

static _Noreturn void hand_over(struct fake *f, const struct channel_msg *m)
{
	if (word(f, "half-closes"))
		shutdown(f->sock, SHUT_RD);
	if (!word(f, "hands-over-silently"))
		phase(f, VM_PHASE_PAUSED, VM_REASON_HANDOVER, 0, "");
	channel_send(m->fds[0], f->version, VM_MSG_CONFIG, 1, &f->config, sizeof(f->config), &f->listening, 1);
	if (!word(f, "half-closes"))
		close(f->sock);
	wait_for_file(f, "handover-ends=");
	_exit(0);
}

static void take_over(struct fake *f)
{
	static char buf[CHANNEL_BODY_MAX] __attribute__((aligned(16)));
	struct channel_msg m;

	if (channel_recv(f->sock, f->version, vm_msg_to_vm, VM_MSG_TYPE_COUNT, buf, &m) != 1)
		exit(VM_EXIT_CONFIG);
	memcpy(&f->config, m.body, sizeof(f->config));
	wait_for_file(f, "goes-on-when=");
	close(f->sock);
	f->sock = -1;
	f->listening = m.fds[0];
	f->configured = f->took_over = true;
	f->phase = VM_PHASE_RUNNING;
	f->reason = VM_REASON_BOOTED;
}

/* Return whether a process that will hand its VM over leaves a request to the guest's agent without an answer. */
static bool agent_is_slow(const struct fake *f, const struct channel_msg *m)
{
	if (!word(f, "hands-over") || f->took_over || (m->head.type != VM_MSG_AGENT && m->head.type != VM_MSG_ADDRESSES))
		return false;
	fprintf(stderr, "the agent has request %u\n", m->head.type);
	return true;
}

static void query_leave(const struct fake *f, const struct channel_msg *m)
{
	if (m->head.type == VM_MSG_QUERY && !f->took_over && word(f, "leaves-query=") && file_is_there(f, "leaves-query="))
		fake_hand_over(word(f, "leaves-query="), f->version, &f->config, f->listening);
}

static void handle(struct fake *f, struct channel_msg *m)
{
	bool late = word(f, "event-last");

	query_leave(f, m);
	if (agent_is_slow(f, m) || (f->configured && word(f, "mute")))
		return;
	if (m->head.type == VM_MSG_UNPLUG) { /* the answer comes after the event */
		struct vm_event gone = { .kind = VM_EVENT_UNPLUGGED };

		memcpy(gone.device, ((const struct vm_unplug *)m->body)->id, sizeof(((struct vm_unplug *)0)->id));
		event(f, gone);
	}
	switch (m->head.type) {
	case VM_MSG_CONFIG:
		return configure(f, m);
	case VM_MSG_HANDOVER:
		hand_over(f, m);
	case VM_MSG_QUERY:
		return answer_query(f, m->head.seq);
	case VM_MSG_PLUG:
		if (word(f, "loses-plug")) {
			connection_close(f);
			return;
		}
		disk_add(&f->config, m->body);
		break;
	case VM_MSG_DISK_PIVOT:
		if (word(f, "no-pivot") && !((const struct vm_config *)(const void *)m->body)->disk_more[0].check_only)
			return reply(f, m->head.seq, -EBUSY, ERR_BUSY, "the copy is not ready");
		break;
	case VM_MSG_STOP:
	case VM_MSG_CONT:
		if (f->work.due_ms && f->work.type == VM_MSG_SAVE) {
			if (m->head.type == VM_MSG_STOP)
				break; /* already stopped */
			reply(f, m->head.seq, -EBUSY, ERR_BUSY, "work of this VM is under way");
			return;
		}
		if (m->head.type == VM_MSG_STOP && word(f, "stops-quietly")) {
			f->phase = VM_PHASE_PAUSED;
			f->reason = VM_REASON_USER;
			fprintf(stderr, "stands still\n");
			return;
		}
		if (late)
			reply(f, m->head.seq, 0, 0, "");
		phase(f, m->head.type == VM_MSG_STOP ? VM_PHASE_PAUSED : VM_PHASE_RUNNING, VM_REASON_USER, 0, "");
		if (late)
			return;
		break;
	case VM_MSG_DUMP:
		return word(f, "old-dumps") && m->head.body_bytes > offsetof(struct vm_dump, then) ? connection_close(f) : work_begin(f, m);
	case VM_MSG_SAVE:
	case VM_MSG_FORK:
	case VM_MSG_DISK_COPY:
	case VM_MSG_DISK_PULL:
	case VM_MSG_DISK_COMMIT:
	case VM_MSG_SNAPSHOT_CREATE:
	case VM_MSG_SNAPSHOT_REVERT:
	case VM_MSG_SNAPSHOT_DELETE:
	case VM_MSG_SNAPSHOT_SET:
		work_begin(f, m);
		return;
	case VM_MSG_SNAPSHOT_LIST:
		return snapshots_send(f, m->body, m->head.seq);
	case VM_MSG_RECLAIM:
		return reclaimed_send(f->sock, f->version, m->head.seq);
	case VM_MSG_SNAPSHOT_SIZE:
		return size_send(f, m->body, m->head.seq);
	case VM_MSG_SPACE:
		if (!word(f, "space-hangs"))
			space_send(f->sock, f->version, m->head.seq, f->disk);
		return;
	case VM_MSG_WORK:
		if (!f->work.due_ms)
			return reply(f, m->head.seq, -ENOENT, ERR_WRONG_STATE, "nothing is under way");
		f->work.seq = m->head.seq;
		return;
	case VM_MSG_CANCEL:
		return work_cancel(f, m->head.seq);
	case VM_MSG_SNAPSHOT_GO:
		return group_go(f, m);
	case VM_MSG_POWERDOWN:
		event(f, (struct vm_event){ .kind = VM_EVENT_POWERDOWN });
		if (!word(f, "deaf")) {
			f->due = "off-after=";
			f->due_ms = now_ms() + 20;
		}
		break;
	case VM_MSG_AGENT:
		if (agent_action(f, m))
			break;
		return;
	case VM_MSG_ADDRESSES:
		addresses_send(f, m->head.seq);
		return;
	case VM_MSG_AGENT_COMMAND:
		fake_agent_serve(f->sock, f->version, word(f, "agent-socket="), m);
		return;
	case VM_MSG_RESET:
		event(f, (struct vm_event){ .kind = VM_EVENT_RESET, .value = 0 });
		break;
	case VM_MSG_CONSOLE:
		consoles_attach(f->consoles, m);
		break;
	case VM_MSG_VSOCK:
		fake_cairn_agent(word(f, "cairn-agent="), m, f->sock, f->version);
		return;
	case VM_MSG_CONSOLE_END:
		consoles_end(f->consoles, m->body);
		break;
	case VM_MSG_QUIT:
		if (word(f, "stubborn"))
			return;
		reply(f, m->head.seq, 0, 0, "");
		if (!word(f, "quits-in="))
			end(f, VM_REASON_USER, 0, "", VM_EXIT_OK);
		f->due = "off-after=";
		f->due_ms = now_ms() + (uint64_t)atoi(word(f, "quits-in="));
		return;
	}
	reply(f, m->head.seq, 0, 0, "");
}

static void receive(struct fake *f)
{
	static char buf[CHANNEL_BODY_MAX] __attribute__((aligned(16)));
	struct channel_msg m;
	int r = channel_recv(f->sock, f->version, vm_msg_to_vm, VM_MSG_TYPE_COUNT, buf, &m);

	if (r == 1) {
		handle(f, &m);
		return;
	}
	close(f->sock);
	f->sock = -1;
	f->work.due_ms = f->work.group ? 0 : f->work.due_ms;
	if (f->listening < 0)
		exit(VM_EXIT_OK); /* `cairn run` sends one message and closes the socket */
}

static void turn(struct fake *f)
{
	struct pollfd p[2 + CONSOLES_MAX] = { { .fd = f->listening, .events = POLLIN }, { .fd = f->sock, .events = POLLIN } };
	uint64_t now = now_ms();
	int left = f->due_ms ? (int)(f->due_ms > now ? f->due_ms - now : 0) : -1;

	if (f->work.due_ms)
		left = left < 0 ? PROGRESS_MS : MIN(left, PROGRESS_MS);
	for (unsigned i = 0; i < CONSOLES_MAX; i++)
		p[2 + i] = (struct pollfd){ .fd = f->consoles[i].fd, .events = POLLIN };
	if (poll(p, 2 + CONSOLES_MAX, left) < 0)
		exit(VM_EXIT_FAILURE);
	if (f->due_ms && now_ms() >= f->due_ms)
		due(f);
	if (f->work.due_ms)
		work_resume_pending(f);
	if (p[0].revents) {
		int fd = accept4(f->listening, NULL, NULL, SOCK_CLOEXEC);

		/* A newer connection replaces the earlier one. */
		if (fd >= 0 && f->sock >= 0)
			close(f->sock);
		f->sock = fd >= 0 ? fd : f->sock;
		f->work.due_ms = fd >= 0 && f->work.group ? 0 : f->work.due_ms;
		f->version = f->configured && word(f, "version-1") ? 1 : f->version;
		return;
	}
	if (p[1].revents && f->sock >= 0)
		receive(f);
	for (unsigned i = 0; i < CONSOLES_MAX; i++)
		if (p[2 + i].revents)
			console_echo(&f->consoles[i]);
}

int main(int argc, char **argv)
{
	struct fake f = { .listening = -1, .sock = -1, .version = VM_MSG_VERSION, .end_fd = -1, .disk = -1 };

	if (!strcmp(getenv("FAKE_VM") ?: "", "die-at-start"))
		return 9;
	if (argc < 3 || !strcmp(argv[1], "--spare")) /* this program cannot be made ahead */
		return VM_EXIT_CONFIG;
	*(!strcmp(argv[1], "--listen") ? &f.listening : &f.sock) = atoi(argv[2]);
	for (unsigned i = 0; i < CONSOLES_MAX; i++)
		f.consoles[i].fd = -1;
	signal(SIGCHLD, SIG_IGN); /* as the init of a pid namespace, reap the orphans of agents, too */
	if (!strcmp(argv[1], "--take-over"))
		take_over(&f);
	for (;;)
		turn(&f);
}
