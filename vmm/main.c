/* cairn-vm: one virtual machine. Started by cairnd (--listen, --spare ahead of a VM, or --take-over for a VM that
 * another process hands over) or by `cairn run` (--channel), not by hand. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notify.h"
#include "base/oom.h"
#include "base/program.h"
#include "base/util.h"
#include "block/block.h"
#include "vmm/control.h"
#include "vmm/foreground.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/kvm/end_file.h"
#include "vmm/kvm/host_files.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"
#include "vmm/sandbox.h"
#include "vmm/snapshot/vm_pins.h"
#include "vmm/snapshot/vm_snapshot.h"
#include "vmm/spare.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOP_ENTRIES 64
#define SPACES_MAX 16
/* Size of a saved state, a dump or a clone's image beyond memory and disk content. */
#define FILE_EXTRA_BYTES (1ULL << 30)
#define HELPERS_END_MS 1000
#define LOG_LINES_A_MINUTE 200 /* at most some 40 MB a day */

/* Objects that the process creates in this order. process_done() frees them. */
struct process {
	struct control *control;
	const struct vm_config *cfg; /* borrowed from control, and from the VM once that exists */
	int fds[CHANNEL_FDS_MAX];
	unsigned nfds;
	struct loop *loop;
	struct vm *vm;
	struct foreground *foreground;
	struct worker *worker;
	int log_fd;
	int notify_fd; /* -1: none, or foreground has taken it */
	struct host_files host;
	bool unconfined; /* --no-sandbox */
	struct sandbox_options options;
	struct sandbox_report sandbox;
};

static int usage(void)
{
	fputs("cairn-vm is started by cairnd or by `cairn run FILE`; see cairn(1).\n"
	      "usage: cairn-vm --listen FD | --spare FD | --take-over FD | --channel FD\n"
	      "                [--namespaces N] [--user N]\n"
	      "                [--own-namespaces] [--end-file FD] [--require-sandbox] [--no-sandbox]\n"
	      "       cairn-vm --version\n", stderr);
	return VM_EXIT_CONFIG;
}

/* Returns -1 unless the text is the number of an fd or of a user. */
static long arg_number(const char *s)
{
	char *end;
	long v = strtol(s, &end, 10);

	return *s && !*end && v >= 0 && v < UINT32_MAX ? v : -1;
}

static int arg_fd(const char *s)
{
	long v = arg_number(s);

	return v < 1 << 20 ? (int)v : -1;
}

/* Return the option that an argument without a value sets; NULL: another argument. */
static bool *flag_of(struct process *p, const char *arg)
{
	if (!strcmp(arg, "--no-sandbox"))
		return &p->unconfined;
	if (!strcmp(arg, "--require-sandbox"))
		return &p->options.required;
	return !strcmp(arg, "--own-namespaces") ? &p->options.own_all : NULL;
}

/* --namespaces N: enter the N namespaces whose fds follow the channel's, and make own ones of IPC and UTS.
 * --own-namespaces: make all of them. --user N: become user and group N. --end-file FD: map it (vmm/kvm/end_file.h).
 * --require-sandbox: fail if a part of the sandbox is missing. Returns false for any other argument. */
static bool options_parse(struct process *p, int argc, char **argv, int fd)
{
	long n;

	for (int i = 3; i < argc; i++) {
		bool *flag = flag_of(p, argv[i]);

		if (flag) {
			*flag = true;
			continue;
		}
		if (i + 1 == argc || (n = arg_number(argv[i + 1])) < 0)
			return false;
		if (!strcmp(argv[i], "--namespaces") && n < SPACES_MAX) {
			p->options.spaces_fd = fd + 1;
			p->options.spaces = (unsigned)n;
			p->options.own_ipc_uts = true;
		} else if (!strcmp(argv[i], "--end-file")) {
			end_file_take((int)n);
		} else if (!strcmp(argv[i], "--user")) {
			p->options.uid = (uid_t)n;
		} else {
			return false;
		}
		i++;
	}
	return true;
}

static void log_setup(struct process *p)
{
	log_set_owner(p->cfg->name);
	log_set_level((enum log_level)p->cfg->log_level);
	log_set_limit(LOG_LINES_A_MINUTE);
	if (p->cfg->end_fd != VM_NO_FD)
		end_file_take(steal_fd(&p->fds[p->cfg->end_fd]));
	if (p->cfg->log_fd == VM_NO_FD)
		return;
	p->log_fd = p->fds[p->cfg->log_fd];
	p->fds[p->cfg->log_fd] = -1;
	log_set_fd(p->log_fd);
}

static void rest_of_fds_close(struct process *p)
{
	for (unsigned i = 0; i < p->nfds; i++)
		if (p->fds[i] >= 0)
			close(p->fds[i]);
	p->nfds = 0;
}

/* Open the host's files, and give up access to all others before the configuration is read. */
static int process_enter(struct process *p, struct err *e)
{
	int r = loop_new(LOOP_ENTRIES, &p->loop, e);

	host_files_open(&p->host);
	if (!r && !p->unconfined)
		return sandbox_enter(&p->host, &p->options, &p->sandbox, e);
	host_files_make_ram(&p->host);
	host_files_open_pagemap(&p->host);
	return r;
}

static int process_build(struct process *p, struct err *e)
{
	struct vm_sink sink = { .event = control_event, .disks_free = control_disks_free, .opaque = p->control };
	int r;

	p->host.peer_fd = control_peer_fd(p->control);
	r = vm_new(p->cfg, p->fds, p->nfds, control_memory(p->control), &p->host, p->loop, &sink, &p->vm, e);

	host_files_done(&p->host);
	if (!r) {
		p->cfg = &vm_machine(p->vm)->cfg; /* control's memory gets requests next */
		vm_set_landlock(p->vm, p->sandbox.landlock);
	}
	if (!r)
		r = control_serve(p->control, p->loop, p->vm, e);
	if (!r && p->cfg->foreground)
		r = foreground_new(p->loop, p->vm, p->cfg->shutdown_deadline_s, p->notify_fd, &p->foreground, e);
	return r;
}

/* Return a size that no file of this VM needs: each file has the content of RAM or of a disk. A qcow2 image has no such
 * bound, because it grows with each snapshot; nor has the file that gets the output of `cairn run`. */
static uint64_t file_bytes_limit(const struct process *p)
{
	const struct machine *m = vm_machine(p->vm);
	uint64_t most = p->cfg->ram_bytes;

	if (p->cfg->images_only || p->cfg->foreground)
		return RLIM_INFINITY;
	for (unsigned i = 0; i < m->ndisks; i++) {
		struct block_info b;

		block_info(m->disks[i].block, &b);
		if (b.format != BLOCK_FORMAT_RAW && !b.read_only)
			return RLIM_INFINITY;
		most = MAX(most, b.size_bytes);
	}
	return most > INT64_MAX / 4 ? RLIM_INFINITY : 2 * most + FILE_EXTRA_BYTES;
}

/* Seal the sandbox, now that all loops exist. Then load the VM, and create its threads, which install filters of their
 * own. */
static int process_load(struct process *p, struct err *e)
{
	struct kvm *k = &vm_machine(p->vm)->kvm;
	int r = p->unconfined ? 0 : lockdown_drop(e); /* all rings exist: see sandbox_enter() */

	k->confined = !r;
	k->filters_threads = !p->unconfined;
	if (!r && p->cfg->images_only)
		r = control_prepare_clones(p->control, p->cfg->clone_copiers, e);
	cpu_probe_confined(k);
	if (!r && !p->unconfined) {
		uint64_t most = file_bytes_limit(p);

		vm_machine(p->vm)->file_bytes_max = most == RLIM_INFINITY ? 0 : most;
		r = sandbox_limit_files(most, e);
	}
	if (!r && !p->unconfined)
		r = sandbox_seal(e);
	if (!r)
		r = vm_load(p->vm, e);
	if (!r && !(p->worker = worker_new(k, "worker")))
		r = err_set_errno(e, -ENOMEM, "worker");
	if (!r)
		r = machine_start_threads(vm_machine(p->vm), e);
	control_set_worker(p->control, p->worker);
	cpu_probe_end(k);
	return r;
}

static int part_lacks(struct process *p, const char *what, struct err *e)
{
	const char *next = p->options.own_all ? "; next: cairn doctor" : "";

	if (p->options.required)
		return err_set(e, -ENOTSUP, ERR_HOST, "%s runs with --require-sandbox, and the sandbox lacks %s%s",
			p->options.own_all ? "the VM" : "cairnd", what, next);
	log_warn(NULL, "the sandbox lacks %s%s", what, next);
	return 0;
}

/* Return the exit status of a VM that could not begin. */
static int failure_status(const struct err *e)
{
	return e->cls == ERR_HOST || e->cls == ERR_PERMISSION ? VM_EXIT_HOST : e->cls == ERR_BUSY ? VM_EXIT_BUSY : VM_EXIT_CONFIG;
}

/* r, e: of process_enter(), whose failure is reported like one of the VM. */
static int process_run(struct process *p, int r, struct err *e)
{
	if (p->unconfined)
		log_warn(NULL, "the sandbox is off: for debugging only");
	else if (!r && !p->sandbox.landlock && !LOCKDOWN_SANITIZED)
		r = part_lacks(p, "landlock: this kernel has none, or it is switched off", e);
	if (!r && p->sandbox.lacks[0])
		r = part_lacks(p, p->sandbox.lacks, e);
	if (!r)
		r = process_build(p, e);

	rest_of_fds_close(p);
	if (!r)
		r = process_load(p, e);
	/* A VM that is handed over has no interrupted snapshot to recover. */
	if (!r)
		r = p->cfg->images_read || p->cfg->taken_over ? 0 : vm_snapshot_recover(p->vm, e);
	if (!r && !p->cfg->start_paused && !p->cfg->images_only)
		r = vm_cont(p->vm, p->cfg->restore_fd == VM_NO_FD ? VM_REASON_BOOTED : VM_REASON_RESTORED, e);
	control_configured(p->control, r, e);
	if (r < 0) {
		log_error(NULL, "%s", e->msg);
		/* The process that hands the VM over still uses the images: exit without closing the disks, which
		 * could write to them. */
		if (p->cfg->taken_over)
			_exit(VM_EXIT_FAILURE);
		return failure_status(e);
	}
	if (p->foreground)
		foreground_started(p->foreground);
	loop_run(p->loop);
	return vm_exit_status(p->vm);
}

static void process_done(struct process *p)
{
	foreground_free(p->foreground);
	vm_snapshot_give_up(p->vm);
	worker_free(p->worker);
	control_screenshot_end(p->control);
	/* After a handover, the phase is another one, and the images belong to another process. Work that was
	 * interrupted may have frozen a disk. */
	if (p->vm && vm_phase(p->vm) == VM_PHASE_ENDED && !vm_works(p->vm))
		vm_pins_delete_idle(vm_machine(p->vm));
	/* Close the socket last: while it is open, a daemon can tell that the images are still in
	 * use. */
	vm_free(p->vm);
	control_free(p->control);
	loop_free(p->loop);
}

/* Reap the helper programs of `cairn run`, which has become this process. They end when their sockets are closed, but
 * one that waits for a hung file system may take forever. */
static void helpers_reap(void)
{
	pid_t pid;

	for (unsigned ms = 0; (pid = waitpid(-1, NULL, WNOHANG)) >= 0 && ms < HELPERS_END_MS; ms += !pid)
		if (!pid)
			usleep(1000);
}

static int process_receive(struct process *p, const char *how, int fd, struct err *e)
{
	int listen = -1, channel = -1;

	*(strcmp(how, "--listen") && strcmp(how, "--spare") ? &channel : &listen) = fd;
	return control_new(listen, channel, !strcmp(how, "--take-over"), &p->host.pagemap_fd, &p->control, &p->cfg, p->fds,
		&p->nfds, e);
}

/* Wait for a VM. A process without a part of the sandbox is of no use as a spare: the VM's own process reports the
 * missing part. r: of process_enter(). Returns as spare_wait(). */
static int process_spare(struct process *p, int r, int fd, struct err *e)
{
	return r < 0 || p->sandbox.lacks[0] ? -ENOTSUP : spare_wait(fd, &p->host, e);
}

static bool way_is_known(const char *how)
{
	return !strcmp(how, "--listen") || !strcmp(how, "--spare") || !strcmp(how, "--take-over") || !strcmp(how, "--channel");
}

int main(int argc, char **argv)
{
	struct process p = { .log_fd = -1, .notify_fd = -1 };
	struct err e = { 0 }, failure = { 0 };
	int fd, r, status, reaps = 0;

	program_outlive_file_limit();
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("cairn-vm " CAIRN_VERSION);
		return program_end("cairn-vm", 0);
	}
	if (argc < 3 || (fd = arg_fd(argv[2])) < 0 || !way_is_known(argv[1]) || !options_parse(&p, argc, argv, fd))
		return usage();
	p.options.spare = !strcmp(argv[1], "--spare");
	if (p.options.spare)
		prctl(PR_SET_NAME, SPARE_NAME);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_GET_CHILD_SUBREAPER, &reaps);
	oom_protection_drop();
	/* Use one heap for all threads: it needs less memory, and no thread asks for the number of
	 * CPUs when two threads allocate at once. The data path rarely allocates. */
	mallopt(M_ARENA_MAX, 1);
	if (!strcmp(argv[1], "--channel"))
		p.notify_fd = notify_open();
	r = process_enter(&p, &failure);
	if (p.options.spare && (fd = process_spare(&p, r, fd, &e)) < 0) {
		loop_free(p.loop);
		return fd == -EPIPE ? 0 : VM_EXIT_HOST;
	}
	if (process_receive(&p, argv[1], fd, &e) < 0) {
		fprintf(stderr, "cairn-vm: %s\n", e.msg);
		loop_free(p.loop);
		return VM_EXIT_CONFIG;
	}
	log_setup(&p);
	status = process_run(&p, r, &failure);
	process_done(&p);
	if (reaps)
		helpers_reap();
	return status;
}
