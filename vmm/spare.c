#include "vmm/spare.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/kvm/end_file.h"
#include "vmm/kvm/kvm.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

/* A kernel before Linux 5.14 has no such advice; then each page is mapped when it is used. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Map the program's code, so that the VM's start takes no page faults for it. The pages are those of the page cache,
 * which all VMs share. */
static void program_map(void)
{
	extern const char __executable_start[], etext[];
	uintptr_t from = (uintptr_t)__executable_start & ~4095UL;

	(void)madvise((void *)from, ROUND_UP((uintptr_t)etext, 4096) - from, MADV_POPULATE_READ);
}

static int reply_send(int sock)
{
	struct vm_reply reply = { 0 };

	return channel_send(sock, VM_MSG_VERSION, VM_MSG_REPLY, 0, &reply, sizeof(reply), NULL, 0);
}

static int files_receive(int sock, struct channel_msg *m)
{
	static const struct channel_type types[VM_MSG_TYPE_COUNT] = { [VM_MSG_SPARE] = { .fds_max = 3, .known = true } };
	char buf[CHANNEL_BODY_MAX] __attribute__((aligned(16)));
	int r = channel_recv(sock, VM_MSG_VERSION, types, VM_MSG_TYPE_COUNT, buf, m);

	if (r <= 0)
		return r ? r : -EPIPE;
	if (m->nfds == 3)
		return 0;
	channel_msg_close_fds(m);
	return -EPROTO;
}

/* Returns the listening socket; -errno. */
static int files_take(int *fds)
{
	CLEANUP_CLOSE int listening = fds[0];
	CLEANUP_CLOSE int log = fds[1];

	end_file_take(fds[2]);
	if (dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
		return -errno;
	return steal_fd(&listening);
}

int spare_wait(int sock, struct host_files *host, struct err *e)
{
	CLEANUP_CLOSE int daemon = sock;
	CLEANUP_CLOSE int listening = -1;
	struct channel_msg m;
	int r;

	kvm_create_ahead(host);
	program_map();
	r = reply_send(daemon);
	if (!r)
		r = files_receive(daemon, &m);
	if (!r)
		r = listening = files_take(m.fds);
	if (r >= 0)
		r = reply_send(daemon);
	if (r < 0)
		return err_set_errno(e, r, "no VM needs this process");
	prctl(PR_SET_NAME, "cairn-vm");
	return steal_fd(&listening);
}
