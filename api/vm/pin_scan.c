#include "api/vm/pin_scan.h"
#include "api/access/authors.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/pin_name.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The start of a qcow2 header, and the limits of its backing file's name (docs/qcow2.md). */
#define MAGIC 0x514649fbu
#define HEAD_BYTES 20u
#define NAME_MAX_BYTES 1023u
#define CLUSTER_MAX_BYTES (2u * 1024 * 1024)

_Static_assert(VM_PIN_ID_BYTES == PIN_NAME_ID_BYTES, "the list has the ids of overlays' names");

/* The result of scanning one overlay. The process passes an array of these to the daemon in a memfd. */
struct finding {
	uint8_t kind; /* enum finding_kind */
	uint8_t id[VM_PIN_ID_BYTES];
};

enum finding_kind { FINDING_NONE, FINDING_PIN, FINDING_UNREAD, FINDING_GONE };

struct overlay {
	char *path, *image; /* owned */
	struct finding found;
};

/* The overlays that one process reads with one user's rights. */
struct group {
	struct group *next;
	const struct rights *rights; /* a definition's, borrowed until the process has begun */
	uid_t uid;
	struct overlay *list;
	size_t n, cap;
	struct fork_as *process; /* NULL: not running */
	struct pin_scan *scan;
};

struct pin_scan {
	struct vm_host *host;
	struct group *groups;
	void (*done)(void *opaque);
	void *opaque;
};

/* ---- in the forked process ---- */

static int image_open(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		return fd;
	close(fd);
	return -EINVAL;
}

/* Read exactly n bytes. Returns 0; -EINVAL: the file is shorter; -errno. */
static int part_read(int fd, void *buf, size_t n, off_t at)
{
	ssize_t got = pread(fd, buf, n, at);

	return got < 0 ? -errno : (size_t)got == n ? 0 : -EINVAL;
}

/* Read the name of the image's backing file. Returns 0; -EINVAL: the file is no qcow2 image with a backing file;
 * -errno. */
static int backing_name_read(int fd, char name[NAME_MAX_BYTES + 1])
{
	uint8_t head[HEAD_BYTES];
	uint64_t at;
	uint32_t n;
	int r = part_read(fd, head, sizeof(head), 0);

	if (r < 0)
		return r;
	at = load_be64(head + 8);
	n = load_be32(head + 16);
	if (load_be32(head) != MAGIC || !n || n > NAME_MAX_BYTES || at < HEAD_BYTES || at > CLUSTER_MAX_BYTES)
		return -EINVAL;
	name[n] = 0;
	return part_read(fd, name, n, (off_t)at);
}

static void overlay_probe(const char *path, struct finding *f)
{
	CLEANUP_CLOSE int fd = image_open(path);
	char name[NAME_MAX_BYTES + 1];
	size_t path_bytes;
	int r = fd < 0 ? fd : backing_name_read(fd, name);

	*f = (struct finding){ .kind = FINDING_NONE };
	if (!r && pin_name_parse(name, &path_bytes, f->id))
		f->kind = FINDING_PIN;
	else if (r < 0 && r != -EINVAL)
		f->kind = r == -ENOENT ? FINDING_GONE : FINDING_UNREAD;
}

static int overlays_probe(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct group *g = arg;
	CLEANUP_CLOSE int fd = memfd_create("cairn-pins", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : 0;

	for (size_t i = 0; i < g->n && !r; i++) {
		struct finding f;

		overlay_probe(g->list[i].path, &f);
		r = write_full(fd, &f, sizeof(f));
	}
	if (r < 0)
		return err_set_errno(e, r, "disks of clones");
	out->fds[out->nfds++] = steal_fd(&fd);
	return 0;
}

/* ---- in the daemon ---- */

static bool any_runs(const struct group *list)
{
	while (list && !list->process)
		list = list->next;
	return list != NULL;
}

static void group_read(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct group *g = opaque;

	g->process = NULL;
	if (r < 0)
		log_warn("pins", "%s", e->msg);
	for (size_t i = 0; i < g->n; i++) {
		struct finding *f = &g->list[i].found;

		if (r < 0 || res->nfds != 1 || pread_full(res->fds[0], f, sizeof(*f), (off_t)(i * sizeof(*f))) < 0)
			f->kind = FINDING_UNREAD;
	}
	for (unsigned i = 0; i < res->nfds; i++)
		close(res->fds[i]);
	if (g->scan->done && !any_runs(g->scan->groups))
		g->scan->done(g->scan->opaque);
}

static void group_begin(struct group *g)
{
	struct fork_as_spec s = { .rights = g->rights, .run = overlays_probe, .arg = g, .what = "reading disks of clones",
		.timeout_ns = PIN_SCAN_TIMEOUT_NS, .done = group_read, .opaque = g };
	struct fork_as_result none = { 0 };
	struct err e;
	int r = fork_as_begin(g->scan->host->helpers, &s, &g->process, &e);

	if (r < 0)
		group_read(g, r, &none, &e);
}

static struct group *group_of(struct pin_scan *s, const struct rights *rights)
{
	struct group *g = s->groups;

	while (g && !rights_are_same(g->rights, rights))
		g = g->next;
	if (g)
		return g;
	g = must_alloc(calloc(1, sizeof(*g)));
	*g = (struct group){ .next = s->groups, .scan = s, .rights = rights, .uid = rights_uid(rights) };
	s->groups = g;
	return g;
}

static void overlay_add(struct group *g, const char *path, const char *image)
{
	if (g->n == g->cap) {
		g->cap = MAX(2 * g->cap, 16u);
		g->list = must_alloc(realloc(g->list, g->cap * sizeof(*g->list)));
	}
	g->list[g->n++] = (struct overlay){ .path = must_alloc(strdup(path)), .image = must_alloc(strdup(image)) };
}

/* Add the layers that may be overlays on a pin: qcow2 above qcow2. */
static void definition_add(struct pin_scan *s, const struct definition *def)
{
	for (uint32_t i = 0; i < def->ndisks; i++) {
		const struct definition_layer *l = def->disks[i].layers;

		for (unsigned k = 0; k + 1 < def->disks[i].nlayers; k++)
			if (l[k].format == DEFINITION_FORMAT_QCOW2 && l[k + 1].format == DEFINITION_FORMAT_QCOW2 &&
				strlen(l[k + 1].path) <= VM_PIN_PATH_MAX)
				overlay_add(group_of(s, author_of(def, l[k].path)), l[k].path, l[k + 1].path);
	}
}

/* Whether a clone is being made whose disk has the path: its file may be empty, and its row is right. */
static bool is_being_made(const struct vm_host *host, const char *path)
{
	for (size_t i = 0; i < host->nvms; i++) {
		const struct definition *def = vm_has(host->vms[i], VM_FACT_INCOMPLETE) ? host->vms[i]->def : NULL;

		for (uint32_t k = 0; def && k < def->ndisks; k++)
			if (def->disks[k].nlayers && !strcmp(def->disks[k].layers[0].path, path))
				return true;
	}
	return false;
}

static void finding_take(struct pin_scan *s, const struct group *g, const struct overlay *o, struct pin_scan_result *ret)
{
	switch (o->found.kind) {
	case FINDING_PIN:
		ret->added += pins_add_found(s->host, o->path, o->image, o->found.id);
		pins_set_owner(s->host, o->path, g->uid);
		break;
	case FINDING_NONE:
		ret->replaced += pins_replace(s->host, o->path);
		break;
	case FINDING_GONE:
		break;
	default:
		if (pins_has_overlay(s->host, o->path))
			break;
		ret->unread++;
		log_warn("pins", "%s: cannot be read, so it is unknown whether it is the disk of a live clone", o->path);
	}
}

void pin_scan_take(struct pin_scan *s, struct pin_scan_result *ret)
{
	*ret = (struct pin_scan_result){ 0 };
	for (const struct group *g = s->groups; g; g = g->next)
		for (size_t i = 0; i < g->n; i++)
			if (!is_being_made(s->host, g->list[i].path))
				finding_take(s, g, &g->list[i], ret);
}

void pin_scan_free(struct pin_scan *s)
{
	for (struct group *g; s && (g = s->groups);) {
		s->groups = g->next;
		fork_as_free(g->process);
		for (size_t i = 0; i < g->n; i++) {
			free(g->list[i].path);
			free(g->list[i].image);
		}
		free(g->list);
		free(g);
	}
	free(s);
}

static struct pin_scan *scan_new(struct vm_host *host)
{
	struct pin_scan *s = must_alloc(calloc(1, sizeof(*s)));

	s->host = host;
	return s;
}

struct pin_scan *pin_scan_begin(struct vm_host *host, const struct definition *def, void (*done)(void *opaque),
	void *opaque)
{
	struct pin_scan *s = scan_new(host);

	definition_add(s, def);
	if (s->groups)
		group_begin(s->groups);
	if (!any_runs(s->groups)) {
		pin_scan_free(s);
		return NULL;
	}
	s->done = done;
	s->opaque = opaque;
	return s;
}

/* fork_as.h calls group_read() for each process after PIN_SCAN_TIMEOUT_NS at the latest, so the wait below ends. */
void pin_scan_all(struct vm_host *host, struct pin_scan_result *ret)
{
	struct pin_scan *s = scan_new(host);

	for (size_t i = 0; i < host->nvms; i++) {
		definition_add(s, host->vms[i]->def);
		if (host->vms[i]->live)
			definition_add(s, host->vms[i]->live);
	}
	for (struct group *g = s->groups; g; g = g->next)
		group_begin(g);
	while (any_runs(s->groups))
		loop_run_once(host->loop, PIN_SCAN_TIMEOUT_NS);
	pin_scan_take(s, ret);
	pin_scan_free(s);
	pins_set_complete(host, !ret->unread);
	pins_store(host, NULL);
}
