#include "vmm/machine/machine_restore.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/vmstate.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_carry.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/ram_load.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

/* ---- restoring a fork's state ---- */

/* Check the size of the state of `cairn run`, which is a file of its user's cache: an access beyond its end would kill
 * this process. */
static int size_check(const struct machine *m, int fd, struct err *e)
{
	struct vmstate_layout l;
	struct stat st;

	vmstate_layout_of(m->cfg.ram_bytes, &l);
	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "the saved state");
	return (uint64_t)st.st_size < l.total_bytes ? err_set(e, -EINVAL, ERR_CORRUPT, "the saved state is cut off") : 0;
}

/* Check the seals: memory that clones share must never change. */
static int seals_check(const struct machine *m, int fd, struct err *e)
{
	int want = F_SEAL_WRITE | F_SEAL_SHRINK, seals;

	if (m->cfg.foreground)
		return size_check(m, fd, e);
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & want) != want)
		return err_set(e, -EINVAL, ERR_INVALID,
			"the file of a clone's memory is not sealed against writing");
	return 0;
}

int machine_map_fork(struct machine *m, struct err *e)
{
	CLEANUP_CLOSE int fd = fcntl(m->fork_fd, F_DUPFD_CLOEXEC, 3);
	struct vmstate_layout l;
	int r = fd < 0 ? err_set_errno(e, -errno, "the clone's memory") : m->cfg.state_later ? 0 : seals_check(m, fd, e);

	if (r < 0)
		return r;
	vmstate_layout_of(m->cfg.ram_bytes, &l);
	r = memory_map_cow(&m->mem, fd, l.ram_offset, &m->pagemap_fd, e);
	if (!r && m->cfg.foreground)
		prefault_init(&m->prefault, &m->mem, fd, m->kvm.sys_fd);
	if (!r)
		fd = -1;
	return r;
}

/* Wait until the daemon says that the source has written the state. The daemon ends the process if that fails; the wait
 * ends with the daemon, too. */
static int state_await(const struct machine *m, int ready_fd, struct err *e)
{
	struct pollfd p[] = { { .fd = ready_fd, .events = POLLIN },
		{ .fd = m->peer_fd > 0 ? m->peer_fd : -1, .events = POLLRDHUP } };
	int r;

	do {
		r = poll(p, ARRAY_SIZE(p), -1);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return err_set_errno(e, -errno, "cannot wait for the state of the fork's source");
	return p[0].revents & POLLIN ? 0 : err_set(e, -ECANCELED, ERR_CANCELLED, "cairnd has ended, and the source has not "
		"written the state that this clone loads; fork the VM again");
}

int machine_await_fork(struct machine *m, int ready_fd, struct err *e)
{
	struct vmstate_header h;
	struct vmstate_file f;
	int r = ready_fd >= 0 ? state_await(m, ready_fd, e) : 0;

	if (!r && ready_fd >= 0)
		r = seals_check(m, m->fork_fd, e);
	if (r < 0)
		return r;
	vmstate_file_init(&f, m->fork_fd);
	r = vmstate_read_header(&f.store, &h, e);
	if (!r && h.layout.ram_bytes != m->mem.bytes)
		r = err_set(e, -EINVAL, ERR_INVALID, "the state to clone has %llu MiB of memory, but the VM's definition has %llu MiB; give the definition "
			"the first size (cairn setmaxmem), and clone the VM again", (unsigned long long)(h.layout.ram_bytes / MIB),
			(unsigned long long)(m->mem.bytes / MIB));
	return r;
}

/* Load the state of a clone, whose memory machine_map_fork() has mapped. fd: taken. */
static int fork_restore(struct machine *m, int fd, struct err *e)
{
	CLEANUP_CLOSE int owned = fd;
	CLEANUP_FREE uint8_t *sections = NULL;
	struct vmstate_header h;
	struct vmstate_file f;
	int r;

	vmstate_file_init(&f, owned);
	r = vmstate_read_header(&f.store, &h, e);
	if (!r)
		r = vmstate_read_sections(&f.store, &h, &sections, e);
	if (!r)
		r = machine_state_check(m, sections, h.sections_bytes, e);
	if (r < 0)
		return r;
	machine_hold(m);
	m->run_ns = h.vm_clock_ns;
	return machine_load(m, sections, h.sections_bytes, e);
}

/* ---- the state of a VM that another process hands over ---- */

/* Load the state of a VM that another process hands over. fd: taken; a file of the sections of
 * machine_save() and machine_carry_save(). */
static int take_over(struct machine *m, int fd, struct err *e)
{
	CLEANUP_CLOSE int owned = fd;
	CLEANUP_FREE char *sections = NULL;
	const uint8_t *buf;
	size_t len, own;
	int r = file_read_fd(owned, "state", VMSTATE_SECTIONS_MAX_BYTES, &sections, &len, e);

	if (r < 0)
		return r;
	buf = (const uint8_t *)sections;
	own = machine_carry_find(buf, len);
	r = machine_state_check(m, buf, own, e);
	if (r < 0)
		return r;
	machine_hold(m);
	m->run_ns = m->cfg.taken.vm_clock_ns;
	r = machine_load(m, buf, own, e);
	if (!r)
		r = machine_carry_load(m, buf + own, len - own, e);
	m->cfg.taken_over = false; /* a state that is loaded later is not the handed-over one */
	return r;
}

/* ---- restoring a saved state ---- */

bool machine_has_uuid(const struct machine *m, const uint8_t uuid[16])
{
	static const uint8_t none[16];
	bool has = !memcmp(uuid, m->cfg.uuid, 16);

	for (size_t i = 0; i < VM_FORMER_MAX && !has; i++)
		has = memcmp(uuid, none, 16) != 0 && !memcmp(uuid, m->cfg.former[i], 16);
	return has;
}

static int header_check(struct machine *m, const struct vmstate_header *h, struct err *e)
{
	if (!machine_has_uuid(m, h->uuid))
		return err_set(e, -EINVAL, ERR_INVALID, "the saved state belongs to another VM (its uuid "
			"differs); start with --force-boot to drop it");
	if (h->layout.ram_bytes != m->mem.bytes)
		return err_set(e, -EINVAL, ERR_INVALID,
			"the state was saved with %llu MiB of memory; this VM has %llu MiB",
			(unsigned long long)(h->layout.ram_bytes / MIB),
			(unsigned long long)(m->mem.bytes / MIB));
	return 0;
}

int machine_restore(struct machine *m, int fd, struct err *e)
{
	struct vmstate_store *s = &m->restored_from.store;
	CLEANUP_FREE uint8_t *sections = NULL;
	struct vmstate_header h = { 0 };
	int r;

	if (m->cfg.taken_over)
		return take_over(m, fd, e);
	if (m->cfg.forked)
		return fork_restore(m, fd, e);
	vmstate_file_init(&m->restored_from, fd);
	r = vmstate_read_header(s, &h, e);
	if (!r)
		r = header_check(m, &h, e);
	if (!r)
		r = vmstate_read_sections(s, &h, &sections, e);
	if (!r)
		r = machine_state_check(m, sections, h.sections_bytes, e);
	if (!r)
		r = vmstate_check_whole(s, &h, e);
	if (!r)
		r = ram_load(m, s, &h, e);
	if (!r && m->cfg.eager)
		r = ram_wait(m, e);
	machine_hold(m);
	m->run_ns = h.vm_clock_ns;
	return r < 0 ? r : machine_load(m, sections, h.sections_bytes, e);
}
