#include "api/vm/vm_figures.h"
#include "api/vm/tap_counters.h"
#include "api/vm/vm_request.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "vmm/vm_page.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_TIMEOUT_NS (10 * 1000000000ULL)
/* Two statistics of the balloon, as in enum balloon_stat (devices/virtio/virtio_balloon.h). */
enum { STAT_TOTAL = 5, STAT_AVAILABLE = 6 };
/* Most attempts to read a page while the process writes it, which takes microseconds. */
#define READS_MAX 4

/* ---- the page ---- */

static void page_given(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm_process *p = opaque;

	(void)a;
	(void)e;
	if (r < 0)
		vm_shown_free(STEAL_PTR(p->shown)); /* for example during a handover; the next call tries again */
}

static int page_make(struct vm_page **ret_map)
{
	int fd = memfd_create("figures", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *map;

	if (fd < 0)
		return -errno;
	/* The size is sealed, so that the process cannot make the daemon's accesses fail, nor use up memory. */
	if (ftruncate(fd, sizeof(struct vm_page)) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
		(map = mmap(NULL, sizeof(struct vm_page), PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED) {
		close(fd);
		return -errno;
	}
	*ret_map = map;
	return fd;
}

static void page_give(struct vm_process *p)
{
	CLEANUP_CLOSE int fd = -1;

	p->shown = calloc(1, sizeof(*p->shown));
	if (!p->shown)
		return;
	fd = page_make(&p->shown->page);
	if (fd < 0)
		vm_shown_free(STEAL_PTR(p->shown));
	else
		vm_process_request(p, VM_MSG_PAGE, NULL, 0, fd, PAGE_TIMEOUT_NS, page_given, p);
}

/* Read a member once: the process may change it at any time. */
#define READ(member) (*(const volatile __typeof__(member) *)&(member))

static void interface_read(struct vm_page *from, unsigned i, struct vm_info *to)
{
	const struct vm_page_interface *f = vm_page_interface(from, i);
	struct vm_interface_info *t = &to->interfaces[i];

	memcpy(t->id, f->id, sizeof(t->id));
	memcpy(t->target, f->target, sizeof(t->target));
	memcpy(t->mac, f->mac, sizeof(t->mac));
	t->link_up = READ(f->link_up);
	t->vhost = READ(f->vhost);
	t->rx_bytes = figure_get(f->n, NET_RX_BYTES);
	t->rx_packets = figure_get(f->n, NET_RX_PACKETS);
	t->rx_errors = figure_get(f->n, NET_RX_ERRORS);
	t->rx_drops = figure_get(f->n, NET_RX_DROPS);
	t->tx_bytes = figure_get(f->n, NET_TX_BYTES);
	t->tx_packets = figure_get(f->n, NET_TX_PACKETS);
	t->tx_errors = figure_get(f->n, NET_TX_ERRORS);
	t->tx_drops = figure_get(f->n, NET_TX_DROPS);
	to->link_down[i] = READ(f->link_down);
	to->limits[i] = f->limits;
}

static void disk_read(struct vm_page *from, unsigned i, struct vm_figures *to)
{
	const struct vm_page_disk *f = vm_page_disk(from, i);
	struct vm_disk_info *t = &to->info.disks[i];

	memcpy(t->id, f->id, sizeof(t->id));
	t->size_bytes = READ(f->size_bytes);
	t->rd_reqs = figure_get(f->n, DISK_RD_REQS);
	t->rd_bytes = figure_get(f->n, DISK_RD_BYTES);
	t->rd_ns = figure_get(f->n, DISK_RD_NS);
	t->wr_reqs = figure_get(f->n, DISK_WR_REQS);
	t->wr_bytes = figure_get(f->n, DISK_WR_BYTES);
	t->wr_ns = figure_get(f->n, DISK_WR_NS);
	t->fl_reqs = figure_get(f->n, DISK_FL_REQS);
	t->fl_ns = figure_get(f->n, DISK_FL_NS);
	t->errors = figure_get(f->n, DISK_ERRORS);
	to->info.disk_faults[i] = READ(f->fault);
	to->info.trays[i] = READ(f->tray);
	to->info.disk_direct[i] = READ(f->direct);
	to->disks[i].in_flight = figure_get(f->n, DISK_IN_FLIGHT);
	for (unsigned k = 0; k < LATENCY_BINS; k++) {
		to->disks[i].latency[0][k] = figure_get(f->n, DISK_RD_LATENCY + k);
		to->disks[i].latency[1][k] = figure_get(f->n, DISK_WR_LATENCY + k);
		to->disks[i].latency[2][k] = figure_get(f->n, DISK_FL_LATENCY + k);
	}
}

static void balloon_read(const struct vm_page *from, struct vm_balloon_info *to)
{
	const _Atomic uint64_t *n = from->balloon;

	if (READ(from->balloon_state) == VM_BALLOON_NONE)
		return;
	to->state = figure_get(n, BALLOON_DRIVER) ? VM_BALLOON_WORKS : VM_BALLOON_NO_DRIVER;
	to->target_bytes = figure_get(n, BALLOON_TARGET);
	to->guest_bytes = figure_get(n, BALLOON_GUEST);
	to->reported_bytes = figure_get(n, BALLOON_REPORTED);
	to->period_s = (uint32_t)figure_get(n, BALLOON_PERIOD_S);
	to->stats_s = figure_get(n, BALLOON_STATS_S);
	to->known = figure_get(n, BALLOON_KNOWN);
	for (unsigned i = 0; i < VM_BALLOON_STATS; i++)
		to->stats[i] = figure_get(n, BALLOON_STAT + i);
}

static void members_read(struct vm_page *from, void *figures)
{
	struct vm_figures *ret = figures;
	struct vm_info *to = &ret->info;

	memset(ret, 0, sizeof(*ret));
	to->vcpus = MIN(READ(from->vcpus), VM_VCPUS_MAX);
	to->ndisks = MIN(READ(from->ndisks), VM_DISKS_MAX);
	to->ninterfaces = MIN(READ(from->ninterfaces), VM_INTERFACES_MAX);
	/* These members are in a page of their own, which takes memory when it is read. */
	to->vcpus_absent = READ(from->vcpus_change) ? READ(from->vcpus_absent) : 0;
	if (READ(from->dirty_rate_status))
		to->dirty_rate = from->dirty_rate;
	to->host_kind = READ(from->host_kind);
	to->assist_on = READ(from->assist_on);
	to->machine = READ(from->machine);
	to->assist_syscalls = READ(from->assist_syscalls) + figure_get(from->assist, 0);
	to->assist_instructions = READ(from->assist_instructions) + figure_get(from->assist, 1);
	to->exits_io = READ(from->exits_io);
	to->exits_mmio = READ(from->exits_mmio);
	to->exits_other = READ(from->exits_other);
	for (unsigned i = 0; i < to->vcpus; i++) {
		to->vcpu_ns[i] = READ(from->vcpu_ns[i]);
		to->exits_io += figure_get(from->vcpu_n[i], VCPU_EXITS_IO);
		to->exits_mmio += figure_get(from->vcpu_n[i], VCPU_EXITS_MMIO);
		to->exits_other += figure_get(from->vcpu_n[i], VCPU_EXITS_OTHER);
	}
	to->sets_interfaces = true;
	balloon_read(from, &to->balloon);
	for (unsigned i = 0; i < to->ndisks; i++)
		disk_read(from, i, ret);
	for (unsigned i = 0; i < to->ninterfaces; i++)
		interface_read(from, i, to);
}

/* Call read() until the process has not changed the page meanwhile (vmm/vm_page.h). Returns false if the page has
 * another version, or changes too often. */
static bool page_read(struct vm_page *page, void (*read)(struct vm_page *page, void *ret), void *ret)
{
	for (unsigned i = 0; i < READS_MAX; i++) {
		uint64_t seq = atomic_load_explicit(&page->seq, memory_order_acquire);

		if (!seq || READ(page->version) != VM_PAGE_VERSION)
			return false;
		if (seq & 1)
			continue;
		read(page, ret);
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&page->seq, memory_order_relaxed) == seq)
			return true;
	}
	return false;
}

/* ---- sums, for trends ---- */

static void disk_sum(struct vm_page *from, unsigned i, struct vm_sums *to)
{
	const _Atomic uint64_t *n = vm_page_disk(from, i)->n;

	to->rd_reqs += figure_get(n, DISK_RD_REQS);
	to->rd_bytes += figure_get(n, DISK_RD_BYTES);
	to->rd_ns += figure_get(n, DISK_RD_NS);
	to->wr_reqs += figure_get(n, DISK_WR_REQS);
	to->wr_bytes += figure_get(n, DISK_WR_BYTES);
	to->wr_ns += figure_get(n, DISK_WR_NS);
	to->io_errors += figure_get(n, DISK_ERRORS);
}

static void interface_sum(struct vm_page *from, unsigned i, struct vm_sums *to)
{
	struct vm_page_interface *f = vm_page_interface(from, i);
	struct vm_interface_info info = { .vhost = READ(f->vhost), .rx_bytes = figure_get(f->n, NET_RX_BYTES),
		.rx_packets = figure_get(f->n, NET_RX_PACKETS), .tx_bytes = figure_get(f->n, NET_TX_BYTES),
		.tx_packets = figure_get(f->n, NET_TX_PACKETS) };

	if (info.vhost) {
		memcpy(info.target, f->target, sizeof(info.target));
		tap_counters_take_one(&info);
	}
	to->rx_bytes += info.rx_bytes;
	to->rx_packets += info.rx_packets;
	to->tx_bytes += info.tx_bytes;
	to->tx_packets += info.tx_packets;
}

static void balloon_sum(const struct vm_page *from, struct vm_sums *to)
{
	const _Atomic uint64_t *n = from->balloon;
	uint64_t known = figure_get(n, BALLOON_KNOWN), total, available;

	if (READ(from->balloon_state) == VM_BALLOON_NONE)
		return;
	to->guest_bytes = figure_get(n, BALLOON_GUEST);
	total = figure_get(n, BALLOON_STAT + STAT_TOTAL);
	available = figure_get(n, BALLOON_STAT + STAT_AVAILABLE);
	if ((known >> STAT_TOTAL & 1) && (known >> STAT_AVAILABLE & 1) && available < total) {
		to->used_bytes = total - available;
		to->total_bytes = total;
	}
}

static void sums_read(struct vm_page *page, void *sums)
{
	unsigned ndisks = MIN(READ(page->ndisks), VM_DISKS_MAX), ninterfaces = MIN(READ(page->ninterfaces), VM_INTERFACES_MAX);
	struct vm_sums *ret = sums;

	*ret = (struct vm_sums){ 0 };
	for (unsigned i = 0; i < ndisks; i++)
		disk_sum(page, i, ret);
	for (unsigned i = 0; i < ninterfaces; i++)
		interface_sum(page, i, ret);
	balloon_sum(page, ret);
}

/* Give the process its page, if it can have one and has none. Returns whether it has one. */
static bool page_ready(struct vm_process *p)
{
	if (!p->knows[VM_KNOWS_PAGE] || p->lost || p->unproven)
		return false;
	if (!p->shown)
		page_give(p);
	return p->shown != NULL;
}

bool vm_figures_sums(struct vm_process *p, struct vm_sums *ret)
{
	return page_ready(p) && page_read(p->shown->page, sums_read, ret);
}

bool vm_figures_cpu(const struct vm_process *p, uint64_t *ret_ns)
{
	struct timespec t;
	clockid_t clock;

	if (p->pid <= 0 || clock_getcpuclockid(p->pid, &clock) || clock_gettime(clock, &t) < 0)
		return false;
	*ret_ns = (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
	return true;
}

uint64_t vm_figures_resident(const struct vm_process *p)
{
	char path[40], text[128];
	unsigned long long size, resident;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)p->pid);
	fd = p->pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	return sscanf(text, "%llu %llu", &size, &resident) == 2 ? resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* ---- the threads of the vCPUs ---- */

/* Read a small file of a thread of the process. Returns whether that worked. */
static bool thread_file(const struct vm_process *p, const char *thread, const char *name, char *text, size_t size)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/%s", (int)p->pid, thread, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, size - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	return n > 0;
}

/* Find the vCPUs' threads by their names: in a PID namespace of its own, the process does not know their ids here. A
 * process that a guest has taken over can only report wrong figures of its own. */
static bool threads_find(struct vm_process *p, unsigned vcpus)
{
	struct vm_shown *s = p->shown;
	struct dirent *d;
	char path[40];
	DIR *dir;

	memset(s->threads, 0, sizeof(s->threads));
	s->nthreads = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)p->pid);
	dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		char name[32];
		unsigned i;

		if (d->d_name[0] != '.' && thread_file(p, d->d_name, "comm", name, sizeof(name)) && sscanf(name, "vcpu%u", &i) == 1 &&
			i < vcpus && !s->threads[i]) {
			s->threads[i] = (pid_t)strtol(d->d_name, NULL, 10);
			s->nthreads++;
		}
	}
	if (dir)
		closedir(dir);
	return s->nthreads == vcpus;
}

static uint64_t ticks_ns(unsigned long ticks)
{
	return (uint64_t)ticks * (1000000000ULL / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* Fields of /proc/PID/stat, numbered as in proc(5), up to the last one that the daemon reads. */
enum { STAT_STATE = 3, STAT_UTIME = 14, STAT_STIME = 15, STAT_RSS = 24, STAT_PROCESSOR = 39, STAT_FIELDS };

/* Read the numbers from field 4 on, and the state's letter as field 3. Returns whether all fields are there. */
static bool stat_parse(const char *text, long long fields[STAT_FIELDS])
{
	const char *p = strrchr(text, ')'); /* the end of the name, which the process chooses */

	if (!p || strlen(p) < 4)
		return false;
	fields[STAT_STATE] = p[2];
	p += 3;
	for (unsigned i = STAT_STATE + 1; i < STAT_FIELDS; i++) {
		char *end;

		fields[i] = strtoll(p, &end, 10);
		if (end == p)
			return false;
		p = end;
	}
	return true;
}

static bool thread_read(struct vm_process *p, unsigned i, struct vm_figures *ret)
{
	char thread[16], text[512];
	long long stat[STAT_FIELDS];
	uint64_t ns, delay;

	snprintf(thread, sizeof(thread), "%d", (int)p->shown->threads[i]);
	if (!thread_file(p, thread, "schedstat", text, sizeof(text)) || sscanf(text, "%" SCNu64 " %" SCNu64, &ns, &delay) != 2)
		return false;
	ret->info.vcpu_ns[i] += ns;
	ret->vcpu_delay_ns[i] = delay;
	if (!thread_file(p, thread, "stat", text, sizeof(text)) || !stat_parse(text, stat))
		return false;
	ret->resident_bytes = (uint64_t)stat[STAT_RSS] * (uint64_t)sysconf(_SC_PAGESIZE);
	ret->vcpu_processor[i] = (int)stat[STAT_PROCESSOR];
	ret->vcpu_user_ns += ticks_ns((unsigned long)stat[STAT_UTIME]);
	ret->vcpu_system_ns += ticks_ns((unsigned long)stat[STAT_STIME]);
	ret->vcpu_sleeps[i] = stat[STAT_STATE] == 'S';
	ret->info.vcpus_halted += ret->vcpu_sleeps[i];
	return true;
}

bool vm_figures_affinity(const struct vm_process *p, unsigned vcpu, char *text, size_t size)
{
	cpu_set_t set;
	size_t at = 0;

	if (!p->shown || vcpu >= VM_VCPUS_MAX || sched_getaffinity(p->shown->threads[vcpu], sizeof(set), &set) < 0)
		return false;
	text[0] = 0;
	for (int i = 0, first; i < CPU_SETSIZE && at < size; i++) {
		if (!CPU_ISSET(i, &set))
			continue;
		for (first = i; i + 1 < CPU_SETSIZE && CPU_ISSET(i + 1, &set);)
			i++;
		at += (size_t)snprintf(text + at, size - at, first == i ? "%s%d" : "%s%d-%d", at ? "," : "", first, i);
	}
	return at < size;
}

static bool threads_read(struct vm_process *p, struct vm_figures *ret)
{
	unsigned vcpus = ret->info.vcpus;

	if (p->pid <= 0 || (p->shown->nthreads != vcpus && !threads_find(p, vcpus)))
		return false;
	for (unsigned i = 0; i < vcpus; i++) {
		if (!thread_read(p, i, ret)) {
			p->shown->nthreads = 0; /* look for them again next time */
			return false;
		}
	}
	return true;
}

bool vm_figures_read(struct vm_process *p, struct vm_figures *ret)
{
	if (!page_ready(p) || !page_read(p->shown->page, members_read, ret) || !threads_read(p, ret))
		return false;
	vm_shown_raise(p->shown, &ret->info);
	tap_counters_take(&ret->info);
	return true;
}
